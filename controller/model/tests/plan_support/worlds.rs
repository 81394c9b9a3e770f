//! Small worlds of two nodes with a few pods, whose labels, addresses and policies change.

#![allow(
    dead_code,
    reason = "each test uses its part, so that no expectation holds for all"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::node_state::NodeState;
use oxilium_model::policy::rule::Policy;
use oxilium_model::world::{
    Attachment, AttachmentId, CidrGroup, Claims, Device, Lifecycle, Namespace, Node, NodeConfig,
    NodeOrigin, Pod, PodRef, RemoteEndpoint, Source, Synced, Timestamp, World,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::plan_support::kernel::Probe;
use crate::plan_support::states::programs;
use crate::policy_support::any_policies;

/// A local pod: labels, address and device, each of which may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodSeed {
    app: &'static str,
    namespace: &'static str,
    address: u8,
    device: u32,
    known: bool,
    lifecycle: Lifecycle,
    http: u16,
}

/// A pod of the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemoteSeed {
    app: &'static str,
    namespace: &'static str,
    address: u8,
    number: u32,
}

/// All that varies between worlds.
#[derive(Clone)]
pub(crate) struct WorldSeed {
    pods: [Option<PodSeed>; 4],
    remotes: [Option<RemoteSeed>; 3],
    policies: Vec<Policy>,
    node_published: bool,
    partners: bool,
    /// Seconds since the world before.
    later: u64,
}

impl fmt::Debug for WorldSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nafter {} seconds, partners: {}",
            self.later, self.partners
        )?;
        writeln!(f, "pods {:?}\nremotes {:?}", self.pods, self.remotes)?;
        for policy in &self.policies {
            for rule in &policy.rules {
                writeln!(
                    f,
                    "rule {:?} {:?} {:?} {:?} {:?}",
                    rule.direction, rule.action, rule.subject, rule.peers, rule.ports
                )?;
            }
        }
        Ok(())
    }
}

fn pod() -> impl Strategy<Value = Option<PodSeed>> {
    let pod = (
        select(vec!["a", "a", "b", "c"]),
        select(vec!["red", "red", "blue"]),
        1..5_u8,
        10..15_u32,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.1),
        select(vec![80, 8080]),
    )
        .prop_map(
            |(app, namespace, address, device, known, deleted, http)| PodSeed {
                app,
                namespace,
                address,
                device,
                known,
                lifecycle: if deleted {
                    Lifecycle::Deleted
                } else {
                    Lifecycle::Added
                },
                http,
            },
        );
    prop::option::weighted(0.7, pod)
}

fn remote() -> impl Strategy<Value = Option<RemoteSeed>> {
    let remote = (
        select(vec!["a", "b", "c"]),
        select(vec!["red", "blue"]),
        1..5_u8,
        select(vec![300, 301, 302, 1, 70_000]),
    )
        .prop_map(|(app, namespace, address, number)| RemoteSeed {
            app,
            namespace,
            address,
            number,
        });
    prop::option::weighted(0.7, remote)
}

fn any_world(auth: bool) -> impl Strategy<Value = WorldSeed> {
    (
        [pod(), pod(), pod(), pod()],
        [remote(), remote(), remote()],
        any_policies(auth),
        any::<bool>(),
        any::<bool>(),
        0..1000_u64,
    )
        .prop_map(
            |(pods, remotes, policies, node_published, partners, later)| WorldSeed {
                pods,
                remotes,
                policies,
                node_published,
                partners,
                later,
            },
        )
}

/// A sequence of worlds, each with a few things other than in the one before.
pub(crate) fn any_worlds(length: usize, auth: bool) -> impl Strategy<Value = Vec<WorldSeed>> {
    let edit = (any_world(auth), any::<u16>());
    (any_world(auth), prop::collection::vec(edit, length - 1)).prop_map(|(first, edits)| {
        let mut worlds = vec![first];
        for (other, bits) in edits {
            let mut next = worlds[worlds.len() - 1].clone();
            for (i, (pod, new)) in next.pods.iter_mut().zip(&other.pods).enumerate() {
                if bits >> i & 1 != 0 {
                    *pod = *new;
                }
            }
            for (i, (remote, new)) in next.remotes.iter_mut().zip(&other.remotes).enumerate() {
                if bits >> (i + 4) & 1 != 0 {
                    *remote = *new;
                }
            }
            if bits >> 7 & 1 != 0 {
                next.policies.clone_from(&other.policies);
            }
            if bits >> 8 & 1 != 0 {
                next.partners = other.partners;
                next.node_published = other.node_published;
            }
            next.later = other.later;
            worlds.push(next);
        }
        worlds
    })
}

fn labels(app: &str) -> IdentityLabels {
    let label = Label::of_pod("app", app).expect("a label of a pod");
    vec![label].into()
}

fn local(address: u8) -> IpAddr {
    IpAddr::from([10, 1, 2, address])
}

fn remote_address(address: u8) -> IpAddr {
    IpAddr::from([10, 1, 3, address])
}

fn namespace(name: &str) -> Namespace {
    let env = if name == "red" { "prod" } else { "dev" };
    Namespace {
        name: name.into(),
        uid: "".into(),
        labels: vec![Label::of_namespace("env", env)].into(),
    }
}

/// All sources have delivered.
pub(crate) fn synced() -> Synced {
    let mut synced = Synced::default();
    for source in Source::ALL {
        synced.first_list_delivered(source);
    }
    synced
}

fn node(name: &str, address: [u8; 4], origin: NodeOrigin, pods: &str) -> Node {
    Node {
        name: name.into(),
        origin,
        addresses: BTreeSet::from([IpAddr::from(address)]),
        pod_cidrs: vec![pods.parse().expect("a prefix")],
        labels: IdentityLabels::default(),
    }
}

/// An empty world of two nodes.
pub(crate) fn empty_world() -> World {
    let config = NodeConfig {
        node_name: "worker".into(),
        cluster_uid: "0c1d".into(),
        boot_id: "boot".into(),
        programs: programs(),
        quarantine: 300,
        ..NodeConfig::default()
    };
    let mut world = World {
        config: Arc::new(config),
        synced: synced(),
        ..World::default()
    };
    for node in [
        node("worker", [192, 168, 0, 1], NodeOrigin::Node, "10.1.2.0/24"),
        node("master", [192, 168, 0, 2], NodeOrigin::Node, "10.1.3.0/24"),
    ] {
        world.nodes.insert(node.name.clone(), Arc::new(node));
    }
    for name in ["red", "blue"] {
        world
            .namespaces
            .insert(name.into(), Arc::new(namespace(name)));
    }
    world
}

impl WorldSeed {
    /// The same world with all Pod objects at hand.
    pub(crate) fn complete(&self) -> Self {
        let mut complete = self.clone();
        for pod in complete.pods.iter_mut().flatten() {
            pod.known = true;
        }
        complete
    }

    /// The world, with the numbers and the clock of the one before.
    pub(crate) fn world(&self, claims: &Claims, now: Timestamp) -> World {
        let mut world = World {
            claims: claims.clone(),
            now: Timestamp(now.0 + self.later),
            ..empty_world()
        };
        if !self.node_published {
            world.nodes.remove("master");
        }
        for (index, pod) in self.pods.iter().enumerate() {
            if let Some(pod) = pod {
                add_pod(&mut world, index, pod);
            }
        }
        for (index, remote) in self.remotes.iter().enumerate() {
            if let Some(remote) = remote {
                add_remote(&mut world, index, remote);
            }
        }
        if self.partners {
            let group = CidrGroup {
                name: "partners".into(),
                labels: IdentityLabels::default(),
                prefixes: vec!["192.0.2.0/24".parse().expect("a prefix")],
            };
            world.cidr_groups.insert("partners".into(), Arc::new(group));
        }
        for policy in &self.policies {
            world
                .policies
                .insert(policy.reference.clone(), Arc::new(policy.clone()));
        }
        world
    }
}

fn add_pod(world: &mut World, index: usize, seed: &PodSeed) {
    let reference = PodRef::new(seed.namespace, &format!("pod{index}"));
    let mut named_ports = NamedPorts::default();
    named_ports.insert("http", Protocol::TCP, seed.http);
    let pod = Pod {
        reference: reference.clone(),
        uid: "uid".into(),
        labels: labels(seed.app),
        service_account: None,
        addresses: vec![local(seed.address)],
        named_ports,
        node: Some("worker".into()),
        host_network: false,
    };
    if seed.known {
        world.pods.insert(reference.clone(), Arc::new(pod));
    }
    let id = AttachmentId {
        container: format!("container{index}-{}", seed.namespace).into(),
        interface: "eth0".into(),
    };
    let attachment = Attachment {
        id: id.clone(),
        pod: reference,
        pod_uid: "uid".into(),
        boot_id: "boot".into(),
        lifecycle: seed.lifecycle,
        device: Some(Device {
            ifindex: seed.device,
            name: format!("veth{index}").into(),
            host_mac: [2, 0, 0, 0, 0, 1],
            mac: [2, 0, 0, 0, 0, 2],
            addresses: BTreeSet::from([local(seed.address)]),
            link_local: None,
            ipv6_prefix_length: None,
            netns_id: Some(1),
        }),
    };
    world.attachments.insert(id, Arc::new(attachment));
}

fn add_remote(world: &mut World, index: usize, seed: &RemoteSeed) {
    let reference = PodRef::new(seed.namespace, &format!("remote{index}"));
    let mut all: Vec<Label> = labels(seed.app).iter().cloned().collect();
    all.push(Label::pod_namespace(seed.namespace));
    all.push(Label::cluster("default"));
    all.extend(namespace(seed.namespace).labels.iter().cloned());
    let remote = RemoteEndpoint {
        reference: reference.clone(),
        addresses: vec![remote_address(seed.address)],
        identity: NumericIdentity(seed.number),
        labels: all.into(),
        named_ports: NamedPorts::default(),
        node_address: None,
    };
    world.remote_endpoints.insert(reference, Arc::new(remote));
}

/// Addresses that packets come from or go to.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let outside = [
        "10.1.2.3",
        "10.1.2.200",
        "10.2.0.1",
        "192.0.2.1",
        "198.51.100.1",
    ];
    let nodes = ["192.168.0.1", "192.168.0.2", "10.1.3.1"];
    let v6 = ["2001:db8::1", "2001:db9::1"];
    let literal = outside.into_iter().chain(nodes).chain(v6);
    literal
        .map(|text| text.parse().expect("an address"))
        .chain((1..5).map(local))
        .chain((1..5).map(remote_address))
        .collect()
}

/// Packets of these endpoints.
pub(crate) fn probes(endpoints: impl IntoIterator<Item = u16>) -> Vec<Probe> {
    let mut probes = Vec::new();
    let addresses = addresses();
    for endpoint in endpoints {
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in &addresses {
                for (protocol, port) in [(6, 80), (6, 1500), (17, 53)] {
                    probes.push(Probe {
                        endpoint,
                        direction,
                        remote: *remote,
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    probes
}

/// The endpoint of each pod with a device.
pub(crate) fn endpoints(state: &NodeState) -> BTreeMap<AttachmentId, u16> {
    state
        .interfaces
        .values()
        .map(|interface| {
            let endpoint = &state.endpoints[&interface.endpoint];
            (endpoint.attachment.clone(), endpoint.id)
        })
        .collect()
}
