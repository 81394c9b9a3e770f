//! A pod that reaches itself through a service: its packets go back to it, outside policy, and neither side ever sees its
//! own address as its peer's.

use oxilium_abi::{
    DropReason::{FragmentNotFound, NoServiceBackend, PolicyDenied, SctpPortTranslation},
    LbState,
};

use super::{
    super::{Frame, Ipv4, Ipv6, PolicyEntry, Step, Story, World, policy_change},
    ACK, FIN, Family, Front, SCTP, SYN, TCP, UDP,
    Who::{self, Loopback, Myself, Peer, Service},
    allow, fragment, out, payload, received, refused, sent,
};
use crate::{
    Direction::Egress,
    testing::{icmp, udp},
};

pub(super) fn stories(f: Family) -> Vec<Story> {
    let mut stories = flows(f);
    stories.extend(edges(f));
    stories
}

/// The pod is the service's only backend.
fn only(f: Family, protocol: u8, port: u16) -> Step {
    Front::new(f, protocol, &[(70, Myself, port)]).plan()
}

/// A frame that the pod sends, between two addresses of which one may not be its own: as it goes on.
fn between(f: Family, from: Who, to: Who, protocol: u8, payload: &[u8]) -> Frame {
    let packet = match f {
        Family::V4 => Ipv4::new(from.v4(), to.v4(), protocol).with(payload),
        Family::V6 => Ipv6::new(from.v6(), to.v6(), protocol).with(payload),
    };
    World::from_pod(f.ether_type(), &packet)
}

fn turned(frame: Frame) -> Frame {
    Frame {
        turned: true,
        ..frame
    }
}

/// The pod as client: its packet to the service comes to it as the backend.
fn asks(f: Family, protocol: u8, flags: u8, port: u16) -> Step {
    let goes_on = between(
        f,
        Loopback,
        Myself,
        protocol,
        &payload(protocol, 999, port, flags),
    );
    Step::Sent(
        out(f, Service, 80, protocol, flags).with_checksums(),
        turned(goes_on.with_checksums()),
    )
}

/// The pod as backend: its answer comes to it from the service.
fn answers(f: Family, protocol: u8, flags: u8, port: u16) -> Step {
    let answer = f.from(Loopback, protocol, &payload(protocol, port, 999, flags));
    let goes_on = between(
        f,
        Service,
        Myself,
        protocol,
        &payload(protocol, 80, 999, flags),
    );
    Step::Sent(answer.with_checksums(), turned(goes_on.with_checksums()))
}

fn flows(f: Family) -> Vec<Story> {
    vec![
        f.story(
            "a pod reaches itself through its service by TCP, whatever policy says",
            &[],
            vec![
                only(f, TCP, 8080),
                asks(f, TCP, SYN, 8080),
                answers(f, TCP, SYN | ACK, 8080),
                asks(f, TCP, ACK, 8080),
                answers(f, TCP, ACK, 8080),
                policy_change(6, 2, &[]),
                asks(f, TCP, FIN | ACK, 8080),
                answers(f, TCP, FIN | ACK, 8080),
            ],
        ),
        f.story(
            "a pod reaches itself through its service by UDP, whatever policy says",
            &[],
            vec![
                only(f, UDP, 8080),
                asks(f, UDP, 0, 8080),
                answers(f, UDP, 0, 8080),
                asks(f, UDP, 0, 8080),
            ],
        ),
        f.story(
            "a pod reaches itself through its service by SCTP on the same port",
            &[],
            vec![
                only(f, SCTP, 80),
                asks(f, SCTP, 0, 80),
                answers(f, SCTP, 0, 80),
            ],
        ),
        f.story(
            "SCTP on another port of the pod itself",
            &[],
            vec![only(f, SCTP, 8080), refused(f, SCTP, 0, SctpPortTranslation)],
        ),
        f.story(
            "a pod that is no backend any more goes on with the connection to itself, and opens no new one",
            &[],
            vec![
                only(f, TCP, 8080),
                asks(f, TCP, SYN, 8080),
                answers(f, TCP, SYN | ACK, 8080),
                rests(f, &[]),
                asks(f, TCP, ACK, 8080),
                answers(f, TCP, ACK, 8080),
                refused(f, TCP, SYN, NoServiceBackend),
            ],
        ),
        f.story(
            "what one backend may not get, another one being the pod itself does not change",
            &allow(TCP, 9090),
            vec![
                Front::new(f, TCP, &[(71, Peer, 8080)]).plan(),
                refused(f, TCP, SYN, PolicyDenied),
                only(f, TCP, 8080),
                asks(f, TCP, SYN, 8080),
            ],
        ),
        f.story(
            "beside itself a pod reaches the service's other backends under policy",
            &allow(TCP, 8080),
            vec![
                only(f, TCP, 8080),
                asks(f, TCP, SYN, 8080),
                answers(f, TCP, SYN | ACK, 8080),
                rests(f, &[(71, Peer, 8080)]),
                asks(f, TCP, ACK, 8080),
                sent(f, TCP, SYN, Peer, 8080),
                received(f, TCP, SYN | ACK, Peer, 8080),
            ],
        ),
    ]
}

/// The service has these backends, and the pod rests.
fn rests(f: Family, backends: &[(u32, Who, u16)]) -> Step {
    let service = Front::new(f, TCP, backends);
    let mut writes = service.writes();
    writes.push(service.backend((70, Myself, 8080), LbState::Resting));
    Step::Plan(writes)
}

fn edges(f: Family) -> Vec<Story> {
    let to_loopback = |flags| f.from(Loopback, TCP, &payload(TCP, 8080, 999, flags));
    let datagram = udp(999, 80, &[7; 16]);
    let first = |from, to, payload: &[u8]| part(f, from, to, 0, payload).with_header_checksum();
    let later = |from, to| part(f, from, to, 24, &[9; 8]).with_header_checksum();
    let got = f.quote_to(Loopback, UDP, &udp(999, 8080, b"datagram"));
    let had_sent = f.quote_from(Service, UDP, &udp(999, 80, b"datagram"));
    vec![
        f.story(
            "a packet to the address that stands in for the pod is, of no flow to itself, one to anybody",
            &[],
            vec![
                only(f, TCP, 8080),
                Step::From(to_loopback(SYN), Err(PolicyDenied)),
                Step::From(to_loopback(ACK), Err(PolicyDenied)),
                asks(f, TCP, SYN, 8080),
                Step::Purge,
                Step::From(to_loopback(SYN | ACK), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "nobody but the pod is let in by the address that stands in for it",
            &[],
            vec![
                only(f, TCP, 8080),
                asks(f, TCP, SYN, 8080),
                Step::To(
                    f.to(Loopback, TCP, &payload(TCP, 999, 8080, ACK)),
                    Err(PolicyDenied),
                ),
                Step::To(
                    f.to(Service, TCP, &payload(TCP, 80, 999, ACK)),
                    Err(PolicyDenied),
                ),
            ],
        ),
        f.story(
            "fragments of a datagram of the pod to itself",
            &[],
            vec![
                only(f, UDP, 8080),
                Step::From(
                    fragment(f, Service, 6, 24, false, &[9; 8]),
                    Err(FragmentNotFound),
                ),
                Step::Sent(
                    first(Myself, Service, &datagram),
                    turned(first(Loopback, Myself, &udp(999, 8080, &[7; 16]))),
                ),
                Step::Sent(later(Myself, Service), turned(later(Loopback, Myself))),
                Step::Sent(
                    first(Myself, Loopback, &udp(8080, 999, &[7; 16])),
                    turned(first(Service, Myself, &udp(80, 999, &[7; 16]))),
                ),
                Step::Sent(later(Myself, Loopback), turned(later(Service, Myself))),
            ],
        ),
        f.story(
            "the pod's error about what it got from itself quotes what it sent",
            &[],
            vec![
                only(f, UDP, 8080),
                Step::From(error(f, Myself, Loopback, &got), Err(PolicyDenied)),
                asks(f, UDP, 0, 8080),
                Step::Sent(
                    error(f, Myself, Loopback, &got),
                    turned(error(f, Service, Myself, &had_sent)),
                ),
            ],
        ),
        f.story(
            "in the middle of a connection: the pod itself needs no policy",
            &[PolicyEntry::allow(Egress, World::PEER, TCP, 8080)],
            vec![
                Front::new(f, TCP, &[(70, Myself, 8080), (71, Peer, 8080)]).plan(),
                Step::Sent(out(f, Service, 80, TCP, ACK), out(f, Service, 80, TCP, ACK)),
            ],
        ),
    ]
}

/// "Destination unreachable" about an IP packet.
fn error(f: Family, from: Who, to: Who, quoted: &[u8]) -> Frame {
    let quoted = f.with_header_checksum(quoted);
    let message = icmp(f.unreachable(), 0, &[&[0; 4], &*quoted].concat());
    between(f, from, to, f.icmp(), &message).with_checksums()
}

/// A fragment between two addresses: the first one if `offset` is 0.
fn part(f: Family, from: Who, to: Who, offset: u16, payload: &[u8]) -> Frame {
    let id = if from == Myself && to == Service || from == Loopback {
        5
    } else {
        6
    };
    let more = offset == 0;
    let mut frame = fragment(f, to, id, offset, more, payload);
    let source = match f {
        Family::V4 => 26..30,
        Family::V6 => 22..38,
    };
    let address = match f {
        Family::V4 => from.v4().to_vec(),
        Family::V6 => from.v6().to_vec(),
    };
    frame.bytes[source].copy_from_slice(&address);
    frame
}
