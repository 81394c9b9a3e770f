//! The ipcache: address → identity.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::layout;
use crate::net::Family;

/// Bits of [`IpcacheKey`] before the address; an LPM prefix length is this plus the address's.
pub const IPCACHE_PREFIX_BASE: u32 = 32;

/// In place of an identity: whose address it is is known, but the ipcache has no room for that. It may what everybody may
/// ([`crate::ShapeWord::restricts`]), and nothing else.
pub const IDENTITY_UNRESOLVED: u32 = 15;

/// LPM key of a prefix of either family.
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
#[repr(C)]
pub struct IpcacheKey {
    /// [`IPCACHE_PREFIX_BASE`] plus the address's prefix length.
    pub prefix_len: u32,
    /// [`Family`] as a number.
    pub family: u8,
    reserved: [u8; 3],
    /// The address in network order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<IpcacheKey>() == 24);
layout!(IpcacheKey: prefix_len, family, reserved, address);

impl IpcacheKey {
    /// Key of an IPv4 prefix; host bits must be zero.
    #[inline(always)]
    pub const fn v4(address: [u8; 4], len: u8) -> Self {
        let [a, b, c, d] = address;
        Self {
            prefix_len: IPCACHE_PREFIX_BASE + len as u32,
            family: Family::V4 as u8,
            reserved: [0; 3],
            address: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    /// Key of an IPv6 prefix; host bits must be zero.
    #[inline(always)]
    pub const fn v6(address: [u8; 16], len: u8) -> Self {
        Self {
            prefix_len: IPCACHE_PREFIX_BASE + len as u32,
            family: Family::V6 as u8,
            reserved: [0; 3],
            address,
        }
    }
}

/// What the ipcache says of a prefix.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct IpcacheValue {
    /// None defined yet; zero.
    #[cfg(feature = "test-layout")]
    pub flags: u64,
    /// Identity in bank 0 (low 32 bits) and bank 1 (high): one aligned word, read and written whole.
    pub identities: u64,
    /// Node that the prefix is behind, in network order; zero if none. IPv4 in the first four bytes.
    pub tunnel_endpoint: [u8; 16],
    /// None defined yet; zero.
    #[cfg(not(feature = "test-layout"))]
    pub flags: u64,
}
const _: () = assert!(size_of::<IpcacheValue>() == 32);
layout!(IpcacheValue: identities, tunnel_endpoint, flags);

impl IpcacheValue {
    /// The same identity in both banks, no tunnel.
    #[inline(always)]
    pub const fn level(identity: u32) -> Self {
        Self {
            identities: identity as u64 | ((identity as u64) << 32),
            tunnel_endpoint: [0; 16],
            flags: 0,
        }
    }

    /// Identity in `bank` (0 or 1).
    #[inline(always)]
    pub const fn identity(&self, bank: u32) -> u32 {
        (self.identities >> ((bank & 1) * 32)) as u32
    }

    /// This value with the identity of one bank replaced.
    #[must_use]
    pub const fn with_identity(mut self, bank: u32, identity: u32) -> Self {
        let shift = (bank & 1) * 32;
        self.identities =
            (self.identities & !(0xFFFF_FFFF << shift)) | ((identity as u64) << shift);
        self
    }
}
