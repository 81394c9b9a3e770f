//! Plans are safe between any two writes, converge from wherever they are cut off, and write no more than differs.

mod plan_support;

use std::collections::BTreeMap;

use oxilium_abi::{Direction, EndpointWord};
use oxilium_model::node_state::NodeState;
use oxilium_model::plan::{Plan, PlanError, Write, ipcache_key, ipcache_value, plan};
use oxilium_model::world::{Capacities, Complete, NodeConfig, Source, Synced};
use plan_support::kernel::Kernel;
use plan_support::states::{any_states, grow, probes};
use plan_support::watch::{Flows, apply, apply_all};
use proptest::prelude::*;

fn complete() -> Complete {
    let mut synced = Synced::default();
    for source in Source::ALL {
        synced.first_list_delivered(source);
    }
    synced.complete().expect("all have delivered")
}

fn planned(kernel: &Kernel, state: &NodeState) -> Plan {
    plan(&kernel.0, state, &NodeConfig::default(), complete()).expect("there is room")
}

/// Devices that a state does not have any more have vanished.
fn unplug(kernel: &mut Kernel, state: &NodeState) {
    let known: Vec<u32> = kernel.0.attachments.keys().map(|p| p.ifindex).collect();
    for ifindex in known {
        if !state.interfaces.contains_key(&ifindex) {
            kernel.unplug(ifindex);
        }
    }
}

/// The kernel holds what the state says, and nothing else.
fn assert_holds(kernel: &Kernel, state: &NodeState) {
    let observed = &kernel.0;
    let ipcache: BTreeMap<_, _> = state
        .ipcache
        .iter()
        .map(|(prefix, target)| (ipcache_key(*prefix), ipcache_value(target)))
        .collect();
    assert_eq!(observed.ipcache, ipcache);
    assert_eq!(observed.published(), observed.high_water());

    let mut expected_policy = BTreeMap::new();
    for interface in state.interfaces.values() {
        let [first, second] = observed.endpoint_word(interface.endpoint);
        assert_eq!(first, second, "the banks are level");
        assert_ne!(first.table(), 0);
        let endpoint = &state.endpoints[&interface.endpoint];
        for (key, value) in &endpoint.policy.table.0 {
            let key = key.in_table(first.table());
            expected_policy.insert(key, value.sealed(&key));
        }
    }
    assert_eq!(observed.policy, expected_policy);
    let words: Vec<u16> = observed.endpoint_words.keys().copied().collect();
    let endpoints: Vec<u16> = state.endpoints.keys().copied().collect();
    assert_eq!(words, endpoints);
    assert!(observed.interfaces.keys().eq(state.interfaces.keys()));
    assert!(observed.attachments.keys().eq(state.attachments.keys()));
    for (table, direction) in observed.shapes.keys() {
        let needed = |d: &Direction| d == direction;
        assert!(
            expected_policy
                .keys()
                .any(|key| key.table == *table && needed(&key.direction())),
            "shapes of table {table} that nobody needs"
        );
    }
}

fn settle(kernel: &mut Kernel, state: &NodeState, flows: &mut Flows) {
    unplug(kernel, state);
    let plan = planned(kernel, state);
    apply_all(kernel, &plan, &probes(), flows);
    assert_holds(kernel, state);
    let again = planned(kernel, state);
    assert!(again.is_empty(), "a second plan:\n{again}");
}

proptest! {
    #![proptest_config(plan_support::cases(128))]

    /// Invariants 2 and 4.
    #[test]
    fn packets_whose_verdict_stays_keep_it_at_every_write(seeds in any_states(4, true)) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        for state in &states {
            settle(&mut kernel, state, &mut flows);
        }
    }

    #[test]
    fn a_plan_is_the_same_where_it_is_known_what_the_ipcache_holds(seeds in any_states(4, true)) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        for (state, next) in states.iter().zip(&states[1..]) {
            settle(&mut kernel, state, &mut flows);
            unplug(&mut kernel, next);
            let mut known = kernel.clone();
            known.0.settle(state, &[]);
            prop_assert_eq!(planned(&known, next), planned(&kernel, next));
        }
    }

    /// Invariant 5: whatever is wanted after the crash.
    #[test]
    fn a_plan_that_is_cut_off_is_made_good_by_the_next(
        seeds in any_states(3, true),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
        order in prop::collection::vec(0..3_usize, 4),
    ) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        settle(&mut kernel, &states[0], &mut flows);
        for (cut, next) in cuts.iter().zip(order) {
            unplug(&mut kernel, &states[next]);
            let plan = planned(&kernel, &states[next]);
            let count = cut.index(plan.steps().len() + 1);
            apply(&mut kernel, &plan, count, &probes(), &mut flows);
        }
        settle(&mut kernel, &states[2], &mut flows);
    }

    /// What else is in a kernel's maps does no harm, and goes.
    #[test]
    fn leftovers_and_damage_are_repaired(
        seeds in any_states(2, false),
        table in 0..40_u32,
        endpoint in 1..9_u16,
        noise in any::<u64>(),
    ) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        settle(&mut kernel, &states[0], &mut flows);
        damage(&mut kernel, table, endpoint, noise);
        let mut flows = Flows::default();
        settle(&mut kernel, &states[1], &mut flows);
    }

    /// For want of room packets may be dropped on the way, but nothing is let through that should not be.
    #[test]
    fn want_of_room_never_widens(seeds in any_states(4, true), spare in 0..12_usize) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        for state in &states {
            unplug(&mut kernel, state);
            let config = NodeConfig {
                capacities: Capacities {
                    policy_entries: kernel.0.policy.len() + spare,
                    ..Capacities::default()
                },
                ..NodeConfig::default()
            };
            match plan(&kernel.0, state, &config, complete()) {
                Ok(plan) => {
                    apply_all(&mut kernel, &plan, &probes(), &mut flows);
                    assert_holds(&kernel, state);
                }
                Err(PlanError::NoRoom { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Invariant 2: with tables that stay where they are, each entry that differs is written once, and each
    /// endpoint concerned gets its two words.
    #[test]
    fn a_change_writes_what_differs(seeds in any_states(2, false)) {
        let states = grow(&seeds);
        let (mut kernel, mut flows) = (Kernel::default(), Flows::default());
        let mut next = states[1].clone();
        next.ipcache.clone_from(&states[0].ipcache);
        let keep = |id: &u16| states[0].endpoints.contains_key(id);
        next.endpoints.retain(|id, _| keep(id));
        next.interfaces.retain(|_, interface| keep(&interface.endpoint));
        settle(&mut kernel, &states[0], &mut flows);
        unplug(&mut kernel, &next);
        let plan = planned(&kernel, &next);
        let stages = plan.writes().any(|w| matches!(w, Write::PolicyInsert { key, .. }
            if kernel.0.table(key.table).next().is_none()));
        if stages {
            return Ok(());
        }
        let before = kernel.0.clone();
        apply_all(&mut kernel, &plan, &probes(), &mut flows);
        let differing = kernel.0.policy.iter().filter(|(k, v)| before.policy.get(k) != Some(v)).count()
            + before.policy.keys().filter(|k| !kernel.0.policy.contains_key(k)).count();
        let written = plan.writes().filter(|w| matches!(w,
            Write::PolicyInsert { .. } | Write::PolicyReplace { .. } | Write::PolicyDelete { .. })).count();
        prop_assert_eq!(written, differing);
        let words = plan.writes().filter(|w| matches!(w, Write::EndpointWord { .. })).count();
        let changed = before.endpoint_words.len() + kernel.0.endpoint_words.len();
        prop_assert!(words <= 2 * changed);
    }
}

/// Entries of nobody's table, a word that is not level, an epoch that was never taken, a broken seal.
fn damage(kernel: &mut Kernel, table: u32, endpoint: u16, noise: u64) {
    let observed = &mut kernel.0;
    let entries: Vec<_> = observed.policy.iter().map(|(k, v)| (*k, *v)).collect();
    for (mut key, mut value) in entries {
        if noise & 1 != 0 {
            key.table = table;
        }
        if noise & 2 != 0 {
            value.check ^= noise;
        }
        observed.policy.insert(key, value);
    }
    if noise & 4 != 0 {
        observed.shapes.remove(&(table % 5, Direction::Ingress));
    }
    if noise & 8 != 0 {
        let words = observed.endpoint_words.entry(endpoint).or_default();
        words[(noise >> 4 & 1) as usize] = EndpointWord(noise);
    }
    if noise & 32 != 0 {
        observed.node_words[0] = noise >> 40;
    }
    if noise & 64 != 0 {
        for value in observed.ipcache.values_mut() {
            *value = value.with_identity((noise >> 7 & 1) as u32, 301);
        }
    }
}
