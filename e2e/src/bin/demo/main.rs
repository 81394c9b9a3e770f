//! `make demo`: real policies on real pods, step by step, on this machine's kernel.
//!
//! Two nodes and six pods are network namespaces; the pods are made by the real CNI chain (`bridge`, `host-local`, then
//! ours); nginx, curl and ping are the real ones. Every step says what is done, what was expected and what was seen; the
//! exit status is 0 only when all agree. Everything is removed at the end, also when the demo is interrupted.
#![expect(clippy::print_stdout, reason = "printing is what a demo does")]

mod survival;

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::{
        prctl::set_child_subreaper,
        signal::{SigSet, Signal, killpg},
        wait::waitpid,
    },
    unistd::Pid,
};
use oxilium_e2e::{
    agent::{Agent, Monitor},
    lab::{self, Lab},
    netns::Netns,
    packet::{self, tcp_flag},
    pod::Pod,
    probe::{self, Outcome},
    process::Process,
    server,
    wire::Tap,
};
use serde_json::Value;

const L4_RULE: &str = include_str!("../../../../examples/demo/l4-rule.yaml");
const ICMP_RULE: &str = include_str!("../../../../examples/demo/icmp-rule.yaml");
const L3_RULE: &str = include_str!("../../../../examples/demo/l3-rule.yaml");

/// How the program calls itself to play; called without it, it watches over the one that plays.
const PLAY: &str = "--play";

fn main() -> ExitCode {
    let outcome = if std::env::args().nth(1).as_deref() == Some(PLAY) {
        play()
    } else {
        watch_over()
    };
    outcome.unwrap_or_else(|error| {
        println!("\nThe demo cannot go on: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the demo in a process of its own and removes what it leaves, however it ends.
fn watch_over() -> Result<ExitCode> {
    let signals = SigSet::from_iter([
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ]);
    // Blocked, so that they wait for `wait` below. The child begins with none blocked.
    signals.thread_block()?;
    // What the player started comes to this process when the player ends before it.
    set_child_subreaper(true)?;
    let mut player = Command::new(std::env::current_exe()?)
        .arg(PLAY)
        .process_group(0)
        .spawn()?;
    let prefix = lab::prefix_of(player.id(), 0);
    let group = Pid::from_raw(i32::try_from(player.id())?);
    loop {
        let signal = signals.wait()?;
        if let Some(status) = player.try_wait()? {
            end_group(group)?;
            lab::remove(&prefix)?;
            return Ok(if status.success() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        if signal != Signal::SIGCHLD {
            end_group(group)?;
            lab::remove(&prefix)?;
            println!("\n{signal}: everything is removed.");
            return Ok(ExitCode::FAILURE);
        }
    }
}

/// Kills the player and what it started, and waits for all of them: an `ip netns add` that outlived the player would
/// make a namespace after all were removed.
fn end_group(group: Pid) -> Result<()> {
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let any_of_group = Pid::from_raw(-group.as_raw());
    loop {
        match waitpid(any_of_group, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn play() -> Result<ExitCode> {
    let began = Instant::now();
    let differences = run()?;
    if differences == 0 {
        let seconds = began.elapsed().as_secs_f64();
        println!("\nAll as expected, in {seconds:.1} s. Everything is removed.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{differences} of what was seen is not as expected.");
    Ok(ExitCode::FAILURE)
}

/// Returns how many expectations were not met.
fn run() -> Result<usize> {
    let lab = Lab::new()?;
    println!("Two nodes, joined by a wire:");
    for node in [&lab.master, &lab.worker] {
        println!("  {:8} {}, {}", node.name, node.ipv4, node.ipv6);
    }
    let began = Instant::now();
    let agent = Agent::start(&lab)?;
    let start = began.elapsed();
    println!(
        "The agent runs on worker. Its manifests: {}",
        lab.manifests.path().display()
    );
    let cast = Cast::start(&lab)?;
    println!("\n{}", agent.cli().text(&["endpoint", "list"])?.trim_end());

    let mut story = Story {
        lab: &lab,
        agent,
        start,
        cast: &cast,
        differences: 0,
    };
    story.no_policy()?;
    story.l4_rule()?;
    story.icmp_rule()?;
    story.files_removed()?;
    story.l3_rule()?;
    story.spoofer()?;
    story.killed_agent()?;
    story.tampering()?;
    let differences = story.differences;
    drop(story);
    lab.remove()?;
    Ok(differences)
}

/// Who plays.
struct Cast {
    nm1: Pod,
    nm2: Pod,
    client: Pod,
    app1: Pod,
    app2: Pod,
    app3: Pod,
    _servers: Vec<Process>,
}

impl Cast {
    fn start(lab: &Lab) -> Result<Self> {
        let multitool = |name: &str| lab.pod(name).label("app", "network-multitool");
        let (nm1, nm2, client) = (
            multitool("nm-1").start()?,
            multitool("nm-2").start()?,
            multitool("client").start()?,
        );
        let app = |id: &str| lab.pod(id).label("id", id).start();
        let (app1, app2, app3) = (app("app1")?, app("app2")?, app("app3")?);
        let servers = vec![
            server::nginx(&nm1, &[80, 8080])?,
            server::nginx(&nm2, &[80, 8080])?,
            server::nginx(&app1, &[80])?,
        ];
        Ok(Self {
            nm1,
            nm2,
            client,
            app1,
            app2,
            app3,
            _servers: servers,
        })
    }
}

/// What a probe should come to.
#[derive(Clone, Copy)]
enum Expected {
    Works,
    Dropped,
}

impl Expected {
    fn is(self, outcome: &Outcome) -> bool {
        match self {
            Self::Works => outcome.is_answered(),
            // A policy drops without a word; an RST or an ICMP error would be something else.
            Self::Dropped => *outcome == Outcome::Silence,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Dropped => "no answer",
        }
    }
}

struct Story<'a> {
    lab: &'a Lab,
    agent: Agent,
    /// How long the agent's first start took.
    start: Duration,
    cast: &'a Cast,
    differences: usize,
}

impl Story<'_> {
    fn no_policy(&mut self) -> Result<()> {
        title("1", "No policy");
        self.everything_works()
    }

    fn everything_works(&mut self) -> Result<()> {
        let master = &self.lab.master.netns;
        let nm1 = &self.cast.nm1;
        for address in both(nm1) {
            self.ping(("master", master), ("nm-1", address), Expected::Works)?;
            self.curl(("master", master), ("nm-1", address), 80, Expected::Works)?;
        }
        let nm2 = pod_as_source(&self.cast.nm2);
        self.ping(nm2, ("nm-1", nm1.ipv4.into()), Expected::Works)?;
        self.curl(nm2, ("nm-1", nm1.ipv4.into()), 80, Expected::Works)
    }

    fn l4_rule(&mut self) -> Result<()> {
        title(
            "2",
            "l4-rule.yaml: port 80, from pods labelled app=network-multitool",
        );
        self.lab.manifests.put("l4-rule.yaml", L4_RULE)?;
        self.agent.until_policy("l4-rule", true)?;
        let master = ("master", &self.lab.master.netns);
        let client = pod_as_source(&self.cast.client);
        for address in both(&self.cast.nm1) {
            let nm1 = ("nm-1", address);
            self.ping(master, nm1, Expected::Dropped)?;
            self.curl(master, nm1, 80, Expected::Dropped)?;
            self.curl(client, nm1, 80, Expected::Works)?;
            self.curl(client, nm1, 8080, Expected::Dropped)?;
        }
        Ok(())
    }

    fn icmp_rule(&mut self) -> Result<()> {
        title(
            "3",
            "icmp-rule.yaml too: the same pods may send echo requests, and so nothing else",
        );
        self.lab.manifests.put("icmp-rule.yaml", ICMP_RULE)?;
        self.agent.until_policy("icmp-rule", true)?;
        let monitor = self.agent.cli().monitor(self.lab, &["-t", "drop"])?;
        let nm1 = pod_as_source(&self.cast.nm1);
        let nm2 = ("nm-2", IpAddr::from(self.cast.nm2.ipv4));
        self.curl(nm1, nm2, 80, Expected::Dropped)?;
        self.told(&monitor, "denied at nm-1's egress", |event| {
            is_denied(event, "egress", "default/nm-1") && event["destination-port"] == 80
        });
        let master = ("master", IpAddr::from(self.lab.master.ipv4));
        self.ping(nm1, master, Expected::Works)?;
        self.ping(nm1, nm2, Expected::Dropped)?;
        self.told(&monitor, "denied at nm-2's ingress", |event| {
            is_denied(event, "ingress", "default/nm-2")
        });
        Ok(())
    }

    fn files_removed(&mut self) -> Result<()> {
        title("4", "Both files removed");
        for name in ["l4-rule", "icmp-rule"] {
            self.lab.manifests.remove(&format!("{name}.yaml"))?;
            self.agent.until_policy(name, false)?;
        }
        self.everything_works()
    }

    fn l3_rule(&mut self) -> Result<()> {
        title("5", "l3-rule.yaml: app1 takes port 80 from app2");
        self.lab.manifests.put("l3-rule.yaml", L3_RULE)?;
        self.agent.until_policy("l3-rule", true)?;
        for address in both(&self.cast.app1) {
            let app1 = ("app1", address);
            self.curl(pod_as_source(&self.cast.app2), app1, 80, Expected::Works)?;
            self.curl(pod_as_source(&self.cast.app3), app1, 80, Expected::Dropped)?;
        }
        let id = self.agent.endpoint("app1")?["id"].to_string();
        let command = ["bpf", "policy", "get", &id];
        let shown = self.agent.cli().text(&command)?;
        println!(
            "\n  $ oxilium {}\n{}\n",
            command.join(" "),
            indented(&shown)
        );
        let named = shown
            .lines()
            .any(|line| line.contains("Allow") && line.contains("80/TCP"))
            && shown.contains("id=app2");
        self.judge(
            "the policy map names who may",
            "Allow, id=app2, 80/TCP",
            if named { "all three" } else { "see above" },
            named,
        );
        Ok(())
    }

    fn spoofer(&mut self) -> Result<()> {
        title(
            "6",
            "app3 sends with app2's address (a pod may have CAP_NET_RAW)",
        );
        let monitor = self.agent.cli().monitor(self.lab, &["-t", "drop"])?;
        let (app1, app2, app3) = (&self.cast.app1, &self.cast.app2, &self.cast.app3);
        let wire = Tap::open(&app3.netns, "eth0")?;
        let port = 40_000;
        let lies = [
            (app2.ipv4.into(), app1.ipv4.into()),
            (IpAddr::from(app2.ipv6), IpAddr::from(app1.ipv6)),
        ];
        let before = self.invalid_sources()?;
        for (lie, target) in lies {
            let syn = packet::tcp((lie, port), (target, 80), tcp_flag::SYN, (1, 0), &[]);
            wire.send(&syn.frame(app1.mac, app3.mac))?;
            let source = SocketAddr::from((lie, port)).to_string();
            let told = monitor.until("the lie is dropped", |event| {
                event["pod"] == "default/app3" && event["source"] == source.as_str()
            });
            let (seen, met) = match &told {
                Ok(event) => (
                    format!(
                        "{} at app3's {}",
                        text(event, "reason-desc"),
                        text(event, "direction")
                    ),
                    text(event, "reason-desc").contains("source") && event["direction"] == "egress",
                ),
                Err(error) => (format!("{error}"), false),
            };
            self.judge(
                &format!("SYN as {source} to app1:80, from app3"),
                "dropped at app3: invalid source",
                &seen,
                met,
            );
        }
        let counted = self.invalid_sources()? - before;
        self.judge(
            "oxilium bpf metrics list",
            "2 more of them counted",
            &format!("{counted} more"),
            counted == 2,
        );
        Ok(())
    }

    /// Packets that were dropped as sent from an address that is not the sender's.
    fn invalid_sources(&self) -> Result<u64> {
        let metrics = self.agent.cli().json(&["bpf", "metrics", "list"])?;
        let metrics = metrics.as_array().context("the counters are no list")?;
        let of_lies = metrics.iter().filter(|metric| {
            metric["direction"] == "egress" && text(metric, "reason") == "Invalid source ip"
        });
        Ok(of_lies
            .filter_map(|metric| metric["packets"].as_u64())
            .sum())
    }

    fn ping(&mut self, from: (&str, &Netns), to: (&str, IpAddr), expected: Expected) -> Result<()> {
        let outcome = probe::ping(from.1, to.1)?;
        self.compare(
            &format!("ping {} -> {} {}", from.0, to.0, to.1),
            expected,
            &outcome,
        );
        Ok(())
    }

    fn curl(
        &mut self,
        from: (&str, &Netns),
        to: (&str, IpAddr),
        port: u16,
        expected: Expected,
    ) -> Result<()> {
        let outcome = probe::curl(from.1, to.1, port)?;
        let address = SocketAddr::from((to.1, port));
        self.compare(
            &format!("curl {} -> {} {address}", from.0, to.0),
            expected,
            &outcome,
        );
        Ok(())
    }

    fn compare(&mut self, what: &str, expected: Expected, outcome: &Outcome) {
        let met = expected.is(outcome);
        self.judge(what, expected.text(), &outcome.to_string(), met);
    }

    /// What the monitor says of it.
    fn told(&mut self, monitor: &Monitor, what: &str, wanted: impl Fn(&Value) -> bool) {
        let told = monitor.until(what, wanted);
        let seen = match &told {
            Ok(event) => format!(
                "{}, {} -> {} {}",
                text(event, "reason-desc"),
                text(event, "source"),
                text(event, "destination"),
                text(event, "summary"),
            ),
            Err(error) => format!("{error:#}"),
        };
        self.judge("  the monitor says", what, &seen, told.is_ok());
    }

    fn judge(&mut self, what: &str, expected: &str, seen: &str, met: bool) {
        let mark = if met { "ok" } else { "!!" };
        self.differences += usize::from(!met);
        println!("  {mark} {what:52} expected: {expected:24} seen: {seen}");
    }
}

fn title(number: &str, text: &str) {
    println!("\n{number}. {text}");
}

fn pod_as_source(pod: &Pod) -> (&str, &Netns) {
    (pod.name(), &pod.netns)
}

fn both(pod: &Pod) -> [IpAddr; 2] {
    [pod.ipv4.into(), pod.ipv6.into()]
}

fn is_denied(event: &Value, direction: &str, pod: &str) -> bool {
    event["type"] == "drop"
        && event["direction"] == direction
        && event["pod"] == pod
        && text(event, "reason-desc").starts_with("Policy denied")
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or("-")
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}
