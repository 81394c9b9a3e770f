//! Packet counters by reason and direction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::Direction;

/// Length of the counters' array: 256 reasons, two directions.
pub const COUNTERS: u32 = 512;

/// In place of a reason: packets passed on.
pub const COUNTER_FORWARDED: u8 = 0;
/// In place of a reason: packets judged as world because their source, an address of this host, came
/// through an interface. Counted beside their verdict.
pub const COUNTER_LOCAL_SOURCE_NOT_HOST: u8 = 1;
/// In place of a reason, under [`Direction::Ingress`]: events refused for want of a token or of room.
pub const COUNTER_EVENT_LOST: u8 = 2;
/// In place of a reason: flows that came into the conntrack tables of answered flows, under
/// [`Direction::Ingress`], and those that programs took out again, under [`Direction::Egress`]. The kernel tells
/// nobody what it evicts: it is what came in, was not taken out, and is not there.
pub const COUNTER_CT_ANSWERED: u8 = 3;
/// As [`COUNTER_CT_ANSWERED`], of choices in the tables of answered flows to frontends of services.
pub const COUNTER_CHOICE_ANSWERED: u8 = 4;
/// As [`COUNTER_CT_ANSWERED`], of choices in the tables of the latest flows to frontends of services. Programs take none
/// out of these.
pub const COUNTER_CHOICE_LATEST: u8 = 5;

/// One CPU's counter.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the link-layer header on.
    pub bytes: u64,
}

/// Index of the counter of `reason` ([`crate::DropReason`] as a number, 0 for forwarded packets).
#[inline(always)]
pub const fn counter_index(reason: u8, direction: Direction) -> u32 {
    ((reason as u32) << 1) | direction as u32
}
