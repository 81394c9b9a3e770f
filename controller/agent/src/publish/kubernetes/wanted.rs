//! What the picture of the agent asks for at the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_crds::CiliumEndpoint;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{EndpointState, IdentityRequest};
use oxilium_model::world::{Node, PodRef};

use super::ledger::Ledger;
use super::news::{News, news};
use super::requests::NodeFacts;
use crate::publish::objects;
use crate::reconcile::View;

/// What is published, each object for itself. Their order is that in which they are served when there is much to do: pods
/// wait for identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A CiliumIdentity.
    Identity(NumericIdentity),
    /// This node's CiliumNode.
    Node,
    /// This node's Node says that its network works.
    Availability,
    /// A CiliumEndpoint.
    Endpoint(PodRef),
    /// Events on a pod, of one reason.
    Event(PodRef, &'static str),
}

impl Key {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Identity(number) => format!("CiliumIdentity {}", number.0),
            Self::Node => "CiliumNode".to_owned(),
            Self::Availability => "Node".to_owned(),
            Self::Endpoint(pod) => format!("CiliumEndpoint {pod}"),
            Self::Event(pod, reason) => format!("Event {reason} of Pod {pod}"),
        }
    }
}

/// How it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    Identity(IdentityRequest),
    Node(NodeWanted),
    /// Once the agent enforces. With the Node, because a change of it is a reason to look.
    Availability {
        name: Arc<str>,
        node: Option<Arc<Node>>,
    },
    Endpoint(Box<EndpointWanted>),
    /// This node has no such endpoint: the object goes if it is this node's, and not that of a pod that is there.
    NoEndpoint {
        /// UID of the pod of that name that is there and of which this agent had no endpoint yet.
        live: Option<Arc<str>>,
        /// Address of this node.
        node: IpAddr,
    },
    /// Whoever looks at the pod's events finds this one.
    Event(News),
}

/// What this node's CiliumNode is made of, beside what its Node says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeWanted {
    pub(super) name: Arc<str>,
    /// All global addresses of its devices.
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) boot_id: Arc<str>,
    /// What the watches show of it: a change is a reason to look.
    pub(super) shown: Option<Arc<Node>>,
}

/// A CiliumEndpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EndpointWanted {
    pub(super) object: CiliumEndpoint,
    pub(super) pod_uid: Arc<str>,
    /// What the watches show of it: a change to something else is a reason to look.
    pub(super) shown: Shown,
}

/// What the watches show of a published object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing.
    Absent,
    /// Something that says the same.
    Same,
    /// Something else.
    Other,
}

impl EndpointWanted {
    /// The same but for a state that passes: policy is being computed or written anew.
    pub(super) fn is_regenerating(&self, before: &Self) -> bool {
        let state = |wanted: &Self| wanted.object.status.state.clone();
        if state(self).as_deref() != Some("regenerating") {
            return false;
        }
        let mut same = self.object.clone();
        same.status.state = state(before);
        same == before.object
    }
}

/// Everything that is wanted now.
pub(super) fn wanted(
    view: &View,
    facts: Option<&NodeFacts>,
    ledger: &Ledger,
) -> BTreeMap<Key, Wanted> {
    let mut all = BTreeMap::new();
    if view.waiting.is_some() {
        // What is known of the cluster is not whole.
        return all;
    }
    for (number, request) in &view.state.identity_requests {
        all.insert(Key::Identity(*number), Wanted::Identity(request.clone()));
    }
    if view.ready().is_err() {
        return all;
    }
    let world = &view.world;
    let name = &world.config.node_name;
    let node = world.nodes.get(name);
    let wanted = NodeWanted {
        name: Arc::clone(name),
        addresses: world
            .local_addresses
            .iter()
            .copied()
            .filter(is_global)
            .collect(),
        boot_id: Arc::clone(&world.config.boot_id),
        shown: node.cloned(),
    };
    all.insert(Key::Node, Wanted::Node(wanted));
    let availability = Wanted::Availability {
        name: Arc::clone(name),
        node: node.cloned(),
    };
    all.insert(Key::Availability, availability);
    if let Some(address) = facts.and_then(NodeFacts::address) {
        endpoints(view, address, ledger, &mut all);
    }
    for ((pod, reason), news) in news(view) {
        all.insert(Key::Event(pod, reason), Wanted::Event(news));
    }
    all
}

fn endpoints(view: &View, node: IpAddr, ledger: &Ledger, all: &mut BTreeMap<Key, Wanted>) {
    for endpoint in view.state.endpoints.values() {
        let is_over = matches!(
            endpoint.state,
            EndpointState::Disconnecting | EndpointState::Disconnected
        );
        // Its pod is there, in the life that has the endpoint; and somebody knows what it is.
        let pod = view.world.pods.get(&endpoint.pod);
        let Some(pod) = pod.filter(|pod| pod.uid == endpoint.pod_uid && !pod.uid.is_empty()) else {
            continue;
        };
        if is_over || endpoint.identity == NumericIdentity::INIT {
            continue;
        }
        let details = view.endpoints.get(&endpoint.id);
        let object = objects::published_endpoint(endpoint, details, view, pod, node);
        let shown = match view.world.remote_endpoints.get(&endpoint.pod) {
            None => Shown::Absent,
            Some(remote) => {
                let says_same = remote.identity == endpoint.identity
                    && remote.labels == endpoint.labels
                    && remote.named_ports == endpoint.named_ports
                    && remote.addresses.iter().copied().collect::<BTreeSet<_>>()
                        == endpoint.addresses;
                if says_same { Shown::Same } else { Shown::Other }
            }
        };
        let wanted = EndpointWanted {
            object,
            pod_uid: Arc::clone(&pod.uid),
            shown,
        };
        let key = Key::Endpoint(endpoint.pod.clone());
        all.insert(key, Wanted::Endpoint(Box::new(wanted)));
    }
    for (pod, remote) in &view.world.remote_endpoints {
        if remote.node_address.map(IpAddr::from) != Some(node) {
            continue;
        }
        let key = Key::Endpoint(pod.clone());
        if all.contains_key(&key) {
            continue;
        }
        let live = view.world.pods.get(pod).map(|pod| Arc::clone(&pod.uid));
        // One that this agent had an endpoint of and has no more: its address may be another pod's by now.
        let live = live.filter(|uid| !ledger.had_endpoint(&key, uid));
        all.insert(key, Wanted::NoEndpoint { live, node });
    }
}

/// An address by which others may know the node.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified())
        }
    }
}
