//! Conntrack: flows of local endpoints and the verdict under which they run.
//!
//! An entry belongs to one local endpoint. Its key is written from the endpoint's side (local, remote),
//! so packets of both directions find it with one lookup; the direction of the flow is in the word.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::epoch::Epoch;
use crate::layout::layout;
use crate::net::{Be16, Direction};

/// Seconds that an established TCP flow lives without a packet (Cilium's `bpf-ct-timeout-regular-tcp`).
pub const CT_TCP_LIFETIME: u32 = 8000;
/// Seconds that any other flow lives without a packet (`bpf-ct-timeout-regular-any`).
pub const CT_NON_TCP_LIFETIME: u32 = 60;
/// Seconds that a TCP flow lives before more than SYNs were seen (`bpf-ct-timeout-regular-tcp-syn`).
pub const CT_SYN_TIMEOUT: u32 = 60;
/// Seconds that a closed TCP flow lives on (`bpf-ct-timeout-regular-tcp-fin`).
pub const CT_CLOSE_TIMEOUT: u32 = 10;
/// Seconds between two trace events of one flow.
pub const CT_REPORT_INTERVAL: u32 = 5;

/// What makes two flows of one tuple different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowKind {
    /// Ports (or nothing) tell all.
    Plain = 0,
    /// ICMP echo that the endpoint started: its requests, the peer's replies. `local_port` is the echo id.
    EchoByLocal = 1,
    /// ICMP echo that the peer started: its requests, the endpoint's replies. `local_port` is the echo id.
    EchoByRemote = 2,
    /// Not in the conntrack maps: a flow to a frontend, in the maps of [`crate::ServiceFlow`].
    Service = 3,
}

macro_rules! ct_key {
    ($(#[$doc:meta])+ $name:ident, $address:ty, $size:literal) => {
        $(#[$doc])+
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes,
            Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            /// The endpoint's address in network order.
            #[cfg(not(feature = "test-layout"))]
            pub local: $address,
            /// The peer's address in network order.
            pub remote: $address,
            /// The endpoint's address in network order.
            #[cfg(feature = "test-layout")]
            pub local: $address,
            /// The endpoint's port; the id of an ICMP echo; 0 for protocols without ports.
            pub local_port: Be16,
            /// The peer's port; 0 for an ICMP echo and for protocols without ports.
            pub remote_port: Be16,
            /// The local endpoint's id.
            pub endpoint: u16,
            /// IP protocol.
            pub protocol: u8,
            /// [`FlowKind`].
            pub kind: u8,
        }
        const _: () = assert!(size_of::<$name>() == $size);
        layout!($name: local, remote, local_port, remote_port, endpoint, protocol, kind);
    };
}

ct_key!(
    /// Key of an IPv4 flow.
    CtKey4, [u8; 4], 16
);
ct_key!(
    /// Key of an IPv6 flow.
    CtKey6, [u8; 16], 40
);

/// Stamp, tag, direction and verdict of a flow: one aligned 8-byte word, read once and written by one store.
///
/// The tag (20 bits of a seeded hash of the key) binds it to its key: an LRU element may be given to
/// another flow under a reader or a writer, and then the tag is wrong and the word is as if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct CtWord(pub u64);

impl CtWord {
    const STAMP_SHIFT: u32 = 24;
    const TAG_SHIFT: u32 = 4;
    const TAG_MASK: u64 = (1 << 20) - 1;
    const EGRESS: u64 = 1 << 3;
    const ALLOWED: u64 = 1 << 2;
    const HOST: u64 = 1 << 1;

    /// Packs stamp, tag (low 20 bits), direction of the flow, and verdict.
    #[inline(always)]
    pub const fn new(stamp: Epoch, tag: u32, direction: Direction, allowed: bool) -> Self {
        let direction = match direction {
            Direction::Ingress => 0,
            Direction::Egress => Self::EGRESS,
        };
        let verdict = if allowed { Self::ALLOWED } else { 0 };
        Self(
            (stamp.get() << Self::STAMP_SHIFT)
                | ((tag as u64 & Self::TAG_MASK) << Self::TAG_SHIFT)
                | direction
                | verdict,
        )
    }

    /// The G under which the verdict was found.
    #[inline(always)]
    pub const fn stamp(self) -> Epoch {
        Epoch::new(self.0 >> Self::STAMP_SHIFT)
    }

    /// Tag of the key that the word was written for.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        ((self.0 >> Self::TAG_SHIFT) & Self::TAG_MASK) as u32
    }

    /// Direction of the flow: of its first packet.
    #[inline(always)]
    pub const fn direction(self) -> Direction {
        if self.0 & Self::EGRESS == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// The recorded verdict.
    #[inline(always)]
    pub const fn allowed(self) -> bool {
        self.0 & Self::ALLOWED != 0
    }

    /// Whether the peer of an ingress flow was proven to be this host; a reply cannot prove it again.
    #[inline(always)]
    pub const fn host(self) -> bool {
        self.0 & Self::HOST != 0
    }

    /// This word with [`CtWord::host`] set as given.
    #[inline(always)]
    #[must_use]
    pub const fn with_host(self, host: bool) -> Self {
        if host {
            Self(self.0 | Self::HOST)
        } else {
            Self(self.0 & !Self::HOST)
        }
    }
}

/// A flow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct CtEntry {
    /// Moves all others.
    #[cfg(feature = "test-layout")]
    pub test_layout: u64,
    /// [`CtWord`].
    pub word: u64,
    /// Packets to the endpoint.
    pub rx_packets: u64,
    /// Bytes to the endpoint.
    pub rx_bytes: u64,
    /// Packets from the endpoint.
    pub tx_packets: u64,
    /// Bytes from the endpoint.
    pub tx_bytes: u64,
    /// End of life, in seconds of the monotonic clock.
    pub expires: u32,
    /// Last trace event of a packet to the endpoint, in seconds of the monotonic clock.
    pub last_rx_report: u32,
    /// Last trace event of a packet from the endpoint, in seconds of the monotonic clock.
    pub last_tx_report: u32,
    /// Identity of the peer when the verdict was found; for people, never for a verdict.
    pub remote_identity: u32,
    /// [`CtFlags`].
    pub flags: u16,
    /// TCP flags seen in packets to the endpoint.
    pub rx_tcp_flags: u8,
    /// TCP flags seen in packets from the endpoint.
    pub tx_tcp_flags: u8,
    /// [`crate::NatWord`]: the frontend that the flow was sent to.
    pub nat: u32,
}
const _: () = assert!(
    size_of::<CtEntry>()
        == if cfg!(feature = "test-layout") {
            72
        } else {
            64
        }
);
#[cfg(not(feature = "test-layout"))]
layout!(CtEntry: word, rx_packets, rx_bytes, tx_packets, tx_bytes, expires, last_rx_report, last_tx_report, remote_identity,
    flags, rx_tcp_flags, tx_tcp_flags, nat);
#[cfg(feature = "test-layout")]
layout!(CtEntry: test_layout, word, rx_packets, rx_bytes, tx_packets, tx_bytes, expires, last_rx_report, last_tx_report,
    remote_identity, flags, rx_tcp_flags, tx_tcp_flags, nat);

/// Bits of [`CtEntry::flags`].
pub struct CtFlags;

impl CtFlags {
    /// FIN or RST was seen from the endpoint.
    pub const TX_CLOSING: u16 = 1 << 0;
    /// FIN or RST was seen from the peer.
    pub const RX_CLOSING: u16 = 1 << 1;
    /// More than SYNs was seen.
    pub const SEEN_NON_SYN: u16 = 1 << 2;
    /// The other side answered.
    pub const ANSWERED: u16 = 1 << 3;
    /// The direction came from the pod's sockets, for a packet in the middle of a stream.
    pub const ADOPTED: u16 = 1 << 4;
}
