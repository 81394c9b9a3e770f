//! Pods, nodes, namespaces and what agents publish, as inputs of the model.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use oxilium_manifest::LowerConfig;
use oxilium_manifest::inputs::fill;
use oxilium_manifest::object::{Input, Object, admit};
use oxilium_manifest::tree::Node;
use oxilium_model::identity::Protocol;
use oxilium_model::world::{NodeOrigin, World};
use serde_json::{Value, json};

fn object(value: &Value) -> Object {
    admit(
        &Node::from_json(value),
        None,
        "worker",
        &LowerConfig::default(),
    )
    .unwrap()
}

fn errors(value: &Value) -> Vec<String> {
    let errors = admit(
        &Node::from_json(value),
        None,
        "worker",
        &LowerConfig::default(),
    )
    .unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

fn labels<'l>(labels: impl IntoIterator<Item = &'l oxilium_model::label::Label>) -> Vec<String> {
    labels.into_iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_has_its_own_security_relevant_labels_ports_and_addresses() {
    let object = object(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "u1",
            "labels": {"app": "web", "pod-template-hash": "5", "app.kubernetes.io/name": "w", "statefulset.kubernetes.io/pod-name": "web-0"},
        },
        "spec": {
            "nodeName": "worker", "serviceAccountName": "web",
            "containers": [
                {"name": "a", "ports": [{"name": "HTTP", "containerPort": 80}, {"containerPort": 9}]},
                {"name": "b", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            ],
        },
        "status": {"podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]},
    }));
    let Input::Pod(pod) = &object.input else {
        panic!("no pod")
    };
    assert_eq!(
        labels(&pod.labels),
        ["k8s:app=web", "k8s:app.kubernetes.io/name=w"]
    );
    assert_eq!(
        pod.named_ports.iter().collect::<Vec<_>>(),
        [("dns", Protocol::UDP, 53), ("http", Protocol::TCP, 80)]
    );
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(pod.service_account.as_deref(), Some("web"));
    assert_eq!(pod.node.as_deref(), Some("worker"));
    assert!(!pod.host_network);
}

/// Advisories 18 and 19: what a pod's author writes stands in for nothing that is derived.
#[test]
fn labels_that_would_speak_for_the_namespace_cluster_or_service_account_are_left_out_with_a_warning()
 {
    let object = object(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {
            "app": "x",
            "io.kubernetes.pod.namespace": "kube-system",
            "io.cilium.k8s.namespace.labels.env": "prod",
            "io.cilium.k8s.policy.cluster": "other",
            "io.cilium.k8s.policy.serviceaccount": "admin",
        }},
    }));
    let Input::Pod(pod) = &object.input else {
        panic!("no pod")
    };
    assert_eq!(labels(&pod.labels), ["k8s:app=x"]);
    assert_eq!(object.warnings.len(), 4);
    assert_eq!(
        object.warnings[0].path,
        "metadata.labels[\"io.cilium.k8s.namespace.labels.env\"]"
    );
}

#[test]
fn nodes_have_labels_by_whether_they_are_the_local_one() {
    let node = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"role": "a"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "192.0.2.1"}]},
        })
    };
    for (name, label) in [("worker", "k8s:role=a"), ("master", "node:role=a")] {
        let Input::Node(node) = object(&node(name)).input else {
            panic!("no node")
        };
        assert_eq!(labels(&node.labels), [label]);
        assert_eq!(node.origin, NodeOrigin::Node);
        assert_eq!(node.addresses.len(), 1);
        assert_eq!(node.pod_cidrs.len(), 2);
    }
}

#[test]
fn a_ciliumnode_comes_before_its_node_whatever_the_order() {
    let node = object(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "m", "labels": {"role": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    }));
    let agent = object(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "m"},
        "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}, {"ip": "10.1.0.1"}], "ipam": {"podCIDRs": ["10.1.0.0/24"]}},
    }));
    for objects in [[&node, &agent], [&agent, &node]] {
        let mut world = World::default();
        fill(&mut world, "worker", objects);
        let merged = world.nodes.values().next().unwrap();
        assert_eq!(merged.origin, NodeOrigin::CiliumNode);
        assert_eq!(merged.addresses.len(), 2);
        assert_eq!(labels(&merged.labels), ["node:role=a"]);
    }
}

#[test]
fn a_namespace_has_the_label_with_its_name_even_if_nobody_wrote_it() {
    let Input::Namespace(namespace) = object(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"env": "prod"}},
    }))
    .input
    else {
        panic!("no namespace")
    };
    assert_eq!(
        labels(&namespace.labels),
        [
            "k8s:io.cilium.k8s.namespace.labels.env=prod",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop"
        ]
    );
}

#[test]
fn what_other_agents_publish_becomes_remote_endpoints_and_identities() {
    let Input::RemoteEndpoint(endpoint) = object(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {"name": "api-0", "namespace": "shop"},
        "status": {
            "identity": {"id": 4711, "labels": ["k8s:app=api", "k8s:io.kubernetes.pod.namespace=shop"]},
            "networking": {"addressing": [{"ipv4": "10.2.0.9"}], "node": "192.0.2.2"},
            "named-ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }))
    .input
    else {
        panic!("no endpoint")
    };
    assert_eq!(endpoint.identity.0, 4711);
    assert_eq!(endpoint.node_address, Some("192.0.2.2".parse().unwrap()));
    let Input::ClusterIdentity(number, found) = object(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity", "metadata": {"name": "4711"},
        "security-labels": {"k8s:app": "api", "k8s:empty": ""},
    }))
    .input
    else {
        panic!("no identity")
    };
    assert_eq!(number.0, 4711);
    assert_eq!(labels(&found.labels.unwrap()), ["k8s:app=api", "k8s:empty"]);
    assert!(!found.marked);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let identity = |name: &str| json!({"apiVersion": "cilium.io/v2", "kind": "CiliumIdentity", "metadata": {"name": name}, "security-labels": {"k8s:a": "b"}});
    let mut found = BTreeMap::new();
    for (case, value) in [
        ("identity by name", identity("web")),
        ("reserved number", identity("4")),
        (
            "pod address",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"podIPs": [{"ip": "10.0.0"}]}}),
        ),
        (
            "type",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": "yes"}}),
        ),
        (
            "no name",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
        ),
        ("no metadata", json!({"apiVersion": "v1", "kind": "Pod"})),
        (
            "group prefix",
            json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"}, "spec": {"externalCIDRs": ["10.0.0.0/99"], "externalCIDR": []}}),
        ),
        (
            "endpoint without identity",
            json!({"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": {"name": "e"}, "status": {}}),
        ),
    ] {
        found.insert(case, errors(&value));
    }
    insta::assert_debug_snapshot!("wrong_objects", found);
}

#[test]
fn the_world_has_the_pods_of_the_node_and_their_namespaces() {
    let pod = |name: &str, node: Value| {
        object(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"}, "spec": {"nodeName": node}}),
        )
    };
    let objects = [
        pod("here", json!("worker")),
        pod("there", json!("other")),
        pod("unsaid", Value::Null),
    ];
    let mut world = World::default();
    fill(&mut world, "worker", &objects);
    let names: Vec<&str> = world.pods.keys().map(|pod| &*pod.name).collect();
    assert_eq!(names, ["here", "unsaid"]);
    assert!(world.namespaces.contains_key("n"));
}
