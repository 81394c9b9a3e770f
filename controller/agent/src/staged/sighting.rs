//! Flows as they are seen: in conntrack and in drop events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_abi::{CtWord, Direction, DropReason, Event, EventKind, EventTranslation, FlowKind};
use oxilium_kernel::port::Flow;
use oxilium_model::StagedFlow;
use oxilium_model::identity::{NumericIdentity, Protocol};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ECHO_REQUEST: u16 = 8;
const ECHO_REPLY: u16 = 0;
const ECHO_REQUEST_6: u16 = 128;
const ECHO_REPLY_6: u16 = 129;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A flow, and whether it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) flow: StagedFlow,
    pub(super) local: IpAddr,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) passes: bool,
}

impl Sighting {
    /// Of a conntrack entry; none for one whose life ended more than `lately` seconds ago and for what has no
    /// number that policy knows.
    pub(super) fn of_entry(entry: &Flow, lately: i64) -> Option<Self> {
        if entry.remaining < -lately {
            return None;
        }
        let word = CtWord(entry.entry.word);
        let direction = word.direction();
        let port = match (entry.protocol, entry.kind?) {
            (ICMP, FlowKind::EchoByLocal | FlowKind::EchoByRemote) => ECHO_REQUEST,
            (ICMPV6, FlowKind::EchoByLocal | FlowKind::EchoByRemote) => ECHO_REQUEST_6,
            (ICMP | ICMPV6, FlowKind::Plain) => return None,
            _ => match direction {
                Direction::Ingress => entry.local_port,
                Direction::Egress => entry.remote_port,
            },
        };
        Some(Self {
            flow: StagedFlow {
                endpoint: entry.endpoint,
                direction,
                remote: entry.remote,
                identity: NumericIdentity(entry.entry.remote_identity),
                protocol: Protocol(entry.protocol),
                port,
            },
            local: entry.local,
            local_port: entry.local_port,
            remote_port: entry.remote_port,
            passes: word.allowed(),
        })
    }

    /// Of an event that tells of a flow's first packet, dropped by policy; none for any other.
    pub(super) fn of_event(event: &Event) -> Option<Self> {
        const BY_POLICY: [DropReason; 4] = [
            DropReason::PolicyDenied,
            DropReason::PolicyDeny,
            DropReason::AuthRequired,
            DropReason::ProxyUnavailable,
        ];
        let reason = DropReason::from_number(event.reason)?;
        if event.kind != EventKind::Drop as u8
            || event.endpoint == 0
            || !BY_POLICY.contains(&reason)
        {
            return None;
        }
        let address = |bytes: [u8; 16]| match event.ether_type.get() {
            ETHERTYPE_IPV4 => {
                let [a, b, c, d, ..] = bytes;
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            ETHERTYPE_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
            _ => None,
        };
        // Of what goes to a service policy knows the backend.
        let translated = event.translation == EventTranslation::ToBackend as u8;
        let (destination, to) = if translated {
            (event.translated, event.translated_port)
        } else {
            (event.destination, event.destination_port)
        };
        let (source, destination) = (address(event.source)?, address(destination)?);
        let ingress = event.direction == Direction::Ingress as u8;
        let (from, to) = (event.source_port.get(), to.get());
        let icmp_type = from >> 8;
        let (port, local_port, remote_port) = match event.protocol {
            ICMP if icmp_type == ECHO_REPLY => return None,
            ICMPV6 if icmp_type == ECHO_REPLY_6 => return None,
            // The id of an echo stands for the endpoint's port, as in conntrack.
            ICMP | ICMPV6 => (icmp_type, to, 0),
            // In the middle of a stream the other side may be the one that began it.
            6 if event.tcp_flags & (SYN | ACK) != SYN => return None,
            _ if ingress => (to, to, from),
            _ => (to, from, to),
        };
        let (local, remote) = if ingress {
            (destination, source)
        } else {
            (source, destination)
        };
        Some(Self {
            flow: StagedFlow {
                endpoint: event.endpoint,
                direction: if ingress {
                    Direction::Ingress
                } else {
                    Direction::Egress
                },
                remote,
                identity: NumericIdentity(event.remote_identity),
                protocol: Protocol(event.protocol),
                port,
            },
            local,
            local_port,
            remote_port,
            passes: false,
        })
    }
}
