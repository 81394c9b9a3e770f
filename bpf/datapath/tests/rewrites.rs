//! Packets that cannot be written to, as where the kernel has no memory for a copy: what is half rewritten reaches nobody.

use oxilium_abi::{Direction, DropReason};
use oxilium_datapath::testing::{
    Frame, MemoryMaps, PolicyEntry, World, icmp,
    stories::{self, Family, Who},
    tcp, udp,
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A packet that is rewritten, and what the node must have seen before.
struct Case {
    what: &'static str,
    protocol: u8,
    backend: Who,
    /// The pod's first packet, for all but that itself.
    opened: bool,
    /// The packet.
    frame: Frame,
    /// The pod sends it.
    sent: bool,
}

impl Case {
    fn maps(&self, family: Family) -> MemoryMaps<'static> {
        let maps = MemoryMaps::default();
        let policy = [PolicyEntry::allow_all(Direction::Egress, World::PEER)];
        maps.write_all(&World::writes(&policy));
        maps.write_all(&stories::service(family, self.protocol, self.backend));
        if self.opened {
            let first = first_packet(family, self.protocol);
            assert_eq!(maps.from_container(&first), Ok(()), "{}", self.what);
        }
        maps
    }

    fn judge(&self, maps: &MemoryMaps<'_>) -> Result<Frame, DropReason> {
        if self.sent {
            maps.sent(&self.frame)
        } else {
            maps.received(&self.frame)
        }
    }
}

fn first_packet(family: Family, protocol: u8) -> Frame {
    let payload = if protocol == TCP {
        tcp(999, 80, SYN, b"")
    } else {
        udp(999, 80, b"?")
    };
    family
        .from(Who::Service, protocol, &payload)
        .with_checksums()
}

fn cases(family: Family) -> Vec<Case> {
    let case = |what, protocol, backend, frame: Frame, sent| Case {
        what,
        protocol,
        backend,
        opened: true,
        frame: frame.with_checksums(),
        sent,
    };
    let quoted = family.quote_from(Who::Peer, UDP, &udp(999, 80, b"?"));
    let error = icmp(family.unreachable(), 0, &[&[0; 4], &*quoted].concat());
    let answer = tcp(80, 999, SYN | ACK, b"");
    vec![
        Case {
            opened: false,
            ..case(
                "to the backend",
                TCP,
                Who::Peer,
                first_packet(family, TCP),
                true,
            )
        },
        Case {
            opened: false,
            ..case(
                "to itself",
                TCP,
                Who::Myself,
                first_packet(family, TCP),
                true,
            )
        },
        case(
            "an answer",
            TCP,
            Who::Peer,
            family.to(Who::Peer, TCP, &answer),
            false,
        ),
        case(
            "an answer to itself",
            TCP,
            Who::Myself,
            family.from(Who::Loopback, TCP, &answer),
            true,
        ),
        case(
            "an error",
            UDP,
            Who::Peer,
            family.to(Who::World, family.icmp(), &error),
            false,
        ),
    ]
}

#[test]
fn whichever_write_fails_the_packet_is_dropped() {
    for family in FAMILIES {
        for case in cases(family) {
            let mut writes = 0;
            loop {
                let maps = case.maps(family);
                maps.refused_write.set(Some(writes));
                let seen = case.judge(&maps);
                if let Ok(frame) = seen {
                    assert_ne!(frame, case.frame, "{family:?}: {}", case.what);
                    break;
                }
                let at = format!("{family:?}: {}, write {writes}", case.what);
                assert_eq!(seen, Err(DropReason::RewriteFailed), "{at}");
                let direction = if case.sent {
                    Direction::Egress
                } else {
                    Direction::Ingress
                };
                let counted = maps.counted(DropReason::RewriteFailed as u8, direction);
                assert_eq!(counted, 1, "{at}");
                writes += 1;
            }
            assert!(writes >= 2, "{family:?}: {}: {writes} writes", case.what);
        }
    }
}
