//! A node that goes for good, and comes back under its name.

use anyhow::Result;
use oxilium_e2e::cluster::{LONG, Spot, Verdict};
use oxilium_e2e::wait;

use crate::stage::{AGENTS, Stage, client, say, server};
use crate::trio::ONLY_FRIENDS;

/// What Kubernetes needs to notice that a pod's node is gone, and to collect what the pod owned.
const COLLECTED: std::time::Duration = std::time::Duration::from_mins(4);

/// Does the kernel of the agent's node know this address as a pod's or a node's?
fn knows(stage: &Stage<'_>, agent: &Spot, address: &str) -> Result<bool> {
    let list = ["oxilium", "bpf", "ipcache", "list", "--output=json"];
    let (status, text) = agent.exec(stage.cluster, &list)?;
    anyhow::ensure!(status == 0, "oxilium bpf ipcache list: status {status}");
    Ok(text.contains(&format!("\"{address}/32\"")))
}

/// Its CiliumNode and the CiliumEndpoints of its pods go with it, and so does what the other nodes' kernels knew of them.
pub(crate) fn deleted(stage: &mut Stage<'_>) -> Result<()> {
    let (here, gone) = (stage.node(0), stage.last_node());
    anyhow::ensure!(here != gone, "it takes two nodes");
    let number = gone.trim_start_matches('n').to_owned();
    let pods = server("web", "app: web", &here) + &client("friend", "app: friend", &gone);
    let [web, friend] = stage.pods(["web", "friend"], &pods)?;
    stage.apply(ONLY_FRIENDS)?;
    stage.becomes("a friend on the node", Verdict::Works, |cluster| {
        friend.curl(cluster, &web.address, 80)
    })?;
    let agent = stage.cluster.pod_on("kube-system", AGENTS, &here)?;
    let peer = stage.cluster.pod_on("kube-system", AGENTS, &gone)?;
    for (what, address) in [("its pod", &friend.address), ("itself", &peer.address)] {
        let known = knows(stage, &agent, address)?;
        stage.compare(&format!("{here} knows {what}"), &true, &known);
    }

    say(&format!("{gone} loses its power, and its Node is deleted"));
    oxilium_e2e::process::run(
        stage
            .cluster
            .script("node.sh")?
            .args(["down", number.as_str()]),
    )?;
    stage.cluster.kubectl(&["delete", "node", &gone])?;
    let is_gone = |arguments: &[&str]| {
        let found = stage
            .cluster
            .kubectl(&[arguments, &["--ignore-not-found", "--output=name"]].concat())?;
        Ok(found.is_empty().then_some(()))
    };
    let node = ["get", "ciliumnode", &gone];
    let endpoint = [
        "--namespace",
        &stage.namespace,
        "get",
        "ciliumendpoint",
        "friend",
    ];
    let kept = [
        wait::until("its CiliumNode goes", COLLECTED, || is_gone(&node)).is_err(),
        wait::until("its CiliumEndpoint goes", COLLECTED, || is_gone(&endpoint)).is_err(),
    ];
    stage.compare("its CiliumNode is there", &false, &kept[0]);
    stage.compare("its pod's CiliumEndpoint is there", &false, &kept[1]);
    for (what, address) in [("its pod", &friend.address), ("itself", &peer.address)] {
        let forgotten = wait::until(what, LONG, || {
            Ok((!knows(stage, &agent, address)?).then_some(()))
        });
        let known = forgotten.is_err();
        stage.compare(&format!("{here} knows {what}"), &false, &known);
    }

    say(&format!("{gone} comes back"));
    oxilium_e2e::process::run(
        stage
            .cluster
            .script("node.sh")?
            .args(["up", number.as_str()]),
    )?;
    stage
        .cluster
        .rolled_out("kube-system", "daemonset/cilium")?;
    let pods = client("friend", "app: friend", &gone) + &client("stranger", "app: stranger", &gone);
    let [friend, stranger] = stage.pods(["friend", "stranger"], &pods)?;
    stage.becomes("a friend on the new node", Verdict::Works, |cluster| {
        friend.curl(cluster, &web.address, 80)
    })?;
    stage.is("a stranger on it", Verdict::Dropped, |cluster| {
        stranger.curl(cluster, &web.address, 80)
    })
}
