//! The node that things happen to, and the pods and traffic that are there all the time.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result, bail, ensure};
use oxilium_api::{Client, ComponentState, StatusReport, call};
use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    fingerprint::Untouched,
    lab::Lab,
    pod::Pod,
    scenario::{policy, sockets},
    traffic::{Connection, Datagrams, Echo},
    wait,
};

use crate::{Kind, churn::Deed, dice::Dice};

/// Deeds of a round.
const DEEDS: usize = 8;
/// How much of the agent's log is told when something is wrong.
const LINES_TOLD: usize = 150;

/// What goes on all the time.
struct Traffic {
    allowed: [Datagrams; 2],
    denied: Datagrams,
    connection: Connection,
    /// From these numbers on it counts.
    since: [u64; 3],
}

/// How often what was done.
#[derive(Debug, Default)]
pub(crate) struct Tally(pub(crate) BTreeMap<&'static str, u64>);

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self
            .0
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        write!(f, "{}", all.join(", "))
    }
}

pub(crate) struct Stage {
    pub(crate) agent: Option<Agent>,
    traffic: Option<Traffic>,
    /// Subject, friend, stranger.
    pub(crate) residents: Vec<Pod>,
    pub(crate) guests: BTreeMap<usize, Pod>,
    pub(crate) policies: BTreeMap<usize, String>,
    pub(crate) untouched: Untouched,
    pub(crate) lab: Lab,
    held: Vec<String>,
    /// What was done in this round.
    pub(crate) story: Vec<String>,
    pub(crate) tally: Tally,
    /// Number of the agent that runs.
    pub(crate) life: u32,
}

impl Stage {
    /// A node without an agent.
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let untouched = Untouched::new(&lab)?;
        Ok(Self {
            agent: None,
            traffic: None,
            residents: Vec::new(),
            guests: BTreeMap::new(),
            policies: BTreeMap::new(),
            untouched,
            lab,
            held: Vec::new(),
            story: Vec::new(),
            tally: Tally::default(),
            life: 0,
        })
    }

    /// The first agent, the pods that stay, and traffic between them.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.launch()?;
        self.until_content()?;
        for name in ["subject", "friend", "stranger"] {
            let pod = self.lab.pod(name).label("app", name).start()?;
            self.residents.push(pod);
        }
        let friends = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
        self.lab
            .manifests
            .put("web.yaml", &policy("web", friends))?;
        self.agent()?.until_policy("web", true)?;
        let [subject, friend, stranger] = &self.residents[..] else {
            bail!("three residents");
        };
        let stream = |name: &str, from: &Pod, port, family: usize| {
            let to = sockets(subject, port)[family];
            Datagrams::start(name, [&from.netns, &subject.netns], to, Echo::No)
        };
        let to = sockets(subject, 7004)[0];
        self.traffic = Some(Traffic {
            allowed: [
                stream("allowed (IPv4)", friend, 7001, 0)?,
                stream("allowed (IPv6)", friend, 7001, 1)?,
            ],
            denied: stream("denied", stranger, 7002, 0)?,
            connection: Connection::start(&friend.netns, &subject.netns, to)?,
            since: [0; 3],
        });
        self.rest(Kind::Calm)
    }

    pub(crate) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("an agent was started")
    }

    /// Starts an agent, and does not wait.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let mut command = agent_command(&self.lab)?;
        command.args(["--sweep-interval", "1", "--conntrack-gc-interval", "5"]);
        self.life += 1;
        self.agent = Some(Agent::launch_as(&self.lab, command)?);
        Ok(())
    }

    fn status(&self) -> Option<StatusReport> {
        // An agent that is not there yet does not answer.
        Client::new(self.lab.socket(), wait::LONG)
            .call(call::Status)
            .ok()
    }

    pub(crate) fn until_content(&mut self) -> Result<StatusReport> {
        self.until("the agent is content", |status| {
            status.cilium.state == ComponentState::Ok
        })
    }

    /// Waits until the agent takes pods, as `Ready` of CNI's STATUS asks.
    pub(crate) fn until_answers(&mut self) -> Result<()> {
        let client = Client::new(self.lab.socket(), wait::LONG);
        wait::until("the agent takes pods", wait::LONG, || {
            client.call(oxilium_api::Ready)?;
            Ok(Some(()))
        })
    }

    fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&StatusReport) -> bool,
    ) -> Result<StatusReport> {
        // A fight is told of for half a minute after the last blow.
        wait::until(what, 2 * wait::LONG, || {
            if let Some(status) = self.agent()?.process().ended()? {
                bail!("the agent ended: {status}");
            }
            let status = self.status();
            let last = status.as_ref().map(|status| status.cilium.msg.clone());
            match status.filter(&wanted) {
                Some(status) => Ok(Some(status)),
                None => bail!("{last:?}"),
            }
        })
    }

    /// Some deeds, one after the other.
    pub(crate) fn round(&mut self, kind: Kind, dice: &mut Dice) -> Result<()> {
        self.story.clear();
        for _ in 0..DEEDS {
            let deed = Deed::drawn(kind, dice);
            deed.done(self, dice).with_context(|| format!("{deed:?}"))?;
        }
        self.rest(kind)
    }

    pub(crate) fn note(&mut self, what: &'static str, details: &str) {
        *self.tally.0.entry(what).or_default() += 1;
        self.story.push(format!("{what} {details}"));
    }

    /// Back to where it all began, and looks whether it is so.
    fn rest(&mut self, kind: Kind) -> Result<()> {
        self.until_answers()?;
        for name in std::mem::take(&mut self.policies).into_values() {
            self.lab.manifests.remove(&name)?;
        }
        for guest in std::mem::take(&mut self.guests).into_values() {
            guest.delete()?;
        }
        // What the agent knows by now is more than it knew before the last change.
        self.until("all is applied, and has its links", |status| {
            let reconcile = &status.reconcile;
            status.cilium.state == ComponentState::Ok
                && status.policies == 1
                && reconcile.input_revision == reconcile.applied_revision
                && reconcile.hooks_without_link == 0
        })?;
        let held = wait::until("the kernel holds what it held", wait::LONG, || {
            let held = self.enforced()?;
            if self.held.is_empty() || held == self.held {
                return Ok(Some(held));
            }
            let only = |left: &[String], right: &[String]| -> Vec<String> {
                left.iter()
                    .filter(|line| !right.contains(line))
                    .cloned()
                    .collect()
            };
            bail!(
                "too much: {:?}; missing: {:?}",
                only(&held, &self.held),
                only(&self.held, &held)
            )
        })?;
        self.held = held;
        // While programs or entries are away, anything may pass or be lost.
        if kind == Kind::Tampering {
            return Ok(());
        }
        self.check_traffic()?;
        self.count_from_now()
    }

    fn enforced(&self) -> Result<Vec<String>> {
        let residents: Vec<&Pod> = self.residents.iter().collect();
        dump::settled(&self.lab, &residents)
    }

    /// From here on what passes and what does not counts.
    pub(crate) fn count_from_now(&mut self) -> Result<()> {
        if let Some(traffic) = &mut self.traffic {
            let [one, two] = &traffic.allowed;
            traffic.since = [one.goes_on()?, two.goes_on()?, traffic.denied.goes_on()?];
        }
        Ok(())
    }

    fn check_traffic(&self) -> Result<()> {
        let Some(traffic) = &self.traffic else {
            return Ok(());
        };
        let denied = traffic.since[2]..traffic.denied.goes_on()?;
        for (stream, since) in traffic.allowed.iter().zip(traffic.since) {
            stream.all_passed(&(since..stream.goes_on()?))?;
        }
        traffic.denied.none_passed(&denied)?;
        traffic.connection.goes_on()
    }

    /// Ends everything but the pod that was there before.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.traffic = None;
        for resident in std::mem::take(&mut self.residents) {
            resident.delete()?;
        }
        self.until("the pods are gone", |status| {
            status.endpoints.values().all(|count| *count == 0)
        })?;
        self.agent()?.process().crash()?;
        self.agent = None;
        ensure!(self.guests.is_empty(), "guests");
        Ok(())
    }

    pub(crate) fn last_words(&self) -> String {
        let log = self.lab.directory().join("agent.log");
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
    }
}
