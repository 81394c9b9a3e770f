//! From world to world: what the kernel holds follows, safely, minimally, whatever the way there.

#[path = "plan_support/mod.rs"]
mod plan_support;
#[path = "policy_support/mod.rs"]
mod policy_support;
#[path = "plan_support/worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use oxilium_abi::Direction;
use oxilium_model::node_state::NodeState;
use oxilium_model::plan::{Plan, plan};
use oxilium_model::world::{AttachmentId, Claims, Timestamp, World};
use oxilium_model::{Incremental, desired, desired_with};
use plan_support::kernel::{Kernel, Probe, Verdict};
use plan_support::watch::{Flows, apply, apply_all};
use proptest::prelude::*;
use worlds::{WorldSeed, any_worlds, endpoints, probes};

/// A node that follows the worlds it is shown.
#[derive(Default)]
struct Follower {
    kernel: Kernel,
    flows: Flows,
    claims: Claims,
    now: Timestamp,
    devices: BTreeMap<u32, AttachmentId>,
    resolver: Incremental,
}

impl Follower {
    /// The next world and the state that it asks for. Devices that are gone from it have vanished, and an
    /// index that now serves another attachment is another device.
    fn look(&mut self, seed: &WorldSeed) -> (World, NodeState) {
        let world = seed.world(&self.claims, self.now);
        let state = desired(&world);
        let remembered = desired_with(&world, &mut self.resolver);
        assert!(
            remembered == state,
            "what is remembered differs from what is computed anew"
        );
        let devices: BTreeMap<u32, AttachmentId> = state
            .interfaces
            .iter()
            .map(|(ifindex, interface)| {
                let endpoint = &state.endpoints[&interface.endpoint];
                (*ifindex, endpoint.attachment.clone())
            })
            .collect();
        for (ifindex, attachment) in &self.devices {
            if devices.get(ifindex) != Some(attachment) {
                self.kernel.unplug(*ifindex);
            }
        }
        self.devices = devices;
        self.claims = state.claims.clone();
        self.now = world.now;
        (world, state)
    }

    fn plan(&self, world: &World, state: &NodeState) -> Plan {
        let complete = world.synced.complete().expect("all have delivered");
        plan(&self.kernel.0, state, &world.config, complete).expect("there is room")
    }

    fn probes(state: &NodeState) -> Vec<Probe> {
        probes(
            state
                .interfaces
                .values()
                .map(|interface| interface.endpoint),
        )
    }

    fn follow(&mut self, seed: &WorldSeed) -> NodeState {
        let (mut world, state) = self.look(seed);
        let plan = self.plan(&world, &state);
        let probes = Self::probes(&state);
        apply_all(&mut self.kernel, &plan, &probes, &mut self.flows);

        world.claims = state.claims.clone();
        let computed_again = desired(&world);
        assert_eq!(computed_again, state, "the same world, with its numbers");
        assert!(
            computed_again.claims.is_same(&world.claims),
            "claims are copied though none changed"
        );
        let again = self.plan(&world, &state);
        assert!(again.is_empty(), "a second plan:\n{again}");
        state
    }

    /// Only some writes of the plan come to pass.
    fn stumble(&mut self, seed: &WorldSeed, cut: prop::sample::Index) {
        let (world, state) = self.look(seed);
        let plan = self.plan(&world, &state);
        let probes = Self::probes(&state);
        let count = cut.index(plan.steps().len() + 1);
        apply(&mut self.kernel, &plan, count, &probes, &mut self.flows);
    }

    /// Every verdict, by names that do not depend on numbers.
    fn verdicts(&self, state: &NodeState) -> BTreeMap<(AttachmentId, Probe), Verdict> {
        let mut verdicts = BTreeMap::new();
        for (attachment, endpoint) in endpoints(state) {
            for probe in probes([endpoint]) {
                let verdict = self.kernel.verdict(&probe);
                let nameless = Probe {
                    endpoint: 0,
                    ..probe
                };
                verdicts.insert((attachment.clone(), nameless), verdict);
            }
        }
        verdicts
    }
}

/// The agent moves it between threads.
#[test]
fn the_resolver_can_be_sent() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&Incremental::default());
}

/// The order in which a list of worlds is shown: as it is, backwards, some left out, some twice, with the end at the end.
fn expansions(length: usize) -> Vec<Vec<usize>> {
    let last = length - 1;
    let forward: Vec<usize> = (0..length).collect();
    let mut backward: Vec<usize> = (0..length).rev().collect();
    backward.push(last);
    let twice = forward.iter().flat_map(|i| [*i, *i]).collect();
    let back_and_forth = forward
        .iter()
        .flat_map(|i| [*i, i.saturating_sub(1), *i])
        .collect();
    vec![
        forward,
        backward,
        vec![last],
        vec![0, last],
        twice,
        back_and_forth,
    ]
}

proptest! {
    #![proptest_config(plan_support::cases(48))]

    #[test]
    fn every_change_of_the_world_is_safe_and_converges(seeds in any_worlds(4, true)) {
        let mut node = Follower::default();
        for seed in &seeds {
            node.follow(seed);
        }
    }

    #[test]
    fn a_crash_anywhere_leaves_nothing_that_the_next_plan_does_not_mend(
        seeds in any_worlds(4, false),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let mut node = Follower::default();
        for (seed, cut) in seeds.iter().zip(cuts) {
            node.stumble(seed, cut);
        }
        // A pod that is not known is what it was, and so its past matters.
        let seed = seeds[0].complete();
        let state = node.follow(&seed);
        let mut fresh = Follower::default();
        let fresh_state = fresh.follow(&seed);
        prop_assert_eq!(node.verdicts(&state), fresh.verdicts(&fresh_state));
    }

    /// Invariant 3.
    #[test]
    fn what_is_remembered_equals_what_is_computed_anew(seeds in any_worlds(8, true)) {
        let mut node = Follower::default();
        for seed in seeds.iter().chain(seeds.iter().rev()) {
            node.look(seed);
        }
    }

    /// What is enforced depends on the world alone, not on the way to it.
    #[test]
    fn all_ways_lead_to_the_same_verdicts(seeds in any_worlds(3, false)) {
        let seeds: Vec<WorldSeed> = seeds.iter().map(WorldSeed::complete).collect();
        let mut outcomes = Vec::new();
        for order in expansions(seeds.len()) {
            let mut node = Follower::default();
            let mut state = NodeState::default();
            for index in order {
                state = node.follow(&seeds[index]);
            }
            outcomes.push(node.verdicts(&state));
        }
        for outcome in &outcomes {
            prop_assert_eq!(outcome, &outcomes[0]);
        }
    }

    /// Invariant 12.
    #[test]
    fn numbers_get_another_owner_only_after_a_quarantine(seeds in any_worlds(5, false)) {
        let mut node = Follower::default();
        for seed in &seeds {
            let before = node.claims.clone();
            let (world, _) = node.look(seed);
            let after = &node.claims;
            let rested = |since: Timestamp| since.0 + world.config.quarantine <= world.now.0;
            for (id, claim) in &after.identities {
                if let Some(old) = before.identities.get(id).filter(|old| old.labels != claim.labels) {
                    prop_assert!(old.quarantine.is_some_and(|q| rested(q.since)), "{:?}", id);
                }
            }
            for (id, claim) in &after.endpoints {
                if let Some(old) = before.endpoints.get(id).filter(|old| old.owner != claim.owner) {
                    prop_assert!(old.quarantine.is_some_and(|q| rested(q.since)), "endpoint {}", id);
                }
            }
            let owners: BTreeSet<_> = after.identities.values().filter(|c| c.quarantine.is_none()).map(|c| &c.labels).collect();
            let active = after.identities.values().filter(|c| c.quarantine.is_none()).count();
            prop_assert_eq!(owners.len(), active, "an owner has two numbers");
        }
    }

    /// Nothing but its own policy and its peers' identities bears on an endpoint.
    #[test]
    fn both_directions_are_judged_apart(seeds in any_worlds(1, false)) {
        let mut node = Follower::default();
        let state = node.follow(&seeds[0]);
        for endpoint in state.endpoints.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let enforced = match direction {
                    Direction::Ingress => endpoint.policy.ingress_enforced,
                    Direction::Egress => endpoint.policy.egress_enforced,
                };
                if enforced || endpoint.ifindex.is_none() {
                    continue;
                }
                for probe in probes([endpoint.id]).iter().filter(|p| p.direction == direction) {
                    prop_assert_eq!(node.kernel.verdict(probe), Verdict::Allowed);
                }
            }
        }
    }
}
