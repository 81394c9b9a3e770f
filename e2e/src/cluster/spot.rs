//! Where somebody asks from, and what comes of it.

use std::fmt;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Cluster;

/// A pod to ask from, and to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its IPv4 address; of a pod in its node's network, the node's.
    pub address: String,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.name, self.node)
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An answer came.
    Works,
    /// Nothing came.
    Dropped,
    /// Somebody said no.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Works => "works",
            Self::Dropped => "no answer",
            Self::Refused => "refused",
        })
    }
}

impl Spot {
    pub(super) fn of_pod(pod: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            namespace: text(&pod["metadata"]["namespace"])?,
            name: text(&pod["metadata"]["name"])?,
            node: text(&pod["spec"]["nodeName"])?,
            address: text(&pod["status"]["podIP"])?,
        })
    }

    /// Runs a command in the pod: its exit status and what it printed.
    ///
    /// # Errors
    /// If it cannot be run there.
    pub fn exec(&self, cluster: &Cluster, command: &[&str]) -> Result<(i32, String)> {
        let place = ["--namespace", &self.namespace, "exec", &self.name, "--"];
        let output = cluster.try_kubectl(&[&place, command].concat())?;
        let Some(status) = output.status.code() else {
            bail!("kubectl exec in {self} was killed");
        };
        let error = String::from_utf8_lossy(&output.stderr);
        // kubectl passes the command's status on, and has 1 for what is its own.
        if status == 1 && !error.contains("command terminated with exit code") {
            bail!("exec in {self}: {}", error.trim());
        }
        Ok((status, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// `curl http://address:port/`.
    ///
    /// # Errors
    /// If curl cannot be run, or something else than a verdict comes.
    pub fn curl(&self, cluster: &Cluster, address: &str, port: u16) -> Result<Verdict> {
        let url = format!("http://{address}:{port}/");
        let curl = [
            "curl",
            "--silent",
            "--output",
            "/dev/null",
            "--noproxy",
            "*",
        ];
        let limits = ["--connect-timeout", "1", "--max-time", "3", &url];
        match self.exec(cluster, &[&curl[..], &limits].concat())?.0 {
            0 => Ok(Verdict::Works),
            28 => Ok(Verdict::Dropped),
            7 | 56 => Ok(Verdict::Refused),
            other => bail!("curl {url} in {self}: status {other}"),
        }
    }

    /// `ping -c 1`.
    ///
    /// # Errors
    /// If ping cannot be run.
    pub fn ping(&self, cluster: &Cluster, address: &str) -> Result<Verdict> {
        let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address];
        match self.exec(cluster, &ping)?.0 {
            0 => Ok(Verdict::Works),
            1 => Ok(Verdict::Dropped),
            other => bail!("ping {address} in {self}: status {other}"),
        }
    }
}
