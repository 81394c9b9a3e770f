//! What is said of policies, and of pods that they are too much for.

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, LONG};
use oxilium_e2e::wait;
use serde_json::Value;

use crate::stage::{Stage, client, say};

/// The schema takes it, and agents do not: it leaves out what it does not let in.
const REFUSED: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: refused}
spec:
  endpointSelector: {matchLabels: {app: nobody}}
  ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [192.0.2.0/24]}]}]
";

const OF_THE_CLUSTER: &str = "apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: e2e-of-the-cluster}
spec:
  endpointSelector: {matchLabels: {app: nobody}}
  ingress: [{}]
";

/// A policy whose entries are more than a pod has room for: prefixes times ports.
fn too_large() -> String {
    const PREFIXES: usize = 600;
    const PORTS: usize = 40;
    let prefix = |number: usize| format!("198.{}.{}.0/24", 18 + number / 256, number % 256);
    let prefixes: Vec<String> = (0..PREFIXES).map(prefix).collect();
    // Every other one: no two make a range.
    let port = |number: usize| format!("{{port: \"{}\", protocol: TCP}}", 1001 + 2 * number);
    let ports: Vec<String> = (0..PORTS).map(port).collect();
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: too-large}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: small}}}}\n  egress:\n  - toCIDR: [{}]\n    toPorts: [{{ports: [{}]}}]\n",
        prefixes.join(", "),
        ports.join(", ")
    )
}

/// The status of the policy's condition `Valid`, once it has one.
fn validity(cluster: &Cluster, namespace: &str, policy: [&str; 2]) -> Result<String> {
    let get = [&["--namespace", namespace, "get"], &policy[..]].concat();
    wait::until(&format!("a condition of {policy:?}"), LONG, || {
        let policy = cluster.json(&get)?;
        let conditions = policy["status"]["conditions"].as_array();
        let valid = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Valid");
        Ok(valid.and_then(|condition| condition["status"].as_str().map(str::to_owned)))
    })
}

/// The message of the first event of this reason on an object, once there is one. Events on objects of the cluster are in the
/// namespace `default`.
pub(crate) fn event(
    cluster: &Cluster,
    namespace: &str,
    [object, reason]: [&str; 2],
) -> Result<String> {
    let field = format!("--field-selector=reason={reason},involvedObject.name={object}");
    let get = ["--namespace", namespace, "get", "events", &field];
    wait::until(&format!("an event {reason} on {object}"), LONG, || {
        let events = cluster.json(&get)?;
        let first: &Value = &events["items"][0]["message"];
        Ok(first.as_str().map(str::to_owned))
    })
}

/// A policy that is refused, one of the cluster, and one that is too large for its pod.
pub(crate) fn told_of(stage: &mut Stage<'_>) -> Result<()> {
    let [_] = stage.pods(["small"], &client("small", "app: small", &stage.node(0)))?;
    say(
        "a policy that is refused, one of the cluster, and one that is too large for a pod's table",
    );
    for policy in [REFUSED, OF_THE_CLUSTER, &too_large()] {
        stage.apply(policy)?;
    }
    let kinds = [
        (["ciliumnetworkpolicy", "refused"], "False"),
        (
            ["ciliumclusterwidenetworkpolicy", "e2e-of-the-cluster"],
            "True",
        ),
        (["ciliumnetworkpolicy", "too-large"], "True"),
    ];
    for (policy, expected) in kinds {
        let valid = validity(stage.cluster, &stage.namespace, policy)?;
        stage.compare(&format!("{} is valid", policy[1]), expected, &valid);
    }
    let refused = event(
        stage.cluster,
        &stage.namespace,
        ["refused", "PolicyRefused"],
    )?;
    say(&format!("event on the refused policy: {refused}"));
    let overflow = event(stage.cluster, &stage.namespace, ["small", "WouldOverflow"])?;
    let names = overflow.contains("too-large");
    say(&format!("event on the pod: {overflow}"));
    stage.compare("it names the policy", &true, &names);
    // It is of no namespace that is deleted.
    stage.delete(OF_THE_CLUSTER)
}
