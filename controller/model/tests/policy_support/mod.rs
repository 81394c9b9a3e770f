//! Worlds for policy tests: a fixed set of identities of every kind, and random rules about them.

#![allow(
    dead_code,
    reason = "each test uses its part, so that no expectation holds for all"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::identity::{Identities, Identity, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::policy::SubjectView;
use oxilium_model::policy::l7::{AuthMode, DnsRule, HttpRule, L7, L7Rules, Listener};
use oxilium_model::policy::peer::{CidrGroupPeer, CidrPeer, Entity, FqdnPeer, Peer, Peers};
use oxilium_model::policy::rule::{
    Action, Policy, PolicyKind, PolicyRef, PortMatch, PortRule, PortRules, PortSpec, Rule,
    RulePriority, RuleRef, Subject, Tier,
};
use oxilium_model::policy::selector::{
    LabelSelector, Operator, PeerScope, Requirement, Scope, SelectorKey,
};
use proptest::prelude::*;

/// The pod whose policy most tests compute: `app=a` in namespace `red`.
pub(crate) const SUBJECT: NumericIdentity = NumericIdentity(10001);

/// A pod's identity.
pub(crate) fn pod(app: &str, namespace: &str, cluster: &str, ports: &[(&str, u16)]) -> Identity {
    let labels = vec![
        Label::of_pod("app", app).unwrap(),
        Label::pod_namespace(namespace),
        Label::of_namespace("env", if namespace == "red" { "prod" } else { "dev" }),
        Label::cluster(cluster),
        Label::service_account("default"),
    ];
    let mut named_ports = NamedPorts::default();
    for (name, port) in ports {
        named_ports.insert(name, Protocol::TCP, *port);
    }
    Identity {
        labels: labels.into(),
        named_ports,
    }
}

/// An identity with these labels, as they stand in a CiliumIdentity.
pub(crate) fn labelled(labels: &[&str]) -> Identity {
    Identity {
        labels: labels
            .iter()
            .map(|text| Label::parse(text).unwrap())
            .collect(),
        named_ports: NamedPorts::default(),
    }
}

/// Identities of every kind: reserved, pods of this cluster and another, prefixes, names, remote nodes.
pub(crate) fn identities() -> Identities {
    let mut all = Identities::default();
    let mut add = |id, identity| all.insert(NumericIdentity(id), identity);
    add(
        1,
        labelled(&["reserved:host", "k8s:app=a", "k8s:role=worker"]),
    );
    add(10001, pod("a", "red", "default", &[("http", 80)]));
    add(10002, pod("b", "red", "default", &[("http", 8080)]));
    add(10003, pod("a", "blue", "default", &[]));
    add(
        10004,
        pod("b", "blue", "default", &[("http", 80), ("other", 81)]),
    );
    add(131_073, pod("a", "red", "west", &[("http", 82)]));
    add(
        16_777_217,
        labelled(&["cidr:10.0.0.0/8", "reserved:world-ipv4"]),
    );
    add(
        16_777_218,
        labelled(&["cidr:10.1.0.0/16", "reserved:world-ipv4"]),
    );
    add(
        16_777_219,
        labelled(&["cidr:10.1.2.3/32", "reserved:world-ipv4"]),
    );
    add(
        16_777_220,
        labelled(&["cidr:2001-db8--0/32", "reserved:world-ipv6"]),
    );
    add(
        16_777_221,
        labelled(&["fqdn:a.test", "reserved:world-ipv4"]),
    );
    add(
        16_777_222,
        labelled(&[
            "cidr:192.0.2.0/24",
            "cidrgroup:io.cilium.policy.cidrgroupname/partners",
            "reserved:world-ipv4",
        ]),
    );
    add(
        33_554_433,
        labelled(&[
            "node:role=worker",
            "reserved:remote-node",
            "k8s:io.cilium.k8s.policy.cluster=default",
        ]),
    );
    all
}

/// The view of one of the identities as a subject.
pub(crate) fn view(identities: &Identities, id: NumericIdentity) -> SubjectView {
    let identity = identities.get(id).unwrap();
    SubjectView {
        labels: identity.labels.clone(),
        named_ports: identity.named_ports.clone(),
    }
}

/// Numbers to probe: all of the identities, and one unknown of each kind.
pub(crate) fn remotes(identities: &Identities) -> Vec<NumericIdentity> {
    let unknown = [20_000, 131_100, 16_800_000, 33_600_000].map(NumericIdentity);
    identities.iter().map(|(id, _)| id).chain(unknown).collect()
}

/// A selector by one label.
pub(crate) fn app(name: &str) -> LabelSelector {
    let mut selector = LabelSelector::default();
    selector
        .labels
        .insert(SelectorKey::parse("app"), Arc::from(name));
    selector
}

/// A selector of one expression.
pub(crate) fn expression(key: &str, operator: Operator) -> LabelSelector {
    LabelSelector {
        expressions: vec![Requirement {
            key: SelectorKey::parse(key),
            operator,
        }],
        ..LabelSelector::default()
    }
}

/// A reference to a policy.
pub(crate) fn reference(name: &str) -> Arc<PolicyRef> {
    Arc::new(PolicyRef {
        kind: PolicyKind::CiliumNetworkPolicy,
        namespace: Some("red".into()),
        name: name.into(),
        uid: "".into(),
    })
}

/// The scope in which the tests' policies stand: namespace `red`, cluster `default`.
pub(crate) fn scope() -> Scope {
    Scope::namespaced("red", Some("default"))
}

/// The scope of the peers of a policy in `red` that selects `app=a`.
pub(crate) fn peers() -> PeerScope {
    scope().endpoints(&app("a")).1
}

/// An allow rule of the normal tier for `app=a` in `red`, to be changed by the test.
pub(crate) fn rule(
    policy: &Arc<PolicyRef>,
    direction: Direction,
    peers: Peers,
    ports: PortRules,
) -> Rule {
    Rule {
        origin: Arc::new(RuleRef {
            policy: policy.clone(),
            path: "spec.rule".into(),
            direction,
            location: None,
        }),
        subject: Subject::Endpoints(scope().endpoints(&app("a")).0),
        direction,
        action: Action::Allow,
        tier: Tier::Normal,
        priority: RulePriority::default(),
        default_deny: true,
        peers,
        ports,
        auth: None,
    }
}

/// One port or range of a protocol, without L7 rules.
pub(crate) fn port(protocol: Protocol, first: u16, last: u16) -> PortRules {
    PortRules::AnyOf(vec![PortRule {
        ports: vec![PortMatch {
            protocol,
            port: PortSpec::Range { first, last },
        }],
        l7: L7::default(),
    }])
}

/// A policy of one rule.
pub(crate) fn policy(name: &str, make: impl FnOnce(&Arc<PolicyRef>) -> Vec<Rule>) -> Policy {
    let reference = reference(name);
    Policy {
        rules: make(&reference),
        reference,
        audit: false,
    }
}

/// Ports that the random rules mention; probes lie at, below and above each.
pub(crate) const PORTS: [u16; 9] = [0, 1, 53, 80, 81, 1000, 1999, 8080, 65535];

fn peer() -> impl Strategy<Value = Peer> {
    let endpoints = prop_oneof![
        Just(LabelSelector::default()),
        Just(app("a")),
        Just(app("b")),
        Just(expression(
            "app",
            Operator::NotIn(["a".into()].into_iter().collect())
        )),
        Just(expression(
            "k8s:io.kubernetes.pod.namespace",
            Operator::Exists
        )),
        Just(expression(
            "k8s:io.kubernetes.pod.namespace",
            Operator::DoesNotExist
        )),
        Just(expression("reserved:host", Operator::DoesNotExist)),
        Just(expression(
            "k8s:io.cilium.k8s.namespace.labels.env",
            Operator::In(["dev".into()].into_iter().collect())
        )),
    ];
    let entity = prop::sample::select(Entity::NAMES.to_vec()).prop_map(|(entity, _)| entity);
    let cidr = prop::sample::select(vec![
        ("10.0.0.0/8", None),
        ("10.0.0.0/8", Some("10.1.0.0/16")),
        ("10.1.2.3/32", None),
        ("0.0.0.0/0", None),
        ("::/0", Some("2001:db8::/32")),
        ("2001:db8::/32", None),
    ]);
    prop_oneof![
        4 => endpoints.prop_map(|selector| Peer::Endpoints(peers().endpoints(&selector))),
        3 => entity.prop_map(Peer::Entity),
        2 => cidr.prop_map(|(net, except): (&str, Option<&str>)| {
            let except = except.map(|net| net.parse().unwrap());
            Peer::Cidr(CidrPeer::new(net.parse().unwrap(), except))
        }),
        1 => Just(Peer::Fqdn(FqdnPeer("a.test".into()))),
        1 => Just(Peer::CidrGroup(CidrGroupPeer::named("partners", []))),
        1 => Just(Peer::Nodes(peers().nodes(&LabelSelector::default()))),
        1 => Just(Peer::Endpoints(peers().namespaces(&expression(
            "env",
            Operator::NotIn(["prod".into()].into_iter().collect())
        )))),
    ]
}

fn all_peers() -> impl Strategy<Value = Peers> {
    prop_oneof![
        2 => Just(Peers::Anyone),
        1 => Just(Peers::Nobody),
        6 => prop::collection::vec(peer(), 1..3).prop_map(Peers::AnyOf),
    ]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let protocol = prop::sample::select(vec![
        Protocol::ANY,
        Protocol::TCP,
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
    ]);
    let bounds = prop::sample::select(PORTS.to_vec());
    let spec = prop_oneof![
        1 => Just(PortSpec::Any),
        5 => bounds.clone().prop_map(|port| PortSpec::Range { first: port, last: port }),
        3 => (bounds.clone(), bounds).prop_map(|(a, b)| PortSpec::Range {
            first: a.min(b),
            last: a.max(b),
        }),
        1 => Just(PortSpec::Named("http".into())),
    ];
    prop_oneof![
        8 => (protocol, spec).prop_map(|(protocol, port)| PortMatch { protocol, port }),
        1 => prop::sample::select(vec![0_u8, 8, 255]).prop_map(|t| PortMatch::icmp(Protocol::ICMP, t)),
        1 => Just(PortMatch::icmp(Protocol::ICMPV6, 128)),
    ]
}

fn l7() -> impl Strategy<Value = L7> {
    let http = L7 {
        rules: L7Rules::Http([HttpRule::default()].into()),
        ..L7::default()
    };
    let dns = L7 {
        rules: L7Rules::Dns([DnsRule::Pattern("*".into())].into()),
        ..L7::default()
    };
    let tls = L7 {
        server_names: ["a.test".into()].into(),
        ..L7::default()
    };
    let listener = |name: &str, priority| L7 {
        listener: Some(Listener {
            kind: "CiliumEnvoyConfig".into(),
            config: "c".into(),
            name: name.into(),
            priority,
        }),
        ..L7::default()
    };
    prop_oneof![
        12 => Just(L7::default()),
        2 => Just(http),
        1 => Just(dns),
        1 => Just(tls),
        1 => Just(listener("l1", None)),
        1 => Just(listener("l2", Some(5))),
    ]
}

fn port_rules() -> impl Strategy<Value = PortRules> {
    let one = (prop::collection::vec(port_match(), 0..3), l7())
        .prop_map(|(ports, l7)| PortRule { ports, l7 });
    prop_oneof![
        2 => Just(PortRules::All),
        5 => prop::collection::vec(one, 1..3).prop_map(PortRules::AnyOf),
    ]
}

#[derive(Clone, Debug)]
struct RuleSeed {
    ingress: bool,
    subject: u8,
    action: u8,
    tier: u8,
    priority: u32,
    default_deny: bool,
    peers: Peers,
    ports: PortRules,
    auth: Option<AuthMode>,
}

fn rule_seed(auth: bool) -> impl Strategy<Value = RuleSeed> {
    let mode = if auth {
        prop::option::weighted(
            0.3,
            prop::sample::select(vec![
                AuthMode::Disabled,
                AuthMode::Required,
                AuthMode::AlwaysFail,
            ]),
        )
        .boxed()
    } else {
        Just(None).boxed()
    };
    (
        any::<bool>(),
        0..4_u8,
        0..8_u8,
        0..6_u8,
        0..2_u32,
        prop::bool::weighted(0.8),
        all_peers(),
        port_rules(),
        mode,
    )
        .prop_map(
            |(ingress, subject, action, tier, priority, default_deny, peers, ports, auth)| {
                RuleSeed {
                    ingress,
                    subject,
                    action,
                    tier,
                    priority,
                    default_deny,
                    peers,
                    ports,
                    auth,
                }
            },
        )
}

/// A random policy; with `auth`, rules may ask for authentication.
pub(crate) fn any_policy(name: &'static str, auth: bool) -> impl Strategy<Value = Policy> {
    prop::collection::vec(rule_seed(auth), 1..5)
        .prop_map(move |seeds| policy(name, |policy| grown(policy, seeds)))
}

fn grown(policy: &Arc<PolicyRef>, seeds: Vec<RuleSeed>) -> Vec<Rule> {
    let grow = |(index, seed): (usize, RuleSeed)| {
        let direction = if seed.ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let mut rule = rule(policy, direction, seed.peers, seed.ports);
        rule.origin = Arc::new(RuleRef {
            path: format!("spec.rule[{index}]").into(),
            ..(*rule.origin).clone()
        });
        rule.subject = match seed.subject {
            0 => Subject::Nodes(scope().nodes(&LabelSelector::default()).0),
            1 => Subject::Endpoints(scope().endpoints(&app("b")).0),
            _ => rule.subject,
        };
        rule.tier = match seed.tier {
            0 | 1 => Tier::Admin,
            2 => Tier::Baseline,
            _ => Tier::Normal,
        };
        rule.action = match seed.action {
            0 | 1 => Action::Deny,
            2 | 3 if rule.tier != Tier::Normal => Action::Pass,
            _ => Action::Allow,
        };
        if rule.tier != Tier::Normal {
            rule.priority.policy = seed.priority;
        }
        rule.default_deny = seed.default_deny && rule.tier == Tier::Normal;
        rule.auth = seed.auth;
        rule
    };
    seeds.into_iter().enumerate().map(grow).collect()
}

/// A few random policies.
pub(crate) fn any_policies(auth: bool) -> impl Strategy<Value = Vec<Policy>> {
    (
        any_policy("p1", auth),
        any_policy("p2", auth),
        any_policy("p3", auth),
        0..4_usize,
    )
        .prop_map(|(a, b, c, count)| [a, b, c].into_iter().take(count).collect())
}

/// As many cases as PROPTEST_CASES says, or `cases`.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}
