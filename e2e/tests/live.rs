//! What becomes of connections that are there already when the answer changes.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use oxilium_abi::SCHEMA_VERSION;
use oxilium_e2e::{
    lab::Lab,
    netns::Netns,
    packet::{self, ethertype, tcp_flag},
    pod::Pod,
    probe::{self, Outcome},
    process,
    scenario::{Scenario, policy, sockets},
    server::{self, TcpServer},
    wait,
    wire::{Mac, Tap, contains},
};
use serde_json::Value;

const FROM_FRIEND: &str =
    "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
const FROM_NOBODY: &str = "  ingress:\n    - {}\n";

/// A connection that reads as fast as it can.
struct Download {
    stream: std::net::TcpStream,
    received: Arc<AtomicU64>,
}

impl Download {
    /// Starts it and waits until it runs.
    fn start(from: &Netns, server: SocketAddr) -> Self {
        let stream = server::connect(from, server, Duration::from_secs(5)).unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let (mut reading, counting) = (stream.try_clone().unwrap(), Arc::clone(&received));
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = reading.read(&mut buffer) {
                counting.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let this = Self { stream, received };
        this.goes_on();
        this
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits for another megabyte.
    fn goes_on(&self) {
        let before = self.received();
        wait::until("the download goes on", wait::LONG, || {
            Ok((self.received() > before + 1_000_000).then_some(()))
        })
        .unwrap();
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        server::hang_up(&self.stream);
    }
}

/// Does the frame carry TCP payload from `source`?
fn is_payload_from(frame: &[u8], source: Mac) -> bool {
    let Some(ip) = frame.get(14..).filter(|_| frame[6..12] == source.0) else {
        return false;
    };
    let word = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let (is_tcp, header, total) = match u16::from_be_bytes([frame[12], frame[13]]) {
        ethertype::IPV4 => (ip[9] == 6, usize::from(ip[0] & 15) * 4, word(2)),
        ethertype::IPV6 => (ip[6] == 6, 40, 40 + word(4)),
        _ => return false,
    };
    is_tcp && total > header + usize::from(ip[header + 12] >> 4) * 4
}

/// The pod that policies here select, and the one that they name.
fn server_and_friend(lab: &Lab) -> [Pod; 2] {
    [("server", "subject"), ("friend", "friend")]
        .map(|(name, app)| lab.pod(name).label("app", app).start().unwrap())
}

/// After the flow was cut: the server keeps retransmitting, and none of it arrives.
fn nothing_more_arrives(server: &Pod, client: &Netns, client_address: IpAddr) {
    nothing_arrives_of(3, server, client, client_address);
}

/// As often as the server retransmits from now on, each time after twice as long.
fn nothing_arrives_of(times: u32, server: &Pod, client: &Netns, client_address: IpAddr) {
    let (at_server, at_client) = (
        Tap::open(&server.netns, "eth0").unwrap(),
        Tap::open(client, "eth0").unwrap(),
    );
    let (mut retransmitted, mut next_hop) = (0, Mac::BROADCAST);
    at_server
        .until(wait::LONG, |frame| {
            if is_payload_from(frame, server.mac) {
                retransmitted += 1;
                next_hop.0.copy_from_slice(&frame[..6]);
            }
            retransmitted == times
        })
        .unwrap();
    // A new flow in the same direction, which nobody denies, says that all before it would be there by now.
    let source = match client_address {
        IpAddr::V4(_) => server.ipv4.into(),
        IpAddr::V6(_) => server.ipv6.into(),
    };
    let marker = packet::udp((source, 4000), (client_address, 4001), b"the marker");
    at_server.send(&marker.frame(next_hop, server.mac)).unwrap();
    let before = at_client
        .until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
    let arrived = before
        .iter()
        .filter(|frame| contains(frame, b"oooooooooooooooo"))
        .count();
    assert_eq!(arrived, 0, "payload arrived after the flow was denied");
}

#[test]
fn a_download_stops_when_the_servers_ingress_is_denied() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let [server, friend] = server_and_friend(&scenario.lab);
    let _service = TcpServer::download(&server.netns, 80).unwrap();
    for (address, friend_address) in sockets(&server, 80)
        .into_iter()
        .zip([IpAddr::from(friend.ipv4), IpAddr::from(friend.ipv6)])
    {
        scenario
            .enforce("web", &policy("web", FROM_FRIEND))
            .unwrap();
        scenario.agent.until_applied().unwrap();
        wait::until("the friend is let in", wait::LONG, || {
            Ok(probe::tcp(&friend.netns, address)?
                .is_answered()
                .then_some(()))
        })
        .unwrap();
        let download = Download::start(&friend.netns, address);
        scenario
            .replace("web", &policy("web", FROM_NOBODY))
            .unwrap();
        nothing_more_arrives(&server, &friend.netns, friend_address);
        drop(download);
        scenario.withdraw("web").unwrap();
    }
}

/// The server's own segments must not open a flow of their own where nothing is left that says they are denied:
/// its sockets tell that the client came to it, and that is denied.
#[test]
fn a_download_stays_stopped_when_somebody_removes_the_denied_flow() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let [server, friend] = server_and_friend(&scenario.lab);
    let _service = TcpServer::download(&server.netns, 80).unwrap();
    for (address, friend_address, table) in sockets(&server, 80)
        .into_iter()
        .zip([IpAddr::from(friend.ipv4), IpAddr::from(friend.ipv6)])
        .zip(["ox_ct4_denied", "ox_ct6_denied"])
        .map(|((address, friend), table)| (address, friend, table))
    {
        scenario
            .enforce("web", &policy("web", FROM_FRIEND))
            .unwrap();
        let download = Download::start(&friend.netns, address);
        scenario
            .replace("web", &policy("web", FROM_NOBODY))
            .unwrap();
        nothing_more_arrives(&server, &friend.netns, friend_address);
        assert!(remove_all(&scenario, table) > 0, "no flow is denied");
        nothing_arrives_of(1, &server, &friend.netns, friend_address);
        drop(download);
        scenario.withdraw("web").unwrap();
    }
}

/// Removes every entry of a map with bpftool, as a person would; how many there were.
fn remove_all(scenario: &Scenario, map: &str) -> usize {
    let pins = format!("oxilium/v{SCHEMA_VERSION}");
    let pin = scenario.lab.bpf_root().join(pins).join(map);
    let bpftool = |arguments: &[&str]| {
        let mut command = process::command("bpftool");
        command.args(arguments).arg(&pin);
        command
    };
    let entries = process::run(&mut bpftool(&["-j", "map", "dump", "pinned"])).unwrap();
    let entries: Value = serde_json::from_str(&entries).unwrap();
    let entries = entries.as_array().unwrap();
    for entry in entries {
        let mut delete = bpftool(&["map", "delete", "pinned"]);
        delete.args(["key", "hex"]);
        for byte in entry["key"].as_array().unwrap() {
            delete.arg(byte.as_str().unwrap().trim_start_matches("0x"));
        }
        process::run(&mut delete).unwrap();
    }
    entries.len()
}

#[test]
fn a_download_goes_on_while_policies_come_and_go_that_allow_it() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let [server, friend] = server_and_friend(&scenario.lab);
    let _service = TcpServer::download(&server.netns, 80).unwrap();
    let [address, _] = sockets(&server, 80);
    let download = Download::start(&friend.netns, address);
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    download.goes_on();
    let body = format!(
        "{FROM_FRIEND}      toPorts:\n        - ports: [{{port: \"80\", protocol: TCP}}]\n"
    );
    scenario.replace("web", &policy("web", &body)).unwrap();
    download.goes_on();
    scenario.withdraw("web").unwrap();
    download.goes_on();
}

#[test]
fn a_download_stops_when_the_remote_pod_is_not_the_friend_any_more() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let [server, mut friend] = server_and_friend(&scenario.lab);
    let _service = TcpServer::download(&server.netns, 80).unwrap();
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    let downloads = sockets(&server, 80).map(|address| Download::start(&friend.netns, address));
    let before = scenario.agent.revision().unwrap();
    friend.set_labels(&[("app", "stranger")]).unwrap();
    scenario.agent.until_revision_after(before).unwrap();
    for address in [friend.ipv4.into(), friend.ipv6.into()] {
        nothing_more_arrives(&server, &friend.netns, address);
    }
    drop(downloads);
}

#[test]
fn a_download_stops_when_a_pod_of_another_node_is_not_the_friend_any_more() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let server = scenario
        .lab
        .pod("server")
        .label("app", "subject")
        .start()
        .unwrap();
    let mut friend = scenario
        .lab
        .pod("friend")
        .label("app", "friend")
        .on_master()
        .start()
        .unwrap();
    let _service = TcpServer::download(&server.netns, 80).unwrap();
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    let addresses = sockets(&server, 80);
    for address in addresses {
        let outcome = probe::tcp(&friend.netns, address).unwrap();
        assert_eq!(outcome, Outcome::Silence, "nobody has said yet who it is");
    }

    let before = scenario.agent.revision().unwrap();
    friend.publish_endpoint(5001).unwrap();
    scenario.agent.until_revision_after(before).unwrap();
    let downloads = addresses.map(|address| Download::start(&friend.netns, address));
    let before = scenario.agent.revision().unwrap();
    friend.set_labels(&[("app", "stranger")]).unwrap();
    friend.publish_endpoint(5002).unwrap();
    scenario.agent.until_revision_after(before).unwrap();
    for address in [friend.ipv4.into(), friend.ipv6.into()] {
        nothing_more_arrives(&server, &friend.netns, address);
    }
    drop(downloads);
}

#[test]
fn no_flag_of_tcp_opens_the_way_for_a_denied_peer() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    let (see, send) = (
        Tap::open(&subject.netns, "eth0").unwrap(),
        Tap::open(&stranger.netns, "eth0").unwrap(),
    );
    let (here, there) = (IpAddr::from(stranger.ipv4), IpAddr::from(subject.ipv4));
    for (port, before_syn) in [
        (4001, tcp_flag::ACK),
        (4002, tcp_flag::SYN | tcp_flag::ACK),
        (4003, tcp_flag::RST),
        (4004, tcp_flag::RST | tcp_flag::ACK),
    ] {
        for flags in [before_syn, tcp_flag::SYN, tcp_flag::ACK] {
            let segment = packet::tcp((here, port), (there, 80), flags, (1, 1), &[]);
            send.send(&segment.frame(subject.mac, stranger.mac))
                .unwrap();
        }
    }
    let marker = packet::udp((friend.ipv4.into(), 1), (there, 1), b"the marker");
    let marker = marker.frame(subject.mac, friend.mac);
    Tap::open(&friend.netns, "eth0")
        .unwrap()
        .send(&marker)
        .unwrap();
    let before = see
        .until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
    let arrived: Vec<_> = before
        .iter()
        .filter(|frame| frame[6..12] == stranger.mac.0 && frame[12..14] == [8, 0])
        .collect();
    assert!(arrived.is_empty(), "{arrived:02x?}");
}
