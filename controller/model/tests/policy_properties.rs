//! What holds of every set of rules: tables and brute force agree on every packet around every boundary.

mod policy_support;

use oxilium_abi::{Direction, ShapeMask};
use oxilium_model::identity::{NumericIdentity, Protocol};
use oxilium_model::policy::config::{AllowLocalhost, EnforcementMode, PolicyConfig};
use oxilium_model::policy::port::PortPrefix;
use oxilium_model::policy::rule::Policy;
use oxilium_model::policy::table::{EntryKey, Packet};
use oxilium_model::policy::{Judge, Outcome, resolve};
use policy_support::{PORTS, SUBJECT, any_policies, cases, identities, remotes, view};
use proptest::prelude::*;

/// Every protocol, with ports at, below and above each that rules mention, and the edges of their prefixes.
fn probes() -> Vec<(Protocol, u16)> {
    let edges = [1023, 1024, 1535, 1536, 2000, 4096, 32767, 32768];
    let mut ports: Vec<u16> = PORTS
        .iter()
        .flat_map(|port| [port.wrapping_sub(1), *port, port.wrapping_add(1)])
        .chain(edges)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let with_ports = Protocol::WITH_PORTS
        .iter()
        .flat_map(|protocol| ports.iter().map(move |port| (*protocol, *port)));
    let icmp = [0, 1, 7, 8, 9, 127, 128, 129, 254, 255]
        .into_iter()
        .flat_map(|t| [(Protocol::ICMP, t), (Protocol::ICMPV6, t)]);
    with_ports.chain(icmp).chain([(Protocol(47), 0)]).collect()
}

fn config() -> impl Strategy<Value = PolicyConfig> {
    let mode = prop::sample::select(vec![
        EnforcementMode::Default,
        EnforcementMode::Default,
        EnforcementMode::Always,
        EnforcementMode::Never,
    ]);
    (mode, any::<bool>(), any::<bool>(), 0..3_u8).prop_map(
        |(mode, localhost, firewall, cluster_id)| PolicyConfig {
            mode,
            allow_localhost: if localhost {
                AllowLocalhost::Always
            } else {
                AllowLocalhost::Policy
            },
            host_firewall: firewall,
            cluster_id,
            ..PolicyConfig::default()
        },
    )
}

/// Compares table and brute force for each packet of one subject. False if the rules contradict each other.
fn agree(
    policies: &[Policy],
    subject: NumericIdentity,
    config: &PolicyConfig,
) -> Result<bool, TestCaseError> {
    let identities = identities();
    let subject = view(&identities, subject);
    let resolved = resolve(policies, &identities, &subject, config);
    if resolved.error.is_some() {
        prop_assert!(resolved.table.is_empty(), "an error allows nothing");
        return Ok(false);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let table = resolved.table.direction(direction);
        let judge = Judge::new(policies, &identities, &subject, config, direction);
        for identity in remotes(&identities) {
            for (protocol, port) in probes() {
                let packet = Packet {
                    identity,
                    protocol,
                    port,
                };
                let by_rules = judge.judge(packet);
                prop_assert_eq!(by_rules.enforced, table.enforced);
                let found = table.lookup(packet, config.cluster_id);
                let by_table = Outcome::of(found.map(|(_, entry)| entry));
                prop_assert_eq!(
                    &by_table,
                    &by_rules.outcome,
                    "{:?} {:?}: {:?} against {:?}",
                    direction,
                    packet,
                    found,
                    by_rules.steps
                );
            }
        }
    }
    Ok(true)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn tables_and_brute_force_agree(policies in any_policies(false), config in config()) {
        agree(&policies, SUBJECT, &config)?;
        agree(&policies, NumericIdentity::HOST, &config)?;
    }

    #[test]
    fn tables_and_brute_force_agree_with_authentication(
        policies in any_policies(true),
        config in config(),
    ) {
        agree(&policies, SUBJECT, &config)?;
    }
}

proptest! {
    /// The programs look up the shapes in use, and take the greatest of what they find.
    #[test]
    fn the_shapes_in_use_lead_to_every_entry(policies in any_policies(false)) {
        let identities = identities();
        let subject = view(&identities, SUBJECT);
        let resolved = resolve(&policies, &identities, &subject, &PolicyConfig::default());
        for direction in [Direction::Ingress, Direction::Egress] {
            let table = resolved.table.direction(direction);
            let shapes = table.shapes();
            for identity in remotes(&identities) {
                for (protocol, port) in [(Protocol::TCP, 80), (Protocol::TCP, 1999), (Protocol::UDP, 53), (Protocol::ICMP, 8)] {
                    let packet = Packet { identity, protocol, port };
                    let kinds = [
                        (shapes.any(), NumericIdentity::ANY, 0),
                        (shapes.aggregate(), identity.aggregate(0), 1),
                        (shapes.specific(), identity, 2),
                    ];
                    let best = kinds
                        .into_iter()
                        .flat_map(|(mask, identity, kind)| {
                            (0..ShapeMask::SHAPES)
                                .filter(move |shape| mask.0 & (1 << shape) != 0)
                                .map(move |shape| (shape, identity, kind))
                        })
                        .filter_map(|(shape, identity, kind)| {
                            let key = EntryKey {
                                identity,
                                protocol: if shape == 0 { Protocol::ANY } else { protocol },
                                port: PortPrefix::of(port & ShapeMask::port_mask(shape), u8::try_from(shape.saturating_sub(1)).unwrap()),
                            };
                            Some((table.get(&key)?.precedence, shape, kind, key))
                        })
                        .max_by_key(|(precedence, shape, kind, _)| (*precedence, *shape, *kind));
                    let found = table.lookup(packet, 0).map(|(key, _)| *key);
                    prop_assert_eq!(best.map(|(.., key)| key), found);
                }
            }
        }
    }

    #[test]
    fn the_order_of_policies_does_not_matter(policies in any_policies(true)) {
        let identities = identities();
        let subject = view(&identities, SUBJECT);
        let config = PolicyConfig::default();
        let forwards = resolve(&policies, &identities, &subject, &config);
        let reversed: Vec<Policy> = policies.into_iter().rev().collect();
        prop_assert_eq!(forwards, resolve(&reversed, &identities, &subject, &config));
    }

    #[test]
    fn a_staged_policy_changes_nothing(policies in any_policies(true), staged in any_policies(true)) {
        let identities = identities();
        let subject = view(&identities, SUBJECT);
        let config = PolicyConfig::default();
        let alone = resolve(&policies, &identities, &subject, &config);
        let staged = staged.into_iter().map(|policy| Policy { audit: true, ..policy });
        let both: Vec<Policy> = policies.into_iter().chain(staged).collect();
        prop_assert_eq!(alone, resolve(&both, &identities, &subject, &config));
    }
}
