//! Staged policies: they change nothing, and what they are said to change is what they change once enforced.

#[path = "plan_support/mod.rs"]
mod plan_support;
#[path = "policy_support/mod.rs"]
mod policy_support;
#[path = "plan_support/worlds.rs"]
mod worlds;

use std::sync::Arc;

use oxilium_model::identity::{NumericIdentity, Protocol};
use oxilium_model::node_state::NodeState;
use oxilium_model::plan::plan;
use oxilium_model::policy::rule::{Policy, PolicyRef, Rule, RuleRef};
use oxilium_model::world::{Claims, Timestamp, World};
use oxilium_model::{Change, Incremental, Plain, Shadow, StagedFlow, desired, desired_with};
use plan_support::kernel::{Kernel, Verdict};
use policy_support::{any_policies, cases};
use proptest::prelude::*;
use worlds::{any_worlds, probes};

/// The policy under a name that no other has, staged.
fn staged(policy: Policy, name: &str) -> Policy {
    let reference = Arc::new(PolicyRef {
        name: name.into(),
        ..(*policy.reference).clone()
    });
    let rule = |rule: Rule| Rule {
        origin: Arc::new(RuleRef {
            policy: reference.clone(),
            ..(*rule.origin).clone()
        }),
        ..rule
    };
    Policy {
        rules: policy.rules.into_iter().map(rule).collect(),
        reference: reference.clone(),
        audit: true,
    }
}

fn with(world: &World, policies: impl IntoIterator<Item = Policy>) -> World {
    let mut world = world.clone();
    for policy in policies {
        world
            .policies
            .insert(policy.reference.clone(), Arc::new(policy));
    }
    world
}

/// A kernel that holds what the world asks for.
fn kernel_of(world: &World, state: &NodeState) -> Kernel {
    let mut kernel = Kernel::default();
    let complete = world.synced.complete().expect("all have delivered");
    let plan = plan(&kernel.0, state, &world.config, complete).expect("there is room");
    for step in plan.steps() {
        kernel.apply(&step.write);
    }
    kernel
}

fn change(before: Verdict, after: Verdict) -> Option<Change> {
    match (before == Verdict::Allowed, after == Verdict::Allowed) {
        (true, false) => Some(Change::NewlyDenied),
        (false, true) => Some(Change::NewlyAllowed),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_staged_policy_changes_nothing_of_any_node(
        worlds in any_worlds(3, true),
        policies in any_policies(true),
    ) {
        let mut resolver = Incremental::default();
        let mut claims = Claims::default();
        let mut now = Timestamp::default();
        for seed in worlds {
            let world = seed.world(&claims, now);
            let state = desired(&world);
            let named = policies.iter().enumerate();
            let audited = with(&world, named.map(|(i, policy)| staged(policy.clone(), &format!("staged-{i}"))));
            prop_assert_eq!(&desired(&audited), &state);
            prop_assert_eq!(&desired_with(&audited, &mut resolver), &state);
            (claims, now) = (state.claims, world.now);
        }
    }

    #[test]
    fn what_is_said_to_change_is_what_a_kernel_changes_once_the_policy_is_enforced(
        worlds in any_worlds(1, true),
        policies in any_policies(true),
    ) {
        for seed in worlds {
            let world = seed.world(&Claims::default(), Timestamp::default());
            let state = desired(&world);
            let before = kernel_of(&world, &state);
            for policy in &policies {
                let policy = staged(policy.clone(), "staged");
                let staged_world = with(&world, [policy.clone()]);
                let shadow = Shadow::of(&staged_world, &state, &policy, &mut Plain);
                let mut enforced = with(&world, [Policy { audit: false, ..policy }]);
                enforced.claims = state.claims.clone();
                let after_state = desired(&enforced);
                let after = kernel_of(&enforced, &after_state);
                for probe in probes(state.interfaces.values().map(|interface| interface.endpoint)) {
                    let flow = |identity| StagedFlow {
                        endpoint: probe.endpoint,
                        direction: probe.direction,
                        remote: probe.remote,
                        identity,
                        protocol: Protocol(probe.protocol),
                        port: probe.port,
                    };
                    let expected = shadow
                        .selects(probe.endpoint, probe.direction)
                        .then(|| change(before.verdict(&probe), after.verdict(&probe)))
                        .flatten();
                    // Whether the programs' identity is known or must be found by the address.
                    for identity in [NumericIdentity::ANY, before.identity(probe.remote)] {
                        prop_assert_eq!(shadow.compare(&state, &flow(identity)), expected, "{:?}", probe);
                    }
                }
            }
        }
    }
}
