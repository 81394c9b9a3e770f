//! Where a scenario plays: a namespace of its own, and what was seen so far.

use std::fmt::Display;

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, LONG, Spot, Verdict};
use oxilium_e2e::wait;

/// Image of nginx, curl and ping that every node has.
pub(crate) const MULTITOOL: &str = "docker.io/runzhliu/network-multitool:latest";

/// Label of the agents' pods.
pub(crate) const AGENTS: &str = "k8s-app=cilium";

/// A pod that serves on port 80, in its own network.
pub(crate) fn server(name: &str, labels: &str, node: &str) -> String {
    pod(
        name,
        labels,
        node,
        r#"["sh", "-c", "nginx && sleep infinity"]"#,
    )
}

/// A pod that asks when it is told to.
pub(crate) fn client(name: &str, labels: &str, node: &str) -> String {
    pod(name, labels, node, r#"["sleep", "infinity"]"#)
}

fn pod(name: &str, labels: &str, node: &str, command: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {MULTITOOL}\n    \
         imagePullPolicy: IfNotPresent\n    command: {command}\n"
    )
}

/// Says what is being done.
pub(crate) fn say(what: &str) {
    println!("  {what}");
}

/// A scenario's namespace, and what it saw.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: String,
    nodes: Vec<String>,
    differences: usize,
}

impl<'a> Stage<'a> {
    /// Makes the namespace, anew if an earlier run left it.
    pub(crate) fn set(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let namespace = format!("e2e-{name}");
        cluster.kubectl(&["delete", "namespace", &namespace, "--ignore-not-found"])?;
        cluster.kubectl(&["create", "namespace", &namespace])?;
        // A pod is admitted once its service account is there.
        wait::until("the default service account", LONG, || {
            let arguments = [
                "--namespace",
                &namespace,
                "get",
                "serviceaccount",
                "default",
            ];
            Ok(cluster
                .try_kubectl(&arguments)?
                .status
                .success()
                .then_some(()))
        })?;
        Ok(Self {
            cluster,
            namespace,
            nodes: cluster.nodes()?,
            differences: 0,
        })
    }

    /// Removes the namespace and what is in it.
    pub(crate) fn clear(&self) -> Result<()> {
        self.cluster
            .kubectl(&["delete", "namespace", &self.namespace, "--wait=false"])
            .map(drop)
    }

    pub(crate) const fn differences(&self) -> usize {
        self.differences
    }

    /// The node of this number; there may be fewer, then it is one again.
    pub(crate) fn node(&self, number: usize) -> String {
        self.nodes[number % self.nodes.len()].clone()
    }

    /// The node of the highest number.
    pub(crate) fn last_node(&self) -> String {
        self.node(self.nodes.len() - 1)
    }

    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.cluster.apply(&self.namespace, manifests)
    }

    pub(crate) fn delete(&self, manifests: &str) -> Result<()> {
        self.cluster.delete(&self.namespace, manifests)
    }

    /// Starts these pods and waits until they are ready.
    pub(crate) fn pods<const N: usize>(
        &self,
        names: [&str; N],
        manifests: &str,
    ) -> Result<[Spot; N]> {
        self.apply(manifests)?;
        let mut spots = Vec::with_capacity(N);
        for name in names {
            let limit = format!("--timeout={}s", LONG.as_secs());
            let pod = format!("pod/{name}");
            let wait = [
                "--namespace",
                &self.namespace,
                "wait",
                "--for=condition=Ready",
            ];
            self.cluster
                .kubectl(&[&wait[..], &[&limit, &pod]].concat())?;
            let all = self.cluster.ready_pods(&self.namespace, "")?;
            spots.extend(all.into_iter().find(|spot| spot.name == name));
        }
        spots
            .try_into()
            .map_err(|found| anyhow::anyhow!("of {names:?} only {found:?} are ready"))
    }

    /// Waits until asking comes to what was expected, and says so; what does not is a difference.
    pub(crate) fn becomes(
        &mut self,
        what: &str,
        expected: Verdict,
        mut ask: impl FnMut(&Cluster) -> Result<Verdict>,
    ) -> Result<()> {
        let mut seen = None;
        let came = wait::until(what, wait::LONG, || {
            let now = ask(self.cluster)?;
            seen = Some(now);
            Ok((now == expected).then_some(()))
        });
        match (came, seen) {
            (Ok(()), _) => self.compare(what, &expected, &expected),
            (Err(_), Some(seen)) => self.compare(what, &expected, &seen),
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }

    /// Asks once.
    pub(crate) fn is(
        &mut self,
        what: &str,
        expected: Verdict,
        ask: impl FnOnce(&Cluster) -> Result<Verdict>,
    ) -> Result<()> {
        let seen = ask(self.cluster)?;
        self.compare(what, &expected, &seen);
        Ok(())
    }

    /// Compares what was expected with what was seen.
    pub(crate) fn compare<T: PartialEq + Display + ?Sized>(
        &mut self,
        what: &str,
        expected: &T,
        seen: &T,
    ) {
        if expected == seen {
            println!("    ok       {what}: {seen}");
        } else {
            println!("    DIFFERS  {what}: expected {expected}, seen {seen}");
            self.differences += 1;
        }
    }
}
