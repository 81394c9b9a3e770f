//! Where the choices of backends are kept, so that flows that nobody answers push out those of no flow that was answered.

use std::{cell::Cell, rc::Rc};

use oxilium_abi::{Direction, SERVICE_LOOPBACK4, SERVICE_LOOPBACK6};
use oxilium_datapath::{
    ChoiceTable::{self, Answered, New},
    testing::{
        Access, Frame, Ipv4, Ipv6, MemoryMaps, PolicyEntry, World,
        stories::{self, Family, Who},
        tcp, udp,
    },
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SECOND: u64 = 1_000_000_000;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A packet of the flow from port 999 of the pod to the service, with its TCP flags.
#[derive(Clone, Copy, Debug)]
enum Packet {
    /// From the pod to the service.
    Asks(u8),
    /// From the backend.
    Answers(u8),
}
use Packet::{Answers, Asks};

fn payload(protocol: u8, from: u16, to: u16, flags: u8) -> Vec<u8> {
    if protocol == TCP {
        tcp(from, to, flags, b"segment")
    } else {
        udp(from, to, b"datagram")
    }
}

/// A node with a service and that backend of it.
fn node(family: Family, protocol: u8, backend: Who) -> MemoryMaps<'static> {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[PolicyEntry::allow_all(
        Direction::Egress,
        World::PEER,
    )]));
    maps.write_all(&stories::service(family, protocol, backend));
    maps.clock.set(1000 * SECOND);
    maps
}

/// A node after these packets, each of which passes between the pod and the backend.
fn after(family: Family, protocol: u8, backend: Who, packets: &[Packet]) -> MemoryMaps<'static> {
    let maps = node(family, protocol, backend);
    for packet in packets {
        assert_eq!(
            goes_on(&maps, family, protocol, backend, *packet),
            Some(true),
            "{family:?}: {packet:?} of {packets:?}"
        );
    }
    maps
}

/// Whether the packet goes on as one between the pod and the backend, translated; none if it is dropped.
fn goes_on(
    maps: &MemoryMaps<'_>,
    family: Family,
    protocol: u8,
    backend: Who,
    packet: Packet,
) -> Option<bool> {
    let asks = |who, flags| family.from(who, protocol, &payload(protocol, 999, 80, flags));
    let itself = backend == Who::Myself;
    let (seen, expected) = match packet {
        Asks(flags) => {
            let expected = if itself {
                turned(
                    family,
                    Who::Loopback,
                    protocol,
                    &payload(protocol, 999, 80, flags),
                )
            } else {
                asks(backend, flags)
            };
            (
                maps.sent(&asks(Who::Service, flags).with_checksums()),
                expected,
            )
        }
        Answers(flags) if itself => {
            let answer = payload(protocol, 80, 999, flags);
            let seen = maps.sent(
                &family
                    .from(Who::Loopback, protocol, &answer)
                    .with_checksums(),
            );
            (seen, turned(family, Who::Service, protocol, &answer))
        }
        Answers(flags) => {
            let answer = |who| family.to(who, protocol, &payload(protocol, 80, 999, flags));
            (
                maps.received(&answer(backend).with_checksums()),
                answer(Who::Service),
            )
        }
    };
    seen.ok().map(|seen| seen == expected.with_checksums())
}

/// What the pod gets from itself.
fn turned(family: Family, from: Who, protocol: u8, payload: &[u8]) -> Frame {
    let (service4, service6) = (World::SERVICE4, World::SERVICE6);
    let (from4, from6) = match from {
        Who::Service => (service4, service6),
        _ => (SERVICE_LOOPBACK4, SERVICE_LOOPBACK6),
    };
    let frame = match family {
        Family::V4 => World::from_pod(
            0x0800,
            &Ipv4::new(from4, World::POD4, protocol).with(payload),
        ),
        Family::V6 => World::from_pod(
            0x86DD,
            &Ipv6::new(from6, World::POD6, protocol).with(payload),
        ),
    };
    Frame {
        turned: true,
        ..frame
    }
}

#[test]
fn a_choice_is_that_of_an_answered_flow_with_the_first_packet_after_the_answer() {
    let (new, both) = ([New].as_slice(), [Answered, New].as_slice());
    let cases: [(u8, &[Packet], &[ChoiceTable]); 10] = [
        (TCP, &[Asks(SYN)], new),
        (TCP, &[Asks(SYN), Asks(SYN)], new),
        (TCP, &[Asks(SYN), Asks(ACK), Asks(ACK)], new),
        (TCP, &[Asks(SYN), Answers(SYN | ACK)], new),
        (TCP, &[Asks(SYN), Answers(SYN | ACK), Asks(ACK)], both),
        (TCP, &[Asks(SYN), Answers(RST | ACK), Asks(SYN)], new),
        (UDP, &[Asks(0)], new),
        (UDP, &[Asks(0), Asks(0)], new),
        // A query of one datagram.
        (UDP, &[Asks(0), Answers(0)], new),
        (UDP, &[Asks(0), Answers(0), Asks(0)], both),
    ];
    for family in FAMILIES {
        for (protocol, packets, tables) in cases {
            let maps = after(family, protocol, Who::Peer, packets);
            assert_eq!(maps.choices(), tables, "{family:?}: {packets:?}");
        }
    }
}

#[test]
fn the_choice_of_a_connection_that_the_pod_closes_is_kept_as_that_of_a_new_one() {
    let (new, both) = ([New].as_slice(), [Answered, New].as_slice());
    let cases: [(&[Packet], &[ChoiceTable]); 5] = [
        (&[Asks(FIN | ACK)], both),
        (&[Asks(FIN | ACK), Answers(FIN | ACK), Asks(ACK)], new),
        (&[Answers(FIN | ACK), Asks(FIN | ACK), Answers(ACK)], new),
        (&[Asks(RST)], new),
        // Opened again.
        (&[Asks(RST), Asks(SYN), Answers(SYN | ACK), Asks(ACK)], both),
    ];
    for family in FAMILIES {
        for (packets, tables) in cases {
            let opened = [Asks(SYN), Answers(SYN | ACK), Asks(ACK)];
            let maps = after(family, TCP, Who::Peer, &[&opened, packets].concat());
            assert_eq!(maps.choices(), tables, "{family:?}: {packets:?}");
            // What comes late still goes to the backend.
            let late = goes_on(&maps, family, TCP, Who::Peer, Asks(ACK));
            assert_eq!(late, Some(true), "{family:?}: {packets:?}");
        }
    }
}

#[test]
fn of_a_pod_to_itself_either_side_is_kept_as_answered_with_its_first_packet_after_the_answer() {
    let cases: [(u8, &[Packet], &[ChoiceTable]); 6] = [
        (TCP, &[Asks(SYN)], &[New, New]),
        (TCP, &[Asks(SYN), Asks(ACK)], &[New, New]),
        (TCP, &[Asks(SYN), Answers(RST | ACK)], &[New, New]),
        (TCP, &[Asks(SYN), Answers(SYN | ACK)], &[Answered, New, New]),
        (
            TCP,
            &[Asks(SYN), Answers(SYN | ACK), Asks(ACK)],
            &[Answered, Answered, New, New],
        ),
        (
            UDP,
            &[Asks(0), Answers(0), Asks(0)],
            &[Answered, Answered, New, New],
        ),
    ];
    for family in FAMILIES {
        for (protocol, packets, tables) in cases {
            let maps = after(family, protocol, Who::Myself, packets);
            assert_eq!(maps.choices(), tables, "{family:?}: {packets:?}");
        }
    }
}

#[test]
fn a_flood_of_new_flows_leaves_an_answered_one_its_backend() {
    for family in FAMILIES {
        for backend in [Who::Peer, Who::Myself] {
            for (protocol, [open, opened, more]) in [(TCP, [SYN, SYN | ACK, ACK]), (UDP, [0, 0, 0])]
            {
                let packets = [Asks(open), Answers(opened), Asks(more)];
                let maps = after(family, protocol, backend, &packets);
                maps.forget_choices(New);
                for packet in [Asks(more), Answers(more), Asks(more)] {
                    assert_eq!(
                        goes_on(&maps, family, protocol, backend, packet),
                        Some(true),
                        "{family:?}, {backend:?}: {packet:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_choice_that_is_made_anew_takes_the_place_of_the_answered_flows() {
    for family in FAMILIES {
        let maps = after(family, UDP, Who::Peer, &[Asks(0), Answers(0), Asks(0)]);
        // The first backend's id is another's now.
        maps.write_all(&stories::service(family, UDP, Who::Second));
        maps.write_all(&World::policy(
            World::TABLE,
            &[PolicyEntry::allow_all(Direction::Egress, 0)],
        ));
        let again = goes_on(&maps, family, UDP, Who::Second, Asks(0));
        assert_eq!(again, Some(true), "{family:?}");
        assert_eq!(maps.choices(), [New], "{family:?}");
    }
}

#[test]
fn a_dry_run_keeps_no_choice() {
    for family in FAMILIES {
        for backend in [Who::Peer, Who::Myself] {
            let packets = [Asks(SYN), Answers(SYN | ACK)];
            let maps = after(family, TCP, backend, &packets);
            let before = maps.choices();
            maps.dry_run.set(true);
            let seen = goes_on(&maps, family, TCP, backend, Asks(ACK));
            assert_eq!(seen, Some(true), "{family:?}, {backend:?}");
            assert_eq!(maps.choices(), before, "{family:?}, {backend:?}");
        }
    }
}

/// Whichever two accesses of a packet another CPU's packet falls between, which brings the choice to where answered flows' are:
/// both go to the backend.
#[test]
fn a_packet_meets_the_choice_wherever_another_cpu_brings_it() {
    for family in FAMILIES {
        for backend in [Who::Peer, Who::Myself] {
            let mut at = 0;
            loop {
                let maps = after(family, TCP, backend, &[Asks(SYN), Answers(SYN | ACK)]);
                let seen = Rc::new(Cell::new(0));
                let count = Rc::clone(&seen);
                maps.before_each_access(move |maps, access| {
                    // The packet holds the choice in its hand meanwhile, which memory lends to one at a time.
                    if access == Access::Backend {
                        return;
                    }
                    if count.replace(count.get() + 1) == at {
                        let other = goes_on(maps, family, TCP, backend, Asks(ACK));
                        assert_eq!(other, Some(true), "the other CPU's");
                    }
                });
                let passed = goes_on(&maps, family, TCP, backend, Asks(ACK));
                assert_eq!(
                    passed,
                    Some(true),
                    "{family:?}, {backend:?}: before access {at}"
                );
                maps.before_each_access(|_, _| {});
                maps.forget_choices(New);
                let later = goes_on(&maps, family, TCP, backend, Asks(ACK));
                assert_eq!(
                    later,
                    Some(true),
                    "{family:?}, {backend:?}: after access {at}"
                );
                if seen.get() <= at {
                    break;
                }
                at += 1;
            }
            assert!(at > 10, "{family:?}, {backend:?}: met {at} times");
        }
    }
}
