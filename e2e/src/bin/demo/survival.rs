//! What an agent survives, and repairs.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use oxilium_abi::{IpcacheKey, SCHEMA_VERSION, map};
use oxilium_e2e::{
    agent::Agent,
    netns::Netns,
    pod::host_interface,
    process::{self, Process, command},
    wait,
};
use zerocopy::IntoBytes;

use super::{Expected, Story, pod_as_source, title};

/// How fast is downloaded.
const RATE: &str = "1M";
/// Seconds that the download takes, beside those for the agent's restart.
const SECONDS: u64 = 8;

/// How long the download takes: for longer than the agent takes to start, which took so long before.
const fn lasts(start: Duration) -> Duration {
    Duration::from_secs(SECONDS + 4 * start.as_secs())
}

/// Size of what is downloaded.
fn film(start: Duration) -> usize {
    usize::try_from(lasts(start).as_secs() << 20).unwrap_or(usize::MAX)
}

impl Story<'_> {
    pub(super) fn killed_agent(&mut self) -> Result<()> {
        title(
            "7",
            "kill -9 of the agent while app2 downloads from app1; then it starts again",
        );
        self.agent.until_linked()?;
        let film = film(self.start);
        let (app1, app2, app3) = (&self.cast.app1, &self.cast.app2, &self.cast.app3);
        fs::write(app1.files.join("nginx/film"), vec![b'o'; film])?;
        let log = self.lab.directory().join("download");
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--limit-rate"])
            .args([RATE, "--output", "/dev/null"])
            .args(["--write-out", "%{size_download}"])
            .arg(format!("http://{}/film", app1.ipv4));
        let mut download = app2
            .netns
            .enter(|| Process::spawn("curl", &mut curl, log))??;
        // Half way: what has come by then is on the connection that must live on.
        wait::until("the download has begun", wait::LONG, || {
            let received = received(&app2.netns)?;
            Ok((received > film as u64 / 8).then_some(()))
        })?;
        self.agent.process().crash()?;
        let target = ("app1", IpAddr::from(app1.ipv4));
        println!("  -- the agent is dead");
        self.curl(pod_as_source(app3), target, 80, Expected::Dropped)?;
        self.curl(pod_as_source(app2), target, 80, Expected::Works)?;
        self.agent = Agent::start(self.lab)?;
        println!("  -- the agent is back");
        let writes = self.agent.cli().status()?["kernel-writes"]["total"].clone();
        self.judge(
            "kernel writes of the restart",
            "0",
            &writes.to_string(),
            writes == 0,
        );
        let going_on = download.ended()?.is_none();
        let status = download.wait(lasts(self.start) + wait::LONG)?;
        let seen = download.log();
        let seen = seen.trim();
        self.judge(
            "the download",
            &format!("all {film} bytes"),
            &format!("{seen} bytes, {status}"),
            status.success() && seen == film.to_string(),
        );
        self.judge(
            "  while the agent died and came back",
            "it went on",
            if going_on {
                "it went on"
            } else {
                "it was over before"
            },
            going_on,
        );
        Ok(())
    }

    pub(super) fn tampering(&mut self) -> Result<()> {
        title(
            "8",
            "bpftool takes app2's address out of the ipcache, and app1's program off its hook",
        );
        self.agent.until_linked()?;
        let before = self.agent.log().len();
        let pins = self
            .lab
            .bpf_root()
            .join(format!("oxilium/v{SCHEMA_VERSION}"));
        let key = IpcacheKey::v4(self.cast.app2.ipv4.octets(), 32);
        let bytes = key.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        let mut delete = command("bpftool");
        delete
            .args(["map", "delete", "pinned"])
            .arg(pins.join(map::IPCACHE))
            .args(["key", "hex"])
            .args(bytes);
        process::run(&mut delete)?;
        self.take_program_off(&pins)?;
        let repaired = wait::until("all is repaired", wait::LONG, || {
            let status = self.agent.cli().status()?;
            let reconcile = &status["reconcile"];
            let writes = reconcile["drift-repaired"].as_u64().unwrap_or_default();
            Ok((writes >= 5).then_some(writes))
        })?;
        self.judge(
            "writes that repair it",
            "5: a plan of 4, a program",
            &repaired.to_string(),
            repaired == 5,
        );
        let log = self.agent.log();
        let told: Vec<&str> = log[before..]
            .lines()
            .filter(|line| line.contains("not as it was left"))
            .collect();
        for line in &told {
            println!("       {line}");
        }
        let met = !told.is_empty();
        let seen = if met { "it does" } else { "nothing" };
        self.judge("the agent's log says so", "it does", seen, met);
        let app1 = ("app1", IpAddr::from(self.cast.app1.ipv4));
        self.curl(pod_as_source(&self.cast.app2), app1, 80, Expected::Works)?;
        self.curl(pod_as_source(&self.cast.app3), app1, 80, Expected::Dropped)
    }

    /// Takes the program that judges what app1 receives off its hook.
    fn take_program_off(&self, pins: &Path) -> Result<()> {
        let id = self.agent.endpoint("app1")?["id"].to_string();
        let pin = pins.join(format!("links/{id}_to_container"));
        if pin.exists() {
            let mut detach = command("bpftool");
            process::run(detach.args(["link", "detach", "pinned"]).arg(pin))?;
            return Ok(());
        }
        // A kernel before tcx.
        let device = host_interface(&self.cast.app1.result)?;
        let mut remove = command("tc");
        remove.args(["filter", "del", "dev", &device, "egress"]);
        self.lab.worker.netns.run(&mut remove)?;
        Ok(())
    }
}

/// Bytes that the namespace's `eth0` has received.
fn received(netns: &Netns) -> Result<u64> {
    let text = netns.run(command("cat").arg("/proc/net/dev"))?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let count = line.and_then(|line| line.split_whitespace().next());
    Ok(count.context("eth0 in /proc/net/dev")?.parse()?)
}
