//! What wins where several rules or entries match.

mod policy_support;

use oxilium_abi::{AuthRequirement, Direction, Precedence};
use oxilium_model::identity::{NumericIdentity, Protocol};
use oxilium_model::policy::config::PolicyConfig;
use oxilium_model::policy::peer::{Peer, Peers};
use oxilium_model::policy::port::PortPrefix;
use oxilium_model::policy::rule::{Action, Policy, PortRules, Rule, RulePriority, Tier};
use oxilium_model::policy::table::{BuiltIn, DirectionTable, Entry, EntryKey, Origin, Packet};
use oxilium_model::policy::{Outcome, resolve};
use policy_support::{SUBJECT, app, identities, peers, policy, port, rule, view};

const ALLOW: u32 = 0xFFFF_FF01;
const DENY: u32 = 0xFFFF_FFFF;

fn entry(
    identity: u32,
    protocol: Protocol,
    port: PortPrefix,
    precedence: u32,
    auth: u8,
) -> (EntryKey, Entry) {
    let key = EntryKey {
        identity: NumericIdentity(identity),
        protocol,
        port,
    };
    let entry = Entry {
        precedence: Precedence(precedence),
        auth: AuthRequirement(auth),
        redirect: None,
        origins: [Origin::BuiltIn(BuiltIn::AllowAny)].into(),
    };
    (key, entry)
}

/// Precedence first, then the longer prefix of protocol and port, then the more specific identity.
#[test]
fn the_greatest_match_wins() {
    let (any, exact) = (PortPrefix::ANY, PortPrefix::exact(80));
    let of = |identity, protocol, port, precedence, auth| {
        entry(identity, protocol, port, precedence, auth)
    };
    let all = |identity, auth| of(identity, Protocol::ANY, any, ALLOW, auth);
    // What matches, and the `auth` of the one that wins.
    let cases = [
        (
            "precedence beats everything",
            vec![all(10002, 1), of(0, Protocol::ANY, any, DENY, 2)],
            2,
        ),
        (
            "a longer prefix beats a specific identity",
            vec![all(10002, 1), of(0, Protocol::TCP, exact, ALLOW, 2)],
            2,
        ),
        (
            "and a range of ports a protocol",
            vec![
                of(10002, Protocol::TCP, any, ALLOW, 1),
                of(0, Protocol::TCP, PortPrefix::of(80, 8), ALLOW, 2),
            ],
            2,
        ),
        (
            "the identity beats its aggregate",
            vec![all(11, 1), all(10002, 2)],
            2,
        ),
        ("the aggregate beats anyone", vec![all(11, 2), all(0, 1)], 2),
        (
            "another aggregate does not match",
            vec![all(12, 1), all(0, 2)],
            2,
        ),
        (
            "another port does not match",
            vec![
                of(10002, Protocol::TCP, PortPrefix::exact(81), DENY, 1),
                all(0, 2),
            ],
            2,
        ),
        (
            "another protocol does not match",
            vec![of(10002, Protocol::UDP, exact, DENY, 1), all(0, 2)],
            2,
        ),
    ];
    let packet = Packet {
        identity: NumericIdentity(10002),
        protocol: Protocol::TCP,
        port: 80,
    };
    for (name, entries, winner) in cases {
        let table = DirectionTable::new(true, entries);
        let (_, found) = table.lookup(packet, 0).unwrap();
        assert_eq!(found.auth.0, winner, "{name}");
    }
}

struct Case {
    name: &'static str,
    /// Tier, priority, action, and whether for `app=b` on port 80 only (or anyone on any port).
    rules: &'static [(Tier, u32, Action, bool)],
    /// Verdicts for `app=b` on 80 and on 81: `A`llowed, `D`enied, `-` nothing.
    expected: [char; 2],
}

const CASES: [Case; 10] = [
    Case {
        name: "admin before normal",
        rules: &[
            (Tier::Admin, 0, Action::Deny, true),
            (Tier::Normal, 0, Action::Allow, false),
        ],
        expected: ['D', 'A'],
    },
    Case {
        name: "normal before baseline",
        rules: &[
            (Tier::Normal, 0, Action::Allow, true),
            (Tier::Baseline, 0, Action::Deny, false),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "a lower priority first",
        rules: &[
            (Tier::Admin, 1, Action::Deny, false),
            (Tier::Admin, 0, Action::Allow, true),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "on one level deny beats allow",
        rules: &[
            (Tier::Admin, 0, Action::Allow, false),
            (Tier::Admin, 0, Action::Deny, true),
        ],
        expected: ['D', 'A'],
    },
    Case {
        name: "a pass leaves the rest of its tier out",
        rules: &[
            (Tier::Admin, 0, Action::Pass, true),
            (Tier::Admin, 1, Action::Deny, false),
            (Tier::Normal, 0, Action::Allow, false),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "on one level allow beats pass",
        rules: &[
            (Tier::Admin, 0, Action::Pass, false),
            (Tier::Admin, 0, Action::Allow, true),
            (Tier::Normal, 0, Action::Deny, false),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "what nobody takes up is denied by default",
        rules: &[
            (Tier::Admin, 0, Action::Pass, true),
            (Tier::Admin, 1, Action::Allow, false),
            (Tier::Normal, 0, Action::Allow, true),
        ],
        expected: ['A', 'A'],
    },
    Case {
        name: "a pass ends in default deny",
        rules: &[
            (Tier::Admin, 0, Action::Pass, false),
            (Tier::Admin, 1, Action::Allow, false),
            (Tier::Normal, 0, Action::Allow, true),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "passes of two tiers lead to the third",
        rules: &[
            (Tier::Admin, 0, Action::Pass, false),
            (Tier::Baseline, 0, Action::Pass, true),
            (Tier::Baseline, 1, Action::Deny, false),
        ],
        expected: ['A', 'D'],
    },
    Case {
        name: "a wide pass over a narrow one",
        rules: &[
            (Tier::Admin, 0, Action::Pass, true),
            (Tier::Admin, 1, Action::Pass, false),
            (Tier::Admin, 2, Action::Deny, false),
            (Tier::Normal, 0, Action::Allow, true),
        ],
        expected: ['A', 'D'],
    },
];

#[test]
fn tiers_are_asked_in_order_and_a_pass_goes_on_in_the_next() {
    for case in CASES {
        assert_eq!(verdicts(&case), case.expected, "{}", case.name);
    }
}

/// The verdicts for `app=b` on ports 80 and 81.
fn verdicts(case: &Case) -> [char; 2] {
    let identities = identities();
    let made = policy("p", |p| {
        case.rules
            .iter()
            .map(|(tier, priority, action, narrow)| {
                let (peers, ports) = if *narrow {
                    let pods = Peer::Endpoints(peers().endpoints(&app("b")));
                    (Peers::AnyOf(vec![pods]), port(Protocol::TCP, 80, 80))
                } else {
                    (Peers::Anyone, PortRules::All)
                };
                Rule {
                    tier: *tier,
                    priority: RulePriority {
                        policy: *priority,
                        rule: 0,
                    },
                    action: *action,
                    default_deny: *tier == Tier::Normal,
                    ..rule(p, Direction::Ingress, peers, ports)
                }
            })
            .collect()
    });
    let policies: [Policy; 1] = [made];
    let subject = view(&identities, SUBJECT);
    let table = resolve(&policies, &identities, &subject, &PolicyConfig::default()).table;
    [80, 81].map(|port| {
        let packet = Packet {
            identity: NumericIdentity(10002),
            protocol: Protocol::TCP,
            port,
        };
        match Outcome::of(table.ingress.lookup(packet, 0).map(|(_, entry)| entry)) {
            Outcome::NoMatch => '-',
            Outcome::Denied => 'D',
            Outcome::Allowed { .. } => 'A',
        }
    })
}
