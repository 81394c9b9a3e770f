//! All objects that the API told of, and those that stay in force although it does not tell of them any more.
//!
//! - An object whose update is refused stays as it was admitted: nothing that cannot be read changes what is
//!   allowed. Of policies that holds over a restart, too ([`Admitted`]). One that was never admitted is skipped.
//! - Objects whose CustomResourceDefinition was deleted stay when it is made anew: nobody said of any of them that it
//!   should go. Each is over when an object of its name comes, or all of them when an administrator says so
//!   ([`GIVE_UP_FORMER`](super::requests::GIVE_UP_FORMER)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_api::FailingObject;
use oxilium_manifest::diagnostic::ObjectId;
use oxilium_manifest::object::{Input, services};
use oxilium_manifest::policy::service::Services;
use oxilium_manifest::pruned::{self, Pruned};
use oxilium_manifest::tree::Node as Tree;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::policy::rule::PolicyRef;
use oxilium_model::world::{Node, PodRef, Table};

use super::admitted::Admitted;
use super::convert::{Change, Content, PolicyVersion, Reading};
use super::node_config::NodeConfig;
use super::resource::Resource;
use super::services::ServiceStore;
use crate::disk::DiskError;
use crate::reconcile::Objects;
use crate::source::manifests::of_both;

/// An object that is not in force as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is wrong with it.
    pub(super) reason: String,
    /// It is as it was before.
    pub(super) earlier_in_force: bool,
}

/// See the module.
pub(super) struct Store {
    reading: Arc<Reading>,
    objects: Objects,
    kubernetes_nodes: BTreeMap<Arc<str>, Arc<Node>>,
    cilium_nodes: BTreeMap<Arc<str>, Arc<Node>>,
    node_configs: BTreeMap<ObjectId, NodeConfig>,
    services: ServiceStore,
    /// What each policy object is in [`Objects::policies`]: its UID is part of that.
    policies: HashMap<ObjectId, Arc<PolicyRef>>,
    /// Policies that are read again when services change.
    name_services: BTreeMap<ObjectId, Arc<Tree>>,
    refused: BTreeMap<ObjectId, Refused>,
    former: BTreeMap<Resource, BTreeSet<ObjectId>>,
    services_changed: bool,
    admitted: Admitted,
    /// Fields that policies in force were written with and do not have.
    pruned: BTreeMap<ObjectId, Vec<Pruned>>,
}

fn reference(id: &ObjectId) -> PodRef {
    PodRef::new(&id.namespace, &id.name)
}

/// Whether `map` is another one with that value. Equal values stay the same allocation.
fn put<K: Clone + Ord, V: PartialEq>(map: &mut Table<K, Arc<V>>, key: K, value: V) -> bool {
    if map.get(&key).is_some_and(|known| **known == value) {
        return false;
    }
    map.insert(key, Arc::new(value));
    true
}

/// Whether it was there. A map that does not have it stays the same map.
fn take<K: Clone + Ord, V: Clone>(map: &mut Table<K, V>, key: &K) -> bool {
    map.contains_key(key) && map.remove(key).is_some()
}

impl Store {
    pub(super) fn new(reading: Arc<Reading>, admitted: Admitted) -> Self {
        Self {
            reading,
            objects: Objects::default(),
            kubernetes_nodes: BTreeMap::new(),
            cilium_nodes: BTreeMap::new(),
            node_configs: BTreeMap::new(),
            services: ServiceStore::default(),
            policies: HashMap::new(),
            name_services: BTreeMap::new(),
            refused: BTreeMap::new(),
            former: BTreeMap::new(),
            services_changed: false,
            admitted,
            pruned: BTreeMap::new(),
        }
    }

    /// What a restart must know of the policies in force is on disk when the call returns.
    pub(super) fn keep(&mut self) -> Result<(), DiskError> {
        self.admitted.keep()
    }

    /// Policies in force that lack fields with which they were written, in words.
    pub(super) fn pruned(&self) -> BTreeMap<Arc<PolicyRef>, String> {
        let known = |(id, fields): (_, &Vec<Pruned>)| {
            let policy = self.policies.get(id)?;
            Some((Arc::clone(policy), pruned::told(fields)))
        };
        self.pruned.iter().filter_map(known).collect()
    }

    /// CiliumNodeConfigs that somebody expects to hold for this node.
    pub(super) fn not_followed(&self) -> impl Iterator<Item = FailingObject> {
        let node = self.kubernetes_nodes.get(&*self.reading.node);
        let labels = node.map(|node| node.labels.clone()).unwrap_or_default();
        let configs = self.node_configs.iter();
        configs.filter_map(move |(id, config)| config.told(id, &labels))
    }

    /// Everything in force.
    pub(super) fn objects(&mut self) -> Objects {
        if std::mem::take(&mut self.services_changed) {
            self.read_policies_again();
            self.find_api_servers();
            self.services
                .join(&self.reading.node, &mut self.objects.services);
        }
        self.objects.clone()
    }

    /// Objects that are not in force as they stand.
    pub(super) fn refused(&self) -> &BTreeMap<ObjectId, Refused> {
        &self.refused
    }

    /// Objects in force that a definition which is gone defined.
    pub(super) fn former(&self, resource: Resource) -> Option<&BTreeSet<ObjectId>> {
        self.former.get(&resource).filter(|ids| !ids.is_empty())
    }

    /// How many objects of a kind are in force.
    pub(super) fn count(&self, resource: Resource) -> usize {
        match resource {
            Resource::CiliumNetworkPolicies
            | Resource::CiliumClusterwideNetworkPolicies
            | Resource::NetworkPolicies
            | Resource::ClusterNetworkPolicies => self
                .policies
                .keys()
                .filter(|id| id.kind == resource.kind())
                .count(),
            Resource::CiliumCidrGroups => self.objects.cidr_groups.len(),
            Resource::Namespaces => self.objects.namespaces.len(),
            Resource::Nodes => self.kubernetes_nodes.len(),
            Resource::CiliumNodes => self.cilium_nodes.len(),
            Resource::CiliumNodeConfigs => self.node_configs.len(),
            Resource::CiliumIdentities => self.objects.cluster_identities.len(),
            Resource::CiliumEndpoints => self.objects.remote_endpoints.len(),
            Resource::Pods => self.objects.pods.len(),
            Resource::Services => self.services.services().len(),
            Resource::EndpointSlices => self.services.slices().len(),
        }
    }

    /// All objects of a kind. `replaced`: what defines them is another one than that of the objects known so far.
    pub(super) fn list(&mut self, resource: Resource, listed: Vec<Change>, replaced: bool) {
        let names: BTreeSet<&ObjectId> = listed.iter().map(|change| &change.id).collect();
        let unlisted: Vec<ObjectId> = self
            .known(resource)
            .into_iter()
            .filter(|id| !names.contains(id))
            .collect();
        let refused: Vec<ObjectId> = self
            .refused
            .keys()
            .filter(|id| id.kind == resource.kind() && !names.contains(id))
            .cloned()
            .collect();
        for id in refused {
            self.refused.remove(&id);
        }
        for id in unlisted {
            let former = self.former.entry(resource).or_default();
            if replaced {
                former.insert(id);
            } else if !former.contains(&id) {
                self.delete(resource, &id);
            }
        }
        let kept = self.admitted.known(resource.kind());
        let gone = kept.into_iter().filter(|id| {
            let former = self.former.get(&resource);
            !names.contains(id) && former.is_none_or(|former| !former.contains(id))
        });
        for id in gone.collect::<Vec<_>>() {
            self.admitted.forget(&id);
        }
        for change in listed {
            self.change(resource, change);
        }
    }

    /// Objects that a definition which is gone defined are wanted no more.
    pub(super) fn give_up_former(&mut self, resource: Resource) {
        for id in self.former.remove(&resource).unwrap_or_default() {
            self.delete(resource, &id);
        }
    }

    /// An object as it is now.
    pub(super) fn change(&mut self, resource: Resource, change: Change) {
        let Change {
            id,
            content,
            policy,
        } = change;
        match content {
            Content::Refused(reason) => {
                let earlier_in_force =
                    self.is_known(resource, &id) || self.recall(resource, &id, policy);
                let refused = Refused {
                    reason,
                    earlier_in_force,
                };
                self.refused.insert(id, refused);
            }
            Content::Nothing => self.delete(resource, &id),
            Content::NodeConfig(config) => {
                self.is_well(resource, &id);
                self.node_configs.insert(id, config);
            }
            Content::Admitted(input) => {
                self.is_well(resource, &id);
                self.note(&id, policy);
                self.name_services.remove(&id);
                self.put(resource, &id, input);
            }
            Content::NamesServices(input, tree) => {
                self.is_well(resource, &id);
                self.note(&id, policy);
                self.put_with_services(resource, id, input, tree);
            }
        }
    }

    fn put_with_services(
        &mut self,
        resource: Resource,
        id: ObjectId,
        input: Input,
        tree: Arc<Tree>,
    ) {
        self.services_changed = true;
        self.put(resource, &id, input);
        self.name_services.insert(id, tree);
    }

    fn note(&mut self, id: &ObjectId, policy: Option<PolicyVersion>) {
        let Some(mut policy) = policy else {
            return;
        };
        let pruned = std::mem::take(&mut policy.pruned);
        if pruned.is_empty() {
            self.pruned.remove(id);
        } else {
            self.pruned.insert(id.clone(), pruned);
        }
        self.admitted.note(id, policy);
    }

    /// Puts the earlier version in force that the last run had; false if there is none.
    fn recall(
        &mut self,
        resource: Resource,
        id: &ObjectId,
        refused: Option<PolicyVersion>,
    ) -> bool {
        let Some(refused) = refused else {
            return false;
        };
        let tree = match self.admitted.find(id, &refused.uid) {
            Ok(Some(tree)) => tree,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(object = %id, %error, "its earlier version cannot be read");
                return false;
            }
        };
        match self.reading.content(tree) {
            Content::Admitted(input) => self.put(resource, id, input),
            Content::NamesServices(input, tree) => {
                self.put_with_services(resource, id.clone(), input, tree);
            }
            Content::Nothing | Content::NodeConfig(_) => return false,
            Content::Refused(reason) => {
                tracing::warn!(object = %id, reason, "its earlier version is refused as well");
                return false;
            }
        }
        true
    }

    fn is_well(&mut self, resource: Resource, id: &ObjectId) {
        self.refused.remove(id);
        if let Some(former) = self.former.get_mut(&resource) {
            former.remove(id);
        }
    }

    fn put(&mut self, resource: Resource, id: &ObjectId, input: Input) {
        let objects = &mut self.objects;
        match input {
            Input::Policy(lowered) => {
                let policy = lowered.policy;
                let key = Arc::clone(&policy.reference);
                let before = self.policies.insert(id.clone(), Arc::clone(&key));
                if let Some(before) = before.filter(|before| *before != key) {
                    objects.policies.remove(&before);
                }
                put(&mut objects.policies, key, policy);
            }
            Input::Pod(pod) => {
                put(&mut objects.pods, pod.reference.clone(), *pod);
            }
            Input::Node(node) => {
                let name = Arc::clone(&node.name);
                let nodes = if resource == Resource::CiliumNodes {
                    &mut self.cilium_nodes
                } else {
                    &mut self.kubernetes_nodes
                };
                nodes.insert(Arc::clone(&name), Arc::new(*node));
                self.merge_node(&name);
            }
            Input::Namespace(namespace) => {
                let name = Arc::clone(&namespace.name);
                put(&mut objects.namespaces, name, *namespace);
            }
            Input::RemoteEndpoint(endpoint) => {
                let key = endpoint.reference.clone();
                put(&mut objects.remote_endpoints, key, *endpoint);
            }
            Input::ClusterIdentity(number, labels) => {
                if objects.cluster_identities.get(&number) != Some(&labels) {
                    objects.cluster_identities.insert(number, labels);
                }
            }
            Input::CidrGroup(group) => {
                let name = Arc::clone(&group.name);
                put(&mut objects.cidr_groups, name, *group);
            }
            Input::Service(service) => {
                self.services.put_service(reference(id), *service);
                self.services_changed = true;
            }
            Input::EndpointSlice(slice) => {
                self.services.put_slice(reference(id), *slice);
                self.services_changed = true;
            }
            Input::Unread => {}
        }
    }

    /// An object is gone.
    pub(super) fn delete(&mut self, resource: Resource, id: &ObjectId) {
        self.is_well(resource, id);
        self.admitted.forget(id);
        self.pruned.remove(id);
        let objects = &mut self.objects;
        let name: Arc<str> = id.name.as_str().into();
        match resource {
            Resource::CiliumNetworkPolicies
            | Resource::CiliumClusterwideNetworkPolicies
            | Resource::NetworkPolicies
            | Resource::ClusterNetworkPolicies => {
                self.name_services.remove(id);
                if let Some(key) = self.policies.remove(id) {
                    take(&mut objects.policies, &key);
                }
            }
            Resource::CiliumCidrGroups => {
                take(&mut objects.cidr_groups, &name);
            }
            Resource::Namespaces => {
                take(&mut objects.namespaces, &name);
            }
            Resource::Nodes => {
                self.kubernetes_nodes.remove(&name);
                self.merge_node(&name);
            }
            Resource::CiliumNodes => {
                self.cilium_nodes.remove(&name);
                self.merge_node(&name);
            }
            Resource::CiliumNodeConfigs => drop(self.node_configs.remove(id)),
            Resource::CiliumIdentities => {
                if let Some(number) = number(id) {
                    take(&mut objects.cluster_identities, &number);
                }
            }
            Resource::CiliumEndpoints => {
                take(&mut objects.remote_endpoints, &reference(id));
            }
            Resource::Pods => {
                take(&mut objects.pods, &reference(id));
            }
            Resource::Services => {
                self.services_changed |= self.services.take_service(&reference(id));
            }
            Resource::EndpointSlices => {
                self.services_changed |= self.services.take_slice(&reference(id));
            }
        }
    }

    fn merge_node(&mut self, name: &Arc<str>) {
        let kubernetes = self.kubernetes_nodes.get(name);
        let merged = match (kubernetes, self.cilium_nodes.get(name)) {
            (Some(kubernetes), Some(cilium)) => of_both(kubernetes, cilium),
            (Some(one), None) | (None, Some(one)) => (**one).clone(),
            (None, None) => {
                take(&mut self.objects.nodes, name);
                return;
            }
        };
        put(&mut self.objects.nodes, Arc::clone(name), merged);
    }

    fn is_known(&self, resource: Resource, id: &ObjectId) -> bool {
        let objects = &self.objects;
        let name = id.name.as_str();
        match resource {
            Resource::CiliumNetworkPolicies
            | Resource::CiliumClusterwideNetworkPolicies
            | Resource::NetworkPolicies
            | Resource::ClusterNetworkPolicies => self.policies.contains_key(id),
            Resource::CiliumCidrGroups => objects.cidr_groups.contains_key(name),
            Resource::Namespaces => objects.namespaces.contains_key(name),
            Resource::Nodes => self.kubernetes_nodes.contains_key(name),
            Resource::CiliumNodes => self.cilium_nodes.contains_key(name),
            Resource::CiliumNodeConfigs => self.node_configs.contains_key(id),
            Resource::CiliumIdentities => {
                number(id).is_some_and(|number| objects.cluster_identities.contains_key(&number))
            }
            Resource::CiliumEndpoints => objects.remote_endpoints.contains_key(&reference(id)),
            Resource::Pods => objects.pods.contains_key(&reference(id)),
            Resource::Services => self.services.services().contains_key(&reference(id)),
            Resource::EndpointSlices => self.services.slices().contains_key(&reference(id)),
        }
    }

    /// How the objects of a kind that are in force are called.
    fn known(&self, resource: Resource) -> Vec<ObjectId> {
        let named = |name: &Arc<str>| resource.object("", name);
        let placed = |key: &PodRef| resource.object(&key.namespace, &key.name);
        let objects = &self.objects;
        match resource {
            Resource::CiliumNetworkPolicies
            | Resource::CiliumClusterwideNetworkPolicies
            | Resource::NetworkPolicies
            | Resource::ClusterNetworkPolicies => self
                .policies
                .keys()
                .filter(|id| id.kind == resource.kind())
                .cloned()
                .collect(),
            Resource::CiliumCidrGroups => objects.cidr_groups.keys().map(named).collect(),
            Resource::Namespaces => objects.namespaces.keys().map(named).collect(),
            Resource::Nodes => self.kubernetes_nodes.keys().map(named).collect(),
            Resource::CiliumNodes => self.cilium_nodes.keys().map(named).collect(),
            Resource::CiliumNodeConfigs => self.node_configs.keys().cloned().collect(),
            Resource::CiliumIdentities => objects
                .cluster_identities
                .keys()
                .map(|number| resource.object("", &number.0.to_string()))
                .collect(),
            Resource::CiliumEndpoints => objects.remote_endpoints.keys().map(placed).collect(),
            Resource::Pods => objects.pods.keys().map(placed).collect(),
            Resource::Services => self.services.services().keys().map(placed).collect(),
            Resource::EndpointSlices => self.services.slices().keys().map(placed).collect(),
        }
    }

    fn read_policies_again(&mut self) {
        if self.name_services.is_empty() {
            return;
        }
        let services: Services = services(
            self.services.services().values().map(|service| &**service),
            self.services.slices().values().map(|slice| &**slice),
        );
        let trees: Vec<_> = self
            .name_services
            .iter()
            .map(|(id, tree)| (id.clone(), Arc::clone(tree)))
            .collect();
        for (id, tree) in trees {
            match self.reading.read(&tree, &services) {
                Ok(Input::Policy(lowered)) => {
                    put(
                        &mut self.objects.policies,
                        Arc::clone(&lowered.policy.reference),
                        lowered.policy,
                    );
                }
                Ok(_) => {}
                Err(reason) => {
                    let refused = Refused {
                        reason,
                        earlier_in_force: true,
                    };
                    self.refused.insert(id, refused);
                }
            }
        }
    }

    /// The backends of the service that the API server has for itself.
    fn find_api_servers(&mut self) {
        let kubernetes = PodRef::new("default", "kubernetes");
        let servers: BTreeSet<IpAddr> = self
            .services
            .slices_of(&kubernetes)
            .flat_map(|slice| &slice.endpoints)
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse().ok())
            .collect();
        self.objects.api_servers = servers;
    }
}

fn number(id: &ObjectId) -> Option<NumericIdentity> {
    id.name.parse().ok().map(NumericIdentity)
}
