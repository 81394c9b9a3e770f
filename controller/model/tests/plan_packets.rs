//! Plans under traffic: the packet code that the programs compile judges new and live flows between any two writes.

mod plan_support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use oxilium_abi::{Direction, NodeWord, endpoint_word_index, shape_word_index};
use oxilium_datapath::testing::{self, Frame, Ipv4, MemoryMaps, ethernet, tcp, udp};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{IpcacheTarget, NodeState};
use oxilium_model::plan::{Plan, Write, plan};
use oxilium_model::world::{NodeConfig, Source, Synced};
use plan_support::kernel::{Kernel, Probe};
use plan_support::states::{any_states, grow, pod_address};
use proptest::prelude::*;

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Port of flows that live through the plans, and of those that are only tried.
const LIVE: u16 = 50_000;
const FRESH: u16 = 40_000;

/// Endpoints, addresses and ports that packets are sent for.
fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for endpoint in [1, 2, 3] {
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 1, 1], [11, 0, 0, 1]] {
                for (protocol, port) in [(6, 80), (17, 80)] {
                    probes.push(Probe {
                        endpoint,
                        direction,
                        remote: IpAddr::from(remote),
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    probes
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => [0; 4],
    }
}

/// A node whose maps the packet code reads.
#[derive(Default)]
struct Node {
    kernel: Kernel,
    maps: MemoryMaps<'static>,
    /// Flows that were opened, with the interface that they were opened on.
    live: BTreeMap<Probe, u32>,
}

impl Node {
    fn apply(&mut self, write: &Write) {
        self.kernel.apply(write);
        let word = |word, value| testing::Write::NodeWord(word, value);
        let write = match *write {
            Write::HighWater(epoch) => word(NodeWord::HighWater, epoch.get()),
            Write::Publish(epoch) => word(NodeWord::Published, epoch.get()),
            Write::IpcacheWord(value) => word(NodeWord::Ipcache, value.0),
            Write::PolicyInsert { key, value } | Write::PolicyReplace { key, value } => {
                testing::Write::Policy(key, Some(value))
            }
            Write::PolicyDelete { key } => testing::Write::Policy(key, None),
            Write::ShapeWord {
                table,
                direction,
                word,
            } => testing::Write::Shapes(shape_word_index(table, direction), word.0),
            Write::IpcacheUpsert { key, value } => testing::Write::Ipcache(key, Some(value)),
            Write::IpcacheDelete { key } => testing::Write::Ipcache(key, None),
            Write::InterfaceInsert { ifindex, config }
            | Write::InterfaceReplace { ifindex, config } => {
                testing::Write::Interface(ifindex, Some(config))
            }
            Write::InterfaceDelete { ifindex } => testing::Write::Interface(ifindex, None),
            Write::EndpointWord {
                endpoint,
                bank,
                word,
            } => testing::Write::EndpointWord(endpoint_word_index(endpoint, bank), word.0),
            Write::Service { key, value } => testing::Write::Service(key, Some(value)),
            Write::ServiceDelete { key } => testing::Write::Service(key, None),
            Write::Backend { id, value } => testing::Write::Backend(id, Some(value)),
            Write::BackendDelete { id } => testing::Write::Backend(id, None),
            Write::ReverseNat { id, value } => testing::Write::ReverseNat(id, Some(value)),
            Write::ReverseNatDelete { id } => testing::Write::ReverseNat(id, None),
            Write::ServicesInUse(used) => word(NodeWord::Services, u64::from(used)),
            Write::Attach { .. }
            | Write::Replace { .. }
            | Write::Detach { .. }
            | Write::PurgeConntrack { .. }
            | Write::Barrier => return,
        };
        self.maps.write(&write);
    }

    fn interface(&self, endpoint: u16) -> Option<u32> {
        let mut interfaces = self.kernel.0.interfaces.iter();
        interfaces
            .find(|(_, config)| config.endpoint == endpoint)
            .map(|(ifindex, _)| *ifindex)
    }

    /// Sends one packet of the probe's flow, with it or against it; it passes.
    fn send(&self, probe: &Probe, client: u16, with_flow: bool, flags: u8) -> bool {
        let Some(ifindex) = self.interface(probe.endpoint) else {
            return false;
        };
        let from_pod = (probe.direction == Direction::Egress) == with_flow;
        let (pod, remote) = (octets(pod_address(probe.endpoint)), octets(probe.remote));
        let (source, destination) = if from_pod {
            (pod, remote)
        } else {
            (remote, pod)
        };
        let (from, to) = if with_flow {
            (client, probe.port)
        } else {
            (probe.port, client)
        };
        let segment = match probe.protocol {
            6 => tcp(from, to, flags, &[]),
            _ => udp(from, to, &[]),
        };
        let packet = Ipv4::new(source, destination, probe.protocol).with(&segment);
        let (source, destination) = if from_pod {
            (POD_MAC, HOST_MAC)
        } else {
            (HOST_MAC, POD_MAC)
        };
        let frame = Frame {
            bytes: ethernet(source, destination, 0x0800, &packet),
            ifindex,
            ..Frame::default()
        };
        if from_pod {
            self.maps.from_container(&frame).is_ok()
        } else {
            self.maps.to_container(&frame).is_ok()
        }
    }

    /// A flow that is not known would be let through; nothing is recorded.
    fn would_pass(&self, probe: &Probe) -> bool {
        self.maps.dry_run.set(true);
        let passes = self.send(probe, FRESH, true, SYN);
        self.maps.dry_run.set(false);
        passes
    }

    /// Every packet of a new flow that would pass now.
    fn passing(&self) -> BTreeMap<Probe, bool> {
        probes()
            .into_iter()
            .filter(|probe| self.kernel.judges(probe.endpoint, probe.direction))
            .map(|probe| (probe, self.would_pass(&probe)))
            .collect()
    }

    /// Opens every flow that is let through.
    fn open_flows(&mut self) {
        for probe in probes() {
            let judged = [Direction::Ingress, Direction::Egress]
                .iter()
                .all(|direction| self.kernel.judges(probe.endpoint, *direction));
            if judged && !self.live.contains_key(&probe) && self.send(&probe, LIVE, true, SYN) {
                let answered = self.send(&probe, LIVE, false, SYN | ACK);
                assert!(answered, "the answer of {probe:?}");
                assert!(self.send(&probe, LIVE, true, ACK), "{probe:?}");
                let ifindex = self.interface(probe.endpoint).expect("it has passed");
                self.live.insert(probe, ifindex);
            }
        }
    }

    fn plan(&mut self, state: &NodeState) -> Plan {
        let known: Vec<u32> = self
            .kernel
            .0
            .attachments
            .keys()
            .map(|p| p.ifindex)
            .collect();
        for ifindex in known {
            if !state.interfaces.contains_key(&ifindex) {
                self.kernel.unplug(ifindex);
            }
        }
        // A flow ends with its interface.
        self.live
            .retain(|_, ifindex| state.interfaces.contains_key(ifindex));
        let mut synced = Synced::default();
        for source in Source::ALL {
            synced.first_list_delivered(source);
        }
        let complete = synced.complete().expect("all have delivered");
        plan(&self.kernel.0, state, &NodeConfig::default(), complete).expect("there is room")
    }

    /// Applies the first `count` writes of a plan under traffic.
    fn follow(&mut self, plan: &Plan, count: usize) {
        let before = self.passing();
        let mut end = Node::default();
        end.mirror(&self.kernel);
        plan.writes().for_each(|write| end.apply(write));
        let after = end.passing();
        let live: BTreeMap<Probe, bool> = self
            .live
            .keys()
            .map(|probe| (*probe, self.send(probe, LIVE, true, ACK)))
            .collect();
        let mut published = false;
        for write in plan.writes().take(count) {
            self.apply(write);
            published |= matches!(write, Write::Publish(_));
            for (probe, passes) in self.passing() {
                let allowed = [before.get(&probe), after.get(&probe)];
                assert!(
                    allowed.contains(&Some(&passes)),
                    "a new flow {probe:?} passes: {passes}, after {write} of\n{plan}"
                );
            }
            for (probe, recorded) in &live {
                let (was, will) = (before.get(probe), after.get(probe));
                for with_flow in [true, false] {
                    let passes = Some(self.send(probe, LIVE, with_flow, ACK));
                    // A plan that was cut off may have left a verdict that was good before it.
                    let old = [Some(*recorded), was.copied()].contains(&passes) && !published;
                    assert!(
                        passes.as_ref() == will || old || will.is_none(),
                        "a live flow {probe:?} passes: {passes:?}, did: {recorded}, was {was:?}, will be {will:?}, after {write} of\n{plan}"
                    );
                }
            }
        }
    }

    /// Packets of live flows pass if those of new ones do.
    fn assert_live_flows_obey_the_tables(&self) {
        for probe in self.live.keys() {
            let new = self.would_pass(probe);
            for with_flow in [true, false] {
                assert_eq!(self.send(probe, LIVE, with_flow, ACK), new, "{probe:?}");
            }
        }
    }

    /// Takes over what another kernel holds, without its flows.
    fn mirror(&mut self, kernel: &Kernel) {
        self.kernel = kernel.clone();
        let observed = &kernel.0;
        let mut writes: Vec<testing::Write> = Vec::new();
        for (word, slot) in [
            (NodeWord::Published, 0),
            (NodeWord::Ipcache, 1),
            (NodeWord::HighWater, 2),
        ] {
            writes.push(testing::Write::NodeWord(word, observed.node_words[slot]));
        }
        for (key, value) in &observed.policy {
            writes.push(testing::Write::Policy(*key, Some(*value)));
        }
        for ((table, direction), word) in &observed.shapes {
            let index = shape_word_index(*table, *direction);
            writes.push(testing::Write::Shapes(index, word.0));
        }
        for (key, value) in &observed.ipcache {
            writes.push(testing::Write::Ipcache(*key, Some(*value)));
        }
        for (ifindex, config) in &observed.interfaces {
            writes.push(testing::Write::Interface(*ifindex, Some(*config)));
        }
        for (endpoint, words) in &observed.endpoint_words {
            for (bank, word) in (0..).zip(words) {
                let index = endpoint_word_index(*endpoint, bank);
                writes.push(testing::Write::EndpointWord(index, word.0));
            }
        }
        self.maps.write_all(&writes);
    }
}

/// Whether a peer is the host is no matter of its address alone, and has tests of its own.
fn without_host(mut state: NodeState) -> NodeState {
    let renamed = |target: &IpcacheTarget| match target.identity {
        NumericIdentity::HOST => IpcacheTarget {
            identity: NumericIdentity(302),
            ..*target
        },
        _ => *target,
    };
    let targets = state.ipcache.iter();
    state.ipcache = targets
        .map(|(key, target)| (*key, renamed(target)))
        .collect();
    state
}

proptest! {
    #![proptest_config(plan_support::cases(128))]

    #[test]
    fn new_and_live_flows_are_judged_by_the_old_rules_or_the_new(seeds in any_states(3, true)) {
        let mut node = Node::default();
        for state in grow(&seeds).into_iter().map(without_host) {
            let plan = node.plan(&state);
            node.follow(&plan, usize::MAX);
            prop_assert!(node.plan(&state).is_empty());
            node.assert_live_flows_obey_the_tables();
            node.open_flows();
        }
    }

    #[test]
    fn a_plan_that_is_cut_off_leaves_no_flow_behind(
        seeds in any_states(3, true),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 5),
    ) {
        let mut node = Node::default();
        let states: Vec<NodeState> = grow(&seeds).into_iter().map(without_host).collect();
        for (cut, state) in cuts.iter().zip(states.iter().cycle()) {
            let plan = node.plan(state);
            node.follow(&plan, cut.index(plan.steps().len() + 1));
            node.open_flows();
        }
        let plan = node.plan(&states[0]);
        node.follow(&plan, usize::MAX);
        node.assert_live_flows_obey_the_tables();
    }
}
