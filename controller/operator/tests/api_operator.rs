//! The operator on a real API server.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;
use kube::{Api, Client};
use oxilium_agent::kubernetes::{Component, KubernetesOptions, connect};
use oxilium_agent::metrics::ApiCalls;
use oxilium_e2e::apiserver::{ApiServer, CLUSTER_NETWORK_POLICY};
use oxilium_e2e::require::{Need, require};
use oxilium_e2e::wait;
use oxilium_operator::lease::{Candidate, Election, NAME, Terms};
use oxilium_operator::{OperatorError, definitions, endpoints, identities, policies};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// One runtime and one client of the shared server.
fn client(runtime: &Runtime, kubeconfig: PathBuf) -> Client {
    let options = KubernetesOptions {
        k8s_kubeconfig_path: Some(kubeconfig),
        k8s_api_server: None,
    };
    let calls = ApiCalls::default();
    let connected = runtime.block_on(connect(Component::Operator, &options, &calls));
    connected.unwrap().client
}

fn shared() -> Option<(&'static ApiServer, Runtime, Client)> {
    require(&[Need::ApiServer]).then(|| {
        let api = ApiServer::shared().unwrap();
        let runtime = Runtime::new().unwrap();
        let client = client(&runtime, api.kubeconfig().to_owned());
        (api, runtime, client)
    })
}

fn json_of(api: &ApiServer, arguments: &[&str]) -> Value {
    let text = api
        .kubectl(&[arguments, &["--output=json"]].concat())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

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

fn terms() -> Terms {
    let [lease, renew, retry] = [3000, 1500, 200].map(Duration::from_millis);
    Terms::new(lease, renew, retry).unwrap()
}

fn candidate(client: &Client, namespace: &str, name: &str) -> Candidate {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    Candidate::new(api, Election::new(name.to_owned(), terms()))
}

fn holder(api: &ApiServer, namespace: &str) -> Value {
    let lease = json_of(api, &["-n", namespace, "get", "lease", NAME]);
    lease["spec"]["holderIdentity"].clone()
}

#[test]
fn of_two_candidates_one_leads_and_when_it_is_killed_the_other_takes_over() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("election").unwrap();
    runtime.block_on(async {
        let (mut a, mut b) = (
            candidate(&client, "election", "a"),
            candidate(&client, "election", "b"),
        );
        a.acquire().await;
        let leads = tokio::spawn(async move { a.hold().await });
        // It waits for longer than a lease lasts, and in vain: the leader renews it.
        let waited = tokio::time::timeout(2 * Duration::from_secs(3), b.acquire()).await;
        assert!(waited.is_err(), "two lead at once");
        assert!(!leads.is_finished());
        assert_eq!(holder(api, "election"), "a");
        leads.abort();
        b.acquire().await;
        assert_eq!(holder(api, "election"), "b");
        let lease = json_of(api, &["-n", "election", "get", "lease", NAME]);
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
    });
}

#[test]
fn a_lease_that_is_given_up_need_not_run_out() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("released").unwrap();
    runtime.block_on(async {
        let mut a = candidate(&client, "released", "a");
        a.acquire().await;
        a.release().await;
        assert_eq!(holder(api, "released"), "");
        candidate(&client, "released", "b").acquire().await;
        // Somebody else's is not given up.
        a.release().await;
        assert_eq!(holder(api, "released"), "b");
    });
}

#[test]
fn a_leader_whose_lease_another_took_stops() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("taken").unwrap();
    runtime.block_on(async {
        let mut a = candidate(&client, "taken", "a");
        a.acquire().await;
        let patch = r#"{"spec": {"holderIdentity": "b"}}"#;
        api.kubectl(&[
            "-n",
            "taken",
            "patch",
            "lease",
            NAME,
            "--type=merge",
            "-p",
            patch,
        ])
        .unwrap();
        let lost = a.hold().await;
        assert!(
            matches!(&lost, OperatorError::LeaseLost(why) if why.contains("somebody else")),
            "{lost}"
        );
    });
}

/// The server takes requests and answers none: no error tells the leader, only the time.
#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::start().unwrap();
    if api.signal(nix::sys::signal::Signal::SIGCONT).is_err() {
        // Somebody's cluster: it is not ours to stop.
        return;
    }
    let runtime = Runtime::new().unwrap();
    let client = client(&runtime, api.kubeconfig().to_owned());
    runtime.block_on(async {
        let mut a = candidate(&client, "default", "a");
        a.acquire().await;
        api.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
        let lost = a.hold().await;
        api.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
        assert!(
            matches!(&lost, OperatorError::LeaseLost(why) if why.contains("not renewed")),
            "{lost}"
        );
        // It still is its own: nobody has had the time to take it.
        assert_eq!(holder(&api, "default"), "a");
    });
}

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

const OF_NAMESPACE: &str = "CiliumNetworkPolicy";
const OF_CLUSTER: &str = "CiliumClusterwideNetworkPolicy";

/// An API server with the kinds of policies.
struct Policies {
    api: ApiServer,
    runtime: Runtime,
    client: Client,
}

impl Policies {
    fn start() -> Self {
        let api = ApiServer::start().unwrap();
        let runtime = Runtime::new().unwrap();
        let client = client(&runtime, api.kubeconfig().to_owned());
        api.define().unwrap();
        Self {
            api,
            runtime,
            client,
        }
    }

    /// What the schema does not know is taken away, not refused.
    fn apply(&self, kind: &str, name: &str, rule: &str) {
        let policy = format!(
            "{{apiVersion: cilium.io/v2, kind: {kind}, metadata: {{name: {name}}}, spec: {{endpointSelector: {{}}, ingress: [{rule}]}}}}"
        );
        self.api
            .kubectl_with(&["apply", "--validate=ignore", "-f", "-"], &policy)
            .unwrap();
    }

    /// Looks at all policies, as an operator does that becomes the leader.
    fn look(&self) {
        for kind in policies::KINDS {
            if kind.is_optional() {
                continue;
            }
            let mut follower = policies::Follower::new(self.client.clone(), kind);
            self.runtime.block_on(follower.all()).unwrap();
        }
    }

    /// Types of the conditions that are `True`, and of the others with their status.
    fn said(&self, kind: &str, name: &str) -> String {
        let object = json_of(&self.api, &["get", kind, name]);
        let conditions = object["status"]["conditions"].as_array();
        let mut words: Vec<String> = conditions
            .into_iter()
            .flatten()
            .map(|condition| {
                assert!(condition["lastTransitionTime"].is_string(), "{condition}");
                let word = condition["type"].as_str().unwrap();
                match condition["status"].as_str().unwrap() {
                    "True" => word.to_owned(),
                    status => format!("{word}={status}"),
                }
            })
            .collect();
        words.sort();
        words.join(" ")
    }

    /// The events on a policy, by reason.
    fn events(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let about =
            format!("--field-selector=involvedObject.kind={kind},involvedObject.name={name}");
        let list = json_of(&self.api, &["get", "events", &about]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let items = list["items"].as_array().unwrap().iter();
        let mut events: Vec<_> = items
            .map(|event| (text(&event["reason"]), text(&event["message"])))
            .collect();
        events.sort();
        events
    }

    fn reasons(&self, kind: &str, name: &str) -> Vec<String> {
        let events = self.events(kind, name).into_iter();
        events.map(|(reason, _)| reason).collect()
    }

    /// From now on the API server refuses `operation` on such objects whose names begin with `bad`.
    fn refuse(&self, name: &str, group: &str, resource: &str, operation: &str) {
        self.api
            .apply(&format!(
                "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: {name}}}, \
                 spec: {{matchConstraints: {{resourceRules: [{{apiGroups: ['{group}'], apiVersions: ['*'], \
                 operations: [{operation}], resources: ['{resource}']}}]}}, \
                 validations: [{{expression: \"!object.metadata.name.startsWith('bad')\"}}]}}}}"
            ))
            .unwrap();
        self.api
            .apply(&format!(
                "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {{name: {name}}}, \
                 spec: {{policyName: {name}, validationActions: [Deny]}}}}"
            ))
            .unwrap();
    }

    fn versions(&self) -> Vec<Value> {
        let list = json_of(&self.api, &["get", OF_NAMESPACE]);
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["resourceVersion"].clone())
            .collect()
    }
}

fn until(what: &str, is: impl Fn() -> bool) {
    wait::until(what, wait::LONG, || Ok(is().then_some(()))).unwrap();
}

#[test]
fn of_each_policy_is_said_whether_it_is_valid_and_nothing_twice() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let lab = Policies::start();
    lab.apply(OF_NAMESPACE, "good", "{}");
    lab.apply(OF_CLUSTER, "good", "{}");
    // The schema cannot compare prefixes, and agents do.
    let outside = "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [192.0.2.0/24]}]}";
    lab.apply(OF_NAMESPACE, "bad", outside);
    lab.apply(OF_NAMESPACE, "pruned", "{fromEndpoint: [{}]}");
    lab.look();
    for (kind, name, expected) in [
        (OF_NAMESPACE, "good", "Valid"),
        (OF_CLUSTER, "good", "Valid"),
        (OF_NAMESPACE, "bad", "Valid=False"),
        (OF_NAMESPACE, "pruned", "FieldsPruned Valid"),
    ] {
        assert_eq!(lab.said(kind, name), expected, "{kind} {name}");
    }
    let (reason, message) = lab.events(OF_NAMESPACE, "bad").remove(0);
    let field = "spec.ingress[0].fromCIDRSet[0].except";
    assert_eq!(reason, "PolicyRefused");
    assert!(message.starts_with(field), "{message}");

    // What was said is not said again, whoever of the operators looks.
    let before = lab.versions();
    lab.look();
    assert_eq!(lab.versions(), before);
    assert_eq!(lab.events(OF_NAMESPACE, "bad").len(), 1);

    // Another owner of conditions keeps its own; put right, the policies are valid.
    let other = r#"{"status": {"conditions": [{"type": "Valid", "status": "False"}, {"type": "Theirs", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    let patch = ["patch", OF_NAMESPACE, "bad", "--subresource=status"];
    lab.api
        .kubectl(&[&patch[..], &["--type=merge", "-p", other]].concat())
        .unwrap();
    lab.apply(OF_NAMESPACE, "bad", "{}");
    lab.apply(OF_NAMESPACE, "pruned", "{fromEndpoints: [{}]}");
    lab.look();
    assert_eq!(lab.said(OF_NAMESPACE, "bad"), "Theirs Valid");
    assert_eq!(lab.said(OF_NAMESPACE, "pruned"), "Valid");
}

#[test]
fn events_tell_of_policies_that_do_not_do_what_they_say() {
    const BUILT_IN: &str = "NetworkPolicy";
    if !require(&[Need::ApiServer]) {
        return;
    }
    let lab = Policies::start();
    let http =
        "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}";
    lab.apply(OF_NAMESPACE, "good", "{}");
    lab.apply(OF_NAMESPACE, "http", http);
    lab.apply(OF_CLUSTER, "http", http);
    lab.apply(OF_NAMESPACE, "pruned", "{fromEndpoint: [{}]}");
    for (name, rule) in [("good", "{}"), ("pruned", "{form: [{}]}")] {
        let policy = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: {BUILT_IN}, metadata: {{name: {name}}}, spec: {{podSelector: {{}}, ingress: [{rule}]}}}}"
        );
        lab.api
            .kubectl_with(&["apply", "--validate=ignore", "-f", "-"], &policy)
            .unwrap();
    }
    lab.look();
    lab.look();
    for (kind, name, expected) in [
        (OF_NAMESPACE, "good", &[][..]),
        (OF_NAMESPACE, "http", &["PolicyNotEnforced"]),
        (OF_CLUSTER, "http", &["PolicyNotEnforced"]),
        (OF_NAMESPACE, "pruned", &["PolicyFieldsPruned"]),
        (BUILT_IN, "good", &[]),
        (BUILT_IN, "pruned", &["PolicyFieldsPruned"]),
    ] {
        assert_eq!(lab.reasons(kind, name), expected, "{kind} {name}");
    }
}

#[test]
fn what_could_not_be_said_is_said_later() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let lab = Policies::start();
    let outside = "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [192.0.2.0/24]}]}";
    lab.refuse("events", "", "events", "CREATE");
    lab.refuse(
        "status",
        "cilium.io",
        "ciliumnetworkpolicies/status",
        "UPDATE",
    );
    let follower = policies::Follower::new(lab.client.clone(), policies::KINDS[0]);
    let follower = lab.runtime.spawn(follower.run());
    // Admission policies take hold after a moment: a policy of which something could be said is none to try with.
    let mut tries = 0..20;
    let bad = tries.find_map(|number| {
        let name = format!("bad-{number}");
        lab.apply(OF_NAMESPACE, &name, outside);
        let after = format!("after-{number}");
        lab.apply(OF_NAMESPACE, &after, "{}");
        // It comes later in the watch, so the other one was looked at.
        until(&after, || lab.said(OF_NAMESPACE, &after) == "Valid");
        lab.events(OF_NAMESPACE, &name).is_empty().then_some(name)
    });
    let bad = bad.expect("events are refused at last");
    assert_eq!(lab.said(OF_NAMESPACE, &bad), "", "said before its event");

    let allow = |name: &str| {
        let of = |kind: &str| format!("{kind}/{name}");
        let [binding, policy] = [
            "ValidatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
        ]
        .map(of);
        lab.api.kubectl(&["delete", &binding, &policy]).unwrap();
    };
    allow("events");
    let told = ["PolicyRefused"];
    until("the event", || lab.reasons(OF_NAMESPACE, &bad) == told);
    assert_eq!(lab.said(OF_NAMESPACE, &bad), "", "the status is refused");
    allow("status");
    until("the condition", || {
        lab.said(OF_NAMESPACE, &bad) == "Valid=False"
    });
    assert_eq!(lab.reasons(OF_NAMESPACE, &bad), told, "told once");
    follower.abort();
}

/// ClusterNetworkPolicy comes with somebody's add-on, or never.
#[test]
fn a_kind_that_is_defined_later_is_looked_at_then() {
    const KIND: &str = "ClusterNetworkPolicy";
    if !require(&[Need::ApiServer]) {
        return;
    }
    let lab = Policies::start();
    let kind = policies::KINDS.into_iter().find(|kind| kind.is_optional());
    let mut follower = policies::Follower::new(lab.client.clone(), kind.unwrap());
    let missing = lab.runtime.block_on(follower.all());
    assert!(missing.is_err(), "nobody has defined {KIND}");
    let follower = lab.runtime.spawn(follower.run());
    lab.api.apply(CLUSTER_NETWORK_POLICY).unwrap();
    let policy = |name: &str, network: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: {KIND}, metadata: {{name: {name}}}, spec: {{tier: Admin, \
             priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Accept, to: [{{networks: [{network}]}}]}}]}}}}"
        )
    };
    wait::until("the API serves the kind", wait::LONG, || {
        let good = policy("good", "192.0.2.0/24");
        let applied = lab.api.kubectl_with(&["apply", "-f", "-"], &good);
        Ok(applied.is_ok().then_some(()))
    })
    .unwrap();
    let bad = policy("bad", "192.0.2.0/33");
    lab.api.kubectl_with(&["apply", "-f", "-"], &bad).unwrap();
    until("the event", || {
        lab.reasons(KIND, "bad") == ["PolicyRefused"]
    });
    assert_eq!(lab.reasons(KIND, "good"), [""; 0]);
    follower.abort();
}
