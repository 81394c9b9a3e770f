//! Agents that are replaced, and agents that come late.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use oxilium_e2e::cluster::{Cluster, LONG, Spot, Verdict};
use oxilium_e2e::wait;
use serde_json::Value;

use crate::chart;
use crate::policies::event;
use crate::stage::{AGENTS, Stage, client, say};
use crate::trio::{ONLY_FRIENDS, Trio};

/// curl's status when its time is over.
const NO_NEWS: &str = "28";

/// What an agent wrote to the kernel since its start, by table.
fn kernel_writes(cluster: &Cluster, agent: &Spot) -> Result<String> {
    let status = ["oxilium", "status", "--output=json"];
    let text = agent.exec(cluster, &status)?.1;
    let status: Value =
        serde_json::from_str(&text).with_context(|| format!("status of {agent}: {text}"))?;
    let writes = &status["kernel-writes"];
    match writes["total"].as_u64() {
        None => anyhow::bail!("{agent} tells no writes: {text}"),
        Some(0) => Ok("none".to_owned()),
        Some(_) => Ok(writes["by_table"].to_string()),
    }
}

/// Waits until what earlier scenarios left is gone: their namespaces with all pods and endpoints in them, and the identities
/// that nobody has then.
fn until_nothing_else_changes(cluster: &Cluster) -> Result<()> {
    let items = |kind| -> Result<Vec<Value>> {
        let list = cluster.json(&["get", kind, "--all-namespaces"])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    wait::until("namespaces of before to go", LONG, || {
        let namespaces = items("namespaces")?;
        let going = |namespace: &Value| namespace["status"]["phase"] == "Terminating";
        Ok((!namespaces.iter().any(going)).then_some(()))
    })?;
    wait::until("identities and endpoints of before to go", LONG, || {
        let used: BTreeSet<String> = items("ciliumendpoints")?
            .iter()
            .map(|endpoint| endpoint["status"]["identity"]["id"].to_string())
            .collect();
        let known: BTreeSet<String> = items("ciliumidentities")?
            .iter()
            .filter_map(|identity| identity["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        Ok((used == known).then_some(()))
    })
}

/// Gives the agents this image, and waits until all are replaced.
fn replace(cluster: &Cluster, image: &str) -> Result<()> {
    say(&format!("the agents get the image {image}"));
    let set = ["--namespace", "kube-system", "set", "image"];
    let agent = format!("cilium-agent={image}");
    let init = format!("install-cni-binaries={image}");
    cluster.kubectl(&[&set[..], &["daemonset/cilium", &agent, &init]].concat())?;
    cluster.rolled_out("kube-system", "daemonset/cilium")
}

/// The image is replaced under traffic, by another of the same programs, by one with another layout of maps, and back:
/// connections go on, nothing is smuggled, policies change meanwhile, and agents of the same layout find all as it should be.
pub(crate) fn upgraded(stage: &mut Stage<'_>) -> Result<()> {
    const ASKING: u64 = 120;
    const IMAGE: &str = "docker.io/oxilium/oxilium";
    let trio = Trio::start(stage)?;
    let pod = client("newcomer", "app: newcomer", &stage.node(1));
    let [newcomer] = stage.pods(["newcomer"], &pod)?;
    let asks = |cluster: &Cluster| newcomer.curl(cluster, &trio.web.address, 80);
    until_nothing_else_changes(stage.cluster)?;
    trio.keep_asking(stage.cluster, ASKING)?;
    trio.download(stage.cluster, ASKING)?;
    let agents = ["--namespace", "kube-system", "get", "daemonset", "cilium"];
    let before = stage.cluster.json(&agents)?;
    let image = before["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let image = image.as_str().context("the agents have no image")?;
    let [same, other] = ["same", "other-layout"].map(|tag| format!("{IMAGE}:{tag}"));
    for node in stage.cluster.nodes()? {
        let full = format!("docker.io/{}", image.trim_start_matches("docker.io/"));
        let tag = ["ctr", "--namespace=k8s.io", "images", "tag", "--force"];
        stage
            .cluster
            .on_node(&node, &[&tag[..], &[&full, &same]].concat())?;
    }
    replace(stage.cluster, &same)?;
    for agent in stage.cluster.ready_pods("kube-system", AGENTS)? {
        let writes = kernel_writes(stage.cluster, &agent)?;
        stage.compare(&format!("kernel writes of {agent}"), "none", &writes);
    }
    for image in [&other, image] {
        replace(stage.cluster, image)?;
        let whom = ONLY_FRIENDS.replace("name: friends", "name: more");
        stage.apply(&whom.replace("app: friend}", "app: newcomer}"))?;
        stage.becomes("a newcomer that is let in", Verdict::Works, asks)?;
        stage.delete(&whom)?;
        stage.becomes("a newcomer that is let in no more", Verdict::Dropped, asks)?;
    }
    trio.nothing_lost_nothing_smuggled(stage, LONG * 2)?;
    let [friend, stranger] = trio.downloaded(stage.cluster, LONG)?;
    stage.compare("status of a friend's download meanwhile", "0", &friend);
    stage.compare("status of a stranger's", NO_NEWS, &stranger);
    Ok(())
}

/// The agent comes to nodes whose pods run already: they are judged like all others, mid-stream connections included.
pub(crate) fn come_late(stage: &mut Stage<'_>) -> Result<()> {
    const READING: u64 = 60;
    say("the chart is taken away, as its notes say");
    chart::install(stage.cluster, &["cni.uninstall=true"])?;
    let delete = ["--namespace", "kube-system", "delete", "daemonset/cilium"];
    stage.cluster.kubectl(&delete)?;
    let gone = ["--namespace", "kube-system", "wait", "pod", "--for=delete"];
    let limit = format!("--timeout={}s", LONG.as_secs());
    stage
        .cluster
        .kubectl(&[&gone[..], &["--selector", AGENTS, &limit]].concat())?;

    let trio = Trio::alone(stage)?;
    stage.apply(ONLY_FRIENDS)?;
    let address = trio.web.address.clone();
    stage.becomes(
        "a stranger, with nobody to judge",
        Verdict::Works,
        |cluster| trio.stranger.curl(cluster, &address, 80),
    )?;
    trio.download(stage.cluster, READING)?;
    say("a pod that takes an address more than its object names");
    let privileged = "securityContext: {privileged: true}\n    command:";
    let manifest =
        client("doubtful", "app: doubtful", &stage.node(0)).replace("command:", privileged);
    let [doubtful] = stage.pods(["doubtful"], &manifest)?;
    let add = ["ip", "address", "add", "10.244.99.99/32", "dev", "eth0"];
    anyhow::ensure!(
        doubtful.exec(stage.cluster, &add)?.0 == 0,
        "{add:?} in {doubtful}"
    );
    say("the chart is installed again: agents become ready, whatever is in doubt");
    chart::install(stage.cluster, &[])?;
    let told = event(
        stage.cluster,
        &stage.namespace,
        [&doubtful.name, "PolicyNotEnforced"],
    )?;
    say(&format!("event on the pod: {told}"));
    stage.compare("the event says why", &true, &told.contains("10.244.99.99"));
    trio.hold(stage)?;
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
    let networking = &endpoint["status"]["networking"]["addressing"][0]["ipv4"];
    stage.compare(
        "its address",
        &address[..],
        networking.as_str().unwrap_or("none"),
    );
    let [friend, stranger] = trio.downloaded(stage.cluster, LONG)?;
    stage.compare("status of a friend's download meanwhile", "0", &friend);
    stage.compare("status of a stranger's", NO_NEWS, &stranger);
    Ok(())
}
