//! What goes away: the agent, the API server, the definition of policies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use oxilium_e2e::cluster::{Cluster, LONG, Verdict};
use oxilium_e2e::wait;

use crate::stage::{AGENTS, Stage, client, say};
use crate::trio::{ONLY_FRIENDS, Trio};

/// Whom the policy of the name `more` lets in besides.
fn lets_in(app: &str) -> String {
    ONLY_FRIENDS
        .replace("name: friends", "name: more")
        .replace("app: friend}", &format!("app: {app}}}"))
}

/// `SIGKILL` for every agent where the nodes are this machine's own, else their pods are deleted without grace.
fn kill_agents(cluster: &Cluster) -> Result<()> {
    // The kubelet lets one that died before wait for a while: not every node has one at each moment.
    const KILL: &str = "pkill -9 --count --full '[o]xilium agent' || test $? -eq 1";
    if !cluster.is_own() {
        let delete = ["--namespace", "kube-system", "delete", "pod", "--selector"];
        let now = [AGENTS, "--force", "--grace-period=0"];
        return cluster.kubectl(&[&delete[..], &now].concat()).map(drop);
    }
    let mut killed = 0;
    for node in cluster.nodes()? {
        let count = cluster.on_node(&node, &["sh", "-c", KILL])?;
        killed += count
            .trim()
            .parse::<usize>()
            .with_context(|| format!("pkill says {count}"))?;
    }
    anyhow::ensure!(killed > 0, "no agent runs on any node");
    say(&format!("agents killed: {killed}"));
    Ok(())
}

/// All agents are killed again and again, while policies change, and what the last change says holds in the end.
pub(crate) fn agent_killed(stage: &mut Stage<'_>) -> Result<()> {
    const ASKING: u64 = 60;
    let trio = Trio::start(stage)?;
    let pod = client("newcomer", "app: newcomer", &stage.node(1));
    let [newcomer] = stage.pods(["newcomer"], &pod)?;
    let asks = |cluster: &Cluster| newcomer.curl(cluster, &trio.web.address, 80);
    stage.becomes("a newcomer", Verdict::Dropped, asks)?;
    trio.keep_asking(stage.cluster, ASKING)?;
    say("every agent is killed; meanwhile a policy lets a newcomer in");
    kill_agents(stage.cluster)?;
    stage.apply(&lets_in("newcomer"))?;
    stage.becomes("a newcomer that is let in", Verdict::Works, asks)?;
    say("every agent is killed; meanwhile the policy lets in somebody else");
    kill_agents(stage.cluster)?;
    stage.apply(&lets_in("nobody"))?;
    stage.becomes("a newcomer that is let in no more", Verdict::Dropped, asks)?;
    say("the policy is there a moment before the agents are killed, and gone once they are");
    stage.apply(&lets_in("newcomer"))?;
    kill_agents(stage.cluster)?;
    stage.delete(&lets_in("newcomer"))?;
    stage
        .cluster
        .rolled_out("kube-system", "daemonset/cilium")?;
    stage.becomes("a newcomer without the policy", Verdict::Dropped, asks)?;
    trio.nothing_lost_nothing_smuggled(stage, LONG)?;
    trio.hold(stage)
}

/// The API server is away for a minute, and an agent is killed meanwhile.
pub(crate) fn api_server_away(stage: &mut Stage<'_>) -> Result<()> {
    const AWAY: Duration = Duration::from_mins(1);
    let trio = Trio::start(stage)?;
    let asking = AWAY.as_secs() + 15;
    trio.keep_asking(stage.cluster, asking)?;
    let node = trio.web.node.clone();
    let began = Instant::now();
    say("the API server is stopped, and the agent beside the server pod is killed");
    oxilium_e2e::process::run(stage.cluster.script("control-plane.sh")?.arg("stop-api"))?;
    let agent = |cluster: &Cluster| cluster.on_node(&node, &["pgrep", "-xf", ".*oxilium agent.*"]);
    let before = agent(stage.cluster)?;
    stage
        .cluster
        .on_node(&node, &["kill", "-9", before.trim()])?;
    wait::until("another agent", LONG, || {
        // For a moment there is none.
        let now = agent(stage.cluster).unwrap_or_default();
        Ok((!now.is_empty() && now != before).then_some(()))
    })?;
    wait::until("the time is over", AWAY * 2, || {
        Ok((began.elapsed() >= AWAY).then_some(()))
    })?;
    say("the API server is back");
    oxilium_e2e::process::run(stage.cluster.script("control-plane.sh")?.arg("start-api"))?;
    trio.nothing_lost_nothing_smuggled(stage, LONG)?;
    stage
        .cluster
        .rolled_out("kube-system", "daemonset/cilium")?;
    let began = Instant::now();
    let agent = stage
        .cluster
        .pod_on("kube-system", AGENTS, &trio.web.node)?;
    // After a minute of silence it asks each half a minute, so that a thousand nodes do not come at once.
    wait::until("the agent beside the server pod reads again", LONG, || {
        Ok((agent.exec(stage.cluster, &["oxilium", "status"])?.0 == 0).then_some(()))
    })?;
    say(&format!(
        "the agent reads again {:.1} s later",
        began.elapsed().as_secs_f64()
    ));
    trio.hold(stage)?;
    stage.delete(ONLY_FRIENDS)?;
    stage.becomes("a stranger without the policy", Verdict::Works, |cluster| {
        trio.stranger.curl(cluster, &trio.web.address, 80)
    })
}

/// Somebody deletes the definition of CiliumNetworkPolicy, and with it every policy: what they denied stays denied.
pub(crate) fn crd_deleted(stage: &mut Stage<'_>) -> Result<()> {
    const ASKING: u64 = 15;
    const DEFINITION: &str = "ciliumnetworkpolicies.cilium.io";
    const GIVE_UP: &str = "oxilium.io/give-up-former-objects=true";
    let trio = Trio::start(stage)?;
    // Of two equal policies one will not be applied again.
    stage.apply(&ONLY_FRIENDS.replace("name: friends", "name: forgotten"))?;
    let definition = stage.cluster.json(&["get", "crd", DEFINITION])?;
    trio.keep_asking(stage.cluster, ASKING)?;
    stage
        .cluster
        .kubectl(&["delete", "crd", DEFINITION, "--wait=true"])?;
    trio.nothing_lost_nothing_smuggled(stage, LONG)?;
    say(
        "the definition and one policy are applied again, and what is not is given up, as status asks for",
    );
    let anew = serde_json::json!({
        "apiVersion": definition["apiVersion"], "kind": definition["kind"],
        "metadata": { "name": DEFINITION, "labels": definition["metadata"]["labels"] },
        "spec": definition["spec"],
    });
    stage.cluster.feed(
        &["apply", "--server-side", "--force-conflicts"],
        &anew.to_string(),
    )?;
    wait::until("the API serves policies again", LONG, || {
        Ok(stage.apply(ONLY_FRIENDS).is_ok().then_some(()))
    })?;
    let agent = stage
        .cluster
        .pod_on("kube-system", AGENTS, &trio.web.node)?;
    let told = wait::until("status to say what to do", LONG, || {
        let status = agent.exec(stage.cluster, &["oxilium", "status"])?.1;
        Ok(status.contains(GIVE_UP).then_some(()))
    });
    stage.compare("status says what to do", &true, &told.is_ok());
    let give_up = ["annotate", "crd", DEFINITION, GIVE_UP, "--overwrite"];
    stage.cluster.kubectl(&give_up)?;
    trio.hold(stage)?;
    stage.delete(ONLY_FRIENDS)?;
    stage.becomes("a stranger without the policy", Verdict::Works, |cluster| {
        trio.stranger.curl(cluster, &trio.web.address, 80)
    })
}
