//! A node with traffic on it, and an agent that may die.

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use oxilium_api::{Client, ComponentState, StatusReport, call};
use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    fingerprint::Untouched,
    lab::Lab,
    pod::Pod,
    scenario::{policy, sockets},
    trace::{Deadly, Edge, Trace},
    traffic::Echo,
    wait,
};

use crate::{input::Input, traffic::Traffic};

/// More than the marker policy has: its line tells how often it was moved.
const MARKER_LINES: usize = 20;

/// The node, and what is known of it.
pub(crate) struct Node {
    pub(crate) trace: Trace,
    pub(crate) agent: Option<Agent>,
    pub(crate) input: Input,
    pub(crate) guest: Option<Pod>,
    pub(crate) changeling: Pod,
    pub(crate) stranger: Pod,
    pub(crate) friend: Pod,
    pub(crate) subject: Pod,
    pub(crate) untouched: Untouched,
    pub(crate) lab: Lab,
    pub(crate) fresh: BTreeMap<Input, Vec<String>>,
    pub(crate) markers: usize,
    pub(crate) traffic: Option<Traffic>,
    /// Seconds between two comparisons of the tables with what they should hold.
    sweep: &'static str,
    /// Somebody else changed what the running agent keeps.
    pub(crate) tampered: bool,
    /// Of links, before that.
    pub(crate) pins: Vec<PathBuf>,
    /// Where the time went.
    pub(crate) spent: BTreeMap<&'static str, Duration>,
}

impl Node {
    /// A node with pods, what fresh ones hold under either input, an agent that is ready, and then traffic.
    pub(crate) fn start(echo: Echo, sweep: &'static str) -> Result<Self> {
        let lab = Lab::new()?;
        let untouched = Untouched::new(&lab)?;
        let mut agent = Agent::start(&lab)?;
        let pod = |name: &str| lab.pod(name).label("app", name).start();
        let subject = pod("subject")?;
        let friend = pod("friend")?;
        let stranger = pod("stranger")?;
        let changeling = lab.pod("changeling").label("app", "friend").start()?;
        agent.process().crash()?;
        let mut this = Self {
            trace: Trace::default(),
            agent: None,
            input: Input::Open,
            guest: None,
            changeling,
            stranger,
            friend,
            subject,
            untouched,
            lab,
            fresh: BTreeMap::new(),
            markers: 0,
            traffic: None,
            sweep,
            tampered: false,
            pins: Vec::new(),
            spent: BTreeMap::new(),
        };
        for input in [Input::Closed, Input::Open] {
            this.put(input)?;
            this.forget()?;
            this.launch(None)?;
            this.settle()?;
            let held = this.held()?;
            this.fresh.insert(input, held);
            this.check().context("of a fresh node")?;
            this.agent()?.process().crash()?;
        }
        this.launch(None)?;
        this.settle()?;
        let pods = [
            &this.subject,
            &this.friend,
            &this.stranger,
            &this.changeling,
        ];
        this.traffic = Some(Traffic::start(pods, echo)?);
        Ok(this)
    }

    pub(crate) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("an agent was started")
    }

    /// Starts the agent, to die where `death` says, and does not wait.
    pub(crate) fn launch(&mut self, death: Option<(Deadly, Edge)>) -> Result<()> {
        self.trace = Trace::default();
        if let Some((deadly, edge)) = death {
            self.trace.kill_where(deadly, edge);
        }
        let mut command = agent_command(&self.lab)?;
        command.args(["--conntrack-gc-interval", "3600"]);
        command.args(["--sweep-interval", self.sweep]);
        self.tampered = false;
        self.agent = Some(Agent::launch_traced(&self.lab, &command, &self.trace)?);
        Ok(())
    }

    /// The files of an input.
    pub(crate) fn put(&mut self, input: Input) -> Result<()> {
        self.input = input;
        self.lab.manifests.put("web.yaml", &input.web())?;
        self.changeling.set_labels(&[("app", input.changeling())])?;
        let strangers = input.strangers();
        self.lab.manifests.put("strangers.yaml", &strangers)?;
        for service in [
            input.busy(&self.subject, &self.changeling),
            input.idle(&self.subject, &self.friend),
        ] {
            service.put(&self.lab.manifests)?;
        }
        self.mark()
    }

    /// A policy that selects nobody, on a line where it never was: where it is in force, all that was put before
    /// it is known.
    pub(crate) fn mark(&mut self) -> Result<()> {
        self.markers = (self.markers + 1) % 200;
        let blank = "#\n".repeat(MARKER_LINES * self.markers);
        let text =
            policy("marker", "  ingress:\n    - {}\n").replace("app: subject", "app: nobody");
        self.lab.manifests.put("marker.yaml", &(blank + &text))
    }

    /// Notes what was done since `began`.
    pub(crate) fn spend(&mut self, on: &'static str, began: Instant) {
        *self.spent.entry(on).or_default() += began.elapsed();
    }

    /// Asked by the socket: a process for each look would take the agent's CPU.
    fn client(&self) -> Client {
        Client::new(self.lab.socket(), wait::LONG)
    }

    pub(crate) fn is_content(&self) -> Option<StatusReport> {
        // An agent that is dead, or not there yet, does not answer.
        let status = self.client().call(call::Status).ok()?;
        (status.cilium.state == ComponentState::Ok).then_some(status)
    }

    /// Whether the last mark is known, all that was known with it is applied, and no program is on its hook for the time
    /// being only.
    pub(crate) fn is_met(&self) -> bool {
        let known_as = |origin: &str| -> Option<usize> {
            let line: usize = origin.strip_prefix("marker.yaml:")?.parse().ok()?;
            Some(line / MARKER_LINES)
        };
        // The policies first: a status of afterwards tells whether they are applied.
        let Ok(policies) = self.client().call(call::PolicyGet) else {
            return false;
        };
        let known = policies
            .policies
            .iter()
            .any(|policy| policy.origin.as_deref().and_then(known_as) == Some(self.markers));
        // A hook gets its link in several writes: when the last one is made, only the agent knows.
        known
            && self
                .is_content()
                .is_some_and(|status| status.reconcile.hooks_without_link == 0)
    }

    pub(crate) fn until_met(&mut self) -> Result<()> {
        wait::until("the agent has applied what it was told", wait::LONG, || {
            if let Some(status) = self.agent()?.process().ended()? {
                bail!("the agent ended: {status}");
            }
            Ok(self.is_met().then_some(()))
        })
    }

    fn until_ready(&mut self) -> Result<()> {
        wait::until("the agent is ready", wait::LONG, || {
            if let Some(status) = self.agent()?.process().ended()? {
                bail!("the agent ended: {status}");
            }
            Ok(self.is_content().map(drop))
        })
    }

    /// Brings the guest to where the input wants it. An error is one of the agent that died meanwhile.
    pub(crate) fn receive_guest(&mut self) -> Result<()> {
        match (self.input, self.guest.take()) {
            (Input::Open, None) => {
                let prepared = self.lab.pod("guest").label("app", "guest").prepare()?;
                let (chain, sandbox) = (prepared.chain.clone(), prepared.sandbox.clone());
                let netns = prepared.netns.clone();
                match prepared.add() {
                    Ok(guest) => {
                        // A flow, which must not outlive it.
                        let to = sockets(&self.friend, 7006)[0];
                        let send = || UdpSocket::bind("0.0.0.0:0")?.send_to(b"guest", to);
                        guest.netns.enter(send)??;
                        self.guest = Some(guest);
                    }
                    Err(error) => {
                        // As a runtime does.
                        chain.del(&sandbox, None)?;
                        netns.delete()?;
                        return Err(error);
                    }
                }
            }
            (Input::Closed, Some(guest)) => guest.delete()?,
            (_, guest) => self.guest = guest,
        }
        Ok(())
    }

    /// Waits until the running agent has applied everything: from now on its input is enforced.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        self.until_ready()?;
        self.spend("until ready", began);
        let began = Instant::now();
        self.receive_guest()?;
        self.spend("the guest", began);
        let began = Instant::now();
        self.until_met()?;
        self.spend("until all is applied and linked", began);
        self.traffic.as_mut().map_or(Ok(()), Traffic::count)
    }

    /// As if the node were new: no pins, no numbers given out, nothing admitted. Only the runtime knows its pods, and the
    /// ledger what was made on the host.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let state = self.lab.directory().join("state");
        for entry in fs::read_dir(&state)? {
            let path = entry?.path();
            match path.file_name().and_then(|name| name.to_str()) {
                Some("cluster-uid" | "ledger.json") => {}
                Some(name) if name.starts_with("boot-") => {
                    fs::remove_file(path.join("claims.json"))?;
                }
                _ if path.is_dir() => fs::remove_dir_all(&path)?,
                _ => fs::remove_file(&path)?,
            }
        }
        fs::remove_dir_all(self.lab.bpf_root().join("oxilium"))?;
        if let Some(traffic) = &mut self.traffic {
            traffic.programs_are_gone();
        }
        Ok(())
    }

    pub(crate) fn pods(&self) -> Vec<&Pod> {
        let mut pods = vec![
            &self.subject,
            &self.friend,
            &self.stranger,
            &self.changeling,
        ];
        pods.extend(&self.guest);
        pods
    }

    fn held(&self) -> Result<Vec<String>> {
        dump::settled(&self.lab, &self.pods())
    }

    /// All that must hold of an agent that says that it is ready.
    pub(crate) fn check(&mut self) -> Result<()> {
        let began = Instant::now();
        if let Some(traffic) = &self.traffic {
            traffic.check(self.input)?;
        }
        self.spend("traffic's check", began);
        let began = Instant::now();
        let held = self.held()?;
        self.spend("reading the kernel", began);
        if let Some(fresh) = self.fresh.get(&self.input)
            && held != *fresh
        {
            let only = |left: &[String], right: &[String]| {
                let lines: Vec<_> = left
                    .iter()
                    .filter(|line| !right.contains(line))
                    .cloned()
                    .collect();
                lines.join("\n")
            };
            bail!(
                "the kernel holds, of what a fresh node does not:\n{}\nand not, of what one does:\n{}",
                only(&held, fresh),
                only(fresh, &held)
            );
        }
        let began = Instant::now();
        let from = self.trace.made();
        self.mark()?;
        self.until_met()?;
        self.spend("the next reconcile", began);
        let writes = self.trace.kernel_writes(from);
        if !writes.is_empty() {
            bail!("the next reconcile writes: {writes:?}");
        }
        Ok(())
    }

    /// After all deaths: the pods go, the last agent dies, and nothing of any agent is left on the host.
    pub(crate) fn end(mut self) -> Result<()> {
        self.traffic = None;
        let pods = [self.subject, self.friend, self.stranger, self.changeling];
        for pod in pods.into_iter().chain(self.guest) {
            pod.delete()?;
        }
        let agent = self.agent.as_mut().context("an agent was started")?;
        agent.process().crash()?;
        self.untouched.is_back(&self.lab)
    }
}
