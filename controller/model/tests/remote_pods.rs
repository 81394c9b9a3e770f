//! What is remembered of CiliumEndpoints is what comes of looking at all of them.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::world::{
    IdentityAllocation, NodeConfig, Pod, PodRef, RemoteEndpoint, Source, World,
};
use oxilium_model::{Incremental, desired, desired_with};
use proptest::prelude::*;
use proptest::sample::select;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Something in the world becomes something else.
#[derive(Clone, Debug)]
enum Edit {
    Endpoint(u8, Option<Endpoint>),
    Identity(u32, Option<u8>),
    /// A pod of this node has that name, or has it no more.
    Local(u8, bool),
    OwnAddresses(u8),
    Tunnel(bool),
}

#[derive(Clone, Debug)]
struct Endpoint {
    labels: u8,
    number: u32,
    addresses: Vec<u8>,
    ports: u8,
    node: Option<Ipv4Addr>,
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (
        0..5_u8,
        select(vec![300, 301, 302, 4, 5, 1, 70_000]),
        prop::collection::vec(1..6_u8, 0..3),
        0..4_u8,
        select(vec![None, Some(OWN), Some(Ipv4Addr::new(192, 0, 2, 2))]),
    )
        .prop_map(|(labels, number, addresses, ports, node)| Endpoint {
            labels,
            number,
            addresses,
            ports,
            node,
        })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (0..6_u8, prop::option::weighted(0.8, endpoint())).prop_map(|(name, to)| Edit::Endpoint(name, to)),
        3 => (300..303_u32, prop::option::weighted(0.8, 0..4_u8)).prop_map(|(number, to)| Edit::Identity(number, to)),
        1 => (0..6_u8, any::<bool>()).prop_map(|(name, is)| Edit::Local(name, is)),
        1 => (0..3_u8).prop_map(Edit::OwnAddresses),
        1 => any::<bool>().prop_map(Edit::Tunnel),
    ]
}

/// Those of a pod; 3 has none, 4 those of a node.
fn labels(which: u8) -> IdentityLabels {
    match which {
        3 => IdentityLabels::default(),
        4 => vec![Label::reserved("host")].into(),
        _ => vec![
            Label::parse(&format!("k8s:app=app-{which}")).unwrap(),
            Label::parse("k8s:io.kubernetes.pod.namespace=n").unwrap(),
        ]
        .into(),
    }
}

fn name(which: u8) -> PodRef {
    PodRef::new("n", &format!("pod-{which}"))
}

fn remote(which: u8, endpoint: &Endpoint) -> RemoteEndpoint {
    let mut named_ports = NamedPorts::default();
    for port in 0..endpoint.ports {
        named_ports.insert("http", Protocol::TCP, 80 + u16::from(port));
    }
    let address = |last: &u8| IpAddr::from([10, 0, 0, *last]);
    RemoteEndpoint {
        reference: name(which),
        addresses: endpoint.addresses.iter().map(address).collect(),
        identity: NumericIdentity(endpoint.number),
        labels: labels(endpoint.labels),
        named_ports,
        node_address: endpoint.node,
    }
}

fn local(which: u8) -> Pod {
    Pod {
        reference: name(which),
        uid: "uid".into(),
        labels: labels(0),
        service_account: None,
        addresses: Vec::new(),
        named_ports: NamedPorts::default(),
        node: None,
        host_network: false,
    }
}

fn apply(world: &mut World, edit: &Edit) {
    match edit {
        Edit::Endpoint(which, Some(endpoint)) => {
            let remote = Arc::new(remote(*which, endpoint));
            world.remote_endpoints.insert(name(*which), remote);
        }
        Edit::Endpoint(which, None) => {
            world.remote_endpoints.remove(&name(*which));
        }
        Edit::Identity(number, Some(which)) => {
            let number = NumericIdentity(*number);
            world
                .cluster_identities
                .insert(number, labels(*which).into());
        }
        Edit::Identity(number, None) => {
            world.cluster_identities.remove(&NumericIdentity(*number));
        }
        Edit::Local(which, true) => {
            world.pods.insert(name(*which), Arc::new(local(*which)));
        }
        Edit::Local(which, false) => {
            world.pods.remove(&name(*which));
        }
        Edit::OwnAddresses(last) => {
            world.local_addresses = [OWN.into(), IpAddr::from([10, 0, 0, *last])].into();
        }
        Edit::Tunnel(on) => {
            let mut config = (*world.config).clone();
            config.tunnel_address = on.then_some(OWN);
            world.config = Arc::new(config);
        }
    }
}

fn start(allocation: IdentityAllocation) -> World {
    let mut world = World {
        config: Arc::new(NodeConfig {
            node_name: "here".into(),
            identity_allocation: allocation,
            ..NodeConfig::default()
        }),
        local_addresses: [OWN.into()].into(),
        ..World::default()
    };
    for source in Source::ALL {
        world.synced.first_list_delivered(source);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn remembered_and_computed_anew_are_the_same_after_any_edits(
        of_cluster in any::<bool>(),
        // Several edits may come between two looks.
        looks in prop::collection::vec(prop::collection::vec(edit(), 0..4), 1..16),
    ) {
        let mut world = start(if of_cluster {
            IdentityAllocation::Cluster
        } else {
            IdentityAllocation::Node
        });
        let mut memory = Incremental::default();
        for edits in &looks {
            for edit in edits {
                apply(&mut world, edit);
            }
            let expected = desired(&world);
            let found = desired_with(&world, &mut memory);
            prop_assert!(found == expected, "{edits:?}\nremembered {:#?}\nanew {:#?}", found.ipcache, expected.ipcache);
            world.claims = expected.claims;
        }
    }
}
