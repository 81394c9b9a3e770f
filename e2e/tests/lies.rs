//! A pod speaks only for itself: every lie that a pod with CAP_NET_RAW can send is dropped at its own interface, for a
//! reason of its own; what it may say gets through.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_e2e::{
    lab::Lab,
    packet::{self, Ip, ethertype, protocol},
    pod::Pod,
    require::require,
    scenario::{NEEDS, Scenario},
    wait,
    wire::{Mac, Tap, contains},
};

const FOREIGN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const FOREIGN_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);

/// The liar, whom it tells, and in whose name.
struct Cast {
    liar: Pod,
    victim: Pod,
    neighbour: Pod,
}

impl Cast {
    fn start(lab: &Lab) -> Self {
        let pod = |name: &str| lab.pod(name).start().unwrap();
        Self {
            liar: pod("liar"),
            victim: pod("victim"),
            neighbour: pod("neighbour"),
        }
    }

    /// To the victim's MAC, from the liar's.
    fn frame(&self, ip: &Ip) -> Vec<u8> {
        ip.frame(self.victim.mac, self.liar.mac)
    }

    fn arp(&self, operation: u16, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
        let bytes = packet::arp(operation, sender, (Mac([0; 6]), target));
        packet::ethernet(self.victim.mac, self.liar.mac, ethertype::ARP, &bytes)
    }

    /// A datagram to the victim in the name of `source`.
    fn datagram(&self, source: IpAddr, text: &str) -> Vec<u8> {
        let target = match source {
            IpAddr::V4(_) => IpAddr::from(self.victim.ipv4),
            IpAddr::V6(_) => IpAddr::from(self.victim.ipv6),
        };
        self.frame(&packet::udp(
            (source, 4000),
            (target, 4001),
            text.as_bytes(),
        ))
    }

    /// A marker that comes through by the same way as what was sent before it.
    fn marker(&self, number: usize) -> (Vec<u8>, String) {
        let text = format!("marker {number} of the liar's own");
        (self.datagram(self.liar.ipv4.into(), &text), text)
    }
}

/// The liar's own link-local address: EUI-64 of its MAC.
fn link_local(mac: Mac) -> Ipv6Addr {
    let bytes = mac.0;
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(bytes[0] ^ 2, bytes[1]),
        word(bytes[2], 0xff),
        word(0xfe, bytes[3]),
        word(bytes[4], bytes[5]),
    )
}

/// What the pod must not say, what it is called, and the reason it is dropped for.
fn lies(cast: &Cast) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut lies = addresses(cast);
    lies.extend(arp(cast));
    lies.extend(neighbour_discovery(cast));
    lies.extend(others(cast));
    lies
}

fn addresses(cast: &Cast) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let Cast {
        liar,
        victim,
        neighbour,
    } = cast;
    let own = cast.datagram(liar.ipv4.into(), "own address, foreign MAC");
    let mut foreign_mac = own.clone();
    foreign_mac[6..12].copy_from_slice(&FOREIGN_MAC.0);
    let from_link_local = packet::udp(
        (link_local(liar.mac).into(), 4000),
        (victim.ipv6.into(), 4001),
        b"link-local for data",
    );
    vec![
        (
            "the neighbour's IPv4 address",
            cast.datagram(neighbour.ipv4.into(), "v4 of the neighbour"),
            "Invalid source ip",
        ),
        (
            "the victim's own IPv4 address",
            cast.datagram(victim.ipv4.into(), "v4 of the victim"),
            "Invalid source ip",
        ),
        (
            "the node's IPv4 address",
            cast.datagram(GATEWAY.into(), "v4 of the node"),
            "Invalid source ip",
        ),
        (
            "an IPv4 address of nobody",
            cast.datagram(Ipv4Addr::new(192, 0, 2, 1).into(), "v4 of nobody"),
            "Invalid source ip",
        ),
        (
            "the neighbour's IPv6 address",
            cast.datagram(neighbour.ipv6.into(), "v6 of the neighbour"),
            "Invalid source ip",
        ),
        (
            "the node's IPv6 address",
            cast.datagram(GATEWAY6.into(), "v6 of the node"),
            "Invalid source ip",
        ),
        (
            ":: for anything but address detection",
            cast.datagram(Ipv6Addr::UNSPECIFIED.into(), "v6 of nobody"),
            "Invalid source ip",
        ),
        (
            "its link-local address for data",
            cast.frame(&from_link_local),
            "Link-local source outside neighbour discovery",
        ),
        ("a foreign MAC", foreign_mac, "Invalid source mac"),
    ]
}

fn arp(cast: &Cast) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let Cast {
        liar,
        victim,
        neighbour,
    } = cast;
    let mut token_ring = cast.arp(1, (liar.mac, liar.ipv4), victim.ipv4);
    token_ring[15] = 6;
    vec![
        (
            "an ARP reply for the neighbour's address",
            cast.arp(2, (liar.mac, neighbour.ipv4), victim.ipv4),
            "ARP sender address is not the endpoint's",
        ),
        (
            "a gratuitous ARP for the gateway's address",
            cast.arp(1, (liar.mac, GATEWAY), GATEWAY),
            "ARP sender address is not the endpoint's",
        ),
        (
            "an ARP reply that no address sends",
            cast.arp(2, (liar.mac, Ipv4Addr::UNSPECIFIED), victim.ipv4),
            "ARP sender address is not the endpoint's",
        ),
        (
            "an ARP reply with a foreign MAC",
            cast.arp(2, (FOREIGN_MAC, liar.ipv4), victim.ipv4),
            "ARP sender hardware address is not the endpoint's",
        ),
        ("ARP for token ring", token_ring, "Malformed ARP"),
    ]
}

fn neighbour_discovery(cast: &Cast) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let Cast {
        liar,
        victim,
        neighbour,
    } = cast;
    let own = link_local(liar.mac);
    let solicit =
        |source, target, mac| packet::neighbour_solicitation(source, victim.ipv6, target, mac);
    let advertise =
        |source, target, mac| packet::neighbour_advertisement(source, victim.ipv6, target, mac);
    let detection = packet::neighbour_solicitation(
        Ipv6Addr::UNSPECIFIED,
        packet::solicited_node(neighbour.ipv6),
        neighbour.ipv6,
        liar.mac,
    );
    let mut redirect = victim.ipv6.octets().to_vec();
    redirect.extend(victim.ipv6.octets());
    let redirect =
        packet::icmp(own.into(), victim.ipv6.into(), (137, 0), [0; 4], &redirect).hops(255);
    vec![
        (
            "an advertisement for the neighbour's address",
            cast.frame(&advertise(own, neighbour.ipv6, liar.mac)),
            "Neighbour advertisement for a foreign address",
        ),
        (
            "an advertisement for the gateway's address",
            cast.frame(&advertise(liar.ipv6, GATEWAY6, liar.mac)),
            "Neighbour advertisement for a foreign address",
        ),
        (
            "an advertisement with a foreign MAC",
            cast.frame(&advertise(liar.ipv6, liar.ipv6, FOREIGN_MAC)),
            "Neighbour discovery option with a foreign link-layer address",
        ),
        (
            "a solicitation with a foreign MAC",
            cast.frame(&solicit(liar.ipv6, victim.ipv6, FOREIGN_MAC)),
            "Neighbour discovery option with a foreign link-layer address",
        ),
        (
            "a solicitation from a foreign link-local address",
            cast.frame(&solicit(FOREIGN_LINK_LOCAL, victim.ipv6, liar.mac)),
            "Invalid source ip",
        ),
        (
            "address detection for the neighbour's address",
            cast.frame(&detection),
            "Duplicate address detection for a foreign address",
        ),
        (
            "a solicitation that was forwarded",
            cast.frame(&solicit(liar.ipv6, victim.ipv6, liar.mac).hops(64)),
            "Malformed neighbour discovery or MLD",
        ),
        (
            "a router advertisement",
            cast.frame(&packet::router_advertisement(own, packet::ALL_NODES)),
            "Router advertisement",
        ),
        ("an ICMPv6 redirect", cast.frame(&redirect), "ICMP redirect"),
    ]
}

fn others(cast: &Cast) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let Cast { liar, victim, .. } = cast;
    let (here, there) = (liar.ipv4.into(), victim.ipv4.into());
    let quoted = packet::udp((there, 1), (GATEWAY.into(), 1), b"quoted!!")
        .bytes()
        .1;
    let redirect = packet::icmp(here, there, (5, 1), liar.ipv4.octets(), &quoted);
    let dhcp = packet::udp((here, 67), (there, 68), &[2; 240]);
    let dhcp6 = packet::udp((liar.ipv6.into(), 547), (victim.ipv6.into(), 546), &[7; 32]);
    let inner = cast.datagram(here, "inside a VLAN");
    let experimental = packet::ethernet(victim.mac, liar.mac, 0x88b5, &[0x0f; 46]);
    vec![
        ("an ICMP redirect", cast.frame(&redirect), "ICMP redirect"),
        (
            "a DHCP server's reply",
            cast.frame(&dhcp),
            "DHCP server reply from a pod",
        ),
        (
            "a DHCPv6 server's reply",
            cast.frame(&dhcp6),
            "DHCP server reply from a pod",
        ),
        (
            "a VLAN tag",
            packet::tagged(&inner, 100),
            "VLAN traffic disallowed by VLAN filter",
        ),
        (
            "an ethertype of its own",
            experimental,
            "Unsupported L2 protocol",
        ),
    ]
}

/// What a pod says every day, and must get through.
fn truths(cast: &Cast) -> Vec<(&'static str, Vec<u8>)> {
    let Cast { liar, victim, .. } = cast;
    let own = link_local(liar.mac);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let solicit =
        |source, target| packet::neighbour_solicitation(source, victim.ipv6, target, liar.mac);
    let detection = packet::neighbour_solicitation(
        Ipv6Addr::UNSPECIFIED,
        packet::solicited_node(liar.ipv6),
        liar.ipv6,
        liar.mac,
    );
    let router = packet::icmp(own.into(), routers.into(), (133, 0), [0; 4], &[]).hops(255);
    let echo = packet::echo_request(liar.ipv6.into(), victim.ipv6.into(), 0x4242, 1);
    vec![
        (
            "a question for the victim's address",
            cast.arp(1, (liar.mac, liar.ipv4), victim.ipv4),
        ),
        (
            "a gratuitous ARP for itself",
            cast.arp(1, (liar.mac, liar.ipv4), liar.ipv4),
        ),
        (
            "an ARP probe",
            cast.arp(1, (liar.mac, Ipv4Addr::UNSPECIFIED), liar.ipv4),
        ),
        (
            "a solicitation",
            cast.frame(&solicit(liar.ipv6, victim.ipv6)),
        ),
        (
            "a solicitation from its link-local address",
            cast.frame(&solicit(own, victim.ipv6)),
        ),
        (
            "an advertisement for itself",
            cast.frame(&packet::neighbour_advertisement(
                liar.ipv6,
                victim.ipv6,
                liar.ipv6,
                liar.mac,
            )),
        ),
        ("address detection for itself", cast.frame(&detection)),
        ("a router solicitation", cast.frame(&router)),
        (
            "a datagram",
            cast.datagram(liar.ipv6.into(), "its own IPv6 address"),
        ),
        ("an echo request", cast.frame(&echo)),
    ]
}

/// Sends `frame` and tells whether the victim saw it, by what a marker finds arrived before it.
fn is_seen(cast: &Cast, wires: &(Tap, Tap), number: usize, frame: &[u8]) -> bool {
    let (send, see) = wires;
    let (marker, text) = cast.marker(number);
    send.send(frame).unwrap();
    send.send(&marker).unwrap();
    let before = see
        .until(wait::LONG, |frame| contains(frame, text.as_bytes()))
        .unwrap();
    // Without the Ethernet header: the kernel takes a VLAN tag out of it.
    let needle = match &frame[12..14] {
        [0x81, 0] => &frame[18..],
        _ => &frame[14..],
    };
    before.iter().any(|frame| contains(frame, needle))
}

fn wires(cast: &Cast) -> (Tap, Tap) {
    let open = |pod: &Pod| Tap::open(&pod.netns, "eth0").unwrap();
    (open(&cast.liar), open(&cast.victim))
}

#[test]
fn every_lie_would_arrive_if_nobody_judged() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::without_oxilium().unwrap();
    let cast = Cast::start(&lab);
    let wires = wires(&cast);
    for (number, (name, frame, _)) in lies(&cast).iter().enumerate() {
        assert!(is_seen(&cast, &wires, number, frame), "{name}");
    }
}

#[test]
fn every_lie_is_dropped_at_the_liar_for_its_own_reason() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let cast = Cast::start(&scenario.lab);
    let wires = wires(&cast);
    let monitor = scenario
        .agent
        .cli()
        .monitor(&scenario.lab, &["-t", "drop"])
        .unwrap();
    let mut wrong = Vec::new();
    for (number, (name, frame, reason)) in lies(&cast).iter().enumerate() {
        let told = monitor.events().unwrap().len();
        if is_seen(&cast, &wires, number, frame) {
            wrong.push(format!("{name}: arrived"));
            continue;
        }
        let event = wait::until(name, wait::LONG, || {
            let events = monitor.events()?;
            Ok(events[told.min(events.len())..]
                .iter()
                .find(|event| event["pod"] == "default/liar")
                .cloned())
        });
        match event {
            Ok(event) if event["reason-desc"] == *reason => {}
            Ok(event) => wrong.push(format!(
                "{name}: {} instead of {reason}",
                event["reason-desc"]
            )),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_pod_says_for_itself_gets_through() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let cast = Cast::start(&scenario.lab);
    let wires = wires(&cast);
    for (number, (name, frame)) in truths(&cast).iter().enumerate() {
        assert!(is_seen(&cast, &wires, number, frame), "{name}");
    }
}

#[test]
fn a_fragment_without_its_first_and_a_first_without_its_header_are_dropped() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let cast = Cast::start(&scenario.lab);
    let wires = wires(&cast);
    let (here, there) = (IpAddr::from(cast.liar.ipv4), IpAddr::from(cast.victim.ipv4));
    let (here6, there6) = (IpAddr::from(cast.liar.ipv6), IpAddr::from(cast.victim.ipv6));
    for (number, (from, to)) in [(here, there), (here6, there6)].into_iter().enumerate() {
        let later = Ip::new(from, to, protocol::UDP, b"later fragment..".to_vec())
            .fragment(77, 1480, false);
        assert!(!is_seen(&cast, &wires, number * 2, &cast.frame(&later)));
        let first = Ip::new(from, to, protocol::TCP, b"8 bytes.".to_vec()).fragment(78, 0, true);
        assert!(!is_seen(&cast, &wires, number * 2 + 1, &cast.frame(&first)));
    }
}
