//! Frames at both hooks of a pod, under policies that change in between: nothing passes that a naive judge drops.
//!
//! The naive judge knows what passed before, and never forgets: so it allows more than conntrack, which does. Where it
//! finds no reason for a packet to pass, none may. A packet that is well formed, honest, allowed and the first of its
//! flow passes.

use std::net::{IpAddr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use oxilium_abi::Direction;
use oxilium_datapath::testing::{
    Frame, Ipv4, Ipv6, MemoryMaps, PolicyEntry, World, arp, icmp, sctp, tcp, udp,
};

use crate::naive::{self, Content, Seen};

const PORTS: [u16; 5] = [53, 80, 81, 443, 40_000];

/// One life of a pod.
pub fn run(data: &[u8]) {
    // Where the bytes end, the life does.
    live(&mut Unstructured::new(data)).ok();
}

fn live(u: &mut Unstructured<'_>) -> Result<()> {
    let maps = MemoryMaps::default();
    let mut life = Life {
        entries: entries(u)?,
        passed: Vec::new(),
        met: Vec::new(),
    };
    maps.write_all(&World::writes(&life.entries));
    let mut epoch = 1;
    for _ in 0..u.int_in_range(1..=12)? {
        if u.ratio(1, 5)? {
            epoch += 1;
            life.entries = entries(u)?;
            let table = World::TABLE + u32::try_from(epoch).unwrap_or_default();
            maps.write_all(&World::policy(table, &life.entries));
            maps.write_all(&World::switch(table, epoch));
        }
        maps.clock
            .set(maps.clock.get() + u64::from(u.arbitrary::<u32>()?));
        let direction = *u.choose(&[Direction::Egress, Direction::Ingress])?;
        let honest = honest(u, direction)?;
        let (frame, changed) = changed(u, honest)?;
        let verdict = match direction {
            Direction::Egress => maps.from_container(&frame),
            Direction::Ingress => maps.to_container(&frame),
        };
        life.meet(&frame, direction, verdict.is_ok(), changed);
    }
    Ok(())
}

/// What the naive judge remembers.
struct Life {
    entries: Vec<PolicyEntry>,
    /// What passed, whenever.
    passed: Vec<(Direction, Seen)>,
    /// Peers that anything was tried with.
    met: Vec<IpAddr>,
}

impl Life {
    fn meet(&mut self, frame: &Frame, direction: Direction, passes: bool, changed: bool) {
        let seen = frame.bytes.get(14..).and_then(|packet| {
            let ether_type = u16::from_be_bytes([frame.bytes[12], frame.bytes[13]]);
            naive::read(ether_type, packet)
        });
        if passes {
            link(frame, direction);
            if is_ip(frame) {
                let seen = seen.clone().expect("what passes has all its headers");
                let why = self.reason(frame, direction, &seen);
                assert!(
                    why.is_some(),
                    "nothing allows {seen:?} ({direction:?}), which passed: {frame:?}, {:?}",
                    self.entries
                );
                self.passed.push((direction, seen));
            }
        }
        let Some(seen) = seen else { return };
        let peer = peer(&seen, direction);
        let first = !self.met.contains(&peer);
        self.met.push(peer);
        // The rules of the link may refuse what policy allows.
        let link_rules = on_link_only(&seen);
        if !passes && first && !changed && seen.fragment.is_none() && !link_rules {
            let allowed = self.allowed_in(frame, direction, &seen);
            assert!(
                !allowed,
                "{seen:?} ({direction:?}) is allowed and was dropped: {frame:?}, {:?}",
                self.entries
            );
        }
    }

    /// Why the packet may pass; none if it may not.
    fn reason(&self, frame: &Frame, direction: Direction, seen: &Seen) -> Option<&'static str> {
        sender(frame, direction, seen);
        if outside_policy(direction, seen) {
            return Some("neighbour discovery or MLD");
        }
        if seen.content == Content::Later {
            return self
                .first_fragment(direction, seen)
                .then_some("its first fragment passed");
        }
        if self.allowed_in(frame, direction, seen) {
            return Some("policy");
        }
        // The other way round, nobody joins a flow of the host's.
        let joined = |(at, before): &(Direction, Seen)| *at == direction && same_flow(before, seen);
        let from_host = direction == Direction::Ingress && frame.ingress_ifindex == 0;
        if from_host && self.passed.iter().any(joined) && self.allowed(direction, seen, true) {
            return Some("the host, on a flow of somebody behind it");
        }
        let other = direction.reverse();
        let spoke = |(at, before): &(Direction, Seen)| *at == other && answers(before, seen);
        if self.passed.iter().any(spoke) && self.flow_allowed(other, seen) {
            return Some("it answers what policy allows");
        }
        self.quotes(seen)
            .then_some("an error about what policy allows")
    }

    /// Policy allows the packet as the first of a flow in its own direction.
    fn allowed_in(&self, frame: &Frame, direction: Direction, seen: &Seen) -> bool {
        let outside = direction == Direction::Ingress && frame.ingress_ifindex != 0;
        self.allowed(direction, seen, outside)
    }

    fn allowed(&self, direction: Direction, seen: &Seen, outside: bool) -> bool {
        let port = match &seen.content {
            Content::Ports(_, port, _) => *port,
            Content::Icmp(kind, ..) => u16::from(*kind),
            Content::Later | Content::Other => 0,
        };
        let identity = naive::identity(peer(seen, direction), outside);
        naive::allows(&self.entries, direction, identity, seen.protocol, port)
    }

    /// Policy allows the flow in `direction` that this packet answers: whoever proved to be what.
    fn flow_allowed(&self, direction: Direction, reply: &Seen) -> bool {
        let port = match &reply.content {
            Content::Ports(_, _, true) => return false,
            Content::Ports(port, _, false) => *port,
            Content::Icmp(..) if reply.source.is_ipv4() => 8,
            Content::Icmp(..) => 128,
            Content::Later | Content::Other => 0,
        };
        let peer = peer(reply, direction.reverse());
        self.allows_whoever(direction, peer, reply.protocol, port)
    }

    fn allows_whoever(&self, direction: Direction, peer: IpAddr, protocol: u8, port: u16) -> bool {
        [false, true].into_iter().any(|outside| {
            let identity = naive::identity(peer, outside);
            naive::allows(&self.entries, direction, identity, protocol, port)
        })
    }

    fn first_fragment(&self, direction: Direction, later: &Seen) -> bool {
        self.passed.iter().any(|(at, first)| {
            *at == direction
                && first.fragment.is_some_and(|(_, is_later)| !is_later)
                && fragment_id(first) == fragment_id(later)
                && (first.source, first.destination) == (later.source, later.destination)
        })
    }

    /// An ICMP error that quotes a flow some packet of which passed, and which policy allows one way or the other.
    fn quotes(&self, seen: &Seen) -> bool {
        let Content::Icmp(_, _, _, quoted) = &seen.content else {
            return false;
        };
        let ether_type = if seen.source.is_ipv4() {
            0x0800
        } else {
            0x86DD
        };
        // Eight bytes of the quoted L4 header are all that need be there: the rest reads as zero.
        let mut packet = quoted.clone();
        packet.resize(quoted.len() + 64, 0);
        let Some(inner) = naive::read(ether_type, &packet) else {
            return false;
        };
        let same = |before: &Seen| {
            let ends = [
                (before.source, before.destination),
                (before.destination, before.source),
            ];
            before.protocol == inner.protocol && ends.contains(&(inner.source, inner.destination))
        };
        let known = self.passed.iter().any(|(_, before)| same(before));
        let [a, b] = [inner.source, inner.destination];
        let ports: Vec<u16> = match inner.content {
            Content::Ports(source, destination, _) => vec![source, destination],
            Content::Icmp(..) => vec![8, 128],
            Content::Later | Content::Other => vec![0],
        };
        known
            && [Direction::Egress, Direction::Ingress]
                .into_iter()
                .any(|direction| {
                    [a, b].into_iter().any(|peer| {
                        let allowed = |port: &u16| {
                            self.allows_whoever(direction, peer, inner.protocol, *port)
                        };
                        ports.iter().any(allowed)
                    })
                })
    }
}

fn fragment_id(seen: &Seen) -> Option<u32> {
    seen.fragment.map(|(id, _)| id)
}

/// `reply` is the other direction's packet of what `before` belongs to.
fn answers(before: &Seen, reply: &Seen) -> bool {
    let ends = before.source == reply.destination && before.destination == reply.source;
    let content = match (&before.content, &reply.content) {
        (Content::Ports(a, b, _), Content::Ports(c, d, _)) => (a, b) == (d, c),
        (Content::Icmp(request, _, id, _), Content::Icmp(answer, _, same, _)) => {
            id == same && [(8, 0), (128, 129)].contains(&(*request, *answer))
        }
        (Content::Other, Content::Other) => true,
        _ => false,
    };
    ends && content && before.protocol == reply.protocol
}

/// Both are packets of one flow, in the same direction.
fn same_flow(before: &Seen, now: &Seen) -> bool {
    let ends = before.source == now.source && before.destination == now.destination;
    let content = match (&before.content, &now.content) {
        (Content::Ports(a, b, _), Content::Ports(c, d, _)) => (a, b) == (c, d),
        (Content::Icmp(a, _, id, _), Content::Icmp(b, _, same, _)) => a == b && id == same,
        (Content::Other, Content::Other) => true,
        _ => false,
    };
    ends && content && before.protocol == now.protocol
}

fn peer(seen: &Seen, direction: Direction) -> IpAddr {
    match direction {
        Direction::Egress => seen.destination,
        Direction::Ingress => seen.source,
    }
}

fn is_ip(frame: &Frame) -> bool {
    matches!(frame.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xDD]))
}

/// What must hold of the link layer of a frame that passed.
fn link(frame: &Frame, direction: Direction) {
    let bytes = &frame.bytes;
    assert!(!frame.vlan, "a VLAN tag passed");
    assert!(bytes.len() >= 14, "half a frame passed");
    let is_arp = bytes[12..14] == [0x08, 0x06];
    assert!(
        is_ip(frame) || is_arp,
        "ethertype {:x?} passed",
        &bytes[12..14]
    );
    if direction == Direction::Egress {
        assert_eq!(bytes[6..12], World::MAC, "a foreign MAC address passed");
        if is_arp {
            assert_eq!(bytes[22..28], World::MAC, "ARP for a foreign MAC address");
            let sender = &bytes[28..32];
            let probe = sender == [0; 4] && bytes[21] == 1;
            assert!(sender == World::POD4 || probe, "ARP for {sender:?}");
        }
    }
}

/// What must hold of the sender of an IP packet that passed.
fn sender(frame: &Frame, direction: Direction, seen: &Seen) {
    let local = |kind: u8| matches!(kind, 130..=132 | 133 | 135 | 136 | 143);
    let kind = match seen.content {
        Content::Icmp(kind, ..) if naive::is_icmp(seen) => Some(kind),
        _ => None,
    };
    let advertises = matches!(
        (seen.source.is_ipv4(), kind),
        (true, Some(5 | 9)) | (false, Some(134 | 137))
    );
    if direction == Direction::Ingress {
        assert!(!advertises || frame.ingress_ifindex == 0, "{seen:?} passed");
        return;
    }
    assert!(!advertises, "{seen:?} passed");
    let own = match seen.source {
        IpAddr::V4(source) => source.octets() == World::POD4,
        IpAddr::V6(source) => source.octets() == World::POD6,
    };
    let on_link = match seen.source {
        IpAddr::V4(_) => false,
        IpAddr::V6(source) => {
            let known = source.octets() == World::LINK_LOCAL || source.is_unspecified();
            known && kind.is_some_and(local)
        }
    };
    assert!(own || on_link, "{seen:?} passed from a foreign address");
    let dhcp = matches!(
        seen.content,
        Content::Ports(67, 68, _) | Content::Ports(547, 546, _)
    );
    assert!(
        seen.protocol != 17 || !dhcp,
        "a DHCP server's answer passed"
    );
}

/// Neighbour discovery and MLD.
fn on_link_only(seen: &Seen) -> bool {
    let kinds = |kind| matches!(kind, 130..=132 | 133 | 135 | 136 | 143);
    let known = matches!(&seen.content, Content::Icmp(kind, ..) if kinds(*kind));
    known && !seen.source.is_ipv4() && naive::is_icmp(seen) && seen.fragment.is_none()
}

fn outside_policy(direction: Direction, seen: &Seen) -> bool {
    let (IpAddr::V6(destination), true) = (seen.destination, on_link_only(seen)) else {
        return false;
    };
    let to_pod = direction == Direction::Ingress;
    match &seen.content {
        Content::Icmp(135, _, _, target) => {
            let target = target.first_chunk::<16>().copied().map(Ipv6Addr::from);
            seen.hops == 255 && (to_pod || target.is_some_and(near))
        }
        Content::Icmp(133 | 136, ..) => seen.hops == 255 && (to_pod || near(destination)),
        _ => seen.hops == 1 && destination.is_multicast(),
    }
}

/// On the pod's link.
fn near(address: Ipv6Addr) -> bool {
    let (octets, host) = (address.octets(), Ipv6Addr::from(World::HOST6));
    address.is_unicast_link_local()
        || octets[..2] == [0xFF, 2]
        || octets[..8] == World::POD6[..8]
        || address == host
}

fn entries(u: &mut Unstructured<'_>) -> Result<Vec<PolicyEntry>> {
    let mut entries: Vec<PolicyEntry> = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let direction = *u.choose(&[Direction::Egress, Direction::Ingress])?;
        let identity = *u.choose(&[0, 1, 9, 10, 11, World::PEER, World::PEER])?;
        let protocol = *u.choose(&[0, 1, 6, 6, 17, 58, 132])?;
        let port = match protocol {
            1 | 58 => *u.choose(&[0, 3, 8, 128, 129])?,
            _ => *u.choose(&PORTS)?,
        };
        let bits = *u.choose(&[0, 8, 15, 16, 16])?;
        let level = u.int_in_range(0..=2_u32)?;
        let class = *u.choose(&[1, 1, 1, 255, 154])?;
        let entry = PolicyEntry {
            direction,
            identity,
            protocol,
            port,
            prefix: (protocol != 0).then_some(bits),
            precedence: ((0x00FF_FFFF - level) << 8) | class,
            proxy_port: 0,
            auth: 0,
        };
        // A table has one value for a key.
        if entries.iter().all(|other| other.key(1) != entry.key(1)) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// A frame as a pod or its peer would make it.
fn honest(u: &mut Unstructured<'_>, direction: Direction) -> Result<Frame> {
    let (v6, who) = (u.arbitrary()?, u.int_in_range(0..=2_usize)?);
    let (near, far) = (*u.choose(&PORTS)?, *u.choose(&PORTS)?);
    let (source, destination) = match direction {
        Direction::Egress => (near, far),
        Direction::Ingress => (far, near),
    };
    let (echo, reply, unreachable, icmp_protocol) =
        if v6 { (128, 129, 1, 58) } else { (8, 0, 3, 1) };
    let id = u.int_in_range(0..=2_u8)?;
    let (protocol, payload) = match u.int_in_range(0..=8)? {
        0..=2 => {
            let flags = *u.choose(&[0x02, 0x12, 0x10, 0x10, 0x11, 0x04])?;
            (6, tcp(source, destination, flags, &[]))
        }
        3 => (17, udp(source, destination, b"x")),
        4 => (132, sctp(source, destination)),
        5 => (icmp_protocol, icmp(echo, 0, &[0, id, 0, 1])),
        6 => (icmp_protocol, icmp(reply, 0, &[0, id, 0, 1])),
        7 => {
            let inner = ip(
                direction.reverse(),
                v6,
                who,
                6,
                &tcp(destination, source, 0x10, &[]),
            );
            let rest = [&[0; 4], inner.as_slice()].concat();
            (icmp_protocol, icmp(unreachable, 1, &rest))
        }
        _ if v6 => {
            let target = [World::PEER6, World::WORLD6, World::HOST6][who];
            (58, icmp(135, 0, &[&[0; 4], &target[..]].concat()))
        }
        _ => {
            let (mac, address) = match direction {
                Direction::Egress => (World::MAC, World::POD4),
                Direction::Ingress => (World::GATEWAY_MAC, World::PEER4),
            };
            return Ok(framed(
                direction,
                0x0806,
                &arp(1, mac, address, World::PEER4),
            ));
        }
    };
    let ether_type = if v6 { 0x86DD } else { 0x0800 };
    let mut frame = framed(
        direction,
        ether_type,
        &ip(direction, v6, who, protocol, &payload),
    );
    if direction == Direction::Ingress && u.arbitrary()? {
        frame.ingress_ifindex = 0;
    }
    Ok(frame)
}

fn framed(direction: Direction, ether_type: u16, payload: &[u8]) -> Frame {
    match direction {
        Direction::Egress => World::from_pod(ether_type, payload),
        Direction::Ingress => World::to_pod(ether_type, payload),
    }
}

/// An IP packet between the pod and a peer. Neighbour discovery gets its hop limit.
fn ip(direction: Direction, v6: bool, who: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if v6 {
        let peer = [World::PEER6, World::WORLD6, World::HOST6][who];
        let (source, destination) = match direction {
            Direction::Egress => (World::POD6, peer),
            Direction::Ingress => (peer, World::POD6),
        };
        let mut header = Ipv6::new(source, destination, protocol);
        if protocol == 58 && payload.first() == Some(&135) {
            header.hop_limit = 255;
        }
        header.with(payload)
    } else {
        let peer = [World::PEER4, World::WORLD4, World::HOST4][who];
        let (source, destination) = match direction {
            Direction::Egress => (World::POD4, peer),
            Direction::Ingress => (peer, World::POD4),
        };
        Ipv4::new(source, destination, protocol).with(payload)
    }
}

/// Perhaps not quite as it was; true if so.
fn changed(u: &mut Unstructured<'_>, mut frame: Frame) -> Result<(Frame, bool)> {
    let mut changed = true;
    match u.int_in_range(0..=7)? {
        0 => {
            for _ in 0..u.int_in_range(1..=4)? {
                let at = u.choose_index(frame.bytes.len())?;
                frame.bytes[at] = u.arbitrary()?;
            }
        }
        1 => {
            let length = u.int_in_range(0..=frame.bytes.len())?;
            frame.bytes.truncate(length);
        }
        2 => {
            // A fragment of it, if it is IPv4.
            if frame.bytes[12..14] == [0x08, 0x00] {
                let flags = *u.choose(&[0x2000, 0x2008, 0x0008, 0x0003_u16])?;
                frame.bytes[20..22].copy_from_slice(&flags.to_be_bytes());
                let pad = (8 - (frame.bytes.len() - 34) % 8) % 8;
                frame.bytes.resize(frame.bytes.len() + pad, 0);
                let length = u16::try_from(frame.bytes.len() - 14).unwrap_or_default();
                frame.bytes[16..18].copy_from_slice(&length.to_be_bytes());
            }
        }
        3 => {
            frame.vlan = u.ratio(1, 4)?;
            frame.gso = u.arbitrary()?;
        }
        _ => changed = false,
    }
    Ok((frame, changed))
}
