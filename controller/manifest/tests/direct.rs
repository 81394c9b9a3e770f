//! Objects read straight from their JSON say what they say when they are admitted.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::sync::Arc;

use oxilium_manifest::direct::{self, Shared};
use oxilium_manifest::object::{Input, admit};
use oxilium_manifest::tree::{FromJson, Node};
use oxilium_manifest::{Admission, LowerConfig};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn endpoint() -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {"name": "web-0", "namespace": "shop", "resourceVersion": "77", "annotations": {"a": "b"}, "managedFields": [{}]},
        "status": {
            "id": 12, "state": "ready",
            "identity": {"id": 4711, "labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]},
            "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}, {"ipv4": "10.0.0.2"}], "node": "192.0.2.2"},
            "named-ports": [{"name": "HTTP", "port": 8080, "protocol": "TCP"}],
        },
    })
}

fn identity() -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
        "metadata": {"name": "4711", "resourceVersion": "78", "annotations": {"oxilium.io/unused-since": "2026-01-01T00:00:00Z"}},
        "security-labels": {"k8s:app": "web", "k8s:a\"b": ""},
    })
}

/// What admission makes of it; none if it refuses.
fn admitted(object: &Value) -> Option<Input> {
    let FromJson(tree): FromJson = serde_json::from_str(&object.to_string()).unwrap();
    let config = LowerConfig {
        admission: Admission::Agent,
        ..LowerConfig::default()
    };
    admit(&tree as &Node, None, "n1", &config)
        .ok()
        .map(|object| object.input)
}

fn direct(object: &Value, shared: &Shared) -> Option<(Input, String)> {
    let json = object.to_string();
    let endpoint = direct::endpoint(&json, shared)
        .map(|read| (Input::RemoteEndpoint(Box::new(read.object)), read.version));
    let identity = || {
        let read = direct::identity(&json, shared)?;
        let (number, identity) = read.object;
        Some((Input::ClusterIdentity(number, identity), read.version))
    };
    match object["kind"].as_str() {
        Some("CiliumEndpoint") => endpoint,
        _ => identity(),
    }
}

#[test]
fn ordinary_objects_are_read_directly() {
    let shared = Shared::default();
    for (object, version) in [(endpoint(), "77"), (identity(), "78")] {
        let (found, of_version) = direct(&object, &shared).unwrap();
        assert_eq!(Some(found), admitted(&object));
        assert_eq!(of_version, version);
    }
}

#[test]
fn what_many_objects_have_is_one_allocation() {
    let shared = Shared::default();
    let read = |name: &str| {
        let mut object = endpoint();
        object["metadata"]["name"] = json!(name);
        direct::endpoint(&object.to_string(), &shared)
            .unwrap()
            .object
    };
    let (one, other) = (read("web-0"), read("web-1"));
    assert!(Arc::ptr_eq(
        &one.reference.namespace,
        &other.reference.namespace
    ));
    // Each of the two, and what is shared: by the text that it was read from, and by itself.
    assert_eq!(one.labels.holders(), 4);
    assert_eq!(one.named_ports.holders(), 3);
}

#[test]
fn values_that_nobody_has_any_more_go() {
    let shared = Shared::default();
    let read = |number: usize| {
        let mut object = endpoint();
        object["status"]["identity"]["labels"] = json!([format!("k8s:app=app-{number}")]);
        direct::endpoint(&object.to_string(), &shared)
            .unwrap()
            .object
    };
    let kept = read(0);
    for number in 1..10_000 {
        read(number);
    }
    assert!(shared.len() < 3000, "{}", shared.len());
    assert_eq!(kept.labels, read(0).labels);
}

/// Where something may be out of the ordinary.
const PLACES: [&str; 19] = [
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/resourceVersion",
    "/metadata/annotations",
    "/metadata/annotations/a",
    "/status",
    "/status/identity",
    "/status/identity/id",
    "/status/identity/labels",
    "/status/identity/labels/0",
    "/status/networking",
    "/status/networking/addressing",
    "/status/networking/addressing/0/ipv4",
    "/status/networking/node",
    "/status/named-ports",
    "/status/named-ports/0/port",
    "/status/named-ports/0/protocol",
    "/security-labels",
    "/security-labels/k8s:app",
];

fn odd() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "x",
        "a/b",
        "..",
        "0",
        "256",
        "0256",
        "+300",
        "70000",
        "16777216",
        "10.0.0.1",
        "::1",
        "fd00::2",
        "10.0.0",
        "k8s:a=b",
        "reserved:host",
        "cidr:10.0.0.0/8",
        "cidr:x",
        "nosource",
        "tcp",
        "UDP",
        "SCTP",
        "ICMP",
        "\u{fc}\"\n",
    ];
    prop_oneof![
        select(texts.to_vec()).prop_map(|text| json!(text)),
        select(vec![
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!([null]),
            json!(["k8s:a=b", "k8s:a=b"])
        ]),
        select(vec![-1_i64, 0, 1, 255, 300, 65_535, 65_536, 4_294_967_296]).prop_map(|n| json!(n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_directly_is_what_is_admitted(
        is_endpoint in any::<bool>(),
        changes in prop::collection::vec((select(PLACES.to_vec()), prop::option::of(odd())), 0..4),
    ) {
        let mut object = if is_endpoint { endpoint() } else { identity() };
        for (place, value) in changes {
            let (parent, field) = place.rsplit_once('/').unwrap();
            match (object.pointer_mut(parent), value) {
                (Some(Value::Object(fields)), Some(value)) => {
                    fields.insert(field.to_owned(), value);
                }
                (Some(Value::Object(fields)), None) => {
                    fields.remove(field);
                }
                (Some(Value::Array(items)), Some(value)) if !items.is_empty() => items[0] = value,
                _ => {}
            }
        }
        if let Some((found, _)) = direct(&object, &Shared::default()) {
            prop_assert_eq!(Some(found), admitted(&object), "{}", object);
        }
    }
}
