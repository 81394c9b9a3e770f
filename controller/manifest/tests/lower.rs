//! What rules become: absent, empty and full lists, provenance, staged policies, and the tiers of ClusterNetworkPolicy.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use oxilium_manifest::policy::service::{Service, Services};
use oxilium_manifest::reader::{Limits, read};
use oxilium_manifest::tree::Node;
use oxilium_manifest::{Admission, LowerConfig, Lowered, lower_policy};
use oxilium_model::policy::peer::{Peer, Peers};
use oxilium_model::policy::rule::{Action, PortRules, Rule, Tier};
use serde_json::{Value, json};

fn lower(value: &Value, config: &LowerConfig<'_>) -> Lowered {
    lower_policy(&Node::from_json(value), None, config).unwrap()
}

fn cilium(list: &str, item: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"endpointSelector": {}, list: [item]},
    })
}

fn rule(list: &str, item: &Value) -> Rule {
    lower(&cilium(list, item), &LowerConfig::default())
        .policy
        .rules
        .remove(0)
}

/// In one word each: peers, ports.
fn shape(rule: &Rule) -> (&'static str, &'static str) {
    let peers = match &rule.peers {
        Peers::Anyone => "anyone",
        Peers::Nobody => "nobody",
        Peers::AnyOf(_) => "some",
    };
    let ports = match &rule.ports {
        PortRules::All => "all ports",
        PortRules::AnyOf(rules) if rules.iter().all(|rule| rule.ports.is_empty()) => "no port",
        PortRules::AnyOf(_) => "some ports",
    };
    (peers, ports)
}

/// Advisory 6: an empty list selects nothing, whatever stands beside it; only an absent one leaves the choice open.
#[test]
fn absent_and_empty_lists_select_different_things() {
    let port = json!([{"ports": [{"port": "80"}]}]);
    for (list, item, expected) in [
        ("ingress", json!({}), ("nobody", "all ports")),
        (
            "ingress",
            json!({"fromEndpoints": []}),
            ("nobody", "all ports"),
        ),
        (
            "ingress",
            json!({"fromEndpoints": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "ingress",
            json!({"fromEntities": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "ingress",
            json!({"fromCIDR": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "ingress",
            json!({"fromCIDRSet": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "ingress",
            json!({"fromGroups": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "egress",
            json!({"toFQDNs": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "egress",
            json!({"toServices": [], "toPorts": port}),
            ("nobody", "some ports"),
        ),
        (
            "ingress",
            json!({"fromEndpoints": [{}]}),
            ("some", "all ports"),
        ),
        (
            "ingress",
            json!({"fromEndpoints": [{}], "fromCIDR": []}),
            ("nobody", "all ports"),
        ),
        (
            "ingress",
            json!({"toPorts": port}),
            ("anyone", "some ports"),
        ),
        ("ingress", json!({"toPorts": []}), ("nobody", "all ports")),
        ("ingress", json!({"toPorts": [{}]}), ("anyone", "no port")),
        (
            "ingress",
            json!({"toPorts": [{"ports": []}]}),
            ("anyone", "no port"),
        ),
        (
            "ingress",
            json!({"icmps": [{"fields": [{"type": 8}]}]}),
            ("anyone", "some ports"),
        ),
        ("ingress", json!({"icmps": [{}]}), ("anyone", "no port")),
        ("ingressDeny", json!({}), ("nobody", "all ports")),
        (
            "egressDeny",
            json!({"toEntities": ["all"]}),
            ("some", "all ports"),
        ),
    ] {
        assert_eq!(shape(&rule(list, &item)), expected, "{list} {item}");
    }
}

#[test]
fn networkpolicy_takes_absent_and_empty_for_everyone_and_types_without_rules_for_nobody() {
    let spec = |spec: Value| {
        let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec});
        let lowered = lower(&value, &LowerConfig::default());
        lowered
            .policy
            .rules
            .iter()
            .map(|rule| (rule.direction as u8, shape(rule).0))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        spec(json!({"podSelector": {}, "ingress": [{}]})),
        [(0, "anyone")]
    );
    assert_eq!(
        spec(json!({"podSelector": {}, "ingress": [{"from": []}]})),
        [(0, "anyone")]
    );
    assert_eq!(spec(json!({"podSelector": {}})), [(0, "nobody")]);
    assert_eq!(
        spec(json!({"podSelector": {}, "policyTypes": ["Egress"]})),
        [(1, "nobody")]
    );
    assert_eq!(
        spec(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]})),
        [(0, "nobody"), (1, "anyone")]
    );
}

/// Advisory 1: a peer of addresses never becomes one of pods, whatever the cluster is called.
#[test]
fn an_ip_block_is_addresses_only_in_every_cluster() {
    for cluster in [None, Some("default"), Some("west")] {
        let config = LowerConfig {
            cluster,
            ..LowerConfig::default()
        };
        let value = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        });
        let lowered = lower(&value, &config);
        let Peers::AnyOf(peers) = &lowered.policy.rules[0].peers else {
            panic!("{:?}", lowered.policy.rules[0].peers)
        };
        assert!(matches!(peers.as_slice(), [Peer::Cidr(_)]), "{peers:?}");
    }
}

#[test]
fn a_rule_names_its_object_field_file_and_line() {
    let text = "---\n# first\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspecs:\n- endpointSelector: {}\n  egressDeny:\n  - {}\n  - toCIDR: [10.0.0.0/8]\n";
    let root = read(text.as_bytes(), &Limits::default()).unwrap().remove(0);
    let lowered = lower_policy(&root, Some(&Arc::from("a.yaml")), &LowerConfig::default()).unwrap();
    assert_eq!(
        lowered.policy.rules[1].origin.to_string(),
        "CiliumNetworkPolicy shop/p specs[0].egressDeny[1] (a.yaml:11)"
    );
}

#[test]
fn only_the_annotation_makes_a_policy_a_staged_one_and_a_misspelt_one_is_refused() {
    let with = |value: &str| {
        let mut policy = cilium("ingress", &json!({}));
        policy["metadata"]["annotations"] = json!({"policy.oxilium.io/enforcement": value});
        lower_policy(&Node::from_json(&policy), None, &LowerConfig::default())
    };
    assert!(with("audit").unwrap().policy.audit);
    assert!(!with("enforce").unwrap().policy.audit);
    assert_eq!(
        with("audti").unwrap_err()[0].to_string(),
        "CiliumNetworkPolicy shop/p: metadata.annotations[\"policy.oxilium.io/enforcement\"]: \"audti\" is not allowed: write audit or enforce"
    );
}

#[test]
fn default_deny_is_as_written_unless_the_agent_ignores_it() {
    let mut policy = cilium("ingress", &json!({}));
    policy["spec"]["enableDefaultDeny"] = json!({"ingress": false});
    let honoured = lower(&policy, &LowerConfig::default());
    assert!(!honoured.policy.rules[0].default_deny);
    let ignored = LowerConfig {
        non_default_deny: false,
        ..LowerConfig::default()
    };
    assert!(lower(&policy, &ignored).policy.rules[0].default_deny);
}

#[test]
fn services_stand_for_their_pods_or_backends_and_for_nobody_when_they_are_not_there() {
    let mut services = Services::new();
    let backends = vec!["192.0.2.7".parse().unwrap()];
    services.insert(
        "data",
        "external",
        Service {
            backends,
            ..Service::default()
        },
    );
    let app = |name: &str| [("app".to_owned(), name.to_owned())].into();
    services.insert(
        "data",
        "db",
        Service {
            labels: app("db"),
            selector: app("db"),
            ..Service::default()
        },
    );
    let config = LowerConfig {
        services: &services,
        ..LowerConfig::default()
    };
    let peers = |service: Value| {
        let policy = cilium(
            "egress",
            &json!({"toServices": [service], "toPorts": [{"ports": [{"port": "80"}]}]}),
        );
        let lowered = lower(&policy, &config);
        assert!(lowered.names_services);
        format!("{:?}", lowered.policy.rules[0].peers)
    };
    let named = |name: &str| json!({"k8sService": {"serviceName": name, "namespace": "data"}});
    assert!(peers(named("external")).contains("192.0.2.7/32"));
    assert!(peers(named("db")).contains("Endpoints"));
    assert_eq!(peers(named("missing")), "Nobody");
    let labelled =
        |value: &str| json!({"k8sServiceSelector": {"selector": {"matchLabels": {"app": value}}}});
    assert!(peers(labelled("db")).contains("Endpoints"));
    assert_eq!(peers(labelled("other")), "Nobody");
}

#[test]
fn cluster_policies_keep_tier_priority_and_order_and_open_dns_for_names() {
    let value = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"},
        "spec": {
            "tier": "Baseline", "priority": 7, "subject": {"namespaces": {}},
            "egress": [
                {"action": "Pass", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}]},
                {"action": "Accept", "to": [{"domainNames": ["*.example.org"]}, {"networks": ["10.0.0.0/8"]}]},
                {"action": "Deny", "to": [{}]},
                {"action": "Accept", "to": [{}]},
            ],
        },
    });
    let rules = lower(&value, &LowerConfig::default()).policy.rules;
    let found: Vec<_> = rules
        .iter()
        .map(|rule| {
            (
                rule.action,
                rule.tier,
                rule.priority.policy,
                rule.priority.rule,
                shape(rule),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (Action::Pass, Tier::Baseline, 7, 0, ("some", "all ports")),
            // The queries for the names, then the names and the addresses.
            (Action::Allow, Tier::Baseline, 7, 1, ("some", "some ports")),
            (Action::Allow, Tier::Baseline, 7, 1, ("some", "all ports")),
            // A peer that says nothing: a Deny is for everyone, an Accept for nobody.
            (Action::Deny, Tier::Baseline, 7, 2, ("anyone", "all ports")),
        ]
    );
    assert!(rules.iter().all(|rule| !rule.default_deny));
    assert!(format!("{:?}", rules[2].peers).contains("**.example.org"));
}

#[test]
fn an_api_server_of_another_version_may_have_let_more_pass() {
    let item = json!({"fromEntities": ["world-ipv4"]});
    let port = json!({"fromCIDR": ["10.0.0.1"], "toPorts": [{"ports": [{"port": "80", "protocol": "tcp"}]}]});
    let network = |item: &Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"ingress": [item]}});
    for policy in [
        cilium("ingress", &item),
        cilium("ingress", &port),
        cilium("ingress", &json!({"fromEndpoints": null})),
        network(&json!({"ports": [{"port": 0}]})),
        network(&json!({"ports": [{"endPort": 90}]})),
        network(&json!({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]})),
        network(&json!({"from": null})),
    ] {
        let root = Node::from_json(&policy);
        assert!(lower_policy(&root, None, &LowerConfig::default()).is_err());
        let agent = LowerConfig {
            admission: Admission::Agent,
            ..LowerConfig::default()
        };
        assert!(lower_policy(&root, None, &agent).is_ok());
    }
}

/// All that is wrong is said at once.
#[test]
fn every_error_of_a_document_is_collected() {
    let mut policy = cilium(
        "ingress",
        &json!({"fromEntities": ["moon"], "fromEndpoints": [{"matchLabels": {"a b": "c"}}], "toPorts": [{"ports": [{"port": "x_y"}]}]}),
    );
    policy["spec"]["egress"] =
        json!([{"toCIDR": ["10.0.0.0/40"], "icmps": [{"fields": [{"type": 300}]}], "toPort": []}]);
    policy["metadata"]["name"] = json!("");
    let errors =
        lower_policy(&Node::from_json(&policy), None, &LowerConfig::default()).unwrap_err();
    let mut paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "metadata.name",
            "spec.egress[0].icmps[0].fields[0].type",
            "spec.egress[0].toCIDR[0]",
            "spec.egress[0].toPort",
            "spec.ingress[0]",
            "spec.ingress[0].fromEndpoints[0].matchLabels[\"a b\"]",
            "spec.ingress[0].fromEntities[0]",
            "spec.ingress[0].toPorts[0].ports[0].port",
        ]
    );
}
