//! Events: what programs tell of packets, in the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::Be16;

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 1,
    /// Policy was evaluated for a packet.
    PolicyVerdict = 2,
    /// A packet was passed on.
    Trace = 3,
}

/// Where a traced packet stands in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TraceState {
    /// First of its flow.
    New = 0,
    /// In the flow's direction.
    Established = 1,
    /// Against the flow's direction.
    Reply = 2,
    /// An ICMP error about a flow.
    Related = 3,
    /// Outside conntrack.
    None = 4,
}

/// An event. Addresses and ports stand as in the packet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Event {
    /// Nanoseconds of the boot clock.
    pub time: u64,
    /// Source address in network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address in network order; IPv4 in the first four bytes.
    pub destination: [u8; 16],
    /// Interface that the program ran on.
    pub ifindex: u32,
    /// Remote identity that was judged, 0 where none was found yet.
    pub remote_identity: u32,
    /// Length of the packet in bytes, from the link-layer header on.
    pub length: u32,
    /// Precedence of the policy entry that decided, 0 for none.
    pub precedence: u32,
    /// Source port; for ICMP type (high byte) and code.
    pub source_port: Be16,
    /// Destination port; for an ICMP echo the id.
    pub destination_port: Be16,
    /// Local endpoint's id, 0 where none was found.
    pub endpoint: u16,
    /// Ethertype.
    pub ether_type: Be16,
    /// [`EventKind`].
    pub kind: u8,
    /// [`crate::DropReason`] as a number; 0 for a packet that was not dropped.
    pub reason: u8,
    /// [`crate::Direction`] of the packet.
    pub direction: u8,
    /// [`TraceState`].
    pub state: u8,
    /// IP protocol.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Index of the shape of the deciding policy entry (bits 0…4) and kind of its identity (bits 5…6:
    /// 0 none matched, 1 specific, 2 aggregate, 3 any).
    pub matched: u8,
    /// [`EventTranslation`] as a number.
    pub translation: u8,
    /// The other address of a flow to a service, in network order; IPv4 in the first four bytes.
    pub translated: [u8; 16],
    /// Its port.
    pub translated_port: Be16,
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<Event>() == 96);

/// What [`Event::translated`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventTranslation {
    /// Nothing: the packet goes on with its own addresses.
    None = 0,
    /// The backend; the packet's destination is the frontend.
    ToBackend = 1,
    /// The frontend; the packet's source is the backend.
    FromFrontend = 2,
}
