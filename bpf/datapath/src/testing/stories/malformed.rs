//! Malformed packets: each has a verdict.

use oxilium_abi::DropReason::{
    self, CtTruncated, InvalidExtensionHeader, InvalidPacket, IpOptions,
};

use super::{
    super::{Frame, Ipv4, Ipv6, PolicyEntry, World, icmp, tcp, udp},
    Family, PASS, Story, Way, Who, tell,
};
use crate::Direction::{Egress, Ingress};

const SYN: u8 = 2;

pub(super) fn stories() -> Vec<Story> {
    let mut stories = Vec::new();
    for way in Way::BOTH {
        stories.extend(ipv4(way));
        stories.extend(ipv6(way));
        stories.extend(l4(way, Family::V4));
        stories.extend(l4(way, Family::V6));
    }
    stories
}

fn story(way: Way, what: &str, frame: Frame, expect: Result<(), DropReason>) -> Story {
    let everything = [
        PolicyEntry::allow_all(Egress, 0),
        PolicyEntry::allow_all(Ingress, 0),
    ];
    tell(
        &format!("malformed, {}", way.name(what)),
        &everything,
        vec![way.step(frame, expect)],
    )
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn ipv4(way: Way) -> Vec<Story> {
    let story = |what, frame, expect| story(way, what, frame, expect);
    let (source, destination) = way.ends(World::POD4, World::PEER4);
    let header = || Ipv4::new(source, destination, 17);
    let datagram = udp(1, 2, b"data");
    let with = |header: Ipv4| way.frame(0x0800, &header.with(&udp(1, 2, b"data")));
    let options = |bytes: &[u8]| {
        with(Ipv4 {
            options: bytes.to_vec(),
            ..header()
        })
    };
    vec![
        story(
            "IPv4 cut inside its header",
            way.frame(0x0800, &header().with(&[])[..12]),
            Err(CtTruncated),
        ),
        story(
            "IPv4 of another version",
            with(Ipv4 {
                version_length: Some(0x65),
                ..header()
            }),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 with a header of 16 bytes",
            with(Ipv4 {
                version_length: Some(0x44),
                ..header()
            }),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 longer than the packet",
            with(Ipv4 {
                total_length: Some(1000),
                ..header()
            }),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 shorter than its header",
            with(Ipv4 {
                total_length: Some(19),
                ..header()
            }),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 of length 0 that is no superpacket",
            with(Ipv4 {
                total_length: Some(0),
                ..header()
            }),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 of length 0 that is a superpacket",
            Frame {
                gso: true,
                ..with(Ipv4 {
                    total_length: Some(0),
                    ..header()
                })
            },
            PASS,
        ),
        story(
            "IPv4 with an L4 header in its padding",
            way.frame(
                0x0800,
                &Ipv4 {
                    total_length: Some(20),
                    ..header()
                }
                .with(&datagram),
            ),
            Err(CtTruncated),
        ),
        story(
            "IPv4 with padding behind it",
            way.frame(0x0800, &[header().with(&datagram), vec![0; 10]].concat()),
            PASS,
        ),
        story(
            "IPv4 with no-operation options",
            options(&[1, 1, 1, 0]),
            PASS,
        ),
        story(
            "IPv4 with record route",
            options(&[7, 7, 4, 0, 0, 0, 0, 0]),
            PASS,
        ),
        story("IPv4 with 40 bytes of options", options(&[1; 40]), PASS),
        story(
            "IPv4 with a loose source route",
            options(&[131, 7, 4, 0, 0, 0, 0, 0]),
            Err(IpOptions),
        ),
        story(
            "IPv4 with a strict source route behind others",
            options(&[1, 1, 1, 137, 7, 4, 0, 0, 0, 0, 0, 0]),
            Err(IpOptions),
        ),
        story(
            "IPv4 with an option of length 0",
            options(&[7, 0, 0, 0]),
            Err(InvalidPacket),
        ),
        story(
            "IPv4 with an option longer than the header",
            options(&[7, 9, 0, 0]),
            Err(InvalidPacket),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn ipv6(way: Way) -> Vec<Story> {
    let story = |what, frame, expect| story(way, what, frame, expect);
    let (source, destination) = way.ends(World::POD6, World::PEER6);
    let header = |next| Ipv6::new(source, destination, next);
    let datagram = udp(1, 2, b"data");
    let behind = |next: u8, extension: &[u8]| {
        way.frame(0x86DD, &header(next).with(&[extension, &datagram].concat()))
    };
    let chain: Vec<u8> = (0..8)
        .flat_map(|n| [if n == 7 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0])
        .collect();
    vec![
        story(
            "IPv6 cut inside its header",
            way.frame(0x86DD, &header(17).with(&[])[..30]),
            Err(CtTruncated),
        ),
        story(
            "IPv6 of another version",
            way.frame(
                0x86DD,
                &Ipv6 {
                    version: 4,
                    ..header(17)
                }
                .with(&datagram),
            ),
            Err(InvalidPacket),
        ),
        story(
            "IPv6 longer than the packet",
            way.frame(
                0x86DD,
                &Ipv6 {
                    payload_length: Some(1000),
                    ..header(17)
                }
                .with(&datagram),
            ),
            Err(InvalidPacket),
        ),
        story(
            "IPv6 without payload",
            way.frame(
                0x86DD,
                &Ipv6 {
                    payload_length: Some(0),
                    ..header(17)
                }
                .with(&datagram),
            ),
            Err(CtTruncated),
        ),
        story(
            "IPv6 with hop-by-hop options",
            behind(0, &[17, 0, 1, 4, 0, 0, 0, 0]),
            PASS,
        ),
        story(
            "IPv6 with destination options",
            behind(60, &[17, 0, 1, 4, 0, 0, 0, 0]),
            PASS,
        ),
        story(
            "IPv6 with authentication",
            behind(51, &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            PASS,
        ),
        story(
            "IPv6 with hop-by-hop behind another",
            behind(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]),
            Err(InvalidExtensionHeader),
        ),
        story(
            "IPv6 with eight extension headers",
            behind(60, &chain),
            Err(InvalidExtensionHeader),
        ),
        story(
            "IPv6 with seven extension headers",
            behind(60, &chain[8..]),
            PASS,
        ),
        story(
            "IPv6 with an extension header longer than the packet",
            behind(60, &[17, 200, 1, 4, 0, 0, 0, 0]),
            Err(InvalidExtensionHeader),
        ),
        story(
            "IPv6 cut inside an extension header",
            way.frame(0x86DD, &header(60).with(&[17, 0, 1, 4])),
            Err(CtTruncated),
        ),
        story(
            "IPv6 with routing header 0",
            behind(43, &[17, 0, 0, 0, 0, 0, 0, 0]),
            Err(IpOptions),
        ),
        story(
            "IPv6 with a routing header that is not used up",
            behind(43, &[17, 0, 4, 1, 0, 0, 0, 0]),
            Err(IpOptions),
        ),
        story(
            "IPv6 with a routing header that is used up",
            behind(43, &[17, 0, 4, 0, 0, 0, 0, 0]),
            PASS,
        ),
        story(
            "IPv6 in one fragment",
            behind(44, &[17, 0, 0, 0, 0, 0, 0, 1]),
            PASS,
        ),
        story(
            "IPv6 with two fragment headers",
            behind(44, &[44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1]),
            Err(InvalidExtensionHeader),
        ),
        story(
            "IPv6 with an extension header behind the fragment's",
            behind(44, &[60, 0, 0, 1, 0, 0, 0, 1, 17, 0, 1, 4, 0, 0, 0, 0]),
            Err(InvalidExtensionHeader),
        ),
        story(
            "IPv6 with no next header",
            way.frame(0x86DD, &header(59).with(&[])),
            PASS,
        ),
    ]
}

fn l4(way: Way, f: Family) -> Vec<Story> {
    let story = |what, frame, expect| story(way, &f.name(what), frame, expect);
    let packet = |protocol, payload: &[u8]| way.packet(f, protocol, payload);
    let (ping, _) = f.echo();
    let half_a_quote = match f {
        Family::V4 => 10,
        Family::V6 => 20,
    };
    let segment = tcp(1, 2, SYN, &[]);
    let with = |index: usize, value: u8| {
        let mut segment = segment.clone();
        segment[index] = value;
        packet(6, &segment)
    };
    let mut short_length = udp(1, 2, b"");
    short_length[5] = 7;
    let mut long_length = udp(1, 2, b"");
    long_length[5] = 9;
    let quoted = f.quote_from(Who::Peer, 17, &udp(1, 2, b""));
    let quoted = &quoted[..half_a_quote];
    let error = icmp(f.unreachable(), 0, &[&[0; 4], quoted].concat());
    vec![
        story(
            "TCP cut inside its header",
            packet(6, &segment[..19]),
            Err(CtTruncated),
        ),
        story(
            "TCP with a header of 16 bytes",
            with(12, 0x40),
            Err(InvalidPacket),
        ),
        story(
            "TCP with a header longer than the packet",
            with(12, 0x60),
            Err(CtTruncated),
        ),
        story(
            "TCP with SYN and FIN",
            with(13, SYN | 1),
            Err(InvalidPacket),
        ),
        story(
            "TCP with SYN and RST",
            with(13, SYN | 4),
            Err(InvalidPacket),
        ),
        story(
            "UDP cut inside its header",
            packet(17, &[0; 7]),
            Err(CtTruncated),
        ),
        story(
            "UDP shorter than its header",
            packet(17, &short_length),
            Err(InvalidPacket),
        ),
        story(
            "UDP longer than the packet",
            packet(17, &long_length),
            Err(InvalidPacket),
        ),
        story(
            "a UDP superpacket whose length is a segment's",
            Frame {
                gso: true,
                ..packet(17, &short_length)
            },
            PASS,
        ),
        story(
            "SCTP cut inside its header",
            packet(132, &[0; 11]),
            Err(CtTruncated),
        ),
        story(
            "ICMP cut inside its header",
            packet(f.icmp(), &[ping, 0, 0]),
            Err(CtTruncated),
        ),
        story(
            "an ICMP error without a quote",
            packet(f.icmp(), &icmp(f.unreachable(), 0, &[0; 4])),
            Err(CtTruncated),
        ),
        story(
            "an ICMP error with half a quote",
            packet(f.icmp(), &error),
            Err(CtTruncated),
        ),
    ]
}
