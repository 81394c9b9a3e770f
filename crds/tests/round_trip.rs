//! What an API server stores must come back from these types as it went in.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use oxilium_crds::{
    CiliumCIDRGroup, CiliumEndpoint, CiliumIdentity, CiliumNetworkPolicy, CiliumNode, NetworkPolicy,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) {
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *value);
}

#[test]
fn absent_and_empty_lists_of_policies_stay_apart() {
    for rule in [
        json!({}),
        json!({"fromEndpoints": []}),
        json!({"fromEndpoints": [{}]}),
        json!({"fromEndpoints": [{"matchLabels": {}}], "toPorts": []}),
        json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": []}], "toPorts": [{}]}),
        json!({"icmps": [{"fields": [{"type": 8}, {"type": "EchoReply", "family": "IPv4"}]}]}),
    ] {
        round_trip::<CiliumNetworkPolicy>(&json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"endpointSelector": {}, "ingress": [rule]},
        }));
    }
    round_trip::<NetworkPolicy>(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": [{"from": [], "ports": [{"port": "http", "protocol": "TCP"}, {"port": 80, "endPort": 90}]}, {}]},
    }));
}

#[test]
fn an_unknown_field_of_a_policy_rule_is_an_error() {
    let policy = json!({
        "metadata": {"name": "p"},
        "spec": {"endpointSelector": {}, "ingress": [{"fromEndpoint": []}]},
    });
    let error = serde_json::from_value::<CiliumNetworkPolicy>(policy).unwrap_err();
    assert!(error.to_string().contains("fromEndpoint"), "{error}");
}

#[test]
fn what_agents_publish_round_trips() {
    round_trip::<CiliumEndpoint>(&json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {"name": "web-0", "namespace": "default"},
        "status": {
            "id": 17,
            "external-identifiers": {"container-id": "c", "k8s-namespace": "default", "k8s-pod-name": "web-0"},
            "identity": {"id": 4711, "labels": ["k8s:app=web"]},
            "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}], "node": "192.0.2.1"},
            "policy": {"ingress": {"enforcing": true, "state": "enforcing"}, "egress": {"enforcing": false}},
            "state": "ready",
            "named-ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "service-account": "default",
        },
    }));
    round_trip::<CiliumIdentity>(&json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": "4711"},
        "security-labels": {"k8s:app": "web"},
    }));
    round_trip::<CiliumCIDRGroup>(&json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": "g", "labels": {"a": "b"}},
        "spec": {"externalCIDRs": ["192.0.2.0/24"]},
    }));
}

#[test]
fn fields_that_are_not_read_do_not_matter() {
    let node: CiliumNode = serde_json::from_value(json!({
        "metadata": {"name": "worker", "managedFields": [{}]},
        "spec": {
            "addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}],
            "ipam": {"podCIDRs": ["10.1.0.0/24"], "pools": {}},
            "health": null,
            "azure": {},
        },
        "status": {},
    }))
    .unwrap();
    assert_eq!(node.spec.ipam.pod_cidrs, ["10.1.0.0/24"]);
}
