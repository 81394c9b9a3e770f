//! What goes away: the agent, the API server, the definition of policies.

use std::time::{Duration, Instant};

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, LONG, Verdict};
use oxilium_e2e::wait;

use crate::stage::{AGENTS, Stage, say};
use crate::trio::{ONLY_FRIENDS, Trio};

/// All agents are killed and come back, while policies change.
pub(crate) fn agent_killed(stage: &mut Stage<'_>) -> Result<()> {
    const ASKING: u64 = 25;
    let trio = Trio::start(stage)?;
    trio.keep_asking(stage.cluster, ASKING)?;
    say("every agent is killed; meanwhile a policy is added");
    let kill = [
        "--namespace",
        "kube-system",
        "delete",
        "pod",
        "--selector",
        AGENTS,
    ];
    stage
        .cluster
        .kubectl(&[&kill[..], &["--force", "--grace-period=0"]].concat())?;
    stage.apply(&ONLY_FRIENDS.replace("name: friends", "name: again"))?;
    stage
        .cluster
        .rolled_out("kube-system", "daemonset/cilium")?;
    trio.nothing_lost_nothing_smuggled(stage, LONG)?;
    say("one of two equal policies is removed");
    stage.delete(ONLY_FRIENDS)?;
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
