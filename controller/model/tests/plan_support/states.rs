//! Random node states over a small set of endpoints, prefixes and policy entries, so that much collides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use oxilium_abi::{AuthRequirement, Direction, Precedence, ShapeMask};
use oxilium_model::identity::{Identities, IdentityLabels, NamedPorts, NumericIdentity};
use oxilium_model::node_state::{
    AttachPoint, Endpoint, EndpointPolicy, EndpointState, EntryKey, EntryValue, Hook, Interface,
    IpcacheTarget, NodeState, ProgramTag, TableContent,
};
use oxilium_model::plan::Write;
use oxilium_model::policy::config::PolicyConfig;
use oxilium_model::policy::{SubjectView, resolve_within};
use oxilium_model::world::{AttachmentId, PodRef};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::kernel::Probe;

pub(crate) const ENDPOINTS: std::ops::RangeInclusive<u16> = 1..=4;
const IDENTITIES: [u32; 8] = [1, 9, 300, 301, 302, 16_777_217, 16_777_218, 11];
const PREFIXES: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.1.0.0/16",
    "::/0",
    "2001:db8::1/128",
];
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.1.1",
    "10.1.0.1",
    "11.0.0.1",
    "2001:db8::1",
    "2001:db8::2",
];

/// Every packet that a test looks at.
pub(crate) fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for endpoint in ENDPOINTS {
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in ADDRESSES {
                for (protocol, port) in [(6, 80), (6, 81), (17, 80), (1, 8)] {
                    probes.push(Probe {
                        endpoint,
                        direction,
                        remote: remote.parse().expect("an address"),
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    probes
}

fn entry_key() -> impl Strategy<Value = EntryKey> {
    let l4 = select(vec![
        (0, None, 0),
        (6, Some(0), 0),
        (6, Some(16), 80),
        (6, Some(15), 80),
        (6, Some(16), 81),
        (17, Some(0), 0),
    ]);
    let mut identities: Vec<u32> = IDENTITIES.to_vec();
    identities.extend([0, 0, 11, 13]);
    (any::<bool>(), select(identities), l4).prop_map(
        |(ingress, identity, (protocol, bits, port))| EntryKey {
            direction: if ingress {
                Direction::Ingress
            } else {
                Direction::Egress
            },
            identity: NumericIdentity(identity),
            protocol,
            shape: u8::try_from(ShapeMask::shape(bits)).expect("18 shapes"),
            port,
        },
    )
}

fn entry_value(auth: bool) -> impl Strategy<Value = EntryValue> {
    let auth = if auth { 0..8_u8 } else { 0..1 };
    let class = select(vec![255_u32, 1, 1, 1, 154]);
    (0..3_u32, class, 0..2_u16, auth).prop_map(|(level, class, proxy_port, auth)| EntryValue {
        precedence: Precedence((level << 8) | class),
        proxy_port,
        auth: AuthRequirement(if auth == 1 { 0x81 } else { 0 }),
    })
}

fn content(auth: bool) -> impl Strategy<Value = Arc<TableContent>> {
    let full = btree_map(entry_key(), entry_value(auth), 0..9).prop_map(TableContent);
    prop_oneof![1 => Just(TableContent::default()), 8 => full].prop_map(Arc::new)
}

/// An endpoint's part of a state: which content it has, on which device.
#[derive(Clone)]
pub(crate) struct Seed {
    contents: Vec<Arc<TableContent>>,
    endpoints: BTreeMap<u16, (usize, bool)>,
    /// Identities, and the nodes that prefixes are behind; 0 is none.
    ipcache: BTreeMap<&'static str, (u32, u8)>,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  ipcache {:?}", self.ipcache)?;
        for (id, (content, other_device)) in &self.endpoints {
            writeln!(f, "  endpoint {id} on its other device: {other_device}")?;
            for (key, value) in &self.contents[*content].0 {
                let key = key.in_table(0);
                let value = value.sealed(&key);
                writeln!(f, "    {}", Write::PolicyInsert { key, value })?;
            }
        }
        Ok(())
    }
}

fn seed(auth: bool) -> impl Strategy<Value = Seed> {
    let endpoints = btree_map(ENDPOINTS, (0..4_usize, prop::bool::weighted(0.1)), 0..5);
    let mut targets = IDENTITIES.to_vec();
    targets.retain(|identity| *identity != 11);
    let ipcache = btree_map(select(PREFIXES.to_vec()), (select(targets), 0..3_u8), 0..8);
    (vec(content(auth), 4), endpoints, ipcache).prop_map(|(contents, endpoints, ipcache)| Seed {
        contents,
        endpoints,
        ipcache,
    })
}

/// What of the next state is other than in the one before.
#[derive(Clone, Copy, Debug)]
struct Edit {
    contents: [u8; 4],
    endpoints: bool,
    ipcache: u8,
}

fn edit() -> impl Strategy<Value = Edit> {
    (
        [0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8],
        prop::bool::weighted(0.5),
        0..3_u8,
    )
        .prop_map(|(contents, endpoints, ipcache)| Edit {
            contents,
            endpoints,
            ipcache,
        })
}

/// The next state: parts of the old one, parts of another, and tables between the two.
fn edited(old: &Seed, other: &Seed, edit: Edit) -> Seed {
    let mut next = old.clone();
    for ((content, other), edit) in next
        .contents
        .iter_mut()
        .zip(&other.contents)
        .zip(edit.contents)
    {
        match edit {
            0 => {}
            1 => *content = other.clone(),
            _ => {
                // Half of the old entries stay.
                let mut mixed = other.0.clone();
                let kept = content.0.iter().enumerate().filter(|(i, _)| i % 2 == 0);
                mixed.extend(kept.map(|(_, (key, value))| (*key, *value)));
                *content = Arc::new(TableContent(mixed));
            }
        }
    }
    if edit.endpoints {
        next.endpoints.clone_from(&other.endpoints);
    }
    match edit.ipcache {
        0 => {}
        1 => next.ipcache.clone_from(&other.ipcache),
        _ => next.ipcache.extend(other.ipcache.iter().take(2)),
    }
    next
}

/// A sequence of states, each an edit of the one before.
pub(crate) fn any_states(length: usize, auth: bool) -> impl Strategy<Value = Vec<Seed>> {
    (seed(auth), vec((seed(auth), edit()), length - 1)).prop_map(|(first, edits)| {
        let mut seeds = vec![first];
        for (other, edit) in edits {
            let next = edited(&seeds[seeds.len() - 1], &other, edit);
            seeds.push(next);
        }
        seeds
    })
}

/// The programs that are loaded.
pub(crate) fn programs() -> BTreeMap<Hook, ProgramTag> {
    Hook::ALL.map(|hook| (hook, ProgramTag([1; 8]))).into()
}

/// The states of a sequence.
pub(crate) fn grow(seeds: &[Seed]) -> Vec<NodeState> {
    seeds.iter().map(state).collect()
}

fn state(seed: &Seed) -> NodeState {
    let mut state = NodeState::default();
    for (id, (content, other_device)) in &seed.endpoints {
        let table = seed.contents[*content].clone();
        let ifindex = u32::from(*id) * 10 + u32::from(*other_device);
        add_endpoint(&mut state, *id, ifindex, table);
    }
    for (prefix, (identity, node)) in &seed.ipcache {
        let target = IpcacheTarget {
            identity: NumericIdentity(*identity),
            tunnel_endpoint: (*node > 0).then(|| Ipv4Addr::new(192, 0, 2, *node)),
        };
        state
            .ipcache
            .insert(prefix.parse().expect("a prefix"), target);
    }
    state
}

/// The address of an endpoint.
pub(crate) fn pod_address(id: u16) -> IpAddr {
    let [_, low] = id.to_be_bytes();
    IpAddr::from([10, 9, 0, low])
}

/// Adds an endpoint with this table.
pub(crate) fn add_endpoint(state: &mut NodeState, id: u16, ifindex: u32, table: Arc<TableContent>) {
    let nothing = resolve_within(
        &[],
        &Identities::default(),
        &SubjectView::default(),
        &PolicyConfig::default(),
        0,
    );
    let endpoint = Endpoint {
        id,
        attachment: AttachmentId {
            container: format!("c{id}").into(),
            interface: "eth0".into(),
        },
        pod: PodRef::new("default", &format!("pod{id}")),
        pod_uid: "".into(),
        ifindex: Some(ifindex),
        device: format!("lxc{id}").into(),
        mac: [2, 0, 0, 0, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 2],
        link_local: BTreeSet::new(),
        ipv6_prefix_length: None,
        netns_id: Some(i32::from(id)),
        addresses: BTreeSet::from([pod_address(id)]),
        identity: NumericIdentity(300),
        labels: IdentityLabels::default(),
        named_ports: NamedPorts::default(),
        state: EndpointState::Ready,
        policy: Arc::new(EndpointPolicy {
            ingress_enforced: true,
            egress_enforced: true,
            table,
            resolved: Arc::new(nothing),
        }),
    };
    let interface = Interface {
        endpoint: id,
        identity: endpoint.identity,
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        link_local: BTreeSet::new(),
        ipv6_prefix_length: None,
        allow_spoofing: false,
        netns_id: endpoint.netns_id,
    };
    state.interfaces.insert(ifindex, interface);
    for (hook, program) in programs() {
        state
            .attachments
            .insert(AttachPoint { ifindex, hook }, program);
    }
    state.endpoints.insert(id, Arc::new(endpoint));
}
