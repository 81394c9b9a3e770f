//! What a policy lets through and what it does not, with real clients and servers, both families.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::net::IpAddr;

use oxilium_e2e::{
    packet,
    pod::Pod,
    probe::{self, Outcome},
    require::{Need, require},
    scenario::{Scenario, policy, sockets},
    server::{TcpServer, UdpEcho},
    wait,
    wire::{Tap, contains, parse_mac},
};

const FROM_FRIEND: &str =
    "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";

/// A pod that policies select, one that they let in, and one that they know nothing of.
fn subject_friend_stranger(scenario: &Scenario) -> (Pod, Pod, Pod) {
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    (pod("subject"), pod("friend"), pod("stranger"))
}

/// The network as it is called when bridged packets pass the host's netfilter hooks, and when they do not.
fn l4_and_icmp_rules(bridge_netfilter: Option<&str>) {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    if let Some(value) = bridge_netfilter {
        for family in ["iptables", "ip6tables", "arptables"] {
            let key = format!("net.bridge.bridge-nf-call-{family}");
            scenario.lab.worker.netns.sysctl(&key, value).unwrap();
        }
    }
    let lab = &scenario.lab;
    let multitool = |name: &str| {
        lab.pod(name)
            .label("app", "network-multitool")
            .start()
            .unwrap()
    };
    let (one, two) = (multitool("one"), multitool("two"));
    let stranger = lab.pod("stranger").start().unwrap();
    let _servers =
        [&one, &two].map(|pod| [80, 8080].map(|port| TcpServer::echo(&pod.netns, port).unwrap()));
    let tcp = |from: &oxilium_e2e::netns::Netns, port| {
        sockets(&one, port).map(|to| probe::tcp(from, to).unwrap())
    };
    let ping = |from: &oxilium_e2e::netns::Netns, to: &Pod| {
        [IpAddr::from(to.ipv4), IpAddr::from(to.ipv6)].map(|to| probe::ping(from, to).unwrap())
    };
    let (answered, silence) = (
        [Outcome::Answered, Outcome::Answered],
        [Outcome::Silence, Outcome::Silence],
    );
    let master = &lab.master.netns;

    assert_eq!(tcp(master, 80), answered);
    assert_eq!(ping(master, &one), answered);

    let rule = include_str!("../../examples/demo/l4-rule.yaml");
    scenario.enforce("l4-rule", rule).unwrap();
    assert_eq!(
        tcp(&two.netns, 80),
        answered,
        "the rule's own peer and port"
    );
    assert_eq!(tcp(&two.netns, 8080), silence, "another port");
    assert_eq!(tcp(&stranger.netns, 80), silence, "another pod");
    assert_eq!(tcp(master, 80), silence, "another node");
    assert_eq!(ping(master, &one), silence, "no port at all");
    assert_eq!(
        tcp(&lab.worker.netns, 8080),
        answered,
        "the pod's own node is let in by default"
    );

    let rule = include_str!("../../examples/demo/icmp-rule.yaml");
    scenario.enforce("icmp-rule", rule).unwrap();
    assert_eq!(tcp(&two.netns, 80), silence, "egress is enforced now");
    let nodes = lab
        .master
        .addresses()
        .map(|to| probe::ping(&one.netns, to).unwrap());
    assert_eq!(nodes, answered, "the rule's own type");
    assert_eq!(ping(&one.netns, &two), silence, "allowed out, not in");

    scenario.withdraw("icmp-rule").unwrap();
    scenario.withdraw("l4-rule").unwrap();
    assert_eq!(tcp(master, 80), answered);
    assert_eq!(ping(&one.netns, &two), answered);
}

#[test]
fn the_l4_and_icmp_rules_do_as_they_say() {
    l4_and_icmp_rules(None);
}

#[test]
fn the_rules_hold_when_bridged_packets_pass_netfilter() {
    if require(&[Need::BridgeNetfilter]) {
        l4_and_icmp_rules(Some("1"));
    }
}

#[test]
fn the_rules_hold_when_bridged_packets_do_not_pass_netfilter() {
    if require(&[Need::BridgeNetfilter]) {
        l4_and_icmp_rules(Some("0"));
    }
}

#[test]
fn the_l3_rule_lets_in_the_pods_of_its_label_and_the_map_names_them() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let app = |id: &str| scenario.lab.pod(id).label("id", id).start().unwrap();
    let (app1, app2, app3) = (app("app1"), app("app2"), app("app3"));
    let _service = TcpServer::echo(&app1.netns, 80).unwrap();
    let rule = include_str!("../../examples/demo/l3-rule.yaml");
    scenario.enforce("l3-rule", rule).unwrap();
    for to in sockets(&app1, 80) {
        assert_eq!(probe::tcp(&app2.netns, to).unwrap(), Outcome::Answered);
        assert_eq!(probe::tcp(&app3.netns, to).unwrap(), Outcome::Silence);
    }
    let id = scenario.agent.endpoint("app1").unwrap()["id"].to_string();
    let map = scenario
        .agent
        .cli()
        .text(&["bpf", "policy", "get", &id])
        .unwrap();
    let is_named = |line: &str| {
        ["Allow", "Ingress", "80/TCP", "id=app2"]
            .iter()
            .all(|word| line.contains(word))
    };
    assert!(map.lines().any(is_named), "{map}");
    assert!(!map.contains("id=app3"), "{map}");
}

#[test]
fn a_named_port_is_the_number_that_the_pod_gives_it() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let subject = scenario
        .lab
        .pod("subject")
        .label("app", "subject")
        .port("web", 8080, "TCP")
        .start()
        .unwrap();
    let friend = scenario
        .lab
        .pod("friend")
        .label("app", "friend")
        .start()
        .unwrap();
    let _servers = [80, 8080].map(|port| TcpServer::echo(&subject.netns, port).unwrap());
    let body =
        format!("{FROM_FRIEND}      toPorts:\n        - ports: [{{port: web, protocol: TCP}}]\n");
    scenario.enforce("named", &policy("named", &body)).unwrap();
    for (port, expected) in [(8080, Outcome::Answered), (80, Outcome::Silence)] {
        for to in sockets(&subject, port) {
            assert_eq!(probe::tcp(&friend.netns, to).unwrap(), expected, "{to}");
        }
    }
}

#[test]
fn udp_is_judged_by_port_and_later_fragments_follow_the_first() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, stranger) = subject_friend_stranger(&scenario);
    let _echoes: Vec<UdpEcho> = [5353, 5354]
        .into_iter()
        .flat_map(|port| sockets(&subject, port))
        .map(|address| UdpEcho::start(&subject.netns, address).unwrap())
        .collect();
    let body = format!(
        "{FROM_FRIEND}      toPorts:\n        - ports: [{{port: \"5353\", protocol: UDP}}]\n"
    );
    scenario.enforce("udp", &policy("udp", &body)).unwrap();
    for size in [8, 4000] {
        for to in sockets(&subject, 5353) {
            assert_eq!(
                probe::udp(&friend.netns, to, size).unwrap(),
                Outcome::Answered,
                "{to} {size}"
            );
            assert_eq!(
                probe::udp(&stranger.netns, to, size).unwrap(),
                Outcome::Silence,
                "{to} {size}"
            );
        }
        for to in sockets(&subject, 5354) {
            assert_eq!(
                probe::udp(&friend.netns, to, size).unwrap(),
                Outcome::Silence,
                "{to} {size}"
            );
        }
    }
}

#[test]
fn an_icmp_error_comes_back_for_what_was_allowed() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, _) = subject_friend_stranger(&scenario);
    // Nothing listens on the port: the friend's kernel answers with "port unreachable", which no rule of the subject
    // allows in by itself.
    let body = "  ingress: [{}]\n  egress:\n    - toEndpoints:\n        - matchLabels: {app: friend}\n      toPorts:\n        \
                - ports: [{port: \"9\", protocol: UDP}]\n";
    scenario.enforce("errors", &policy("errors", body)).unwrap();
    for to in sockets(&friend, 9) {
        let outcome = probe::udp(&subject.netns, to, 8).unwrap();
        assert!(matches!(outcome, Outcome::Refused(_)), "{to}: {outcome}");
    }
}

#[test]
fn sctp_is_judged_by_port() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, stranger) = subject_friend_stranger(&scenario);
    let body = format!(
        "{FROM_FRIEND}      toPorts:\n        - ports: [{{port: \"3868\", protocol: SCTP}}]\n"
    );
    scenario.enforce("sctp", &policy("sctp", &body)).unwrap();
    let see = Tap::open(&subject.netns, "eth0").unwrap();
    // The source port marks the packet; what may pass is sent last, so that all others would have been seen before it.
    for (to, family) in [
        (IpAddr::from(subject.ipv4), 4),
        (IpAddr::from(subject.ipv6), 6),
    ] {
        let init = |from: &Pod, source_port: u16, port: u16| {
            let source = if family == 4 {
                from.ipv4.into()
            } else {
                from.ipv6.into()
            };
            let frame =
                packet::sctp_init((source, source_port), (to, port)).frame(subject.mac, from.mac);
            Tap::open(&from.netns, "eth0")
                .unwrap()
                .send(&frame)
                .unwrap();
        };
        init(&stranger, 0x7171, 3868);
        init(&friend, 0x7272, 3869);
        init(&friend, 0x7373, 3868);
        let before = see
            .until(wait::LONG, |frame| {
                contains(frame, &[0x73, 0x73, 0x0f, 0x1c])
            })
            .unwrap();
        for denied in [[0x71, 0x71], [0x72, 0x72]] {
            let marked: Vec<_> = before
                .iter()
                .filter(|frame| contains(frame, &[denied[0], denied[1], 0x0f]))
                .collect();
            assert!(marked.is_empty(), "IPv{family}: {marked:02x?}");
        }
    }
}

#[test]
fn an_icmp_error_about_a_flow_that_never_was_does_not_come_in() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, stranger) = subject_friend_stranger(&scenario);
    scenario
        .enforce("friends", &policy("friends", FROM_FRIEND))
        .unwrap();
    let see = Tap::open(&subject.netns, "eth0").unwrap();
    let port_unreachable = |from: &Pod, text: &[u8]| {
        let (here, there) = (from.ipv4.into(), subject.ipv4.into());
        let (_, quoted) = packet::udp((there, 4000), (here, 4001), text).bytes();
        packet::icmp(here, there, (3, 3), [0; 4], &quoted).frame(subject.mac, from.mac)
    };
    let lie = port_unreachable(&stranger, b"a flow that never was");
    Tap::open(&stranger.netns, "eth0")
        .unwrap()
        .send(&lie)
        .unwrap();
    let marker = packet::udp(
        (friend.ipv4.into(), 1),
        (subject.ipv4.into(), 1),
        b"the marker",
    );
    let marker = marker.frame(subject.mac, friend.mac);
    Tap::open(&friend.netns, "eth0")
        .unwrap()
        .send(&marker)
        .unwrap();
    let before = see
        .until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
    assert!(
        !before
            .iter()
            .any(|frame| contains(frame, b"a flow that never was"))
    );
}

#[test]
fn nobody_from_outside_is_the_host() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (lab, subject) = (
        &scenario.lab,
        scenario
            .lab
            .pod("subject")
            .label("app", "subject")
            .start()
            .unwrap(),
    );
    let body = "  ingress:\n    - fromEntities: [remote-node]\n      toPorts:\n        - ports: [{port: \"9\", protocol: UDP}]\n";
    scenario.enforce("nodes", &policy("nodes", body)).unwrap();
    // The worker itself is let in by default.
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    for to in sockets(&subject, 80) {
        assert_eq!(
            probe::tcp(&lab.worker.netns, to).unwrap(),
            Outcome::Answered,
            "{to}"
        );
        assert_eq!(
            probe::tcp(&lab.master.netns, to).unwrap(),
            Outcome::Silence,
            "{to}"
        );
    }

    // The kernel itself refuses an own address that comes from outside, unless it is told not to.
    for key in ["accept_local", "rp_filter"] {
        for interface in ["all", "eth0"] {
            let value = if key == "accept_local" { "1" } else { "0" };
            lab.worker
                .netns
                .sysctl(&format!("net.ipv4.conf.{interface}.{key}"), value)
                .unwrap();
        }
    }
    let mac = |netns: &oxilium_e2e::netns::Netns| {
        let links = netns.ip("-json link show dev eth0").unwrap();
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        parse_mac(links[0]["address"].as_str().unwrap()).unwrap()
    };
    let (here, there) = (mac(&lab.master.netns), mac(&lab.worker.netns));
    let (send, see) = (
        Tap::open(&lab.master.netns, "eth0").unwrap(),
        Tap::open(&subject.netns, "eth0").unwrap(),
    );
    let [worker4, worker6] = lab.worker.addresses();
    let [master4, master6] = lab.master.addresses();
    for (subject, worker, master) in [
        (IpAddr::from(subject.ipv4), worker4, master4),
        (IpAddr::from(subject.ipv6), worker6, master6),
    ] {
        let lie = packet::udp((worker, 1), (subject, 9), b"I am the host");
        send.send(&lie.frame(there, here)).unwrap();
        let marker = packet::udp((master, 1), (subject, 9), b"I am the master");
        send.send(&marker.frame(there, here)).unwrap();
        let before = see
            .until(wait::LONG, |frame| contains(frame, b"I am the master"))
            .unwrap();
        assert!(
            !before.iter().any(|frame| contains(frame, b"I am the host")),
            "{subject}"
        );
    }
}
