//! Services: what the pod sends to a frontend reaches a backend under the backend's policy, and answers
//! come from the frontend.

mod changes;
mod hairpin;

use oxilium_abi::{
    Be16,
    DropReason::{
        FragmentNotFound, IcmpRedirect, InvalidSourceIp, NoServiceBackend, PolicyDenied,
        SctpPortTranslation, TooManyBackends,
    },
    IpcacheKey, LbAddress, LbState, NodeWord, ServiceKey, ServiceValue, ServiceWord,
};

use super::{
    super::{Ipv4, Ipv6, PolicyEntry, World, Write, icmp, sctp, tcp, udp},
    Family, PASS, Step, Story,
    Who::{self, Host, Peer, Second, Service, World as Outside},
};
use crate::Direction::Egress;

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The service's frontend: its id, protocol and affinity; its backends by id.
#[derive(Clone)]
struct Front {
    family: Family,
    id: u16,
    protocol: u8,
    port: u16,
    affinity: u32,
    backends: Vec<(u32, Who, u16)>,
}

impl Front {
    fn new(family: Family, protocol: u8, backends: &[(u32, Who, u16)]) -> Self {
        Self {
            family,
            id: 7,
            protocol,
            port: 80,
            affinity: 0,
            backends: backends.to_vec(),
        }
    }

    fn key(&self) -> ServiceKey {
        let (family, address) = self.family.wide(Service);
        ServiceKey::master(family, address, Be16::new(self.port), self.protocol)
    }

    fn address(&self, frontend: u16, who: Who, port: u16, state: LbState) -> LbAddress {
        let (family, address) = self.family.wide(who);
        LbAddress {
            address,
            port: Be16::new(port),
            frontend,
            protocol: self.protocol,
            family: family as u8,
            state: state as u8,
            resting: u32::from(state == LbState::Resting),
            ..LbAddress::default()
        }
    }

    fn backend(&self, (id, who, port): (u32, Who, u16), state: LbState) -> Write {
        let value = self.address(self.id, who, port, state).sealed(id);
        Write::Backend(id, Some(value))
    }

    fn own(&self) -> LbAddress {
        self.address(self.id, Service, self.port, LbState::Active)
            .sealed(u32::from(self.id))
    }

    /// All that a plan writes for it.
    fn writes(&self) -> Vec<Write> {
        let mut writes = vec![Write::NodeWord(NodeWord::Services, 1)];
        for backend in &self.backends {
            writes.push(self.backend(*backend, LbState::Active));
        }
        writes.push(Write::ReverseNat(u32::from(self.id), Some(self.own())));
        for (slot, (id, ..)) in (1..).zip(&self.backends) {
            let key = self.key().slot(slot);
            let value = ServiceValue::new(&key, u64::from(*id));
            writes.push(Write::Service(key, Some(value)));
        }
        let slots = u16::try_from(self.backends.len()).unwrap_or(u16::MAX);
        let word = ServiceWord::new(self.id, slots, self.affinity);
        let value = ServiceValue::new(&self.key(), word.0);
        writes.push(Write::Service(self.key(), Some(value)));
        writes
    }

    fn plan(&self) -> Step {
        Step::Plan(self.writes())
    }
}

/// What a plan writes for a frontend of [`Who::Service`] at port 80 with this backend, at the same port.
#[must_use]
pub fn service(family: Family, protocol: u8, backend: Who) -> Vec<Write> {
    Front::new(family, protocol, &[(70, backend, 80)]).writes()
}

/// A segment or datagram from port 999 of the pod.
fn out(f: Family, who: Who, port: u16, protocol: u8, flags: u8) -> super::Frame {
    f.from(who, protocol, &payload(protocol, 999, port, flags))
}

/// The answer to it.
fn back(f: Family, who: Who, port: u16, protocol: u8, flags: u8) -> super::Frame {
    f.to(who, protocol, &payload(protocol, port, 999, flags))
}

fn payload(protocol: u8, from: u16, to: u16, flags: u8) -> Vec<u8> {
    match protocol {
        TCP => tcp(from, to, flags, b"segment"),
        UDP => udp(from, to, b"datagram"),
        _ => sctp(from, to),
    }
}

/// The pod's packet to the service goes to a backend.
fn sent(f: Family, protocol: u8, flags: u8, who: Who, port: u16) -> Step {
    Step::Sent(
        out(f, Service, 80, protocol, flags).with_checksums(),
        out(f, who, port, protocol, flags).with_checksums(),
    )
}

/// A backend's answer comes from the service.
fn received(f: Family, protocol: u8, flags: u8, who: Who, port: u16) -> Step {
    Step::Received(
        back(f, who, port, protocol, flags).with_checksums(),
        back(f, Service, 80, protocol, flags).with_checksums(),
    )
}

fn refused(f: Family, protocol: u8, flags: u8, reason: super::DropReason) -> Step {
    Step::From(out(f, Service, 80, protocol, flags), Err(reason))
}

pub(super) fn stories(f: Family) -> Vec<Story> {
    let mut stories = flows(f);
    stories.extend(changes::stories(f));
    stories.extend(middle(f));
    stories.extend(edges(f));
    stories.extend(hairpin::stories(f));
    stories
}

fn allow(protocol: u8, port: u16) -> [PolicyEntry; 1] {
    [PolicyEntry::allow(Egress, World::PEER, protocol, port)]
}

fn flows(f: Family) -> Vec<Story> {
    let of = |protocol| Front::new(f, protocol, &[(70, Peer, 8080)]).plan();
    vec![
        f.story(
            "a connection to a service is its backend's, both ways",
            &allow(TCP, 8080),
            vec![
                of(TCP),
                sent(f, TCP, SYN, Peer, 8080),
                received(f, TCP, SYN | ACK, Peer, 8080),
                sent(f, TCP, ACK, Peer, 8080),
                received(f, TCP, ACK, Peer, 8080),
                sent(f, TCP, FIN | ACK, Peer, 8080),
                received(f, TCP, FIN | ACK, Peer, 8080),
                sent(f, TCP, ACK, Peer, 8080),
            ],
        ),
        f.story(
            "UDP to a service",
            &allow(UDP, 8080),
            vec![
                of(UDP),
                sent(f, UDP, 0, Peer, 8080),
                received(f, UDP, 0, Peer, 8080),
                sent(f, UDP, 0, Peer, 8080),
            ],
        ),
        f.story(
            "SCTP to a service whose backend has the same port",
            &allow(SCTP, 80),
            vec![
                Front::new(f, SCTP, &[(70, Peer, 80)]).plan(),
                sent(f, SCTP, 0, Peer, 80),
                received(f, SCTP, 0, Peer, 80),
            ],
        ),
        f.story(
            "SCTP to a service whose backend has another port",
            &allow(SCTP, 8080),
            vec![of(SCTP), refused(f, SCTP, 0, SctpPortTranslation)],
        ),
        f.story(
            "what is allowed to the frontend's port is not allowed to the backend's",
            &allow(TCP, 80),
            vec![of(TCP), refused(f, TCP, SYN, PolicyDenied)],
        ),
        f.story(
            "a service without a backend",
            &[PolicyEntry::allow_all(Egress, 0)],
            vec![
                Front::new(f, TCP, &[]).plan(),
                refused(f, TCP, SYN, NoServiceBackend),
                refused(f, TCP, ACK, NoServiceBackend),
            ],
        ),
        f.story(
            "another port and another protocol of a frontend's address are its own",
            &allow(TCP, 8080),
            vec![
                of(TCP),
                Step::From(out(f, Service, 81, TCP, SYN), Err(PolicyDenied)),
                Step::From(out(f, Service, 80, UDP, 0), Err(PolicyDenied)),
            ],
        ),
        f.story(
            "a direct connection to a backend stays as it is",
            &allow(TCP, 8080),
            vec![
                of(TCP),
                Step::Sent(out(f, Peer, 8080, TCP, SYN), out(f, Peer, 8080, TCP, SYN)),
                Step::Received(
                    back(f, Peer, 8080, TCP, SYN | ACK),
                    back(f, Peer, 8080, TCP, SYN | ACK),
                ),
            ],
        ),
        f.story(
            "a client stays with its backend where the service has affinity",
            &[PolicyEntry::allow_all(Egress, 0)],
            affinity(f),
        ),
    ]
}

/// The first flow finds one backend; of those that come later none takes the other one's sixteen slots.
fn affinity(f: Family) -> Vec<Step> {
    let mut service = Front::new(f, TCP, &[(70, Peer, 8080)]);
    service.affinity = 10_800;
    let mut steps = vec![service.plan(), sent(f, TCP, SYN, Peer, 8080)];
    service
        .backends
        .extend((0..16).map(|n| (80 + n, Second, 8080)));
    steps.push(service.plan());
    for client in 2000..2008 {
        let frame = |who, port| {
            f.from(who, TCP, &tcp(client, port, SYN, b""))
                .with_checksums()
        };
        steps.push(Step::Sent(frame(Service, 80), frame(Peer, 8080)));
    }
    steps
}

fn middle(f: Family) -> Vec<Story> {
    let two = Front::new(f, TCP, &[(70, Peer, 8080), (71, Second, 8080)]);
    let same = |flags| {
        Step::Sent(
            out(f, Service, 80, TCP, flags),
            out(f, Service, 80, TCP, flags),
        )
    };
    vec![
        f.story(
            "in the middle of a connection: not translated, and allowed if every backend is",
            &[
                PolicyEntry::allow(Egress, World::PEER, TCP, 8080),
                PolicyEntry::allow(Egress, World::SECOND, TCP, 8080),
            ],
            vec![two.plan(), same(ACK), same(ACK)],
        ),
        f.story(
            "in the middle of a connection: denied if one backend is",
            &allow(TCP, 8080),
            vec![two.plan(), refused(f, TCP, ACK, PolicyDenied)],
        ),
        f.story(
            "in the middle of a connection: under the backends of now",
            &allow(TCP, 8080),
            vec![
                Front::new(f, TCP, &[(70, Peer, 8080)]).plan(),
                same(ACK),
                two.plan(),
                refused(f, TCP, ACK, PolicyDenied),
            ],
        ),
        f.story(
            "in the middle of a connection: more backends than are judged",
            &[PolicyEntry::allow_all(Egress, 0)],
            vec![
                Front::new(
                    f,
                    TCP,
                    &(100..165).map(|id| (id, Peer, 8080)).collect::<Vec<_>>(),
                )
                .plan(),
                refused(f, TCP, ACK, TooManyBackends),
            ],
        ),
    ]
}

/// A fragment of a UDP datagram from the pod: `offset` in bytes.
fn fragment(f: Family, to: Who, id: u8, offset: u16, more: bool, payload: &[u8]) -> super::Frame {
    match f {
        Family::V4 => {
            let mut header = Ipv4::new(World::POD4, to.v4(), UDP);
            header.id = u16::from(id);
            header.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
            World::from_pod(0x0800, &header.with(payload))
        }
        Family::V6 => {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let extension = [&[UDP, 0, high, low, 0, 0, 0, id], payload].concat();
            World::from6(to.v6(), 44, &extension)
        }
    }
}

fn edges(f: Family) -> Vec<Story> {
    let of = |protocol| Front::new(f, protocol, &[(70, Peer, 8080)]).plan();
    let liar = match f {
        Family::V4 => Ipv4::new(World::PEER4, Service.v4(), TCP).with(&tcp(999, 80, SYN, b"")),
        Family::V6 => Ipv6::new(World::PEER6, Service.v6(), TCP).with(&tcp(999, 80, SYN, b"")),
    };
    let datagram = udp(999, 80, &[7; 16]);
    let first = |who, payload: &[u8]| fragment(f, who, 5, 0, true, payload);
    let later = |who, id| fragment(f, who, id, 24, false, &[9; 8]);
    let error = |who, port| {
        let quote = f.quote_from(who, UDP, &udp(999, port, b"datagram"));
        let quote = f.with_header_checksum(&quote);
        f.to(
            Outside,
            f.icmp(),
            &icmp(f.unreachable(), 0, &[&[0; 4], &*quote].concat()),
        )
        .with_checksums()
    };
    let redirect = {
        let quote = f.quote_from(Peer, UDP, &udp(999, 8080, b"datagram"));
        let quote = f.with_header_checksum(&quote);
        f.to(Host, f.icmp(), &icmp(5, 1, &[&Peer.v4(), &*quote].concat()))
    };
    vec![
        f.story(
            "a lie about the source comes before the service",
            &[PolicyEntry::allow_all(Egress, 0)],
            vec![
                of(TCP),
                Step::From(World::from_pod(f.ether_type(), &liar), Err(InvalidSourceIp)),
            ],
        ),
        f.story(
            "a UDP datagram without a checksum gets none",
            &allow(UDP, 8080),
            match f {
                // IPv6 has no such thing.
                Family::V6 => Vec::new(),
                Family::V4 => vec![
                    of(UDP),
                    Step::Sent(
                        out(f, Service, 80, UDP, 0).with_header_checksum(),
                        out(f, Peer, 8080, UDP, 0).with_header_checksum(),
                    ),
                ],
            },
        ),
        f.story(
            "fragments of a datagram go to one backend",
            &allow(UDP, 8080),
            vec![
                of(UDP),
                Step::From(later(Service, 6), Err(FragmentNotFound)),
                Step::Sent(
                    first(Service, &datagram).with_header_checksum(),
                    first(Peer, &udp(999, 8080, &[7; 16])).with_header_checksum(),
                ),
                Step::Sent(
                    later(Service, 5).with_header_checksum(),
                    later(Peer, 5).with_header_checksum(),
                ),
            ],
        ),
        f.story(
            "the host's redirect about a packet to a service is kept from the pod, which would take it for the service's",
            &allow(UDP, 8080),
            match f {
                // IPv6's names the destination that the host saw: the backend's address alone.
                Family::V6 => Vec::new(),
                Family::V4 => vec![
                    of(UDP),
                    sent(f, UDP, 0, Peer, 8080),
                    Step::To(redirect, Err(IcmpRedirect)),
                ],
            },
        ),
        f.story(
            "a router's error about the pod's packet quotes what the pod sent",
            &allow(UDP, 8080),
            vec![
                of(UDP),
                sent(f, UDP, 0, Peer, 8080),
                Step::Received(error(Peer, 8080), error(Service, 80)),
            ],
        ),
    ]
}

impl Family {
    fn wide(self, who: Who) -> (oxilium_abi::Family, [u8; 16]) {
        match self {
            Self::V4 => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&who.v4());
                (oxilium_abi::Family::V4, address)
            }
            Self::V6 => (oxilium_abi::Family::V6, who.v6()),
        }
    }

    const fn world(self) -> u32 {
        match self {
            Self::V4 => 9,
            Self::V6 => 10,
        }
    }

    const fn ether_type(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86DD,
        }
    }

    fn address_of_peer(self, identity: u32) -> Write {
        match self {
            Self::V4 => World::address(IpcacheKey::v4(World::PEER4, 32), identity),
            Self::V6 => World::address(IpcacheKey::v6(World::PEER6, 128), identity),
        }
    }

    fn with_header_checksum(self, packet: &[u8]) -> Vec<u8> {
        let frame = World::from_pod(self.ether_type(), packet);
        frame.with_header_checksum().bytes.split_off(14)
    }
}
