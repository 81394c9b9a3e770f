//! Byte order, direction and address family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit number in network byte order, as it stands in a packet.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From two bytes as they stand in a packet.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// Which way a packet goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// To the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// Address family, numbered as Cilium's ipcache does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
}
