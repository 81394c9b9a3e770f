//! What the programs know of the interface that they run on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::layout;

/// Addresses of each kind that an interface may have.
pub const ADDRESSES_PER_FAMILY: usize = 2;

/// [`InterfaceConfig::netns_id`] where the pod's network namespace has no id here.
pub const NETNS_UNKNOWN: i32 = -1;

/// A pod's host veth. Found by ifindex, which the kernel reuses at once and whose map element may be
/// reused under a reader: a program copies the value and compares [`InterfaceConfig::ifindex`] after.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct InterfaceConfig {
    /// Epoch of the plan that made the endpoint; older conntrack entries do not exist for it.
    pub birth: u64,
    /// IPv4 addresses of the pod in network order; unused ones zero.
    pub ipv4: [[u8; 4]; ADDRESSES_PER_FAMILY],
    /// IPv6 addresses of the pod in network order; unused ones zero.
    pub ipv6: [[u8; 16]; ADDRESSES_PER_FAMILY],
    /// Link-local addresses (EUI-64 of the MAC, and one observed in the pod), for neighbour discovery and MLD only.
    pub link_local: [[u8; 16]; ADDRESSES_PER_FAMILY],
    /// MAC address of the pod's end of the veth.
    pub mac: [u8; 6],
    /// Endpoint id.
    pub endpoint: u16,
    /// [`InterfaceFlags`].
    pub flags: u32,
    /// Id of the pod's network namespace as seen from the host's (the veth's link-netnsid), or [`NETNS_UNKNOWN`].
    pub netns_id: i32,
    /// Identity of the endpoint when it was made, for events only: never for a verdict.
    pub identity: u32,
    /// The key, repeated; last, so that a copy in ascending order ends with it.
    pub ifindex: u32,
}
const _: () = assert!(size_of::<InterfaceConfig>() == 104);
layout!(InterfaceConfig: birth, ipv4, ipv6, link_local, mac, endpoint, flags, netns_id, identity, ifindex);

/// Bits of [`InterfaceConfig::flags`].
pub struct InterfaceFlags;

impl InterfaceFlags {
    /// The node's configuration allows this pod to send from foreign addresses (never a pod's wish).
    pub const ALLOW_SPOOFING: u32 = 1 << 0;

    const PREFIX_SHIFT: u32 = 8;

    /// Bits for the length of the subnets of the pod's IPv6 addresses, 1 to 128; 0 where it is not known.
    pub const fn with_prefix_length(length: u8) -> u32 {
        (length as u32) << Self::PREFIX_SHIFT
    }

    /// What [`InterfaceFlags::with_prefix_length`] was given.
    #[inline(always)]
    pub const fn prefix_length(flags: u32) -> u8 {
        (flags >> Self::PREFIX_SHIFT) as u8
    }
}
