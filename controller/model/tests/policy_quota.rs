//! Tables that do not fit are replaced by smaller ones that allow a subset.

mod policy_support;

use oxilium_abi::Direction;
use oxilium_model::identity::Protocol;
use oxilium_model::policy::config::PolicyConfig;
use oxilium_model::policy::peer::{Entity, Peer, Peers};
use oxilium_model::policy::rule::{Action, Policy, PortRules};
use oxilium_model::policy::table::{DirectionTable, Packet};
use oxilium_model::policy::{Fitted, Outcome, resolve, resolve_within};
use policy_support::{
    SUBJECT, any_policies, app, cases, identities, peers, policy, port, remotes, rule, view,
};
use proptest::prelude::*;

fn fit(policies: &[Policy], available: usize) -> Fitted {
    let identities = identities();
    let config = PolicyConfig::default();
    resolve_within(
        policies,
        &identities,
        &view(&identities, SUBJECT),
        &config,
        available,
    )
}

/// Strength of a verdict: what a smaller table may only lower.
fn freedom(table: &DirectionTable, packet: Packet) -> u8 {
    match Outcome::of(table.lookup(packet, 0).map(|(_, entry)| entry)) {
        Outcome::NoMatch | Outcome::Denied => 0,
        Outcome::Allowed {
            redirect: None,
            auth: 0,
        } => 2,
        Outcome::Allowed { .. } => 1,
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_smaller_table_fits_and_allows_a_subset(policies in any_policies(true), available in 0..40_usize) {
        let identities = identities();
        let config = PolicyConfig::default();
        let whole = resolve(&policies, &identities, &view(&identities, SUBJECT), &config);
        let fitted = fit(&policies, available);
        prop_assert_eq!(&fitted, &fit(&policies, available), "the same input, the same table");
        for direction in [Direction::Ingress, Direction::Egress] {
            let (large, small) = (whole.table.direction(direction), fitted.policy.table.direction(direction));
            prop_assert!(small.entries().len() <= available || fitted.policy.error.is_some());
            let overflow = fitted.overflow.iter().find(|overflow| overflow.direction == direction);
            prop_assert_eq!(overflow.is_some(), large.entries().len() > available);
            if let Some(overflow) = overflow {
                prop_assert_eq!(overflow.needed, large.entries().len());
            } else if fitted.policy.error.is_none() {
                prop_assert_eq!(large, small);
            }
            for identity in remotes(&identities) {
                for (protocol, port) in [(Protocol::TCP, 80), (Protocol::TCP, 1000), (Protocol::UDP, 53), (Protocol::ICMP, 8)] {
                    let packet = Packet { identity, protocol, port };
                    prop_assert!(freedom(small, packet) <= freedom(large, packet), "{:?} {:?}", direction, packet);
                }
            }
        }
    }
}

/// Three policies that each allow `app=b` on a few ports, one that allows the node, one that denies.
fn five() -> Vec<Policy> {
    let pods = || Peers::AnyOf(vec![Peer::Endpoints(peers().endpoints(&app("b")))]);
    let ports = |name: &'static str, first: u16| {
        policy(name, |p| {
            (0..4)
                .map(|n| {
                    rule(
                        p,
                        Direction::Ingress,
                        pods(),
                        port(Protocol::TCP, first + 2 * n, first + 2 * n),
                    )
                })
                .collect()
        })
    };
    let entity = |name: &'static str, entity, action| {
        policy(name, |p| {
            let peers = Peers::AnyOf(vec![Peer::Entity(entity)]);
            let mut rule = rule(p, Direction::Ingress, peers, PortRules::All);
            rule.action = action;
            vec![rule]
        })
    };
    vec![
        ports("a", 100),
        ports("b", 200),
        ports("c", 300),
        entity("node", Entity::Host, Action::Allow),
        entity("no-health", Entity::Health, Action::Deny),
    ]
}

#[test]
fn denies_and_the_node_come_first_then_whole_policies_by_name() {
    // 1 deny, 1 host, 4 for each of a, b and c.
    let cases: [(usize, &[&str], usize); 6] = [
        (14, &[], 14),
        (13, &["c"], 10),
        (10, &["c"], 10),
        (9, &["b", "c"], 6),
        (2, &["a", "b", "c"], 2),
        (1, &["a", "b", "c", "no-health", "node"], 0),
    ];
    for (available, left_out, entries) in cases {
        let fitted = fit(&five(), available);
        let names: Vec<&str> = fitted
            .overflow
            .iter()
            .flat_map(|overflow| overflow.left_out.iter().map(|policy| &*policy.name))
            .filter(|name| *name != "node" || entries == 0)
            .collect();
        assert_eq!(names, left_out, "room for {available}");
        assert_eq!(
            fitted.policy.table.ingress.entries().len(),
            entries,
            "room for {available}"
        );
        assert!(fitted.policy.table.ingress.enforced);
    }
}
