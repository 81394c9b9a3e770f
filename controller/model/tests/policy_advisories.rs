//! Holes that agents of this field had in selectors and in the algebra of rules: one test for each advisory.

mod policy_support;

use std::collections::BTreeSet;

use oxilium_abi::Direction;
use oxilium_model::identity::{Identities, IdentityLabels, NumericIdentity, Protocol};
use oxilium_model::label::{Label, LabelError};
use oxilium_model::policy::config::PolicyConfig;
use oxilium_model::policy::l7::{HttpRule, L7, L7Rules, Parser};
use oxilium_model::policy::peer::{CidrGroupPeer, CidrPeer, Peer, Peers};
use oxilium_model::policy::rule::{
    Action, Policy, PortMatch, PortRule, PortRules, PortSpec, Rule, Subject,
};
use oxilium_model::policy::selector::{LabelSelector, Operator, Scope, Values};
use oxilium_model::policy::table::Packet;
use oxilium_model::policy::{Outcome, SubjectPolicy, resolve, selection};
use policy_support::{
    SUBJECT, any_policies, app, cases, expression, identities, labelled, peers, pod, policy, port,
    remotes, rule, scope, view,
};
use proptest::prelude::*;

const IN: Direction = Direction::Ingress;

fn resolved(policies: &[Policy], identities: &Identities) -> SubjectPolicy {
    let config = PolicyConfig::default();
    resolve(policies, identities, &view(identities, SUBJECT), &config)
}

fn outcome(policy: &SubjectPolicy, identity: u32, port: u16) -> Outcome {
    let packet = Packet {
        identity: NumericIdentity(identity),
        protocol: Protocol::TCP,
        port,
    };
    let found = policy.table.ingress.lookup(packet, 0);
    Outcome::of(found.map(|(_, entry)| entry))
}

fn endpoints(selector: &LabelSelector) -> Peers {
    Peers::AnyOf(vec![Peer::Endpoints(peers().endpoints(selector))])
}

fn http(method: &str, ports: (u16, u16)) -> PortRules {
    let rule = HttpRule {
        method: Some(method.into()),
        ..HttpRule::default()
    };
    PortRules::AnyOf(vec![PortRule {
        ports: vec![PortMatch {
            protocol: Protocol::TCP,
            port: PortSpec::Range {
                first: ports.0,
                last: ports.1,
            },
        }],
        l7: L7 {
            rules: L7Rules::Http([rule].into()),
            ..L7::default()
        },
    }])
}

const ALLOWED: Outcome = Outcome::Allowed {
    redirect: None,
    auth: 0,
};

proptest! {
    /// A peer that is only a prefix became a wildcard over namespaces under a cluster name of one's own.
    #[test]
    fn advisory_1_a_prefix_selects_no_pod_under_any_cluster_name(
        address: u32,
        length in 0..=32_u8,
        cluster in "[a-z]{1,8}",
    ) {
        let net = ipnet::Ipv4Net::new(address.into(), length).unwrap().into();
        let config = PolicyConfig { cluster_name: cluster.as_str().into(), ..PolicyConfig::default() };
        let mut identities = identities();
        identities.insert(NumericIdentity(10_100), pod("a", "red", &cluster, &[]));
        for id in selection(&Peer::Cidr(CidrPeer::new(net, [])), &identities, &config) {
            let labels = &identities.get(id).unwrap().labels;
            prop_assert!(labels.iter().any(|l| l.key().starts_with("world")), "{} is not of the world", id);
        }
    }
}

/// An empty set that had been resolved was written as an absent one, and allowed everyone.
#[test]
fn advisory_6_an_empty_set_of_peers_selects_nobody() {
    let ports = [PortRules::All, port(Protocol::TCP, 80, 80)];
    let empty_sets = [
        Peers::from_list(Vec::new()),
        Peers::AnyOf(Vec::new()),
        Peers::Nobody,
        Peers::AnyOf(vec![Peer::CidrGroup(CidrGroupPeer::named("nobody", []))]),
        endpoints(&app("nothing")),
    ];
    for ports in ports {
        for set in &empty_sets {
            let rules = |p: &_| vec![rule(p, IN, set.clone(), ports.clone())];
            let identities = identities();
            let policy = resolved(&[policy("p", rules)], &identities);
            assert!(policy.table.ingress.enforced);
            for remote in remotes(&identities) {
                let expected = if remote == NumericIdentity::HOST {
                    ALLOWED
                } else {
                    Outcome::NoMatch
                };
                assert_eq!(outcome(&policy, remote.0, 80), expected, "{set:?} {remote}");
            }
        }
    }
    // A list of ports that names none selects nothing either.
    for ports in [
        PortRules::AnyOf(Vec::new()),
        PortRules::AnyOf(vec![PortRule {
            ports: Vec::new(),
            l7: L7::default(),
        }]),
    ] {
        let rules = |p: &_| vec![rule(p, IN, Peers::Anyone, ports)];
        let policy = resolved(&[policy("p", rules)], &identities());
        assert_eq!(outcome(&policy, 10002, 80), Outcome::NoMatch);
    }
}

/// `fromNodes` matched pods that have the same labels as the nodes.
#[test]
fn advisory_8_selectors_of_nodes_and_of_pods_never_cross() {
    let identities = identities();
    let mut twin: Vec<Label> = pod("a", "red", "default", &[]).labels.into();
    twin.push(Label::of_pod("role", "worker").unwrap());
    let twin: IdentityLabels = twin.into();
    let worker = || {
        expression(
            "role",
            Operator::In(["worker".into()].into_iter().collect()),
        )
    };
    assert!(!peers().nodes(&worker()).matches(&twin), "a pod is no node");
    assert!(!Subject::Nodes(scope().nodes(&worker()).0).selects(&twin));
    let node = &identities.get(NumericIdentity(33_554_433)).unwrap().labels;
    assert!(peers().nodes(&worker()).matches(node));
    // The host has `app=a` as a node label; no selector of endpoints has it as a subject.
    let host = &identities.get(NumericIdentity::HOST).unwrap().labels;
    let clusterwide = Scope::clusterwide(None);
    for selector in [app("a"), LabelSelector::default(), worker()] {
        assert!(!Subject::Endpoints(clusterwide.endpoints(&selector).0).selects(host));
    }
    assert!(Subject::Nodes(clusterwide.nodes(&worker()).0).selects(host));
}

/// An allow with a port range swallowed the L7 redirect within it.
#[test]
fn advisory_12_a_wider_allow_never_swallows_a_redirect_within_it() {
    let ranges = [(1, 65535), (80, 90), (80, 80), (64, 127)];
    for wide in ranges {
        let policies = [policy("p", |p| {
            vec![
                rule(p, IN, endpoints(&app("b")), http("GET", (80, 80))),
                rule(
                    p,
                    IN,
                    endpoints(&app("b")),
                    port(Protocol::TCP, wide.0, wide.1),
                ),
                rule(p, IN, Peers::Anyone, port(Protocol::TCP, wide.0, wide.1)),
                rule(p, IN, endpoints(&app("b")), PortRules::All),
            ]
        })];
        let policy = resolved(&policies, &identities());
        assert_eq!(
            outcome(&policy, 10002, 80).parser(),
            Some(Parser::Http),
            "{wide:?}"
        );
        assert_eq!(outcome(&policy, 10002, 81).parser(), None);
    }
}

proptest! {
    #![proptest_config(cases(128))]

    /// A deny of a prefix lost to an allow of a narrower one.
    #[test]
    fn advisory_13_a_deny_beats_every_allow_within_it(
        policies in any_policies(false),
        deny in prop::sample::select(vec!["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]),
        first in 0..100_u16,
    ) {
        let net = deny.parse().unwrap();
        let denied = policy("deny", |p| {
            let peers = Peers::AnyOf(vec![Peer::Cidr(CidrPeer::new(net, []))]);
            let mut rule = rule(p, IN, peers, port(Protocol::TCP, first, 200));
            rule.action = Action::Deny;
            vec![rule]
        });
        let normal: Vec<Policy> = policies
            .into_iter()
            .map(|policy| Policy {
                rules: policy
                    .rules
                    .into_iter()
                    .map(|rule| Rule { tier: oxilium_model::policy::rule::Tier::Normal, ..rule })
                    .collect(),
                ..policy
            })
            .chain([denied])
            .collect();
        let identities = identities();
        let policy = resolved(&normal, &identities);
        let selected = selection(
            &Peer::Cidr(CidrPeer::new(net, [])),
            &identities,
            &PolicyConfig::default(),
        );
        for id in selected {
            for port in [first, 100, 199, 200] {
                let outcome = outcome(&policy, id.0, port);
                prop_assert!(matches!(outcome, Outcome::Denied | Outcome::NoMatch), "{} {}: {:?}", id, port, outcome);
            }
        }
    }
}

proptest! {
    /// An allow-all for one peer put a wildcard into the HTTP rules of another.
    #[test]
    fn advisory_16_rules_of_one_peer_never_alter_those_of_another(
        methods in prop::collection::btree_set("[A-Z]{3}", 1..4),
        plain_for_other: bool,
        plain_for_anyone: bool,
    ) {
        let b = || endpoints(&app("b"));
        let policies = [policy("p", |p| {
            let mut rules: Vec<Rule> = methods
                .iter()
                .map(|method| rule(p, IN, b(), http(method, (80, 80))))
                .collect();
            if plain_for_other {
                rules.push(rule(p, IN, endpoints(&app("a")), port(Protocol::TCP, 80, 80)));
            }
            if plain_for_anyone {
                rules.push(rule(p, IN, Peers::Anyone, port(Protocol::TCP, 80, 80)));
            }
            rules.push(rule(p, IN, endpoints(&app("a")), http("ALL", (80, 80))));
            rules
        })];
        let policy = resolved(&policies, &identities());
        let of_b: Vec<_> = policy.l7.iter().filter(|filter| Some(filter.peer.clone()) == match b() {
            Peers::AnyOf(list) => Some(list.into_iter().next()),
            _ => None,
        }).collect();
        prop_assert_eq!(of_b.len(), 1);
        prop_assert!(!of_b[0].l7.unrestricted);
        let L7Rules::Http(rules) = &of_b[0].l7.l7.rules else { panic!("no HTTP rules") };
        let ours: BTreeSet<String> = rules.iter().map(|rule| rule.method.as_deref().unwrap().into()).collect();
        prop_assert_eq!(ours, methods);
        prop_assert_eq!(outcome(&policy, 10002, 80).parser(), Some(Parser::Http));
    }
}

/// `reserved:init DoesNotExist` in a namespaced policy selected the whole cluster.
#[test]
fn advisory_17_no_selector_leads_out_of_its_namespace_as_a_subject() {
    let keys = [
        "reserved:init",
        "reserved:host",
        "k8s:io.kubernetes.pod.namespace",
        "io.kubernetes.pod.namespace",
        "any:io.kubernetes.pod.namespace",
        "k8s:io.cilium.k8s.namespace.labels.env",
        "io.cilium.k8s.policy.cluster",
        "app",
        "cidr:0.0.0.0/0",
        "fqdn:a.test",
    ];
    let values: Values = ["blue", "a", ""].into_iter().map(Into::into).collect();
    let operators = [
        Operator::Exists,
        Operator::DoesNotExist,
        Operator::In(values.clone()),
        Operator::NotIn(values),
    ];
    let identities = identities();
    for key in keys {
        for operator in &operators {
            let mut selector = expression(key, operator.clone());
            for with_label in [false, true] {
                if with_label {
                    selector.labels.insert(
                        oxilium_model::policy::selector::SelectorKey::parse(key),
                        "blue".into(),
                    );
                }
                let subject = Subject::Endpoints(scope().endpoints(&selector).0);
                for (id, identity) in identities.iter() {
                    let inside = identity
                        .labels
                        .iter()
                        .any(|l| *l == Label::pod_namespace("red"));
                    assert!(
                        inside || !subject.selects(&identity.labels),
                        "{selector:?} selects {id}"
                    );
                }
            }
        }
    }
}

/// A pod's labels could be updated so that it passed for something built in.
#[test]
fn advisory_18_no_label_of_a_pod_becomes_a_built_in_one() {
    for key in [
        "reserved:host",
        "host",
        "reserved:world",
        "cidr:0.0.0.0/0",
        "world",
    ] {
        let label = Label::of_pod(key, "").unwrap();
        let labels: IdentityLabels = [label].into_iter().collect();
        for (entity, name) in oxilium_model::policy::peer::Entity::NAMES {
            let selected = Peer::Entity(entity).selects(&labels, &PolicyConfig::default());
            assert_eq!(selected, name == "all", "{key} passes for {name}");
        }
        let everyone = CidrPeer::new("0.0.0.0/0".parse().unwrap(), []);
        assert!(!Peer::Cidr(everyone).selects(&labels, &PolicyConfig::default()));
        assert!(!labels.has_reserved("host") && !labels.has_reserved("init"));
    }
}

/// Crafted labels of a pod stood in for the labels of its namespace.
#[test]
fn advisory_19_no_label_of_a_pod_stands_in_for_its_namespace() {
    let forged = [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.namespace.labels.env",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.policy.serviceaccount",
        "io.cilium.policy.cidrgroupname/partners",
    ];
    for key in forged {
        assert_eq!(
            Label::of_pod(key, "prod"),
            Err(LabelError::Derived { key: key.into() })
        );
    }
    // Near misses are ordinary labels that no selector of namespaces looks at.
    let near = labelled(&[
        "k8s:namespace.labels.env=prod",
        "other:io.cilium.k8s.namespace.labels.env=prod",
    ]);
    let prod = expression("env", Operator::In(["prod".into()].into_iter().collect()));
    assert!(!peers().namespaces(&prod).matches(&near.labels));
    let red = identities();
    let red = &red.get(SUBJECT).unwrap().labels;
    assert!(peers().namespaces(&prod).matches(red));
}
