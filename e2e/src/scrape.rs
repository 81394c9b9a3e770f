//! What an agent tells Prometheus.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{agent::Agent, netns::Netns, wait};

const PORT: u16 = 9962;
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of an agent that is to be scraped: on its node alone.
pub const OPTIONS: [&str; 2] = ["--prometheus-serve-addr", "127.0.0.1:9962"];

/// One scrape: each sample by its name and labels, as they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Asks the agent on this node.
    ///
    /// # Errors
    /// If nobody serves the page, or it is not in Prometheus' format.
    pub fn of(node: &Netns) -> Result<Self> {
        let page = node.enter(|| -> Result<String> {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut page = String::new();
            socket.read_to_string(&mut page)?;
            Ok(page)
        })??;
        ensure!(page.contains(" 200 OK\r\n"), "{page}");
        let (_, body) = page.split_once("\r\n\r\n").context("no body")?;
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (sample, value) = line.rsplit_once(' ').context("no value")?;
                Ok((sample.to_owned(), value.parse()?))
            })
            .collect::<Result<_>>()
            .map(Self)
            .with_context(|| body.to_owned())
    }

    /// A sample, by its name and its labels in the order in which the page has them.
    ///
    /// # Errors
    /// If it is not there.
    pub fn value(&self, sample: &str) -> Result<f64> {
        let value = self.0.get(sample).copied();
        value.with_context(|| format!("no {sample} among {:?}", self.0.keys()))
    }

    /// The samples of a metric, each by its labels: without braces, empty for a metric that has none.
    pub fn samples(&self, metric: &str) -> BTreeMap<&str, f64> {
        self.0
            .iter()
            .filter_map(|(sample, value)| {
                let labels = sample.strip_prefix(metric)?;
                let inner = labels
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                match (labels, inner) {
                    ("", _) => Some(("", *value)),
                    (_, Some(inner)) => Some((inner, *value)),
                    _ => None,
                }
            })
            .collect()
    }

    /// All samples of a metric, added up.
    pub fn sum(&self, metric: &str) -> f64 {
        self.samples(metric).values().sum()
    }
}

/// Waits until the agent on this node has removed flows that ended in a round that began after this call.
///
/// # Errors
/// If it does not in time.
pub fn until_flows_collected(node: &Netns, agent: &mut Agent) -> Result<()> {
    const ROUNDS: &str = "cilium_datapath_conntrack_gc_runs_total{status=\"completed\"}";
    let before = Scrape::of(node)?.value(ROUNDS)?;
    // The first of the two may have begun before.
    let wanted = before + 2.0;
    wait::until("two removals of flows that ended", wait::LONG, || {
        ensure!(agent.process().ended()?.is_none(), "the agent ended");
        Ok((Scrape::of(node)?.value(ROUNDS)? >= wanted).then_some(()))
    })
}
