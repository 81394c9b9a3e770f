//! What goes away: the agent, the API server, the definition of policies.

use std::time::{Duration, Instant};

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, LONG, Spot, Verdict};
use oxilium_e2e::wait;

use crate::stage::{Stage, client, say, server};

const AGENTS: &str = "k8s-app=cilium";
const ONLY_FRIENDS: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: friends}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]
";

/// A server, somebody who may ask it and somebody who may not.
struct Trio {
    web: Spot,
    friend: Spot,
    stranger: Spot,
}

impl Trio {
    fn start(stage: &mut Stage<'_>) -> Result<Self> {
        let pods = server("web", "app: web", &stage.node(0))
            + &client("friend", "app: friend", &stage.node(1))
            + &client("stranger", "app: stranger", &stage.node(0));
        let [web, friend, stranger] = stage.pods(["web", "friend", "stranger"], &pods)?;
        stage.apply(ONLY_FRIENDS)?;
        let trio = Self {
            web,
            friend,
            stranger,
        };
        trio.hold(stage)?;
        Ok(trio)
    }

    /// The policy holds, or comes to hold.
    fn hold(&self, stage: &mut Stage<'_>) -> Result<()> {
        let address = &self.web.address;
        stage.becomes("a stranger", Verdict::Dropped, |cluster| {
            self.stranger.curl(cluster, address, 80)
        })?;
        stage.becomes("a friend", Verdict::Works, |cluster| {
            self.friend.curl(cluster, address, 80)
        })
    }
}

/// Asks again and again from inside a pod, and writes down what came of it; no API server is needed meanwhile.
fn keep_asking(cluster: &Cluster, from: &Spot, to: &str, seconds: u64) -> Result<()> {
    let script = format!(
        "rm -f /tmp/asked /tmp/done; end=$(($(date +%s) + {seconds})); (while [ $(date +%s) -lt $end ]; do if curl -s -o \
         /dev/null --connect-timeout 1 -m 3 http://{to}/; then echo came; else echo lost; fi >>/tmp/asked; done; touch \
         /tmp/done) >/dev/null 2>&1 &"
    );
    let status = from.exec(cluster, &["sh", "-c", &script])?.0;
    anyhow::ensure!(
        status == 0,
        "cannot begin to ask in {from}: status {status}"
    );
    Ok(())
}

/// How often an answer came and how often none did, once the asking is over.
fn asked(cluster: &Cluster, from: &Spot, limit: Duration) -> Result<(usize, usize)> {
    wait::until("the asking is over", limit, || {
        Ok((from.exec(cluster, &["test", "-e", "/tmp/done"])?.0 == 0).then_some(()))
    })?;
    let text = from.exec(cluster, &["cat", "/tmp/asked"])?.1;
    let count = |word| text.lines().filter(|line| *line == word).count();
    Ok((count("came"), count("lost")))
}

fn nothing_lost_nothing_smuggled(
    stage: &mut Stage<'_>,
    trio: &Trio,
    limit: Duration,
) -> Result<()> {
    let (came, lost) = asked(stage.cluster, &trio.friend, limit)?;
    say(&format!("a friend's requests answered meanwhile: {came}"));
    stage.compare("a friend was answered", &true, &(came > 0));
    stage.compare("a friend's requests lost", &0, &lost);
    let (came, lost) = asked(stage.cluster, &trio.stranger, limit)?;
    stage.compare("a stranger asked", &true, &(lost > 0));
    stage.compare("a stranger's requests answered", &0, &came);
    Ok(())
}

/// All agents are killed and come back, while policies change.
pub(crate) fn agent_killed(stage: &mut Stage<'_>) -> Result<()> {
    const ASKING: u64 = 25;
    let trio = Trio::start(stage)?;
    keep_asking(stage.cluster, &trio.friend, &trio.web.address, ASKING)?;
    keep_asking(stage.cluster, &trio.stranger, &trio.web.address, ASKING)?;
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
    nothing_lost_nothing_smuggled(stage, &trio, LONG)?;
    say("one of two equal policies is removed");
    stage.delete(ONLY_FRIENDS)?;
    trio.hold(stage)
}

/// The API server is away for a minute, and an agent is killed meanwhile.
pub(crate) fn api_server_away(stage: &mut Stage<'_>) -> Result<()> {
    const AWAY: Duration = Duration::from_mins(1);
    let trio = Trio::start(stage)?;
    let asking = AWAY.as_secs() + 15;
    keep_asking(stage.cluster, &trio.friend, &trio.web.address, asking)?;
    keep_asking(stage.cluster, &trio.stranger, &trio.web.address, asking)?;
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
    nothing_lost_nothing_smuggled(stage, &trio, LONG)?;
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
    let trio = Trio::start(stage)?;
    let definition = stage.cluster.json(&["get", "crd", DEFINITION])?;
    keep_asking(stage.cluster, &trio.friend, &trio.web.address, ASKING)?;
    keep_asking(stage.cluster, &trio.stranger, &trio.web.address, ASKING)?;
    stage
        .cluster
        .kubectl(&["delete", "crd", DEFINITION, "--wait=true"])?;
    nothing_lost_nothing_smuggled(stage, &trio, LONG)?;
    say("the definition and the policy are applied again");
    let anew = serde_json::json!({
        "apiVersion": definition["apiVersion"], "kind": definition["kind"],
        "metadata": { "name": DEFINITION, "labels": definition["metadata"]["labels"] },
        "spec": definition["spec"],
    });
    stage.cluster.feed(
        &["apply", "--server-side", "--force-conflicts"],
        &anew.to_string(),
    )?;
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        DEFINITION,
    ];
    stage.cluster.kubectl(&established)?;
    wait::until("the API serves policies again", LONG, || {
        Ok(stage.apply(ONLY_FRIENDS).is_ok().then_some(()))
    })?;
    trio.hold(stage)?;
    stage.delete(ONLY_FRIENDS)?;
    stage.becomes("a stranger without the policy", Verdict::Works, |cluster| {
        trio.stranger.curl(cluster, &trio.web.address, 80)
    })
}
