//! The story that every user begins with.

use anyhow::{Context, Result};
use oxilium_e2e::cluster::{LONG, Spot, Verdict};
use oxilium_e2e::wait;

use crate::stage::{MULTITOOL, Stage, say, server};

const L4_RULE: &str = include_str!("../../../../examples/demo/l4-rule.yaml");
const ICMP_RULE: &str = include_str!("../../../../examples/demo/icmp-rule.yaml");

const DAEMON_SET: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nm}
spec:
  selector: {matchLabels: {app: network-multitool}}
  template:
    metadata: {labels: {app: network-multitool}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: network-multitool
        image: runzhliu/network-multitool:latest
        imagePullPolicy: IfNotPresent
        command: ["/bin/bash", "-c", "nginx && sleep inf"]
        securityContext: {privileged: true}
"#;

/// A pod in a node's own network asks as the node does.
fn on_host(stage: &Stage<'_>, node: &str) -> Result<Spot> {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: host, labels: {{app: host}}}}\nspec:\n  nodeName: {node}\n  \
         hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {MULTITOOL}\n    \
         imagePullPolicy: IfNotPresent\n    command: [sleep, infinity]\n"
    );
    let [host] = stage.pods(["host"], &manifest)?;
    Ok(host)
}

/// `kubectl get cep,ciliumid,cnp` shows the pod, its identity and the policy.
pub(crate) fn what_users_see(stage: &mut Stage<'_>) -> Result<()> {
    let [web] = stage.pods(["web"], &server("web", "app: web", &stage.node(0)))?;
    let arguments = [
        "--namespace",
        &stage.namespace,
        "get",
        "ciliumendpoint",
        "web",
    ];
    let endpoint = wait::until("the CiliumEndpoint of web", LONG, || {
        let endpoint = stage.cluster.json(&arguments)?;
        Ok((endpoint["status"]["state"] == "ready").then_some(endpoint))
    })?;
    let status = &endpoint["status"];
    let address = status["networking"]["addressing"][0]["ipv4"].as_str();
    stage.compare(
        "its address",
        web.address.as_str(),
        address.unwrap_or("none"),
    );
    let number = status["identity"]["id"].as_u64().context("no identity")?;
    let identity = stage
        .cluster
        .json(&["get", "ciliumidentity", &number.to_string()])?;
    let label = identity["security-labels"]["k8s:app"].as_str();
    stage.compare("label of its identity", "web", label.unwrap_or("none"));
    stage.apply(L4_RULE)?;
    let arguments = ["--namespace", &stage.namespace, "get", "cnp", "l4-rule"];
    let valid = wait::until("the policy's condition", LONG, || {
        let policy = stage.cluster.json(&arguments)?;
        let conditions = policy["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let valid = conditions.find(|condition| condition["type"] == "Valid");
        Ok(valid.and_then(|condition| condition["status"].as_str().map(str::to_owned)))
    })?;
    stage.compare("the policy is valid", "True", valid.as_str());

    let number = number.to_string();
    let namespace = stage.namespace.clone();
    let columns = [
        (
            ["cep", "web"],
            "NAME | SECURITY IDENTITY | ENDPOINT STATE | IPV4 | IPV6",
            vec!["web", &number, "ready", &web.address],
        ),
        (
            ["ciliumid", &number],
            "NAME | NAMESPACE | AGE",
            vec![&number, &namespace],
        ),
        (
            ["cnp", "l4-rule"],
            "NAME | AGE | VALID",
            vec!["l4-rule", "True"],
        ),
    ];
    for (what, header, expected) in columns {
        let table = stage
            .cluster
            .kubectl(&["--namespace", &namespace, "get", what[0], what[1]])?;
        table.lines().for_each(say);
        let mut lines = table.lines().map(cells);
        let found = lines.next().unwrap_or_default().join(" | ");
        stage.compare(&format!("columns of {}", what[0]), header, found.as_str());
        let row = lines.next().unwrap_or_default();
        // Not how old it is, and not the addresses of a family that the cluster may have.
        let row: Vec<&str> = row
            .into_iter()
            .filter(|cell| expected.contains(cell))
            .collect();
        let what = format!("what {} shows", what[0]);
        stage.compare(
            &what,
            expected.join(" | ").as_str(),
            row.join(" | ").as_str(),
        );
    }
    Ok(())
}

/// The cells of a line of a table that are not empty.
fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

/// The DaemonSet, `l4-rule` and `icmp-rule`: from another node refused, deleted, works.
pub(crate) fn policies(stage: &mut Stage<'_>) -> Result<()> {
    stage.apply(DAEMON_SET)?;
    stage.cluster.rolled_out(&stage.namespace, "daemonset/nm")?;
    let (here, there) = (stage.node(0), stage.node(1));
    let label = "app=network-multitool";
    let nm = stage.cluster.pod_on(&stage.namespace, label, &here)?;
    let peer = stage.cluster.pod_on(&stage.namespace, label, &there)?;
    let master = on_host(stage, &there)?;

    say("No policy.");
    let curl = |from: &Spot, port| {
        let (from, to) = (from.clone(), nm.address.clone());
        move |cluster: &_| from.curl(cluster, &to, port)
    };
    let ping = |from: &Spot, to: &str| {
        let (from, to) = (from.clone(), to.to_owned());
        move |cluster: &_| from.ping(cluster, &to)
    };
    stage.becomes("curl from another node", Verdict::Works, curl(&master, 80))?;
    stage.is(
        "ping from another node",
        Verdict::Works,
        ping(&master, &nm.address),
    )?;

    say("kubectl apply l4-rule");
    stage.apply(L4_RULE)?;
    stage.becomes(
        "curl from another node",
        Verdict::Dropped,
        curl(&master, 80),
    )?;
    stage.is(
        "ping from another node",
        Verdict::Dropped,
        ping(&master, &nm.address),
    )?;
    stage.is("curl from a labelled pod", Verdict::Works, curl(&peer, 80))?;
    stage.is("the same to 8080", Verdict::Dropped, curl(&peer, 8080))?;

    say("kubectl apply icmp-rule: the same pods may send echo requests and nothing else");
    stage.apply(ICMP_RULE)?;
    stage.becomes("curl between them", Verdict::Dropped, curl(&peer, 80))?;
    stage.is(
        "ping from one to a node",
        Verdict::Works,
        ping(&nm, &master.address),
    )?;
    stage.is(
        "ping between them",
        Verdict::Dropped,
        ping(&peer, &nm.address),
    )?;

    say("kubectl delete both");
    stage.delete(L4_RULE)?;
    stage.delete(ICMP_RULE)?;
    stage.becomes("curl from another node", Verdict::Works, curl(&master, 80))?;
    stage.becomes(
        "ping from another node",
        Verdict::Works,
        ping(&master, &nm.address),
    )?;
    stage.becomes("curl between them", Verdict::Works, curl(&peer, 80))
}
