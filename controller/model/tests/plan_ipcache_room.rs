//! A node whose ipcache is too small beside one whose ipcache is not: whatever the first lets through at any write, the second
//! lets through before or after the change.

mod plan_support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{IpcacheTarget, NodeState};
use oxilium_model::observed::Settled;
use oxilium_model::plan::{PlanError, Table, Write, plan};
use oxilium_model::world::{Capacities, NodeConfig, Source, Synced};
use plan_support::kernel::{Kernel, Probe, Verdict};
use plan_support::states::{any_states, grow, probes};
use proptest::prelude::*;

/// Kept for what stands in for addresses without room.
const RESERVE: usize = 12;
/// Of [`probes`], those that may be a pod's on another node.
const PODS: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.3",
    "10.0.1.1",
    "11.0.0.1",
    "2001:db8::2",
];

/// Pods on other nodes, with their identities.
type Pods = BTreeMap<usize, u32>;

fn pods() -> impl Strategy<Value = Pods> {
    prop::collection::btree_map(0..PODS.len(), 300..303_u32, 0..5)
}

fn with_pods(mut state: NodeState, pods: &Pods) -> NodeState {
    for (pod, identity) in pods {
        let address: IpAddr = PODS[*pod].parse().expect("an address");
        let target = IpcacheTarget {
            identity: NumericIdentity(*identity),
            tunnel_endpoint: None,
        };
        state.ipcache.insert(address.into(), target);
    }
    state
}

fn config(room: usize) -> NodeConfig {
    NodeConfig {
        capacities: Capacities {
            ipcache: room + RESERVE,
            ..Capacities::default()
        },
        ..NodeConfig::default()
    }
}

fn unplug(kernel: &mut Kernel, state: &NodeState) {
    let known: BTreeSet<u32> = kernel.0.attachments.keys().map(|p| p.ifindex).collect();
    for ifindex in known {
        if !state.interfaces.contains_key(&ifindex) {
            kernel.unplug(ifindex);
        }
    }
}

fn passing(kernel: &Kernel) -> BTreeSet<Probe> {
    probes()
        .into_iter()
        .filter(|probe| kernel.judges(probe.endpoint, probe.direction))
        .filter(|probe| kernel.verdict(probe) == Verdict::Allowed)
        .collect()
}

/// Brings a kernel to a state, looking at it after each write; false when there is no room for what must be there.
fn settle(
    kernel: &mut Kernel,
    state: &NodeState,
    room: usize,
    mut see: impl FnMut(&Kernel, &str),
) -> bool {
    let mut synced = Synced::default();
    for source in Source::ALL {
        synced.first_list_delivered(source);
    }
    unplug(kernel, state);
    for round in 0.. {
        assert!(round < 6, "it never comes to an end");
        let complete = synced.complete().expect("all have delivered");
        let planned = plan(&kernel.0, state, &config(room), complete);
        if let Err(PlanError::NoRoom { table, .. }) = &planned {
            assert_eq!(*table, Table::Ipcache);
            return false;
        }
        let plan = planned.expect("nothing else is wanting");
        for write in plan.writes() {
            kernel.apply(write);
            if let Write::IpcacheUpsert { .. } | Write::IpcacheDelete { .. } = write {
                kernel.0.settled_ipcache = Settled::default();
            }
            let held = kernel.0.ipcache.len();
            assert!(held <= room + RESERVE, "{held} after {write}");
            see(kernel, &format!("{write} of\n{plan}"));
        }
        if !plan.goes_on() {
            kernel.0.settle(state, plan.left_out());
            break;
        }
    }
    true
}

proptest! {
    #![proptest_config(plan_support::cases(192))]

    #[test]
    fn want_of_room_lets_nobody_in(
        seeds in any_states(4, true),
        pods in prop::collection::vec(pods(), 4),
        room in 0..12_usize,
    ) {
        let (mut tight, mut roomy) = (Kernel::default(), Kernel::default());
        for (state, pods) in grow(&seeds).into_iter().zip(&pods) {
            let state = with_pods(state, pods);
            let mut allowed = passing(&roomy);
            settle(&mut roomy, &state, 1000, |_, _| {});
            allowed.extend(passing(&roomy));
            let done = settle(&mut tight, &state, room, |kernel, write| {
                for probe in passing(kernel) {
                    assert!(allowed.contains(&probe), "{probe:?} is let in after {write}");
                }
            });
            if !done {
                // What was in force stays in force; the two nodes have no more to do with each other.
                return Ok(());
            }
            let widened: Vec<Probe> = passing(&tight).difference(&passing(&roomy)).copied().collect();
            prop_assert!(widened.is_empty(), "{widened:?}");
        }
    }
}
