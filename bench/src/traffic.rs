//! TCP between two pods: throughput (iperf3) and request/response (sockperf).

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result};
use oxilium_e2e::{
    agent::Agent,
    lab::Lab,
    pod::Pod,
    process::{self, Process},
    wait,
};
use serde_json::Value;

use crate::{
    figures::{Pairs, in_turns},
    report::{Goal, Line, Unit},
};

/// Seconds of one measurement.
const SECONDS: u32 = 2;
const IPERF_PORT: u16 = 5201;
const SOCKPERF_PORT: u16 = 11111;

/// Lets the client reach the server's two ports: both pods are under policy, in both directions.
const POLICY: &str = include_str!("../policies/traffic.yaml");

/// Two pods under policy against two pods that no program of ours watches, `rounds` times each.
///
/// # Errors
/// If a lab, the agent or a measurement fails.
pub fn run(rounds: usize) -> Result<Vec<Line>> {
    let (judged, free) = (Lab::new()?, Lab::without_oxilium()?);
    let agent = Agent::start(&judged)?;
    let judged_pods = pods(&judged)?;
    judged.manifests.put("traffic.yaml", POLICY)?;
    agent.until_policy("bench-server", true)?;
    agent.until_policy("bench-client", true)?;
    let subject = Link::start(judged_pods)?;
    let baseline = Link::start(pods(&free)?)?;

    let mut lines = Vec::new();
    for (name, unit, measure) in [
        (
            "TCP throughput",
            Unit::BitsPerSecond,
            Link::throughput as fn(&Link) -> Result<f64>,
        ),
        ("TCP request/response", Unit::PerSecond, Link::requests),
    ] {
        let pairs = in_turns(rounds, || measure(&subject), || measure(&baseline))?;
        let pairs = Pairs::new(&pairs).with_context(|| format!("{name}: nothing measured"))?;
        lines.push(Line::ratio(name, &pairs, unit, Some(Goal::AtLeast(0.95))));
    }
    Ok(lines)
}

fn pods(lab: &Lab) -> Result<(Pod, Pod)> {
    let pod = |name: &str| lab.pod(name).label("app", name).start();
    Ok((pod("bench-server")?, pod("bench-client")?))
}

/// Two pods, servers in the first.
pub struct Link {
    server: Pod,
    client: Pod,
    _servers: [Process; 2],
}

impl Link {
    /// Starts the servers and waits until they accept.
    ///
    /// # Errors
    /// If a server does not start.
    pub fn start((server, client): (Pod, Pod)) -> Result<Self> {
        let iperf = serve(
            &server,
            "iperf3",
            &["--server", "--port", &IPERF_PORT.to_string()],
            IPERF_PORT,
        )?;
        let address = server.ipv4.to_string();
        let sockperf = serve(
            &server,
            "sockperf",
            &[
                "server",
                "--tcp",
                "-i",
                &address,
                "-p",
                &SOCKPERF_PORT.to_string(),
            ],
            SOCKPERF_PORT,
        )?;
        Ok(Self {
            server,
            client,
            _servers: [iperf, sockperf],
        })
    }

    /// Bits per second that one connection carries.
    ///
    /// # Errors
    /// If iperf3 fails, as when the connection is refused.
    pub fn throughput(&self) -> Result<f64> {
        let mut command = process::command("iperf3");
        command
            .args(["--json", "--client", &self.server.ipv4.to_string()])
            .args(["--port", &IPERF_PORT.to_string()])
            .args(["--connect-timeout", "3000", "--time", &SECONDS.to_string()]);
        let text = self.client.netns.run(&mut command)?;
        let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .with_context(|| format!("iperf3 says no throughput: {text}"))
    }

    /// Requests answered per second, one at a time on one connection.
    ///
    /// # Errors
    /// If sockperf fails or says nothing.
    pub fn requests(&self) -> Result<f64> {
        let mut command = process::command("sockperf");
        command
            .args(["ping-pong", "--tcp", "-i", &self.server.ipv4.to_string()])
            .args(["-p", &SOCKPERF_PORT.to_string(), "-t", &SECONDS.to_string()]);
        let text = self.client.netns.run(&mut command)?;
        answered_per_second(&text).with_context(|| format!("sockperf says no rate: {text}"))
    }
}

fn serve(pod: &Pod, program: &str, args: &[&str], port: u16) -> Result<Process> {
    let log = pod.files.join(format!("{program}.log"));
    let mut process = pod
        .netns
        .enter(|| Process::spawn(program, process::command(program).args(args), log))??;
    let address = SocketAddr::from((IpAddr::from(pod.ipv4), port));
    wait::until(&format!("{program} listens"), wait::LONG, || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("{program} ended: {status}: {}", process.log());
        }
        let tried = pod.netns.enter(|| TcpStream::connect(address))?;
        Ok(tried.is_ok().then_some(()))
    })?;
    Ok(process)
}

/// From sockperf's `[Valid Duration] RunTime=0.950 sec; SentMessages=12345; ReceivedMessages=12344`.
fn answered_per_second(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.contains("[Valid Duration]"))?;
    let number = |name: &str| -> Option<f64> {
        let (_, rest) = line.split_once(name)?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    let seconds = number("RunTime=")?;
    (seconds > 0.0).then_some(number("ReceivedMessages=")? / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_part_without_warm_up() {
        let text = "\
sockperf: [Total Run] RunTime=2.000 sec; Warm up time=400 msec; SentMessages=50000; ReceivedMessages=49999
sockperf: [Valid Duration] RunTime=1.500 sec; SentMessages=30001; ReceivedMessages=30000
";
        assert_eq!(answered_per_second(text), Some(20_000.0));
        assert_eq!(answered_per_second("sockperf: ERROR"), None);
    }
}
