//! The chart, as the scenarios have it installed.

use anyhow::Result;
use oxilium_e2e::cluster::Cluster;
use oxilium_e2e::helm;

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
