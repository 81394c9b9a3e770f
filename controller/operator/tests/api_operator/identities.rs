//! Identities and endpoints that nobody uses go.

use std::time::Duration;

use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::require::{Need, require};
use oxilium_operator::{endpoints, identities};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{client, json_of};

/// The resources that the collections look at, as little of them as that takes.
fn resources(api: &ApiServer) {
    let schema = "{openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
    for (kind, plural, scope) in [
        ("CiliumIdentity", "ciliumidentities", "Cluster"),
        ("CiliumEndpoint", "ciliumendpoints", "Namespaced"),
    ] {
        api.apply(&format!(
            "{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: {plural}.cilium.io}}, \
             spec: {{group: cilium.io, names: {{kind: {kind}, plural: {plural}}}, scope: {scope}, \
             versions: [{{name: v2, served: true, storage: true, schema: {schema}}}]}}}}"
        ))
        .unwrap();
        api.kubectl(&[
            "wait",
            "--for=condition=Established",
            &format!("crd/{plural}.cilium.io"),
            "--timeout=60s",
        ])
        .unwrap();
    }
}

fn identity(api: &ApiServer, number: u32, mark: Option<&str>) {
    let mark = mark.map_or_else(String::new, |mark| {
        format!("{}: '{mark}'", identities::UNUSED_SINCE)
    });
    api.apply(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {{name: '{number}', annotations: {{{mark}}}}}, \
         security-labels: {{}}}}"
    ))
    .unwrap();
}

fn endpoint(api: &ApiServer, name: &str, number: u32, owner: &str) {
    api.apply(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumEndpoint, metadata: {{name: {name}, namespace: gc, \
         ownerReferences: [{{apiVersion: v1, kind: Pod, name: {name}, uid: '{owner}'}}]}}, \
         status: {{identity: {{id: {number}}}}}}}"
    ))
    .unwrap();
}

fn names(api: &ApiServer, arguments: &[&str]) -> Vec<String> {
    let list = json_of(api, &[&["get"], arguments].concat());
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn mark_of(api: &ApiServer, number: &str) -> Value {
    let identity = json_of(api, &["get", "ciliumidentities", number]);
    identity["metadata"]["annotations"][identities::UNUSED_SINCE].clone()
}

/// One story: the collections look at everything that the server has.
#[test]
fn what_nobody_uses_is_marked_then_removed_and_whoever_uses_it_meanwhile_wins() {
    const TIMEOUT: Duration = Duration::from_mins(30);
    const LONG_AGO: &str = "2026-01-01T00:00:00Z";
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::start().unwrap();
    let runtime = Runtime::new().unwrap();
    let client = client(&runtime, api.kubeconfig().to_owned());
    api.namespace("gc").unwrap();
    resources(&api);
    identity(&api, 1000, None);
    identity(&api, 1001, None);
    identity(&api, 1002, Some(LONG_AGO));
    identity(&api, 1003, Some(LONG_AGO));
    identity(&api, 1004, Some(LONG_AGO));
    endpoint(&api, "used", 1000, "1");
    endpoint(&api, "again", 1002, "1");

    let plan = runtime
        .block_on(identities::look(&client, TIMEOUT))
        .unwrap();
    // After the look an agent begins to use 1004: it takes the mark off first.
    api.kubectl(&[
        "annotate",
        "ciliumidentity",
        "1004",
        &format!("{}-", identities::UNUSED_SINCE),
    ])
    .unwrap();
    let pass = runtime.block_on(identities::apply(&client, plan));
    let expected = identities::Pass {
        seen: 5,
        marked: 1,
        unmarked: 1,
        removed: 1,
        overtaken: 1,
        failed: 0,
    };
    assert_eq!(pass, expected);
    assert_eq!(
        names(&api, &["ciliumidentities"]),
        ["1000", "1001", "1002", "1004"]
    );
    assert_eq!(mark_of(&api, "1000"), Value::Null);
    assert!(mark_of(&api, "1001").is_string());
    assert_eq!(mark_of(&api, "1002"), Value::Null);

    // One that is removed and made anew meanwhile is another one, though its name is the same.
    let plan = runtime
        .block_on(identities::look(&client, Duration::ZERO))
        .unwrap();
    api.kubectl(&["delete", "ciliumidentity", "1001"]).unwrap();
    identity(&api, 1001, None);
    let pass = runtime.block_on(identities::apply(&client, plan));
    assert_eq!((pass.removed, pass.overtaken), (0, 1), "{pass:?}");
    assert!(names(&api, &["ciliumidentities"]).contains(&"1001".to_owned()));

    // Endpoints: one with its pod, one of an earlier pod of that name, one without a pod.
    api.apply("{apiVersion: v1, kind: Pod, metadata: {name: lives, namespace: gc}, spec: {containers: [{name: a, image: a}]}}")
        .unwrap();
    let pod = json_of(&api, &["-n", "gc", "get", "pod", "lives"]);
    endpoint(
        &api,
        "lives",
        1000,
        pod["metadata"]["uid"].as_str().unwrap(),
    );
    let plan = runtime.block_on(endpoints::look(&client)).unwrap();
    // After the look an agent writes to one of them.
    api.kubectl(&["-n", "gc", "annotate", "ciliumendpoint", "again", "a=b"])
        .unwrap();
    let pass = runtime.block_on(endpoints::apply(&client, plan));
    let expected = endpoints::Pass {
        seen: 3,
        removed: 1,
        overtaken: 1,
        failed: 0,
    };
    assert_eq!(pass, expected);
    let pass = runtime.block_on(endpoints::collect(&client)).unwrap();
    assert_eq!(pass.removed, 1);
    assert_eq!(names(&api, &["-n", "gc", "ciliumendpoints"]), ["lives"]);
}

/// More than one page.
#[test]
fn long_lists_are_read_to_their_end() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::start().unwrap();
    let runtime = Runtime::new().unwrap();
    let client = client(&runtime, api.kubeconfig().to_owned());
    resources(&api);
    let list: Vec<String> = (2000..3203)
        .map(|number| {
            format!("---\n{{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {{name: '{number}'}}, security-labels: {{}}}}\n")
        })
        .collect();
    api.kubectl_with(
        &["create", "--save-config=false", "-f", "-"],
        &list.concat(),
    )
    .unwrap();
    let pass = runtime
        .block_on(identities::collect(&client, Duration::from_mins(30)))
        .unwrap();
    assert_eq!((pass.seen, pass.marked, pass.failed), (1203, 1203, 0));
}
