//! One pod floods; what the others have established is not lost, and the agent can say who it was.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use oxilium_e2e::{
    packet::{self, tcp_flag},
    pod::Pod,
    scenario::Scenario,
    scrape::{self, Scrape, until_flows_collected},
    service::ServiceObject,
    traffic::{Connection, Datagrams, Echo},
    wait,
    wire::{Tap, contains},
};
use serde_json::Value;

/// Flows that each flood opens: more than there is room for among those without an answer.
const FLOWS: u16 = 40_000;
/// Of the map for them, by default.
const ROOM: u64 = 32 * 1024;
/// Of the map for the latest choices of backends.
const ROOM_FOR_CHOICES: u64 = 16 * 1024;

/// That a CPU's programs make at most.
const EVENTS_A_SECOND: usize = 1000;

/// SYNs and datagrams to a pod, and SYNs to the service that it is behind, from ever new ports, as fast as a pod can; then
/// waits until the last has arrived.
fn flood(from: &Pod, to: &Pod, service: SocketAddr) {
    let send = Tap::open(&from.netns, "eth0").unwrap();
    let (here, there) = (IpAddr::from(from.ipv4), IpAddr::from(to.ipv4));
    let opening = |port, to: SocketAddr| {
        packet::tcp(
            (here, port),
            (to.ip(), to.port()),
            tcp_flag::SYN,
            (1, 0),
            &[],
        )
    };
    for port in 1..=FLOWS {
        let direct = opening(port, (there, 81).into());
        let translated = opening(port, service);
        let datagram = packet::udp((here, port), (there, 9), b"spray");
        for packet in [direct, translated, datagram] {
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

/// What a process or thread has used of the CPUs, by its `stat` file.
fn cpu_time(stat: &str) -> Duration {
    let stat = fs::read_to_string(stat).unwrap();
    // Fields 14 and 15, in hundredths of a second; the second one may have anything in it but ends with `)`.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = |at: usize| -> u64 { fields.split(' ').nth(at).unwrap().parse().unwrap() };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn count(status: &Value, field: &str) -> u64 {
    status[field]
        .as_u64()
        .unwrap_or_else(|| unreachable!("no {field} in {status}"))
}

#[test]
fn a_flood_of_one_pod_loses_no_established_flow_of_another() {
    let options = [&scrape::OPTIONS[..], &["--conntrack-gc-interval", "1s"]].concat();
    let Some(mut scenario) = Scenario::start_with(&options).unwrap() else {
        return;
    };
    let stat = format!("/proc/{}/stat", scenario.agent.process().pid());
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (client, server) = (pod("client"), pod("server"));
    let (flooder, victim) = (pod("flooder"), pod("victim"));
    let service = |name: &str, last: u8, to: &Pod| {
        let service = ServiceObject {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            addresses: [
                IpAddr::from([10, 96, 0, last]),
                IpAddr::from([0xfd00, 10, 0x96, 0, 0, 0, 0, u16::from(last)]),
            ],
            port: 80,
            target_port: 81,
            protocols: vec!["TCP"],
            backends: vec![IpAddr::from(to.ipv4), IpAddr::from(to.ipv6)],
        };
        let before = scenario.agent.revision().unwrap();
        service.put(&scenario.lab.manifests).unwrap();
        scenario.agent.until_revision_after(before).unwrap();
        service.sockets()[0]
    };
    let (served, flooded) = (
        service("served", 1, &server),
        service("flooded", 2, &victim),
    );
    // A reader, so that each new flow is an event.
    let monitor = scenario.agent.cli().monitor(&scenario.lab, &[]).unwrap();
    let (from, to) = (&client.netns, &server.netns);
    let listening = |port| SocketAddr::from((IpAddr::from(server.ipv4), port));
    let direct = Connection::start(from, to, listening(80)).unwrap();
    let translated = Connection::through(from, served, to, listening(81)).unwrap();
    let datagrams = Datagrams::start("datagrams", [from, to], listening(53), Echo::Yes).unwrap();
    let before = datagrams.goes_on().unwrap();
    // The count of what is evicted begins with a look.
    let node = scenario.lab.worker.netns.clone();
    until_flows_collected(&node, &mut scenario.agent).unwrap();
    let lost_before = count(&scenario.agent.cli().status().unwrap(), "events-lost");
    let (start, busy) = (Instant::now(), cpu_time(&stat));
    let own = cpu_time("/proc/thread-self/stat");

    flood(&flooder, &victim, flooded);

    let (took, agent) = (start.elapsed(), cpu_time(&stat).saturating_sub(busy));
    let own = cpu_time("/proc/thread-self/stat").saturating_sub(own);
    eprintln!(
        "three floods of {FLOWS} flows: {took:?}, {own:?} of CPU, and {agent:?} of the agent's"
    );
    let after = datagrams.goes_on().unwrap();
    datagrams.all_passed(&(before..after)).unwrap();
    direct.is_unharmed().unwrap();
    translated.is_unharmed().unwrap();
    // Events are limited by time, not by packets: a longer flood may cost more, a denser one not.
    assert!(
        agent < own + took / 4,
        "the flooder, with {own:?} of CPU in {took:?}, keeps the agent busy for {agent:?}"
    );

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

    until_flows_collected(&node, &mut scenario.agent).unwrap();
    let status = scenario.agent.cli().status().unwrap();
    assert_eq!(count(&status, "flows-evicted"), 0, "{status}");
    assert_eq!(count(&status, "choices-evicted"), 0, "{status}");
    let evicted = count(&status, "latest-choices-evicted");
    assert!(
        evicted >= u64::from(FLOWS) - ROOM_FOR_CHOICES,
        "each of the flood had one, and there is room for {ROOM_FOR_CHOICES}: {evicted}"
    );
    let sample = "oxilium_service_choices_evicted_total{flows=\"latest\"}";
    let told = Scrape::of(&node).unwrap().value(sample).unwrap();
    let told: u64 = told.to_string().parse().unwrap();
    assert!(told >= evicted, "Prometheus {told}, the status {evicted}");
    assert!(
        count(&status, "events-lost") - lost_before > u64::from(FLOWS) / 2,
        "a reader sees a part of {FLOWS} verdicts twice: {status}"
    );
    let told = monitor.events().unwrap().len();
    let seconds = usize::try_from(took.as_secs()).unwrap() + 2;
    let most = EVENTS_A_SECOND * available_parallelism().unwrap().get() * seconds;
    assert!(told <= most, "{told} events in {took:?}");
    monitor
        .until("word of lost events", |event| event["type"] == "lost")
        .unwrap();
}
