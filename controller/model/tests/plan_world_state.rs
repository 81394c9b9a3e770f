//! What the World asks for: identities of addresses, states of endpoints, numbers, and the first plan of a node.

#[path = "plan_support/mod.rs"]
mod plan_support;
#[path = "policy_support/mod.rs"]
mod policy_support;
#[path = "plan_support/worlds.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use oxilium_abi::{Direction, InterfaceFlags, NETNS_UNKNOWN, NodeWord};
use oxilium_model::condition::Reason;
use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::node_state::{AttachPoint, EndpointState, NodeState};
use oxilium_model::observed::{AttachedProgram, Observed, Place};
use oxilium_model::plan::{self, PlanError, Write, interface_config, plan};
use oxilium_model::policy::peer::{CidrGroupPeer, CidrPeer, Peer, Peers};
use oxilium_model::policy::rule::PortRules;
use oxilium_model::world::{
    Attachment, AttachmentId, CidrGroup, Device, IdentityClaim, Lifecycle, NodeConfig, Pod, PodRef,
    Quarantine, RemoteEndpoint, Source, Timestamp, World,
};
use oxilium_model::{desired, world::Claims};
use policy_support::{policy, port, rule};
use worlds::{empty_world, synced};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn labels(texts: &[&str]) -> IdentityLabels {
    let parse = |text: &&str| Label::parse(text).expect("a label");
    texts.iter().map(parse).collect()
}

fn pod(name: &str, app: &str) -> Pod {
    Pod {
        reference: PodRef::new("red", name),
        uid: format!("uid-{name}").into(),
        labels: labels(&[&format!("k8s:app={app}")]),
        service_account: Some("default".into()),
        addresses: Vec::new(),
        named_ports: NamedPorts::default(),
        node: Some("worker".into()),
        host_network: false,
    }
}

fn attachment(pod: &Pod, ifindex: u32, addresses: &[&str]) -> Attachment {
    Attachment {
        id: AttachmentId {
            container: format!("container-{}", pod.reference.name).into(),
            interface: "eth0".into(),
        },
        pod: pod.reference.clone(),
        pod_uid: pod.uid.clone(),
        boot_id: "boot".into(),
        lifecycle: Lifecycle::Added,
        device: Some(Device {
            ifindex,
            name: format!("lxc{ifindex}").into(),
            host_mac: [2, 0, 0, 0, 0, 1],
            mac: [0x02, 0x11, 0x22, 0x33, 0x44, 0x55],
            addresses: addresses.iter().map(|text| address(text)).collect(),
            link_local: None,
            ipv6_prefix_length: None,
            netns_id: None,
        }),
    }
}

/// Adds a pod of this node with its attachment.
fn add(world: &mut World, pod: Pod, ifindex: u32, addresses: &[&str]) {
    let attachment = attachment(&pod, ifindex, addresses);
    world.pods.insert(pod.reference.clone(), Arc::new(pod));
    attach(world, attachment);
}

fn attach(world: &mut World, attachment: Attachment) {
    world
        .attachments
        .insert(attachment.id.clone(), Arc::new(attachment));
}

fn remote(name: &str, number: u32, texts: &[&str], addresses: &[&str]) -> RemoteEndpoint {
    RemoteEndpoint {
        reference: PodRef::new("red", name),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        identity: NumericIdentity(number),
        labels: labels(texts),
        named_ports: NamedPorts::default(),
        node_address: None,
    }
}

fn add_remote(world: &mut World, remote: RemoteEndpoint) {
    world
        .remote_endpoints
        .insert(remote.reference.clone(), Arc::new(remote));
}

/// A policy that names these peers.
fn naming(world: &mut World, name: &str, peers: Vec<Peer>) {
    let policy = policy(name, |reference| {
        vec![rule(
            reference,
            Direction::Ingress,
            Peers::AnyOf(peers),
            PortRules::All,
        )]
    });
    world
        .policies
        .insert(policy.reference.clone(), Arc::new(policy));
}

fn cidr(net: &str, except: &[&str]) -> Peer {
    let parse = |text: &&str| text.parse().expect("a prefix");
    Peer::Cidr(CidrPeer::new(parse(&net), except.iter().map(parse)))
}

/// The ipcache and the conditions, identities by their labels.
fn shown(state: &NodeState) -> String {
    let mut text = String::new();
    for (prefix, target) in &state.ipcache {
        let labels = state.identities.get(target.identity);
        let labels: Vec<String> = labels
            .iter()
            .flat_map(|identity| &identity.labels)
            .map(ToString::to_string)
            .collect();
        writeln!(text, "{prefix} = {}", labels.join(" ")).expect("text");
    }
    for condition in &state.conditions {
        writeln!(text, "! {condition}").expect("text");
    }
    text
}

#[test]
fn each_address_has_the_identity_of_its_first_claimant() {
    let mut world = empty_world();
    world.local_addresses = ["192.168.0.1", "10.1.2.1", "127.0.0.1", "fe80::1", "fd00::1"]
        .map(address)
        .into();
    world.api_servers = ["192.168.0.2", "203.0.113.5"].map(address).into();
    add(&mut world, pod("web", "web"), 10, &["10.1.2.7", "fd00::7"]);
    add(
        &mut world,
        pod("liar", "liar"),
        11,
        &["10.1.2.1", "10.1.2.8"],
    );
    add(&mut world, pod("web-twin", "web"), 12, &["10.1.2.7"]);
    let app = ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=red"];
    add_remote(
        &mut world,
        remote("db", 300, &app, &["10.1.3.9", "192.168.0.2", "10.1.2.7"]),
    );
    add_remote(
        &mut world,
        remote("host?", 1, &["reserved:host"], &["10.1.3.10"]),
    );
    add_remote(
        &mut world,
        remote("one", 301, &["k8s:app=one"], &["10.1.3.11"]),
    );
    add_remote(
        &mut world,
        remote("two", 302, &["k8s:app=two"], &["10.1.3.11"]),
    );
    let group = CidrGroup {
        name: "partners".into(),
        labels: labels(&["cidrgroup:tier=gold"]),
        prefixes: vec!["192.0.2.0/24".parse().expect("a prefix")],
    };
    world.cidr_groups.insert("partners".into(), Arc::new(group));
    naming(
        &mut world,
        "names",
        vec![
            cidr("0.0.0.0/0", &["10.0.0.0/8"]),
            cidr("192.0.2.128/25", &[]),
            cidr("10.1.2.8/32", &[]),
            Peer::CidrGroup(CidrGroupPeer::named("partners", [])),
        ],
    );
    insta::assert_snapshot!(shown(&desired(&world)));
}

#[test]
fn a_prefix_is_known_only_while_a_policy_names_it() {
    let mut world = empty_world();
    let before = desired(&world);
    naming(&mut world, "names", vec![cidr("198.51.100.0/24", &[])]);
    let named = desired(&world);
    let prefix: ipnet::IpNet = "198.51.100.0/24".parse().expect("a prefix");
    assert!(!before.ipcache.contains_key(&prefix));
    assert!(named.ipcache[&prefix].identity.is_cidr());
    world.policies.clear();
    world.claims = named.claims.clone();
    let after = desired(&world);
    assert_eq!(after.ipcache, before.ipcache);
    // The number rests, and comes back to the same prefix.
    let resting = after.claims.identities.values().next().expect("a claim");
    assert_eq!(resting.quarantine, Some(Quarantine { since: world.now }));
    naming(&mut world, "names", vec![cidr("198.51.100.0/24", &[])]);
    world.claims = after.claims;
    assert_eq!(desired(&world).ipcache[&prefix], named.ipcache[&prefix]);
}

#[test]
fn endpoints_tell_how_they_are_doing() {
    type Change = fn(&mut Attachment);
    let known = pod("web", "web");
    let cases: [(&str, Change, EndpointState, bool); 5] = [
        ("as it should be", |_| {}, EndpointState::Ready, true),
        (
            "deleted, its device still there",
            |a| a.lifecycle = Lifecycle::Deleted,
            EndpointState::Disconnecting,
            true,
        ),
        (
            "its device is gone",
            |a| a.device = None,
            EndpointState::Disconnected,
            false,
        ),
        (
            "of another life of the pod",
            |a| a.pod_uid = "older".into(),
            EndpointState::WaitingForIdentity,
            true,
        ),
        (
            "of a pod that nobody knows",
            |a| a.pod = PodRef::new("red", "nobody"),
            EndpointState::WaitingForIdentity,
            true,
        ),
    ];
    for (name, change, state, has_interface) in cases {
        let mut world = empty_world();
        let mut attachment = attachment(&known, 10, &["10.1.2.7"]);
        change(&mut attachment);
        world
            .pods
            .insert(known.reference.clone(), Arc::new(known.clone()));
        attach(&mut world, attachment);
        let desired = desired(&world);
        assert_eq!(desired.endpoints[&1].state, state, "{name}");
        assert_eq!(
            desired.interfaces.contains_key(&10),
            has_interface,
            "{name}"
        );
        assert_eq!(desired.attachments.is_empty(), !has_interface, "{name}");
    }
}

#[test]
fn an_attachment_of_another_boot_does_not_exist() {
    let mut world = empty_world();
    let mut old = attachment(&pod("web", "web"), 10, &["10.1.2.7"]);
    old.boot_id = "earlier".into();
    attach(&mut world, old);
    let state = desired(&world);
    assert!(state.endpoints.is_empty() && state.interfaces.is_empty());
    assert_eq!(state.conditions[0].reason, Reason::OtherBoot);
}

#[test]
fn an_endpoint_without_its_pod_keeps_the_identity_that_it_had_and_a_new_one_is_init() {
    let mut world = empty_world();
    add(&mut world, pod("web", "web"), 10, &["10.1.2.7"]);
    let alive = desired(&world);
    world.pods.clear();
    world.claims = alive.claims.clone();
    let orphan = desired(&world);
    assert_eq!(orphan.endpoints[&1].identity, alive.endpoints[&1].identity);
    assert_eq!(orphan.endpoints[&1].labels, alive.endpoints[&1].labels);

    world.claims = Claims::default();
    let new = desired(&world);
    assert_eq!(new.endpoints[&1].identity, NumericIdentity::INIT);
    // `init` is enforced always, and nothing allows it anything.
    assert!(new.endpoints[&1].policy.table.0.is_empty());
}

#[test]
fn nodes_of_a_cluster_find_the_same_number_for_the_same_labels_and_others_do_not() {
    let number = |node: &str, cluster: &str| {
        let mut world = empty_world();
        world.config = Arc::new(NodeConfig {
            node_name: node.into(),
            cluster_uid: cluster.into(),
            ..(*world.config).clone()
        });
        add(&mut world, pod("web", "web"), 10, &["10.1.2.7"]);
        desired(&world).endpoints[&1].identity
    };
    assert_eq!(number("worker", "a"), number("other", "a"));
    assert_ne!(number("worker", "a"), number("worker", "b"));
}

#[test]
fn a_taken_number_goes_to_nobody_else_before_it_has_rested() {
    let mut world = empty_world();
    add(&mut world, pod("web", "web"), 10, &["10.1.2.7"]);
    let first_choice = desired(&world).endpoints[&1].identity;
    let other = labels(&["k8s:app=other"]);
    let claim = |quarantine| IdentityClaim {
        labels: other.clone(),
        prefix: None,
        quarantine,
    };
    let since = Quarantine {
        since: Timestamp(1000),
    };
    let cases = [
        ("in use", claim(None), 5000, false),
        ("resting", claim(Some(since)), 1299, false),
        ("rested", claim(Some(since)), 1300, true),
    ];
    for (name, claim, now, given) in cases {
        world.now = Timestamp(now);
        world.claims = Claims::default();
        world.claims.identities.insert(first_choice, claim);
        let identity = desired(&world).endpoints[&1].identity;
        assert_eq!(identity == first_choice, given, "{name}");
        assert_eq!(
            identity.0 == NumericIdentity::FIRST_CLUSTER,
            !given,
            "{name}: else the lowest"
        );
    }
}

#[test]
fn what_the_cluster_agreed_on_comes_first_and_of_two_the_lowest() {
    let mut world = empty_world();
    add(&mut world, pod("web", "web"), 10, &["10.1.2.7"]);
    let before = desired(&world);
    let labels = before.endpoints[&1].labels.clone();
    world.claims = before.claims;
    for id in [500, 400] {
        world
            .cluster_identities
            .insert(NumericIdentity(id), labels.clone().into());
    }
    let state = desired(&world);
    assert_eq!(state.endpoints[&1].identity, NumericIdentity(400));
    assert!(
        state.identities.get(NumericIdentity(500)).is_some(),
        "policy selects both"
    );
}

#[test]
fn claims_that_contradict_each_other_are_dropped_and_told() {
    let mut world = empty_world();
    let claim = IdentityClaim {
        labels: labels(&["k8s:app=x"]),
        prefix: None,
        quarantine: None,
    };
    for id in [7, 300, 301, 1 << 25] {
        world
            .claims
            .identities
            .insert(NumericIdentity(id), claim.clone());
    }
    let told: Vec<String> = desired(&world)
        .conditions
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn an_interface_serves_two_addresses_of_each_family_and_its_own_link_local_ones() {
    let mut world = empty_world();
    let web = pod("web", "web");
    let addresses = ["10.1.2.7", "10.1.2.8", "10.1.2.9", "fd00::7"];
    let mut attachment = attachment(&web, 10, &addresses);
    if let Some(device) = &mut attachment.device {
        device.link_local = Some(Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0xBEEF));
        device.ipv6_prefix_length = Some(80);
    }
    world.pods.insert(web.reference.clone(), Arc::new(web));
    attach(&mut world, attachment);
    let state = desired(&world);
    let config = interface_config(10, &state.interfaces[&10], oxilium_abi::Epoch::new(3));
    assert_eq!(config.ipv4, [[10, 1, 2, 7], [10, 1, 2, 8]]);
    assert_eq!(
        config.ipv6,
        [Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 7).octets(), [0; 16]]
    );
    let eui64 = Ipv6Addr::new(0xFE80, 0, 0, 0, 0x0011, 0x22FF, 0xFE33, 0x4455);
    let observed = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0xBEEF);
    let expected = BTreeSet::from([eui64.octets(), observed.octets()]);
    assert_eq!(BTreeSet::from(config.link_local), expected);
    assert_eq!((config.birth, config.endpoint, config.ifindex), (3, 1, 10));
    let flags = InterfaceFlags::with_prefix_length(80);
    assert_eq!((config.netns_id, config.flags), (NETNS_UNKNOWN, flags));
    let refused = Reason::TooManyAddresses {
        refused: vec![address("10.1.2.9")],
    };
    assert!(state.conditions.iter().any(|c| c.reason == refused));
    let served = |text| {
        state
            .ipcache
            .contains_key(&ipnet::IpNet::from(address(text)))
    };
    assert!(served("10.1.2.8") && !served("10.1.2.9"));
}

/// Room for the largest table twice is part of the capacity: with too little, all shrink, and it is told.
#[test]
fn tables_leave_room_for_staging() {
    let mut world = empty_world();
    add(&mut world, pod("a", "a"), 10, &["10.1.2.7"]);
    for name in ["p1", "p2", "p3"] {
        let policy = policy(name, |reference| {
            let number = u16::from(name.as_bytes()[1]);
            let ports = port(Protocol::TCP, number * 16, number * 16);
            vec![rule(reference, Direction::Ingress, Peers::Anyone, ports)]
        });
        world
            .policies
            .insert(policy.reference.clone(), Arc::new(policy));
    }
    let whole = desired(&world).endpoints[&1].policy.table.0.len();
    for capacity in 0..=(2 * whole) {
        let mut config = (*world.config).clone();
        config.capacities.policy_entries = capacity;
        world.config = Arc::new(config);
        let state = desired(&world);
        let size = state.endpoints[&1].policy.table.0.len();
        assert!(
            2 * size <= capacity,
            "{size} entries with room for {capacity}"
        );
        let told = state
            .conditions
            .iter()
            .any(|c| matches!(c.reason, Reason::WouldOverflow { .. }));
        assert_eq!(told, capacity < 2 * whole, "with room for {capacity}");
    }
}

#[test]
fn the_first_plan_reads_as_what_a_node_needs_for_its_first_pod() {
    let mut world = empty_world();
    world.local_addresses = BTreeSet::from([address("192.168.0.1")]);
    add(&mut world, pod("web", "a"), 10, &["10.1.2.7"]);
    naming(&mut world, "names", vec![cidr("198.51.100.0/24", &[])]);
    let state = desired(&world);
    let complete = world.synced.complete().expect("all have delivered");
    let plan = plan(&Observed::default(), &state, &world.config, complete).expect("a plan");
    let order: Vec<String> = plan.writes().map(ToString::to_string).collect();
    insta::assert_snapshot!(format!("{plan}\nin their order:\n{}", order.join("\n")));
}

#[test]
fn where_many_programs_are_missing_they_are_staged_and_settle_last() {
    let mut world = empty_world();
    for (index, name) in (10..).zip(["a", "b", "c"]) {
        add(
            &mut world,
            pod(name, "a"),
            index,
            &[&format!("10.1.2.{index}")],
        );
    }
    let complete = world.synced.complete().expect("all have delivered");
    let state = desired(&world);
    let all: Vec<AttachPoint> = state.attachments.keys().copied().collect();
    let (settled, staged) = (Place::Settled, Place::Staged);
    for (case, above, there, attached, settling) in [
        ("staging is of no use here", None, vec![], 6, 0),
        ("there are not too many", Some(6), vec![], 6, 0),
        ("too many", Some(5), vec![], 6, 6),
        ("two more", Some(2), vec![settled; 4], 2, 0),
        ("two more in a burst", Some(2), vec![staged; 4], 2, 6),
        ("the end of a burst", Some(2), vec![staged; 6], 0, 6),
        ("all is well", Some(2), vec![settled; 6], 0, 0),
    ] {
        let config = NodeConfig {
            stage_above: above,
            ..(*world.config).clone()
        };
        let mut observed = Observed::default();
        for (point, place) in all.iter().zip(there) {
            let tag = state.attachments[point];
            observed
                .attachments
                .insert(*point, AttachedProgram { tag, place });
        }
        let plan = plan(&observed, &state, &config, complete).expect("a plan");
        let stages = settling > 0;
        let attaching = plan
            .writes()
            .filter(|write| matches!(write, Write::Attach { staged, .. } if *staged == stages));
        assert_eq!(attaching.count(), attached, "{case}");
        let steps = plan.steps();
        let last = &steps[steps.len() - settling..];
        let all_settle = last.iter().all(|step| {
            step.reason == plan::Reason::Settle && matches!(step.write, Write::Replace { .. })
        });
        assert!(all_settle, "{case}: {last:?}");
        let replaced = plan
            .writes()
            .filter(|write| matches!(write, Write::Replace { .. }));
        assert_eq!(replaced.count(), settling, "{case}");
    }
}

#[test]
fn a_misplaced_program_is_put_in_order_at_once_also_in_a_burst() {
    let mut world = empty_world();
    add(&mut world, pod("a", "a"), 10, &["10.1.2.10"]);
    let complete = world.synced.complete().expect("all have delivered");
    let state = desired(&world);
    let config = NodeConfig {
        stage_above: Some(2),
        ..(*world.config).clone()
    };
    let mut observed = Observed::default();
    for (point, place) in state
        .attachments
        .keys()
        .zip([Place::Staged, Place::Misplaced])
    {
        let tag = state.attachments[point];
        observed
            .attachments
            .insert(*point, AttachedProgram { tag, place });
    }
    let plan = plan(&observed, &state, &config, complete).expect("a plan");
    let reasons: Vec<plan::Reason> = plan
        .steps()
        .iter()
        .filter(|step| matches!(step.write, Write::Replace { .. }))
        .map(|step| step.reason)
        .collect();
    assert_eq!(reasons, [plan::Reason::Program, plan::Reason::Settle]);
}

#[test]
fn epochs_end() {
    let world = empty_world();
    let mut observed = Observed::default();
    for word in [NodeWord::HighWater, NodeWord::Published] {
        observed.node_words[word as usize] = oxilium_abi::EPOCH_MAX;
    }
    let complete = world.synced.complete().expect("all have delivered");
    let mut state = desired(&world);
    assert_eq!(
        plan(&observed, &state, &world.config, complete),
        Err(PlanError::EpochsExhausted)
    );
    // What changes no verdict needs no epoch.
    state.ipcache.clear();
    assert!(
        plan(&observed, &state, &world.config, complete)
            .expect("a plan")
            .is_empty()
    );
}

#[test]
fn a_source_that_has_not_delivered_is_named() {
    let mut partly = oxilium_model::world::Synced::default();
    for source in Source::ALL {
        assert!(partly.complete().is_err());
        partly.first_list_delivered(source);
    }
    assert!(partly.complete().is_ok() && partly == synced());
    let nothing = oxilium_model::world::Synced::default();
    let waiting = nothing.complete().expect_err("nothing has been delivered");
    assert_eq!(
        waiting.to_string(),
        "waiting for the first full list of policies, pods, nodes, namespaces, endpoints, CIDR groups, services, attachments, kernel"
    );
}
