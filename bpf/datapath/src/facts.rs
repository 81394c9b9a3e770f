//! What was read from a packet.

use oxilium_abi::{Be16, Direction, FlowKind};

use crate::{address::Address, volatile::Zeroed};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// How conntrack takes a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// By ports, with the life of a TCP connection.
    Tcp,
    /// By ports.
    Ports,
    /// By addresses and protocol.
    #[default]
    Other,
    /// ICMP echo request, by its id.
    EchoRequest,
    /// ICMP echo reply, by its id.
    EchoReply,
    /// ICMP error, by the packet in it.
    Error,
    /// Any other ICMP: not tracked.
    Query,
}

/// Whether a packet is a part of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fragment {
    #[default]
    Whole,
    First,
    Later,
}

/// What was read from a packet. Addresses and ports stand as in the packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub(crate) struct Facts<A> {
    pub(crate) source: A,
    pub(crate) destination: A,
    /// For ICMP type (high byte) and code.
    pub(crate) source_port: Be16,
    /// For an ICMP echo its id.
    pub(crate) destination_port: Be16,
    pub(crate) protocol: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) class: Class,
    pub(crate) fragment: Fragment,
    pub(crate) hop_limit: u8,
    /// The fragment header's protocol; IPv6 keeps it apart from the one found behind it.
    pub(crate) fragment_protocol: u8,
    /// In bytes.
    pub(crate) fragment_offset: u16,
    pub(crate) fragment_id: [u8; 4],
    /// Where the L4 header begins, from the link-layer header on.
    pub(crate) l4: u32,
    /// Where the IP packet ends.
    pub(crate) end: u32,
}

/// A flow as conntrack knows it, from the endpoint's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuple<A> {
    pub(crate) local: A,
    pub(crate) remote: A,
    pub(crate) local_port: Be16,
    pub(crate) remote_port: Be16,
    pub(crate) protocol: u8,
    pub(crate) kind: FlowKind,
}

#[expect(unsafe_code, reason = "zeros are a value")]
// SAFETY: integers, arrays of them, and enums that have a variant of zero; aligned by eight.
unsafe impl<A: Address> Zeroed for Facts<A> {}

impl<A: Address> Facts<A> {
    #[inline(always)]
    pub(crate) fn icmp_type(&self) -> u8 {
        (self.source_port.get() >> 8) as u8
    }

    #[inline(always)]
    pub(crate) fn icmp_code(&self) -> u8 {
        self.source_port.get() as u8
    }

    #[inline(always)]
    pub(crate) fn remote(&self, direction: Direction) -> A {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    #[inline(always)]
    pub(crate) fn local(&self, direction: Direction) -> A {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// The flow of a packet that goes in `direction`.
    #[inline(always)]
    pub(crate) fn tuple(&self, direction: Direction) -> Tuple<A> {
        let by_local = matches!(
            (self.class, direction),
            (Class::EchoRequest, Direction::Egress) | (Class::EchoReply, Direction::Ingress)
        );
        let (local_port, remote_port, kind) = match self.class {
            Class::EchoRequest | Class::EchoReply => {
                let kind = if by_local {
                    FlowKind::EchoByLocal
                } else {
                    FlowKind::EchoByRemote
                };
                (self.destination_port, Be16::default(), kind)
            }
            _ if direction as u8 == Direction::Egress as u8 => {
                (self.source_port, self.destination_port, FlowKind::Plain)
            }
            _ => (self.destination_port, self.source_port, FlowKind::Plain),
        };
        Tuple {
            local: self.local(direction),
            remote: self.remote(direction),
            local_port,
            remote_port,
            protocol: self.protocol,
            kind,
        }
    }
}

impl<A: Address> Tuple<A> {
    /// What policy compares with its port, for a flow in `direction`.
    #[inline(always)]
    pub(crate) fn policy_port(&self, direction: Direction) -> u16 {
        match (self.kind, direction) {
            (FlowKind::Plain, Direction::Ingress) => self.local_port.get(),
            (FlowKind::Plain, Direction::Egress) => self.remote_port.get(),
            _ => A::ECHO_REQUEST as u16,
        }
    }
}
