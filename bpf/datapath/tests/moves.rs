//! A packet that looks for its flow while another CPU's packet moves it to another table: whichever two of
//! its lookups the move falls between, it is judged as a packet of that flow.

use std::{cell::Cell, rc::Rc};

use oxilium_abi::{Direction, DropReason};
use oxilium_datapath::{
    CtTable,
    testing::{Frame, MemoryMaps, PolicyEntry, World, Write, icmp, udp},
};

/// More than the accesses of any packet here.
const ACCESSES: usize = 40;

/// The peer asks, the pod answers.
const ASK: PolicyEntry = PolicyEntry::allow(Direction::Ingress, World::PEER, 17, 53);
/// The peer pings.
const PING: PolicyEntry = PolicyEntry::allow(Direction::Ingress, World::PEER, 1, 8);
/// The pod may send whatever it likes: what is not known as an answer passes by this.
const TALK: PolicyEntry = PolicyEntry::allow_all(Direction::Egress, World::PEER);

#[derive(Clone, Debug)]
enum Packet {
    To(Frame),
    From(Frame),
}

impl Packet {
    fn send(&self, maps: &MemoryMaps<'_>) -> Result<(), DropReason> {
        match self {
            Self::To(frame) => maps.to_container(frame),
            Self::From(frame) => maps.from_container(frame),
        }
    }
}

fn query() -> Packet {
    Packet::To(World::to4(World::PEER4, 17, &udp(999, 53, b"?")))
}

fn answer() -> Packet {
    Packet::From(World::from4(World::PEER4, 17, &udp(53, 999, b"!")))
}

fn ping() -> Packet {
    Packet::To(World::to4(World::PEER4, 1, &icmp(8, 0, &[0, 1, 0, 1])))
}

fn pong() -> Packet {
    Packet::From(World::from4(World::PEER4, 1, &icmp(0, 0, &[0, 1, 0, 1])))
}

/// "Nobody listens", about the query.
fn unreachable() -> Packet {
    let quoted = World::to4(World::PEER4, 17, &udp(999, 53, b"?")).bytes[14..].to_vec();
    let message = icmp(3, 3, &[&[0; 4][..], &quoted].concat());
    Packet::From(World::from4(World::PEER4, 1, &message))
}

/// A table and whether the words say that it is new.
fn policy(epoch: u64, entries: &[PolicyEntry]) -> Vec<Write> {
    let table = 100 + epoch as u32;
    let mut writes = World::policy(table, entries);
    writes.extend(World::switch(table, epoch));
    writes
}

struct Case {
    what: &'static str,
    /// Policies in force one after the other, each with what is sent under it.
    before: Vec<(Vec<PolicyEntry>, Vec<Packet>)>,
    /// Of another CPU: it moves the flow between these tables.
    mover: Packet,
    moves: (CtTable, CtTable),
    packet: Packet,
    verdict: Result<(), DropReason>,
}

fn cases() -> Vec<Case> {
    let denied = Err(DropReason::FlowDenied);
    let (unanswered, answered) = (CtTable::Unanswered, CtTable::Answered);
    vec![
        Case {
            what: "an answer while its flow turns to denied",
            before: vec![(vec![ASK, TALK], vec![query()]), (vec![TALK], vec![])],
            mover: query(),
            moves: (unanswered, CtTable::Denied),
            packet: answer(),
            verdict: denied,
        },
        Case {
            what: "a second answer while its flow turns to denied",
            before: vec![
                (vec![ASK, TALK], vec![query(), answer()]),
                (vec![TALK], vec![]),
            ],
            mover: query(),
            moves: (answered, CtTable::Denied),
            packet: answer(),
            verdict: denied,
        },
        Case {
            what: "an echo reply while its flow turns to denied",
            before: vec![(vec![PING, TALK], vec![ping()]), (vec![TALK], vec![])],
            mover: ping(),
            moves: (unanswered, CtTable::Denied),
            packet: pong(),
            verdict: denied,
        },
        Case {
            what: "an ICMP error while its flow turns to denied",
            before: vec![(vec![ASK, TALK], vec![query()]), (vec![TALK], vec![])],
            mover: query(),
            moves: (unanswered, CtTable::Denied),
            packet: unreachable(),
            verdict: denied,
        },
        Case {
            what: "a second answer while the first is noted",
            before: vec![(vec![ASK], vec![query()])],
            mover: answer(),
            moves: (unanswered, answered),
            packet: answer(),
            verdict: Ok(()),
        },
        Case {
            what: "an ICMP error while an answer is noted",
            before: vec![(vec![ASK], vec![query()])],
            mover: answer(),
            moves: (unanswered, answered),
            packet: unreachable(),
            verdict: Ok(()),
        },
        Case {
            what: "an answer while its flow is allowed again",
            before: vec![
                (vec![ASK], vec![query(), answer()]),
                (vec![], vec![query()]),
                (vec![ASK], vec![]),
            ],
            mover: query(),
            moves: (CtTable::Denied, answered),
            packet: answer(),
            verdict: Ok(()),
        },
        Case {
            what: "a first answer while its flow is allowed again",
            before: vec![
                (vec![ASK], vec![query()]),
                (vec![], vec![query()]),
                (vec![ASK], vec![]),
            ],
            mover: query(),
            moves: (CtTable::Denied, unanswered),
            packet: answer(),
            verdict: Ok(()),
        },
    ]
}

/// The node before the packet comes.
fn node(case: &Case) -> MemoryMaps<'static> {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[]));
    for (epoch, (entries, packets)) in (2..).zip(&case.before) {
        maps.write_all(&policy(epoch, entries));
        for packet in packets {
            // Whether it passes is in the case's tables.
            packet.send(&maps).ok();
        }
    }
    maps
}

fn tables(maps: &MemoryMaps<'_>) -> Vec<CtTable> {
    maps.flows4().iter().map(|(table, ..)| *table).collect()
}

#[test]
fn a_packet_finds_its_flow_wherever_it_is_moved_meanwhile() {
    for case in cases() {
        let before = node(&case);
        assert_eq!(tables(&before), [case.moves.0], "{}: before", case.what);
        case.mover.send(&before).ok();
        assert_eq!(tables(&before), [case.moves.1], "{}: after", case.what);

        let mut met = 0;
        for at in 0..ACCESSES {
            let maps = node(&case);
            let reached = Rc::new(Cell::new(0));
            let (shared, mover) = (Rc::clone(&reached), case.mover.clone());
            maps.before_each_access(move |maps, _| {
                if shared.get() == at {
                    mover.send(maps).ok();
                }
                shared.set(shared.get() + 1);
            });
            let verdict = case.packet.send(&maps);
            met += usize::from(reached.get() > at);
            assert_eq!(
                verdict, case.verdict,
                "{}: moved before access {at}",
                case.what
            );
            assert_eq!(
                tables(&maps).len(),
                1,
                "{}: moved before access {at}: the flow is there twice",
                case.what
            );
        }
        assert!(met > 5 && met < ACCESSES, "{}: met {met} times", case.what);
    }
}
