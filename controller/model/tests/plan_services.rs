//! Plans of services: safe between any two writes, judged by the very code that programs choose with;
//! ids and slots that stay; what is gone rests.

mod plan_support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_abi::{LbState, NodeWord, ServiceWord};
use oxilium_datapath::testing::{self, MemoryMaps};
use oxilium_datapath::{Address, Choice, V4, V6};
use oxilium_model::node_state::{Frontend, FrontendState, Frontends, NodeState};
use oxilium_model::observed::{Observed, Settled};
use oxilium_model::plan::{Plan, RESTING_BACKENDS, Write, lb_address, plan, service_key};
use oxilium_model::world::{BackendAddress, Complete, NodeConfig, ServiceRef, Source, Synced};
use plan_support::kernel::Kernel;
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

fn complete() -> Complete {
    let mut synced = Synced::default();
    for source in Source::ALL {
        synced.first_list_delivered(source);
    }
    synced.complete().expect("all have delivered")
}

/// Which backends each frontend has.
type Wanted = BTreeMap<u8, BTreeSet<u8>>;

fn wanted() -> impl Strategy<Value = Wanted> {
    btree_map(0..4_u8, btree_set(0..6_u8, 0..5), 0..4)
}

fn frontend(number: u8) -> Frontend {
    let address: IpAddr = if number.is_multiple_of(2) {
        IpAddr::from([10, 96, 0, number])
    } else {
        IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 96, u16::from(number)])
    };
    Frontend {
        address,
        port: 80,
        protocol: if number < 2 { 6 } else { 17 },
    }
}

fn backend(frontend: u8, number: u8) -> BackendAddress {
    let address = if frontend.is_multiple_of(2) {
        IpAddr::from([10, 0, 0, number])
    } else {
        IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 0, u16::from(number)])
    };
    BackendAddress {
        address,
        port: 8080,
    }
}

fn state(wanted: &Wanted) -> NodeState {
    let services = wanted
        .iter()
        .map(|(number, backends)| {
            let state = FrontendState {
                service: ServiceRef::new("default", &format!("s{number}")),
                port_name: "".into(),
                affinity: number.is_multiple_of(3).then_some(60),
                backends: backends.iter().map(|b| backend(*number, *b)).collect(),
            };
            (frontend(*number), Arc::new(state))
        })
        .collect();
    NodeState {
        services,
        ..NodeState::default()
    }
}

/// A kernel, and its tables where programs read them.
#[derive(Default)]
struct Node {
    kernel: Kernel,
    maps: MemoryMaps<'static>,
    /// What the tables hold, where that is known.
    settled: Option<Frontends>,
}

impl Node {
    /// The same plan, whether or not it is known what the tables hold.
    fn plan(&self, state: &NodeState) -> Plan {
        let plan = |observed: &Observed| {
            plan(observed, state, &NodeConfig::default(), complete()).expect("there is room")
        };
        let planned = plan(&self.kernel.0);
        if let Some(settled) = &self.settled {
            let mut known = self.kernel.0.clone();
            known.settled_services = Settled::on(settled.clone());
            assert_eq!(plan(&known), planned);
        }
        planned
    }

    fn apply(&mut self, write: &Write) {
        self.kernel.apply(write);
        let write = match *write {
            Write::Service { key, value } => testing::Write::Service(key, Some(value)),
            Write::ServiceDelete { key } => testing::Write::Service(key, None),
            Write::Backend { id, value } => testing::Write::Backend(id, Some(value)),
            Write::BackendDelete { id } => testing::Write::Backend(id, None),
            Write::ReverseNat { id, value } => testing::Write::ReverseNat(id, Some(value)),
            Write::ReverseNatDelete { id } => testing::Write::ReverseNat(id, None),
            _ => return,
        };
        self.maps.write(&write);
    }

    /// Where a first packet to the frontend may go.
    fn choices(&self, frontend: &Frontend) -> Choices {
        let mut choices = Choices::default();
        for slice in 0..64 {
            self.maps.random.set(slice * 1024);
            match self.maps.choose(&service_key(frontend)) {
                Choice::NoFrontend => choices.none = true,
                Choice::NoBackend => choices.refused = true,
                Choice::Race => unreachable!("no backend is found for {frontend}"),
                Choice::Backend(id) => {
                    let address = self.kernel.0.backends[&id];
                    let there = self.kernel.0.reverse_nat.get(&u32::from(address.frontend));
                    let own = there.and_then(|value| lb_address(address.frontend.into(), value));
                    assert_eq!(
                        own.map(|own| (own.address, own.port)),
                        Some((frontend.address, frontend.port)),
                        "the way back from backend {id}"
                    );
                    choices.backends.insert(if frontend.address.is_ipv4() {
                        V4::from_wide(&address.address).wide()
                    } else {
                        V6::from_wide(&address.address).wide()
                    });
                }
            }
        }
        choices
    }

    /// Makes the plan true, and checks at each write that no service is without a backend that has one
    /// before and after, and that no packet goes where it would neither before nor after.
    fn settle(&mut self, wanted: &Wanted, writes: usize) {
        let state = state(wanted);
        let plan = self.plan(&state);
        let whole = writes >= plan.writes().count();
        self.settled = whole.then(|| state.services.clone());
        let watched: Vec<Frontend> = (0..4).map(frontend).collect();
        let before: Vec<Choices> = watched.iter().map(|f| self.choices(f)).collect();
        let after: Vec<Choices> = watched.iter().map(|f| expected(&state, f)).collect();
        for write in plan.writes().take(writes) {
            self.apply(write);
            for ((frontend, before), after) in watched.iter().zip(&before).zip(&after) {
                let now = self.choices(frontend);
                let fits = |choices: &Choices| {
                    now.none <= choices.none
                        && now.refused <= choices.refused
                        && now.backends.is_subset(&choices.backends)
                };
                let both: Choices = before.clone().with(after);
                assert!(
                    fits(&both),
                    "{frontend} had {before:?}, is to have {after:?}, has {now:?} after {write} of\n{plan}"
                );
            }
        }
    }

    fn assert_holds(&self, wanted: &Wanted) {
        let state = state(wanted);
        for number in 0..4 {
            let frontend = frontend(number);
            assert_eq!(self.choices(&frontend), expected(&state, &frontend));
        }
        let again = self.plan(&state);
        assert!(again.is_empty(), "a second plan:\n{again}");
        let kernel = &self.kernel.0;
        let used = kernel.node_words[NodeWord::Services as usize] != 0;
        assert_eq!(
            used,
            !kernel.backends.is_empty() || !kernel.reverse_nat.is_empty()
        );
    }

    /// Slot → backend id of a frontend.
    fn slots(&self, frontend: &Frontend) -> Vec<u64> {
        let key = service_key(frontend);
        let services = &self.kernel.0.services;
        let Some(master) = services.get(&key) else {
            return Vec::new();
        };
        (1..=ServiceWord(master.word).slots())
            .map(|slot| services[&key.slot(slot)].word)
            .collect()
    }
}

/// What becomes of first packets to a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choices {
    /// It is none.
    none: bool,
    /// It has no backend.
    refused: bool,
    backends: BTreeSet<[u8; 16]>,
}

impl Choices {
    fn with(mut self, other: &Self) -> Self {
        self.none |= other.none;
        self.refused |= other.refused;
        self.backends.extend(&other.backends);
        self
    }
}

fn expected(state: &NodeState, frontend: &Frontend) -> Choices {
    let Some(found) = state.services.get(frontend) else {
        return Choices {
            none: true,
            ..Choices::default()
        };
    };
    Choices {
        none: false,
        refused: found.backends.is_empty(),
        backends: found
            .backends
            .iter()
            .map(|backend| match backend.address {
                IpAddr::V4(v4) => V4::from_bytes(v4.octets()).wide(),
                IpAddr::V6(v6) => v6.octets(),
            })
            .collect(),
    }
}

proptest! {
    #![proptest_config(plan_support::cases(128))]

    #[test]
    fn no_service_is_without_a_backend_between_two_writes(
        states in prop::collection::vec(wanted(), 2..6)
    ) {
        let mut node = Node::default();
        for wanted in &states {
            node.settle(wanted, usize::MAX);
            node.assert_holds(wanted);
        }
    }

    #[test]
    fn a_plan_that_is_cut_off_is_made_good_by_the_next(
        states in prop::collection::vec((wanted(), any::<prop::sample::Index>()), 2..6),
        last in wanted(),
    ) {
        let mut node = Node::default();
        for (wanted, cut) in &states {
            let count = cut.index(node.plan(&state(wanted)).steps().len() + 1);
            node.settle(wanted, count);
        }
        node.settle(&last, usize::MAX);
        node.assert_holds(&last);
    }

    /// A backend that stays keeps its id, and its slot while there is one of that number.
    #[test]
    fn what_stays_keeps_its_id_and_slot(first in wanted(), second in wanted()) {
        let mut node = Node::default();
        node.settle(&first, usize::MAX);
        let ids = |node: &Node| -> BTreeMap<_, _> {
            let there = node.kernel.0.backends.iter();
            there.map(|(id, value)| ((value.frontend, value.address), *id)).collect()
        };
        let (before, slots) = (ids(&node), (0..4).map(|n| node.slots(&frontend(n))).collect::<Vec<_>>());
        node.settle(&second, usize::MAX);
        let after = ids(&node);
        for (owner, id) in before {
            prop_assert_eq!(after.get(&owner), Some(&id), "what rests keeps its id, too");
        }
        for (number, before) in (0_u8..).zip(&slots) {
            let now = node.slots(&frontend(number));
            for (slot, id) in before.iter().enumerate() {
                let moved = now.iter().position(|other| other == id).is_some_and(|at| at != slot);
                prop_assert!(!moved || slot >= now.len(), "{before:?} became {now:?}");
            }
        }
    }

    /// What else is in the tables goes, and what is damaged is made anew.
    #[test]
    fn damage_is_repaired(wanted in wanted(), noise in any::<u64>(), count in 1..8_usize) {
        let mut node = Node::default();
        node.settle(&wanted, usize::MAX);
        node.settled = None;
        let kernel = &mut node.kernel.0;
        for (_, value) in kernel.services.iter_mut().take(count) {
            value.word ^= noise;
        }
        for (_, value) in kernel.backends.iter_mut().take(count) {
            value.address[0] ^= noise.to_ne_bytes()[0];
            value.state ^= noise.to_ne_bytes()[1];
        }
        for (_, value) in kernel.reverse_nat.iter_mut().take(count) {
            value.frontend ^= u16::from(noise.to_ne_bytes()[2]);
        }
        kernel.node_words[NodeWord::Services as usize] = noise & 1;
        let state = state(&wanted);
        let repair = node.plan(&state);
        for write in repair.writes() {
            node.kernel.apply(write);
        }
        let again = node.plan(&state);
        prop_assert!(again.is_empty(), "a second plan:\n{}", again);
        for (number, backends) in &wanted {
            let there: BTreeSet<_> = node
                .slots(&frontend(*number))
                .iter()
                .map(|id| {
                    let id = u32::try_from(*id).expect("an id");
                    lb_address(id, &node.kernel.0.backends[&id]).expect("in order")
                })
                .collect();
            prop_assert_eq!(there, backends.iter().map(|b| backend(*number, *b)).collect());
        }
    }
}

#[test]
fn a_new_frontend_makes_recorded_verdicts_stale_and_a_new_backend_does_not() {
    let mut node = Node::default();
    let epochs = |plan: &Plan| {
        let bump = |write: &&Write| matches!(write, Write::IpcacheWord(_));
        plan.writes().filter(bump).count()
    };
    let one = Wanted::from([(0, BTreeSet::from([1]))]);
    assert_eq!(epochs(&node.plan(&state(&one))), 1);
    node.settle(&one, usize::MAX);
    let two = Wanted::from([(0, BTreeSet::from([1, 2]))]);
    assert_eq!(epochs(&node.plan(&state(&two))), 0);
    node.settle(&two, usize::MAX);
    assert_eq!(epochs(&node.plan(&state(&Wanted::new()))), 0);
}

#[test]
fn what_is_gone_rests_and_comes_back_under_its_id() {
    let mut node = Node::default();
    let there = Wanted::from([(0, BTreeSet::from([1, 2]))]);
    node.settle(&there, usize::MAX);
    let before = node.kernel.0.backends.clone();
    node.settle(&Wanted::new(), usize::MAX);
    let kernel = &node.kernel.0;
    assert!(kernel.services.is_empty());
    assert_eq!(kernel.backends.len(), 2);
    for value in kernel.backends.values().chain(kernel.reverse_nat.values()) {
        assert_eq!((value.state(), value.resting), (Some(LbState::Resting), 1));
    }
    node.settle(&there, usize::MAX);
    assert_eq!(node.kernel.0.backends, before);
}

#[test]
fn those_that_have_rested_longest_go_when_too_many_rest() {
    let mut node = Node::default();
    // Each backend once: all those before it rest.
    let many = |from: usize, count: usize| {
        let frontend = frontend(0);
        let backends = (from..from + count).map(|n| BackendAddress {
            address: IpAddr::from(
                u32::try_from(n + 0x0A00_0000)
                    .expect("32 bits")
                    .to_be_bytes(),
            ),
            port: 80,
        });
        let state = FrontendState {
            service: ServiceRef::new("default", "s"),
            port_name: "".into(),
            affinity: None,
            backends: backends.collect(),
        };
        NodeState {
            services: [(frontend, Arc::new(state))].into_iter().collect(),
            ..NodeState::default()
        }
    };
    for state in [many(0, 100), many(100, RESTING_BACKENDS), many(0, 0)] {
        let plan = node.plan(&state);
        plan.writes().for_each(|write| node.kernel.apply(write));
        node.settled = Some(state.services);
    }
    let kept = &node.kernel.0.backends;
    assert_eq!(kept.len(), RESTING_BACKENDS);
    assert!(kept.values().all(|value| value.resting == 2));
}

#[test]
fn tables_that_are_known_to_hold_what_is_wanted_are_not_compared_with_it() {
    let mut node = Node::default();
    let two = |of_second| {
        state(&Wanted::from([
            (0, BTreeSet::from([1, 2])),
            (3, BTreeSet::from([of_second])),
        ]))
    };
    let wanted = two(1);
    node.kernel.0.settled_services = Settled::on(wanted.services.clone());
    assert!(node.plan(&wanted).is_empty(), "it was told so");
    let plan = node.plan(&two(2));
    let backends = plan.writes();
    let backends = backends.filter(|write| matches!(write, Write::Backend { .. }));
    assert_eq!(backends.count(), 1, "only the second differs:\n{plan}");
}

#[test]
fn a_plan_of_services_reads_as_what_changes() {
    let mut node = Node::default();
    let first = Wanted::from([(0, BTreeSet::from([1, 2])), (3, BTreeSet::from([1]))]);
    insta::assert_snapshot!(node.plan(&state(&first)));
    node.settle(&first, usize::MAX);
    let next = Wanted::from([(0, BTreeSet::from([2]))]);
    insta::assert_snapshot!(node.plan(&state(&next)));
}
