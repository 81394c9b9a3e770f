//! What needs no agent: plan, explain and check from manifests alone, and policy vectors.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::agent::offline;

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, uid: u1, labels: {app: web}}
spec: {nodeName: worker}
status: {podIPs: [{ip: 10.244.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, uid: u2, labels: {app: client}}
spec: {nodeName: worker}
status: {podIPs: [{ip: 10.244.1.3}]}
";

const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: client}
    toPorts:
    - ports: [{port: \"80\", protocol: TCP}]
";

fn manifests() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pods.yaml"), PODS).unwrap();
    fs::write(directory.path().join("web.yaml"), POLICY).unwrap();
    directory
}

fn path(directory: &Path) -> &str {
    directory.to_str().unwrap()
}

#[test]
fn a_plan_against_an_empty_node_shows_each_table() {
    let manifests = manifests();
    let outcome = offline(&["plan", "--offline", path(manifests.path())]);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    insta::assert_snapshot!(outcome.out);
}

#[test]
fn a_plan_names_what_would_be_refused_and_ends_with_1() {
    let manifests = manifests();
    let bad = POLICY.replace("ingress:", "ingres:");
    fs::write(manifests.path().join("bad.yaml"), bad).unwrap();
    let outcome = offline(&["plan", "--offline", path(manifests.path())]);
    assert_eq!(outcome.status, 1);
    assert!(
        outcome.out.contains("refused: bad.yaml:6:3:"),
        "{}",
        outcome.out
    );
}

#[test]
fn explain_names_the_rule_with_its_line_and_why_the_others_do_not_count() {
    let manifests = manifests();
    let dir = path(manifests.path());
    for (from, to, port, status) in [
        ("client", "web", "80/TCP", 0),
        ("default/client", "10.244.1.2", "80/tcp", 0),
        ("client", "web", "8080/TCP", 1),
        ("client", "web", "80/UDP", 1),
        ("world", "web", "80/TCP", 1),
        ("host", "web", "80/TCP", 0),
        ("web", "client", "8/ICMP", 0),
        ("192.0.2.1", "client", "80", 0),
    ] {
        let outcome = offline(&["explain", "--manifests", dir, from, to, port]);
        assert_eq!(outcome.status, status, "{from} {to} {port}: {outcome:?}");
    }
    let allowed = offline(&["explain", "--manifests", dir, "client", "web", "80/TCP"]);
    insta::assert_snapshot!(allowed.out);
    let denied = offline(&["explain", "--manifests", dir, "client", "web", "8080/TCP"]);
    insta::assert_snapshot!(denied.out);
}

#[test]
fn explain_answers_2_to_a_question_that_makes_no_sense() {
    let manifests = manifests();
    let dir = path(manifests.path());
    for (from, to, port, why) in [
        ("nobody", "web", "80/TCP", "is not known"),
        ("client", "web", "eighty", "is no port"),
        ("client", "web", "80/ANY", "is no port"),
        ("world", "host", "80/TCP", "neither world nor host"),
    ] {
        let outcome = offline(&["explain", "--manifests", dir, from, to, port]);
        assert_eq!(outcome.status, 2, "{outcome:?}");
        assert!(outcome.err.contains(why), "{outcome:?}");
    }
}

#[test]
fn check_passes_good_manifests_and_points_at_the_fault_of_bad_ones() {
    let manifests = manifests();
    let good = offline(&["policy", "check", path(manifests.path())]);
    assert_eq!(good.status, 0, "{good:?}");
    let bad = manifests.path().join("bad.yaml");
    fs::write(&bad, POLICY.replace("port: \"80\"", "port: \"80000\"")).unwrap();
    let outcome = offline(&["policy", "check", path(&bad)]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.out.contains("bad.yaml:10:"), "{}", outcome.out);
    let json = offline(&["policy", "check", path(&bad), "-o", "json"]);
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["refused"], 1);
}

#[test]
fn vectors_are_answered_one_line_a_case() {
    let directory = tempfile::tempdir().unwrap();
    let sets = r#"{"two":[{"id":300,"labels":["k8s:app=web","k8s:io.kubernetes.pod.namespace=a","k8s:io.cilium.k8s.policy.cluster=default"]},
        {"id":301,"labels":["k8s:app=db","k8s:io.kubernetes.pod.namespace=a","k8s:io.cilium.k8s.policy.cluster=default"]}]}"#;
    fs::write(directory.path().join("identity-sets.json"), sets).unwrap();
    let policy = r#"{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"p"},
        "spec":{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}]}]}}"#;
    let cases = format!(
        r#"{{"meta":{{}},"cases":[{{"name":"a/b","config":{{}},"identitySet":"two","policies":[{policy}],
        "subjects":[300],"probeL4":["TCP/80"],"probeRemotes":[300,301]}},
        {{"name":"a/c","doc":{{"kind":"CiliumNetworkPolicy"}}}}]}}"#
    );
    let file = directory.path().join("cases.json");
    fs::write(&file, cases).unwrap();
    let outcome = offline(&["policy", "resolve", "--vectors", path(&file)]);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let lines: Vec<Value> = outcome
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let subject = &lines[0]["subjects"][0];
    assert_eq!(subject["ingressEnforced"], true);
    assert_eq!(subject["verdictsIngress"], serde_json::json!(["-", "A"]));
    assert!(lines[1]["error"].is_string());
}
