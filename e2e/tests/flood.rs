//! One pod floods; what the others have established is not lost, and the agent can say who it was.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use oxilium_e2e::{
    packet::{self, tcp_flag},
    pod::Pod,
    scenario::Scenario,
    traffic::{Connection, Datagrams, Echo},
    wait,
    wire::{Tap, contains},
};

/// Flows that each flood opens: more than there is room for among those without an answer.
const FLOWS: u16 = 40_000;
/// Of the map for them, by default.
const ROOM: u64 = 32 * 1024;

/// SYNs and datagrams from ever new ports, from as fast as a pod can; then waits until the last has arrived.
fn flood(from: &Pod, to: &Pod) {
    let send = Tap::open(&from.netns, "eth0").unwrap();
    let (here, there) = (IpAddr::from(from.ipv4), IpAddr::from(to.ipv4));
    for port in 1..=FLOWS {
        let syn = packet::tcp((here, port), (there, 81), tcp_flag::SYN, (1, 0), &[]);
        let datagram = packet::udp((here, port), (there, 9), b"spray");
        for packet in [syn, datagram] {
            send.send(&packet.frame(to.mac, from.mac)).unwrap();
        }
    }
    // Opened only now: it would be full of the flood.
    let see = Tap::open(&to.netns, "eth0").unwrap();
    let marker = packet::udp((here, 1), (there, 9), b"the marker");
    send.send(&marker.frame(to.mac, from.mac)).unwrap();
    see.until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
}

/// What a process has used of the CPUs.
fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Fields 14 and 15, in hundredths of a second; the second one may have anything in it but ends with `)`.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = |at: usize| -> u64 { fields.split(' ').nth(at).unwrap().parse().unwrap() };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[test]
fn a_flood_of_one_pod_loses_no_established_flow_of_another() {
    let Some(mut scenario) = Scenario::start().unwrap() else {
        return;
    };
    let agent = scenario.agent.process().pid();
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (client, server) = (pod("client"), pod("server"));
    let (flooder, victim) = (pod("flooder"), pod("victim"));
    // A reader, so that each new flow is an event.
    let monitor = scenario.agent.cli().monitor(&scenario.lab, &[]).unwrap();
    let connection = Connection::start(
        &client.netns,
        &server.netns,
        (IpAddr::from(server.ipv4), 80).into(),
    )
    .unwrap();
    let datagrams = Datagrams::start(
        "datagrams",
        [&client.netns, &server.netns],
        (IpAddr::from(server.ipv4), 53).into(),
        Echo::Yes,
    )
    .unwrap();
    let before = datagrams.goes_on().unwrap();
    let (start, busy) = (Instant::now(), cpu_time(agent));

    flood(&flooder, &victim);

    let after = datagrams.goes_on().unwrap();
    eprintln!(
        "two floods of {FLOWS} flows: {:?}, and {:?} of the agent's CPU",
        start.elapsed(),
        cpu_time(agent).saturating_sub(busy)
    );
    datagrams.all_passed(&(before..after)).unwrap();
    connection.is_unharmed().unwrap();

    let talkers = scenario.agent.cli().json(&["bpf", "ct", "top"]).unwrap();
    let first = &talkers[0];
    let pod = first["pod"].as_str().unwrap();
    assert!(
        ["default/flooder", "default/victim"].contains(&pod),
        "{talkers}"
    );
    assert!(first["unanswered"].as_u64().unwrap() > ROOM / 4, "{first}");
    let unanswered: u64 = talkers
        .as_array()
        .unwrap()
        .iter()
        .map(|talker| talker["unanswered"].as_u64().unwrap())
        .sum();
    assert!(unanswered <= 2 * ROOM, "{unanswered} in both families");

    let status = scenario.agent.cli().status().unwrap();
    assert_eq!(status["flows-evicted"], 0, "{status}");
    assert!(
        status["events-lost"].as_u64().unwrap() > u64::from(FLOWS) / 2,
        "a reader sees a part of {FLOWS} verdicts twice: {status}"
    );
    monitor
        .until("word of lost events", |event| event["type"] == "lost")
        .unwrap();
}
