//! Whose an address is. The names of a large cluster's pods are looked up for each event: not one by one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::Frontend;
use oxilium_model::world::{PodRef, World};

use super::Names;
use crate::reconcile::View;

/// Pods of other nodes by address, a second old at most: a cluster that changes all the time is not read for each change.
#[derive(Debug, Default)]
pub struct AddressBook {
    of: Option<(Arc<World>, Instant)>,
    pods: HashMap<IpAddr, PodRef>,
}

const OLDEST: Duration = Duration::from_secs(1);

impl AddressBook {
    /// The names of this picture's pods.
    pub fn open<'a>(&'a mut self, view: &'a View, now: Instant) -> Named<'a> {
        let holds = self.of.as_ref().is_some_and(|(world, read)| {
            Arc::ptr_eq(world, &view.world) || now.saturating_duration_since(*read) < OLDEST
        });
        if !holds {
            self.of = Some((Arc::clone(&view.world), now));
            self.pods = view
                .world
                .remote_endpoints
                .values()
                .flat_map(|pod| pod.addresses.iter().map(|a| (*a, pod.reference.clone())))
                .collect();
        }
        Named {
            view,
            pods: &self.pods,
        }
    }
}

/// A picture with names.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    view: &'a View,
    pods: &'a HashMap<IpAddr, PodRef>,
}

impl Names for Named<'_> {
    fn pod(&self, endpoint: u16) -> Option<String> {
        self.view.pod(endpoint)
    }

    fn identity(&self, endpoint: u16) -> Option<NumericIdentity> {
        self.view.identity(endpoint)
    }

    fn endpoint(&self, address: IpAddr) -> Option<u16> {
        Names::endpoint(self.view, address)
    }

    fn service(&self, frontend: &Frontend) -> Option<String> {
        self.view.service(frontend)
    }

    fn remote_pod(&self, address: IpAddr) -> Option<String> {
        self.pods.get(&address).map(ToString::to_string)
    }

    fn identity_labels(&self, identity: NumericIdentity) -> Option<String> {
        self.view.identity_labels(identity)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use oxilium_model::identity::NamedPorts;
    use oxilium_model::world::RemoteEndpoint;

    use super::*;

    fn view(pod: &str) -> View {
        let reference = PodRef::new("red", pod);
        let remote = RemoteEndpoint {
            reference: reference.clone(),
            addresses: [Ipv4Addr::new(10, 9, 9, 9).into()].into(),
            identity: NumericIdentity(2000),
            labels: [].into_iter().collect(),
            named_ports: NamedPorts::default(),
            node_address: None,
        };
        let mut world = World::default();
        world.remote_endpoints.insert(reference, Arc::new(remote));
        View {
            world: Arc::new(world),
            ..View::default()
        }
    }

    #[test]
    fn names_are_read_again_when_they_may_have_changed_and_not_more_often_than_each_second() {
        let mut book = AddressBook::default();
        let address = IpAddr::from([10, 9, 9, 9]);
        let start = Instant::now();
        let mut ask = |view: &View, after| {
            book.open(view, start + Duration::from_millis(after))
                .remote_pod(address)
        };
        assert_eq!(ask(&view("old"), 0).as_deref(), Some("red/old"));
        let new = view("new");
        assert_eq!(ask(&new, 999).as_deref(), Some("red/old"));
        assert_eq!(ask(&new, 1000).as_deref(), Some("red/new"));
        assert_eq!(ask(&View::default(), 2000), None);
    }
}
