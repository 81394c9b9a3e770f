//! A Kubernetes cluster that is up, spoken to as its users do: with kubectl.
//!
//! It is the one of namespaces that `e2e/cluster/up.sh` makes, or whichever `KUBECONFIG` names. What only the machine's
//! owner can do (stop the API server, look at a node's kernel) is there with the first alone.

mod spot;

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{output, run};
use crate::wait;

pub use spot::{Spot, Verdict};

/// Enough for a pod to be scheduled, made and started on a loaded machine.
pub const LONG: Duration = Duration::from_mins(2);

/// Whose cluster it is.
#[derive(Clone, Debug)]
enum Owner {
    /// Made of namespaces by the scripts in this directory.
    Scripts(PathBuf),
    /// Somebody else's, reached as `KUBECONFIG` says.
    Kubeconfig,
}

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    owner: Owner,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`, else the one made of namespaces.
    ///
    /// # Errors
    /// If neither answers.
    pub fn find() -> Result<Self> {
        let owner = match env::var_os("KUBECONFIG") {
            Some(_) => Owner::Kubeconfig,
            None => Owner::Scripts(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")),
        };
        let cluster = Self { owner };
        cluster.kubectl(&["version", "--output=json"]).context(
            "no cluster answers: `e2e/cluster/up.sh` makes one, KUBECONFIG names another",
        )?;
        Ok(cluster)
    }

    /// True where the nodes and the control plane are this machine's own.
    pub fn is_own(&self) -> bool {
        matches!(self.owner, Owner::Scripts(_))
    }

    fn command(&self) -> Command {
        match &self.owner {
            Owner::Scripts(directory) => Command::new(directory.join("kubectl")),
            Owner::Kubeconfig => Command::new("kubectl"),
        }
    }

    /// Runs kubectl to the end and returns what it prints.
    ///
    /// # Errors
    /// If its status is not 0.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.command().args(arguments))
    }

    /// Runs kubectl to the end, whatever its status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        output(self.command().args(arguments))
    }

    /// A kubectl that goes on, e.g. an `exec` whose output is read later.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments);
        command
    }

    /// What kubectl prints as JSON.
    ///
    /// # Errors
    /// If its status is not 0, or it prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {arguments:?}: {text}"))
    }

    /// `kubectl VERB --filename=- …` with these manifests.
    ///
    /// # Errors
    /// If its status is not 0.
    pub fn feed(&self, arguments: &[&str], manifests: &str) -> Result<String> {
        let mut child = self
            .command()
            .args(arguments)
            .arg("--filename=-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has no stdin")?
            .write_all(manifests.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl {arguments:?}: {}\n{manifests}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` in this namespace.
    ///
    /// # Errors
    /// If its status is not 0.
    pub fn apply(&self, namespace: &str, manifests: &str) -> Result<()> {
        self.feed(&["--namespace", namespace, "apply"], manifests)
            .map(drop)
    }

    /// `kubectl delete` in this namespace; what is not there is no error.
    ///
    /// # Errors
    /// If its status is not 0.
    pub fn delete(&self, namespace: &str, manifests: &str) -> Result<()> {
        let arguments = ["--namespace", namespace, "delete", "--ignore-not-found"];
        self.feed(&arguments, manifests).map(drop)
    }

    /// Names of the nodes, in order.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let names = self.kubectl(&["get", "nodes", "--output=name"])?;
        Ok(names
            .lines()
            .filter_map(|line| line.strip_prefix("node/"))
            .map(str::to_owned)
            .collect())
    }

    /// Waits until a rollout is complete.
    ///
    /// # Errors
    /// If it is not after [`LONG`].
    pub fn rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        let limit = format!("--timeout={}s", LONG.as_secs());
        self.kubectl(&["--namespace", namespace, "rollout", "status", what, &limit])
            .map(drop)
    }

    /// Pods of a namespace with this label that run and are ready, in the order of their names.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn ready_pods(&self, namespace: &str, label: &str) -> Result<Vec<Spot>> {
        let list = self.json(&["--namespace", namespace, "get", "pods", "--selector", label])?;
        let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        let mut pods: Vec<Spot> = items
            .iter()
            .filter(|pod| is_ready(pod))
            .filter_map(Spot::of_pod)
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// The pod of this label on a node, once it is ready.
    ///
    /// # Errors
    /// If there is none after [`LONG`].
    pub fn pod_on(&self, namespace: &str, label: &str, node: &str) -> Result<Spot> {
        wait::until(&format!("a ready pod {label} on {node}"), LONG, || {
            let pods = self.ready_pods(namespace, label)?;
            Ok(pods.into_iter().find(|pod| pod.node == node))
        })
    }

    /// Runs a command on a node of this machine's own cluster.
    ///
    /// # Errors
    /// If it fails, or the cluster is somebody else's.
    pub fn on_node(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let number = node.strip_prefix('n').unwrap_or(node);
        let mut command = self.script("on-node")?;
        run(command.arg(number).args(arguments))
    }

    /// One of the scripts that made this machine's own cluster.
    ///
    /// # Errors
    /// If the cluster is somebody else's.
    pub fn script(&self, name: &str) -> Result<Command> {
        match &self.owner {
            Owner::Scripts(directory) => Ok(Command::new(directory.join(name))),
            Owner::Kubeconfig => bail!("{name}: only on a cluster that e2e/cluster/up.sh made"),
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}
