//! What is published, on a real API server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test helper that fails should say where"
)]

mod cluster;

use std::sync::OnceLock;

use cluster::{Agent, until};
use oxilium_crds::identity::MARKS;
use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::require::{Need, require};
use oxilium_model::node_state::EndpointState;
use oxilium_model::world::PodRef;
use serde_json::Value;

/// The definitions that the operator installs.
const DEFINITIONS: &str = concat!(
    include_str!("../../../../crds/yaml/cilium.io_ciliumidentities.yaml"),
    "\n---\n",
    include_str!("../../../../crds/yaml/cilium.io_ciliumendpoints.yaml"),
    "\n---\n",
    include_str!("../../../../crds/yaml/cilium.io_ciliumnodes.yaml"),
);

fn define(api: &ApiServer) {
    api.apply(DEFINITIONS).unwrap();
    api.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/ciliumidentities.cilium.io",
        "crd/ciliumendpoints.cilium.io",
        "crd/ciliumnodes.cilium.io",
    ])
    .unwrap();
}

fn shared() -> Option<&'static ApiServer> {
    static DEFINED: OnceLock<()> = OnceLock::new();
    if !require(&[Need::ApiServer]) {
        return None;
    }
    let api = ApiServer::shared().unwrap();
    DEFINED.get_or_init(|| define(api));
    Some(api)
}

fn get(api: &ApiServer, args: &[&str]) -> Value {
    let args = [&["get", "-o", "json"], args].concat();
    serde_json::from_str(&api.kubectl(&args).unwrap()).unwrap()
}

fn exists(api: &ApiServer, args: &[&str]) -> bool {
    let args = [&["get", "--ignore-not-found", "-o", "name"], args].concat();
    !api.kubectl(&args).unwrap().trim().is_empty()
}

/// Each test has an address of its own: an agent takes what is published under it for its node's.
fn node(api: &ApiServer, name: &str, address: &str) {
    api.apply(&format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{zone: a}}}}, spec: {{podCIDR: 10.1.9.0/24, taints: [{{key: node.cilium.io/agent-not-ready, effect: NoExecute, value: 'true'}}, {{key: other, effect: NoSchedule}}]}}}}"
    ))
    .unwrap();
    api.kubectl(&[
        "patch", "node", name, "--subresource=status",
        &format!("--patch={{\"status\": {{\"addresses\": [{{\"type\": \"InternalIP\", \"address\": \"{address}\"}}, {{\"type\": \"Hostname\", \"address\": \"x\"}}]}}}}"),
    ])
    .unwrap();
}

/// A pod's UID, once it is there.
fn pod(api: &ApiServer, namespace: &str, name: &str) -> String {
    api.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{containers: [{{name: c, image: i}}]}}}}"
    ))
    .unwrap();
    let found = get(api, &["-n", namespace, "pod", name]);
    found["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// An object without what differs from run to run.
fn settled(mut object: Value) -> String {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| {
        !matches!(
            field.as_str(),
            "uid" | "resourceVersion" | "creationTimestamp" | "generation" | "managedFields"
        )
    });
    if let Some(owners) = metadata.get_mut("ownerReferences") {
        for owner in owners.as_array_mut().unwrap() {
            owner["uid"] = "UID".into();
        }
    }
    serde_json::to_string_pretty(&object).unwrap()
}

fn is_ready(view: &oxilium_agent::reconcile::View) -> bool {
    let mut endpoints = view.state.endpoints.values();
    endpoints.all(|endpoint| endpoint.state == EndpointState::Ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_meet_new_labels_at_once_come_to_one_identity() {
    let Some(api) = shared() else { return };
    api.namespace("at-once").unwrap();
    let mut agents = Vec::new();
    for name in ["at-once-1", "at-once-2", "at-once-3", "at-once-4"] {
        let mut agent = Agent::start(api, name, api.kubeconfig()).await;
        agent.add(&format!("uid-{name}"), "at-once", name, "web", 7);
        agents.push(agent);
    }
    let mut numbers = Vec::new();
    for agent in &mut agents {
        agent.look().await;
    }
    for agent in &mut agents {
        let view = agent.until("its pod has an identity", is_ready).await;
        numbers.push(view.state.endpoints.values().next().unwrap().identity.0);
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    let found = get(
        api,
        &[
            "ciliumidentities",
            "-l",
            "io.kubernetes.pod.namespace=at-once",
        ],
    );
    let found = found["items"].as_array().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["metadata"]["name"], numbers[0].to_string());
    let mut object = found[0].clone();
    object["metadata"]["name"] = "NUMBER".into();
    insta::assert_snapshot!(settled(object));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_an_operator_marked_is_freed_of_the_mark_before_it_is_used() {
    let Some(api) = shared() else { return };
    for (number, mark) in (900..).zip(MARKS) {
        let namespace = format!("marked-{number}");
        api.namespace(&namespace).unwrap();
        let identity = serde_json::json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
            "metadata": {"name": number.to_string(), "annotations": {mark: "2026-01-01T00:00:00Z", "kept": "yes"}},
            "security-labels": {
                "k8s:app": "web",
                "k8s:io.cilium.k8s.policy.cluster": "default",
                "k8s:io.cilium.k8s.policy.serviceaccount": "default",
                "k8s:io.kubernetes.pod.namespace": namespace,
            },
        });
        api.kubectl_with(&["create", "-f", "-"], &identity.to_string())
            .unwrap();
        let mut agent = Agent::start(api, &namespace, api.kubeconfig()).await;
        agent.add(&format!("uid-{number}"), &namespace, "web-0", "web", 7);
        let view = agent.look().await;
        let endpoint = view.state.endpoints.values().next().unwrap();
        assert_eq!(endpoint.state, EndpointState::WaitingForIdentity, "{mark}");
        let view = agent.until("its pod has an identity", is_ready).await;
        let endpoint = view.state.endpoints.values().next().unwrap();
        assert_eq!(endpoint.identity.0, number, "{mark}");
        let found = get(api, &["ciliumidentity", &number.to_string()]);
        let expected = serde_json::json!({"kept": "yes"});
        assert_eq!(found["metadata"]["annotations"], expected, "{mark}");
        assert_eq!(agent.asked.writes(), 1, "{mark}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_endpoint_is_published_kept_and_removed() {
    let Some(api) = shared() else { return };
    api.namespace("life").unwrap();
    node(api, "life", "192.0.2.9");
    let uid = pod(api, "life", "web-0");
    let mut agent = Agent::start(api, "life", api.kubeconfig()).await;
    agent.add(&uid, "life", "web-0", "web", 7);
    let published = |view: &oxilium_agent::reconcile::View| {
        view.world
            .remote_endpoints
            .keys()
            .any(|pod| &*pod.namespace == "life")
    };
    let view = agent.until("its endpoint is published", published).await;
    let number = view.state.endpoints.values().next().unwrap().identity.0;
    let found = get(api, &["-n", "life", "ciliumendpoints", "web-0"]);
    let shown = settled(found.clone()).replace(&number.to_string(), "NUMBER");
    insta::assert_snapshot!(shown);

    // A restart writes nothing.
    let mut agent = agent.restart(api).await;
    agent.look().await;
    let node_name = ["ciliumnode", "life"];
    until("everything was looked at", || agent.report().published == 3).await;
    agent.look().await;
    assert_eq!(agent.asked.writes(), 0, "{:?}", agent.report());
    let again = get(api, &["-n", "life", "ciliumendpoints", "web-0"]);
    assert_eq!(
        found["metadata"]["resourceVersion"],
        again["metadata"]["resourceVersion"]
    );
    assert!(exists(api, &node_name));

    // Somebody deletes it: it comes back.
    api.kubectl(&["-n", "life", "delete", "ciliumendpoint", "web-0"])
        .unwrap();
    agent.until("it is noticed", |view| !published(view)).await;
    agent.until("it is published again", published).await;
    assert_eq!(agent.asked.writes(), 1);

    // The pod is another life of that name: so is the object.
    api.kubectl(&["-n", "life", "delete", "pod", "web-0", "--force"])
        .unwrap();
    let later = pod(api, "life", "web-0");
    agent.remove("life", "web-0");
    agent.add(&later, "life", "web-0", "web", 8);
    let is_later = |view: &oxilium_agent::reconcile::View| {
        view.world
            .remote_endpoints
            .values()
            .any(|endpoint| endpoint.addresses == ["10.1.9.8".parse::<std::net::IpAddr>().unwrap()])
    };
    agent.until("the later life is published", is_later).await;
    let found = get(api, &["-n", "life", "ciliumendpoints", "web-0"]);
    let owners = found["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!(
        (owners.len(), owners[0]["uid"].as_str()),
        (1, Some(&*later))
    );

    // Those of other nodes are their affair; its own goes with the pod.
    let other = serde_json::json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {"name": "other", "namespace": "life"},
        "status": {
            "identity": {"id": number, "labels": ["k8s:app=web"]},
            "networking": {"addressing": [{"ipv4": "10.1.8.1"}], "node": "192.0.2.8"},
        },
    });
    api.kubectl_with(&["apply", "-f", "-"], &other.to_string())
        .unwrap();
    agent.remove("life", "web-0");
    let gone = |view: &oxilium_agent::reconcile::View| {
        !view
            .world
            .remote_endpoints
            .keys()
            .any(|pod| &*pod.name == "web-0")
    };
    agent.until("its endpoint is removed", gone).await;
    assert!(exists(api, &["-n", "life", "ciliumendpoint", "other"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_is_published_and_told_to_be_ready() {
    let Some(api) = shared() else { return };
    node(api, "ready", "192.0.2.10");
    let mut agent = Agent::start(api, "ready", api.kubeconfig()).await;
    agent.look().await;
    until("both are done", || agent.report().published == 2).await;
    insta::assert_snapshot!(settled(get(api, &["ciliumnode", "ready"])));
    let found = get(api, &["node", "ready"]);
    let taints: Vec<&str> = found["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|taint| taint["key"].as_str().unwrap())
        .collect();
    assert!(
        taints.contains(&"other") && !taints.contains(&"node.cilium.io/agent-not-ready"),
        "{taints:?}"
    );
    let condition = found["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "NetworkUnavailable")
        .unwrap();
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("CiliumIsUp"))
    );
    let writes = agent.asked.writes();
    assert_eq!(writes, 3, "the CiliumNode, the condition, the taints");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_enforced_has_an_event_that_says_why() {
    let Some(api) = shared() else { return };
    api.namespace("doubt").unwrap();
    node(api, "doubt", "192.0.2.11");
    let uid = pod(api, "doubt", "web-0");
    let mut agent = Agent::start(api, "doubt", api.kubeconfig()).await;
    agent.add(&uid, "doubt", "web-0", "web", 7);
    agent.world.attachments.clear();
    let reason = "no network namespace on this node has its addresses";
    agent.in_doubt = [(PodRef::new("doubt", "web-0"), reason.into())].into();
    agent.show();
    until("it is told", || agent.report().published == 3).await;
    let events = || get(api, &["-n", "doubt", "events"])["items"].clone();
    let told = events();
    let event = &told[0];
    assert_eq!(event["involvedObject"]["uid"], uid);
    let of = |field: &str| event[field].as_str().unwrap().to_owned();
    assert_eq!(
        (of("type"), of("reason")),
        ("Warning".into(), "PolicyNotEnforced".into())
    );
    assert!(of("message").contains(reason), "{event}");
    assert_eq!(event["source"]["host"], "doubt");

    // Told once, also by an agent that starts anew.
    let mut agent = agent.restart(api).await;
    agent.show();
    until("it is told", || agent.report().published == 3).await;
    assert_eq!(events(), told);

    // What is over needs no event, and makes none fail.
    agent.in_doubt.clear();
    agent.show();
    until("it is forgotten", || agent.report().published == 2).await;
    assert_eq!(agent.report().failing, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_published_is_told_and_comes_later() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let mut api = ApiServer::start().unwrap();
    api.namespace("later").unwrap();
    node(&api, "later", "192.0.2.9");
    let powerless = api.service_account("later", "agent").unwrap();
    let mut agent = Agent::start(&api, "later", &powerless).await;
    define(&api);
    agent.add("uid", "later", "web-0", "web", 7);
    agent.look().await;
    let fails = |agent: &Agent, word: &str| {
        let report = agent.report();
        report.failing.iter().any(|failing| {
            failing.object.starts_with("CiliumIdentity") && failing.reason.contains(word)
        })
    };
    until("the missing permission is told", || {
        fails(&agent, "ClusterRole")
    })
    .await;
    let view = agent.look().await;
    let endpoint = view.state.endpoints.values().next().unwrap();
    assert_eq!(endpoint.state, EndpointState::WaitingForIdentity);

    api.kubectl(&[
        "create",
        "clusterrolebinding",
        "agent",
        "--clusterrole=cluster-admin",
        "--serviceaccount=later:agent",
    ])
    .unwrap();
    agent.until("its pod has an identity", is_ready).await;
    until("nothing fails", || agent.report().failing.is_empty()).await;

    // With the API server away what has an identity goes on; what needs one is told to wait.
    api.stop().unwrap();
    agent.add("uid-9", "later", "new-0", "new", 9);
    let view = agent.show();
    let waiting: Vec<_> = view
        .state
        .endpoints
        .values()
        .map(|endpoint| endpoint.state)
        .collect();
    assert!(
        waiting.contains(&EndpointState::Ready)
            && waiting.contains(&EndpointState::WaitingForIdentity),
        "{waiting:?}"
    );
    until("the outage is told", || {
        agent
            .report()
            .failing
            .iter()
            .any(|f| f.object.starts_with("CiliumIdentity"))
    })
    .await;
    api.resume().unwrap();
    agent.until("both have identities", is_ready).await;
    until("nothing fails", || agent.report().failing.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_is_not_defined_is_told() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::start().unwrap();
    node(&api, "undefined", "192.0.2.9");
    let mut agent = Agent::start(&api, "undefined", api.kubeconfig()).await;
    agent.show();
    until("the missing definition is told", || {
        let report = agent.report();
        report
            .failing
            .iter()
            .any(|f| f.object == "CiliumNode" && f.reason.contains("does not know CiliumNode"))
    })
    .await;
}
