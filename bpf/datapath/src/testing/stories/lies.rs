//! A pod speaks only for itself.

use oxilium_abi::DropReason::{
    self, ArpMalformed, ArpSenderIp, ArpSenderMac, DhcpServer, IcmpRedirect, InvalidSourceIp,
    InvalidSourceMac, LinkLocalSource, NoConfiguration, RouterAdvertisement, UnsupportedL2, Vlan,
};

use super::{
    super::{Frame, Ipv4, Ipv6, PolicyEntry, World, arp, ethernet, icmp, tcp, udp},
    PASS, Step, Story, tell,
};
use crate::Direction::{Egress, Ingress};

const SYN: u8 = 2;
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

#[expect(clippy::too_many_lines, reason = "one table")]
pub(super) fn stories() -> Vec<Story> {
    let everything = [
        PolicyEntry::allow_all(Egress, 0),
        PolicyEntry::allow_all(Ingress, 0),
    ];
    let sends = |what: &str, frame: Frame, expect: Result<(), DropReason>| {
        tell(
            &format!("from a pod: {what}"),
            &everything,
            vec![Step::From(frame, expect)],
        )
    };
    let receives = |what: &str, frame: Frame, expect: Result<(), DropReason>| {
        tell(
            &format!("to a pod: {what}"),
            &everything,
            vec![Step::To(frame, expect)],
        )
    };
    let segment = tcp(1, 2, SYN, &[]);
    let good = World::from4(World::PEER4, 6, &segment);
    let spoofed4 = Ipv4::new(World::PEER4, World::HOST4, 6).with(&segment);
    let spoofed6 = Ipv6::new(World::PEER6, World::HOST6, 6).with(&segment);
    let link_local = Ipv6::new(World::LINK_LOCAL, World::PEER6, 6).with(&segment);
    let unspecified = Ipv6::new([0; 16], World::PEER6, 6).with(&segment);
    let mut foreign_mac = good.clone();
    foreign_mac.bytes[6..12].copy_from_slice(&OTHER_MAC);
    // With something behind the tag: the kernel throws away a frame that has nothing.
    let behind = [&[0, 1, 8, 0][..], &[0; 46]].concat();
    let tagged = ethernet(World::MAC, World::GATEWAY_MAC, 0x8100, &behind);
    let mut stories = vec![
        sends("its own", good.clone(), PASS),
        sends(
            "a foreign IPv4 source",
            World::from_pod(0x0800, &spoofed4),
            Err(InvalidSourceIp),
        ),
        sends(
            "a foreign IPv6 source",
            World::from_pod(0x86DD, &spoofed6),
            Err(InvalidSourceIp),
        ),
        sends(
            "0.0.0.0",
            World::from_pod(0x0800, &Ipv4::new([0; 4], World::PEER4, 6).with(&segment)),
            Err(InvalidSourceIp),
        ),
        sends(
            "TCP from its link-local address",
            World::from_pod(0x86DD, &link_local),
            Err(LinkLocalSource),
        ),
        sends(
            "TCP from ::",
            World::from_pod(0x86DD, &unspecified),
            Err(InvalidSourceIp),
        ),
        sends("a foreign MAC", foreign_mac, Err(InvalidSourceMac)),
        sends(
            "a VLAN tag in the bytes",
            Frame {
                bytes: tagged.clone(),
                ifindex: World::IFINDEX,
                ..Frame::default()
            },
            Err(Vlan),
        ),
        sends(
            "a VLAN tag beside the bytes",
            Frame {
                vlan: true,
                ..good.clone()
            },
            Err(Vlan),
        ),
        sends(
            "another ethertype",
            World::from_pod(0x88CC, &[0; 46]),
            Err(UnsupportedL2),
        ),
        sends(
            "an 802.3 length",
            World::from_pod(46, &[0; 46]),
            Err(UnsupportedL2),
        ),
        sends(
            "an interface that is not configured",
            Frame {
                ifindex: 99,
                ..good.clone()
            },
            Err(NoConfiguration),
        ),
        sends(
            "DHCP offers",
            World::from4(World::PEER4, 17, &udp(67, 68, b"")),
            Err(DhcpServer),
        ),
        sends(
            "DHCPv6 offers",
            World::from6(World::PEER6, 17, &udp(547, 546, b"")),
            Err(DhcpServer),
        ),
        sends(
            "DHCP requests",
            World::from4(World::PEER4, 17, &udp(68, 67, b"")),
            PASS,
        ),
        sends(
            "ICMP redirects",
            World::from4(World::PEER4, 1, &icmp(5, 0, &[0; 28])),
            Err(IcmpRedirect),
        ),
        sends(
            "ICMP router advertisements",
            World::from4(World::PEER4, 1, &icmp(9, 0, &[0; 4])),
            Err(RouterAdvertisement),
        ),
        receives(
            "a VLAN tag in the bytes",
            Frame {
                bytes: tagged,
                ifindex: World::IFINDEX,
                ..Frame::default()
            },
            Err(Vlan),
        ),
        receives(
            "another ethertype",
            World::to_pod(0x88CC, &[0; 46]),
            Err(UnsupportedL2),
        ),
        receives(
            "a foreign ICMP redirect",
            World::to4(World::PEER4, 1, &icmp(5, 0, &[0; 28])),
            Err(IcmpRedirect),
        ),
        receives(
            "an interface that is not configured",
            Frame {
                ifindex: 99,
                ..World::to4(World::PEER4, 6, &segment)
            },
            Err(NoConfiguration),
        ),
    ];
    stories.extend(arp_stories());
    stories.push(spoofing_allowed(&spoofed4));
    stories
}

fn arp_stories() -> Vec<Story> {
    let sends = |what: &str, payload: Vec<u8>, expect: Result<(), DropReason>| {
        tell(
            &format!("ARP from a pod: {what}"),
            &[],
            vec![Step::From(World::from_pod(0x0806, &payload), expect)],
        )
    };
    let mut wrong_hardware = arp(1, World::MAC, World::POD4, World::HOST4);
    wrong_hardware[1] = 6;
    let mut long_address = arp(1, World::MAC, World::POD4, World::HOST4);
    long_address[5] = 16;
    vec![
        sends(
            "who has",
            arp(1, World::MAC, World::POD4, World::HOST4),
            PASS,
        ),
        sends("is at", arp(2, World::MAC, World::POD4, World::HOST4), PASS),
        sends("a probe", arp(1, World::MAC, [0; 4], World::POD4), PASS),
        sends(
            "an answer from nobody",
            arp(2, World::MAC, [0; 4], World::POD4),
            Err(ArpSenderIp),
        ),
        sends(
            "for its neighbour",
            arp(2, World::MAC, World::PEER4, World::HOST4),
            Err(ArpSenderIp),
        ),
        sends(
            "with a foreign MAC",
            arp(2, OTHER_MAC, World::POD4, World::HOST4),
            Err(ArpSenderMac),
        ),
        sends(
            "another operation",
            arp(3, World::MAC, World::POD4, World::HOST4),
            Err(ArpMalformed),
        ),
        sends("another hardware", wrong_hardware, Err(ArpMalformed)),
        sends(
            "another protocol's addresses",
            long_address,
            Err(ArpMalformed),
        ),
        sends(
            "cut short",
            arp(1, World::MAC, World::POD4, World::HOST4)[..20].to_vec(),
            Err(ArpMalformed),
        ),
        tell(
            "ARP to a pod",
            &[],
            vec![Step::To(
                World::to_pod(0x0806, &arp(2, OTHER_MAC, World::HOST4, World::POD4)),
                PASS,
            )],
        ),
    ]
}

fn spoofing_allowed(spoofed: &[u8]) -> Story {
    let config = oxilium_abi::InterfaceConfig {
        flags: oxilium_abi::InterfaceFlags::ALLOW_SPOOFING,
        ..World::config()
    };
    let mut frame = World::from_pod(0x0800, spoofed);
    frame.bytes[6..12].copy_from_slice(&OTHER_MAC);
    tell(
        "from a pod that the node lets speak for others",
        &[PolicyEntry::allow_all(Egress, 0)],
        vec![
            Step::Plan(vec![super::Write::Interface(World::IFINDEX, Some(config))]),
            Step::From(frame, PASS),
        ],
    )
}
