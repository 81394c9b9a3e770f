//! What is said of policies: conditions and events.

use kube::Client;
use oxilium_e2e::apiserver::{ApiServer, CLUSTER_NETWORK_POLICY};
use oxilium_e2e::require::{Need, require};
use oxilium_e2e::wait;
use oxilium_operator::policies;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{client, json_of};

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
