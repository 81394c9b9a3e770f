//! The definitions of the custom resources.

use kube::api::DynamicObject;
use oxilium_operator::definitions;
use serde_json::{Value, json};

use super::{json_of, shared};

/// A definition that nobody else uses.
fn definition(kind: &str, version: &str, kinds_of_size: &[&str]) -> DynamicObject {
    let plural = format!("{}s", kind.to_lowercase());
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.operator.test"),
            "labels": {definitions::SCHEMA_VERSION: version},
        },
        "spec": {
            "group": "operator.test",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "size": {"type": "string", "enum": kinds_of_size},
                }}},
            }],
        },
    }))
    .unwrap()
}

#[test]
fn definitions_are_installed_upgraded_and_never_downgraded() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    let install = |definition: &DynamicObject| {
        let all = std::slice::from_ref(definition);
        runtime
            .block_on(definitions::install(&client, all))
            .unwrap();
        let name = definition.metadata.name.as_deref().unwrap();
        json_of(api, &["get", "crd", name])
    };
    let sizes = |found: &Value| {
        found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["size"]["enum"]
            .clone()
    };
    let first = install(&definition("Widget", "1.2.3", &["s"]));
    assert_eq!(sizes(&first), json!(["s"]));
    api.kubectl(&["label", "crd", "widgets.operator.test", "somebody=else"])
        .unwrap();

    let newer = install(&definition("Widget", "1.10.0", &["s", "m"]));
    assert_eq!(sizes(&newer), json!(["s", "m"]));
    assert_eq!(newer["metadata"]["labels"]["somebody"], "else");
    assert_eq!(newer["metadata"]["uid"], first["metadata"]["uid"]);

    let older = install(&definition("Widget", "1.9.0", &["xl"]));
    assert_eq!(
        older["metadata"]["resourceVersion"],
        newer["metadata"]["resourceVersion"]
    );
}

#[test]
fn two_operators_that_install_at_once_do_not_get_in_each_other_s_way() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    let ours = [definition("Gadget", "1.0.0", &["s"])];
    runtime.block_on(async {
        let (a, b) = tokio::join!(
            definitions::install(&client, &ours),
            definitions::install(&client, &ours),
        );
        a.unwrap();
        b.unwrap();
    });
    api.kubectl(&["get", "gadgets", "--all-namespaces"])
        .unwrap();
}
