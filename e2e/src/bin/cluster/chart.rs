//! The chart, as the scenarios have it installed.

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, LONG};
use oxilium_e2e::helm;

use crate::stage::AGENTS;

/// The operator collects what nobody uses soon enough for a scenario to see it.
const VALUES: [&str; 3] = [
    "operator.identityGCInterval=5s",
    "operator.identityHeartbeatTimeout=30s",
    "operator.endpointGCInterval=5s",
];

/// Installs or upgrades it, with further values, and waits until agents and operators are ready.
pub(crate) fn install(cluster: &Cluster, values: &[&str]) -> Result<()> {
    let manifests = helm::render(&[&VALUES[..], values].concat())?;
    let apply = ["apply", "--server-side", "--force-conflicts"];
    cluster.feed(&apply, &manifests)?;
    cluster.rolled_out("kube-system", "daemonset/cilium")?;
    cluster.rolled_out("kube-system", "deployment/cilium-operator")
}

/// Takes it away as its notes say: the nodes' CNI configuration is put back first. Definitions of resources stay: deleting them
/// deletes all objects of theirs, whosever they are.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    const VALUES_OF_THE_END: [&str; 1] = ["cni.uninstall=true"];
    install(cluster, &VALUES_OF_THE_END)?;
    let manifests = helm::render(&[&VALUES[..], &VALUES_OF_THE_END].concat())?;
    cluster.feed(&["delete", "--ignore-not-found", "--wait"], &manifests)?;
    let limit = format!("--timeout={}s", LONG.as_secs());
    let gone = ["--namespace", "kube-system", "wait", "pod", "--for=delete"];
    cluster
        .kubectl(&[&gone[..], &["--selector", AGENTS, &limit]].concat())
        .map(drop)
}
