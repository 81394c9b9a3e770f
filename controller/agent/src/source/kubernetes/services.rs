//! Services and EndpointSlices as the API tells them, joined service by service: a change costs what its service has, not
//! what the cluster has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oxilium_crds::{EndpointSlice, Service};
use oxilium_manifest::object::{join_service, service_of};
use oxilium_model::world::{self, PodRef, ServiceRef};

/// See the module. Services and slices go by namespace and name.
#[derive(Default)]
pub(super) struct ServiceStore {
    services: BTreeMap<PodRef, Arc<Service>>,
    slices: BTreeMap<PodRef, Arc<EndpointSlice>>,
    /// Slices by the service that they belong to, there or not.
    by_service: BTreeMap<PodRef, BTreeSet<PodRef>>,
    /// Services that are not joined as they are now.
    changed: BTreeSet<PodRef>,
}

fn owner(slice: &EndpointSlice) -> Option<PodRef> {
    service_of(slice).map(|(namespace, name)| PodRef::new(namespace, name))
}

impl ServiceStore {
    pub(super) fn services(&self) -> &BTreeMap<PodRef, Arc<Service>> {
        &self.services
    }

    pub(super) fn slices(&self) -> &BTreeMap<PodRef, Arc<EndpointSlice>> {
        &self.slices
    }

    /// The slices of a service.
    pub(super) fn slices_of(&self, service: &PodRef) -> impl Iterator<Item = &EndpointSlice> {
        self.by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| Some(&**self.slices.get(name)?))
    }

    pub(super) fn put_service(&mut self, name: PodRef, service: Service) {
        self.changed.insert(name.clone());
        self.services.insert(name, Arc::new(service));
    }

    pub(super) fn put_slice(&mut self, name: PodRef, slice: EndpointSlice) {
        self.take_slice(&name);
        if let Some(owner) = owner(&slice) {
            self.changed.insert(owner.clone());
            self.by_service
                .entry(owner)
                .or_default()
                .insert(name.clone());
        }
        self.slices.insert(name, Arc::new(slice));
    }

    /// Whether it was there.
    pub(super) fn take_service(&mut self, name: &PodRef) -> bool {
        let known = self.services.remove(name).is_some();
        if known {
            self.changed.insert(name.clone());
        }
        known
    }

    /// Whether it was there.
    pub(super) fn take_slice(&mut self, name: &PodRef) -> bool {
        let Some(slice) = self.slices.remove(name) else {
            return false;
        };
        if let Some(owner) = owner(&slice) {
            if let Some(names) = self.by_service.get_mut(&owner) {
                names.remove(name);
                if names.is_empty() {
                    self.by_service.remove(&owner);
                }
            }
            self.changed.insert(owner);
        }
        true
    }

    /// Brings `joined` in line with what changed since it was last. What stays equal stays the same allocation.
    pub(super) fn join(&mut self, node: &str, joined: &mut world::Services) {
        for name in std::mem::take(&mut self.changed) {
            let key = ServiceRef::new(&name.namespace, &name.name);
            let now = self.services.get(&name).and_then(|service| {
                let slices: Vec<&EndpointSlice> = self.slices_of(&name).collect();
                join_service(service, &slices, node)
            });
            match now {
                Some(service) if joined.get(&key).is_some_and(|known| **known == service) => {}
                Some(service) => {
                    joined.insert(key, Arc::new(service));
                }
                None if joined.contains_key(&key) => {
                    joined.remove(&key);
                }
                None => {}
            }
        }
    }
}
