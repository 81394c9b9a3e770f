//! Fragments: a later fragment follows its datagram's first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{layout::layout, net::Be16};

/// Seconds that a datagram's fragments may take (Linux's `ipfrag_time`).
pub const FRAGMENT_LIFETIME: u32 = 30;

macro_rules! fragment_key {
    ($(#[$doc:meta])+ $name:ident, $address:ty, $size:literal) => {
        $(#[$doc])+
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes,
            Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            /// Source address in network order.
            pub source: $address,
            /// Destination address in network order.
            pub destination: $address,
            /// Identification as it stands in the packet; IPv4's 16 bits in the first two bytes, the rest zero.
            pub id: [u8; 4],
            /// The local endpoint's id.
            pub endpoint: u16,
            /// IP protocol of the datagram.
            pub protocol: u8,
            /// [`crate::Direction`] of the packet.
            pub direction: u8,
        }
        const _: () = assert!(size_of::<$name>() == $size);
        layout!($name: source, destination, id, endpoint, protocol, direction);
    };
}

fragment_key!(
    /// Key of an IPv4 datagram in fragments.
    FragmentKey4, [u8; 4], 16
);
fragment_key!(
    /// Key of an IPv6 datagram in fragments.
    FragmentKey6, [u8; 16], 40
);

/// What an allowed first fragment leaves for the later ones: its L4 tuple, with which they are judged
/// like any other packet of the flow. The word's tag binds it to the key, its stamp to the endpoint's life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct FragmentEntry {
    /// A [`crate::CtWord`] tagged with this datagram's key.
    pub word: u64,
    /// End of life, in seconds of the monotonic clock.
    pub expires: u32,
    /// Source port of the datagram; for ICMP type (high byte) and code.
    pub source_port: Be16,
    /// Destination port of the datagram; the id of an ICMP echo.
    pub destination_port: Be16,
}
const _: () = assert!(size_of::<FragmentEntry>() == 16);
layout!(FragmentEntry: word, expires, source_port, destination_port);
