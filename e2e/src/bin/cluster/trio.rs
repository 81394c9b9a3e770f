//! A server, somebody who may ask it, and somebody who may not.

use std::time::Duration;

use anyhow::Result;
use oxilium_e2e::cluster::{Cluster, Spot, Verdict};
use oxilium_e2e::wait;

use crate::stage::{Stage, client, say, server};

/// What `friend` may and `stranger` may not.
pub(crate) const ONLY_FRIENDS: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: friends}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]
";

/// A server, somebody who may ask it and somebody who may not.
pub(crate) struct Trio {
    pub(crate) web: Spot,
    pub(crate) friend: Spot,
    pub(crate) stranger: Spot,
}

impl Trio {
    /// Starts them, without policy.
    pub(crate) fn alone(stage: &Stage<'_>) -> Result<Self> {
        let pods = server("web", "app: web", &stage.node(0))
            + &client("friend", "app: friend", &stage.node(1))
            + &client("stranger", "app: stranger", &stage.node(0));
        let [web, friend, stranger] = stage.pods(["web", "friend", "stranger"], &pods)?;
        Ok(Self {
            web,
            friend,
            stranger,
        })
    }

    /// Starts them, and the policy holds.
    pub(crate) fn start(stage: &mut Stage<'_>) -> Result<Self> {
        let trio = Self::alone(stage)?;
        stage.apply(ONLY_FRIENDS)?;
        trio.hold(stage)?;
        Ok(trio)
    }

    /// The policy holds, or comes to hold.
    pub(crate) fn hold(&self, stage: &mut Stage<'_>) -> Result<()> {
        let address = &self.web.address;
        stage.becomes("a stranger", Verdict::Dropped, |cluster| {
            self.stranger.curl(cluster, address, 80)
        })?;
        stage.becomes("a friend", Verdict::Works, |cluster| {
            self.friend.curl(cluster, address, 80)
        })
    }

    /// Friend and stranger ask again and again.
    pub(crate) fn keep_asking(&self, cluster: &Cluster, seconds: u64) -> Result<()> {
        let to = &self.web.address;
        keep_asking(cluster, &self.friend, to, seconds)?;
        keep_asking(cluster, &self.stranger, to, seconds)
    }

    /// Once the asking is over: every friend's request was answered, none of a stranger's.
    pub(crate) fn nothing_lost_nothing_smuggled(
        &self,
        stage: &mut Stage<'_>,
        limit: Duration,
    ) -> Result<()> {
        let (came, lost) = asked(stage.cluster, &self.friend, limit)?;
        say(&format!("a friend's requests answered meanwhile: {came}"));
        stage.compare("a friend was answered", &true, &(came > 0));
        stage.compare("a friend's requests lost", &0, &lost);
        let (came, lost) = asked(stage.cluster, &self.stranger, limit)?;
        stage.compare("a stranger asked", &true, &(lost > 0));
        stage.compare("a stranger's requests answered", &0, &came);
        Ok(())
    }

    /// Both begin to read something from the server that takes this long.
    pub(crate) fn download(&self, cluster: &Cluster, seconds: u64) -> Result<()> {
        let size = format!("head -c {seconds}000000 /dev/zero >/var/www/html/large");
        done(&self.web, cluster, &size)?;
        let script = format!(
            "rm -f /tmp/read; (curl -s -o /dev/null --limit-rate 1M -m {} http://{}/large; echo $? >/tmp/read) >/dev/null \
             2>&1 &",
            seconds + 15,
            self.web.address
        );
        done(&self.friend, cluster, &script)?;
        done(&self.stranger, cluster, &script)
    }

    /// curl's exit status of the friend's and the stranger's reading, once it is over.
    pub(crate) fn downloaded(&self, cluster: &Cluster, limit: Duration) -> Result<[String; 2]> {
        let status = |from: &Spot| {
            wait::until("the reading is over", limit, || {
                let text = from.exec(cluster, &["cat", "/tmp/read"])?.1;
                Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
            })
        };
        Ok([status(&self.friend)?, status(&self.stranger)?])
    }
}

/// Runs a script in the pod, which must succeed.
fn done(spot: &Spot, cluster: &Cluster, script: &str) -> Result<()> {
    let status = spot.exec(cluster, &["sh", "-c", script])?.0;
    anyhow::ensure!(status == 0, "in {spot}: {script}: status {status}");
    Ok(())
}

/// Asks again and again from inside a pod, and writes down what came of it; no API server is needed meanwhile.
fn keep_asking(cluster: &Cluster, from: &Spot, to: &str, seconds: u64) -> Result<()> {
    let script = format!(
        "rm -f /tmp/asked /tmp/done; end=$(($(date +%s) + {seconds})); (while [ $(date +%s) -lt $end ]; do if curl -s -o \
         /dev/null --connect-timeout 1 -m 3 http://{to}/; then echo came; else echo lost; fi >>/tmp/asked; done; touch \
         /tmp/done) >/dev/null 2>&1 &"
    );
    done(from, cluster, &script)
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
