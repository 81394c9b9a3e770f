//! Services: where a packet to a frontend goes, and where its answer came from.
//!
//! # Tables
//!
//! - **services**: (frontend, slot) → [`ServiceValue`]. Slot 0 is the *master*: how many slots there are,
//!   the frontend's id, its affinity. Slots 1…n hold the id of a backend each.
//! - **backends**: backend id → [`LbAddress`]. A backend belongs to one frontend: one that two services
//!   share has two ids, so that each of them can let go of it by itself.
//! - **reverse NAT**: frontend id → [`LbAddress`], the frontend's own address.
//!
//! Both families are in one map each, as in the ipcache: a frontend's family is part of its key, and
//! these maps are read for first packets and for translated flows only.
//!
//! # Ids
//!
//! Ids are claims that these very maps hold; there is no other copy to contradict them. What is not
//! wanted any more *rests*: its entry stays, marked, so that flows which refer to it go on, and its id
//! is given to nobody else as long as there is room. Even where a resting id must be given away early
//! no flow follows it to its new owner: what a flow remembers is bound to id **and** address
//! ([`bind`]).
//!
//! # Values move under a reader
//!
//! As with policy values: each has a check that binds it to its key.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hash::mix;
use crate::layout::layout;
use crate::net::{Be16, Family};

/// The highest backend id.
pub const BACKEND_ID_MAX: u32 = (1 << 24) - 1;
/// The longest affinity timeout, in seconds: what its 24 bits hold.
pub const AFFINITY_TIMEOUT_MAX: u32 = (1 << 24) - 1;

/// Stands in for a pod that reaches itself through a service (Cilium's `ipv4-service-loopback-address`).
pub const SERVICE_LOOPBACK4: [u8; 4] = [169, 254, 42, 1];
/// The same for IPv6. Not Cilium's `fe80::1`, which a chained pod would look for on its own link: of the prefix that is
/// to be discarded wherever it is met (RFC 6666), so that the pod sends it to its gateway and nobody else has it.
pub const SERVICE_LOOPBACK6: [u8; 16] = [0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 169, 254, 42, 1];

#[inline(always)]
#[expect(
    clippy::many_single_char_names,
    reason = "sixteen bytes in their order"
)]
const fn halves(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// Binds what a flow remembers of a service to the address that it was: 64 bits of which callers take
/// as many as they have room for. `key` is a hash of the flow and of the endpoint's life.
#[inline(always)]
pub const fn bind(key: u64, address: &[u8; 16], port: Be16) -> u64 {
    let [high, low] = halves(address);
    mix(mix(mix(key, high), low), port.get() as u64)
}

/// Key of a frontend's slot.
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
#[repr(C, align(8))]
pub struct ServiceKey {
    /// The frontend's address in network order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
    /// The frontend's port.
    pub port: Be16,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// [`Family`] as a number.
    pub family: u8,
    /// 0 the master, 1…n the slots.
    pub slot: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<ServiceKey>() == 24);
layout!(ServiceKey: address, port, protocol, family, slot, reserved);

impl ServiceKey {
    /// The frontend's master.
    #[inline(always)]
    pub const fn master(family: Family, address: [u8; 16], port: Be16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            family: family as u8,
            slot: 0,
            reserved: 0,
        }
    }

    /// One of the same frontend's slots.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, slot: u16) -> Self {
        Self { slot, ..self }
    }

    #[inline(always)]
    const fn fingerprint(&self) -> u64 {
        let [high, low] = halves(&self.address);
        let rest = self.port.get() as u64
            | ((self.protocol as u64) << 16)
            | ((self.family as u64) << 24)
            | ((self.slot as u64) << 32);
        mix(mix(mix(0, high), low), rest)
    }
}

/// What is under a [`ServiceKey`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct ServiceValue {
    /// Under slot 0 a [`ServiceWord`], else a backend id.
    pub word: u64,
    /// `word` combined with the key.
    pub check: u64,
}
const _: () = assert!(size_of::<ServiceValue>() == 16);
layout!(ServiceValue: word, check);

impl ServiceValue {
    /// The value of `key`.
    #[inline(always)]
    pub const fn new(key: &ServiceKey, word: u64) -> Self {
        Self {
            word,
            check: key.fingerprint().wrapping_add(word),
        }
    }

    /// The word, if this is the value of `key`.
    #[inline(always)]
    pub const fn of(&self, key: &ServiceKey) -> Option<u64> {
        if self.check == key.fingerprint().wrapping_add(self.word) {
            Some(self.word)
        } else {
            None
        }
    }
}

/// A frontend's master: slots (16 bits), id (16), affinity timeout in seconds (24), flags (8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ServiceWord(pub u64);

impl ServiceWord {
    /// Packs; timeouts above [`AFFINITY_TIMEOUT_MAX`] become that. 0 is no affinity.
    #[inline(always)]
    pub const fn new(id: u16, slots: u16, affinity: u32) -> Self {
        let affinity = if affinity > AFFINITY_TIMEOUT_MAX {
            AFFINITY_TIMEOUT_MAX
        } else {
            affinity
        };
        Self(slots as u64 | ((id as u64) << 16) | ((affinity as u64) << 32))
    }

    /// How many slots there are.
    #[inline(always)]
    pub const fn slots(self) -> u16 {
        self.0 as u16
    }

    /// The frontend's id, its key in the reverse NAT map.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Seconds that a client stays with its backend after its last flow; 0 for no affinity.
    #[inline(always)]
    pub const fn affinity(self) -> u32 {
        (self.0 >> 32) as u32 & AFFINITY_TIMEOUT_MAX
    }
}

/// An address of load balancing: a backend under its id, or a frontend under its id.
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
#[repr(C, align(8))]
pub struct LbAddress {
    /// In network order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
    /// Port.
    pub port: Be16,
    /// The frontend's id, of a backend and of the frontend itself.
    pub frontend: u16,
    /// IP protocol.
    pub protocol: u8,
    /// [`Family`] as a number.
    pub family: u8,
    /// [`LbState`] as a number.
    pub state: u8,
    /// Zero.
    pub reserved: u8,
    /// While it rests, a number that grows with each plan that lets something rest; else 0.
    pub resting: u32,
    /// All of the above combined with the id.
    pub check: u32,
}
const _: () = assert!(size_of::<LbAddress>() == 32);
layout!(LbAddress: address, port, frontend, protocol, family, state, reserved, resting, check);

/// Whether an [`LbAddress`] is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LbState {
    /// New flows may go there.
    Active = 1,
    /// Flows that go there already go on; for UDP and SCTP another backend is chosen.
    Resting = 2,
}

impl LbAddress {
    /// This value with the check of `id`.
    #[must_use]
    pub const fn sealed(mut self, id: u32) -> Self {
        self.check = self.seal(id);
        self
    }

    /// This is the value of `id`.
    #[inline(always)]
    pub const fn is_of(&self, id: u32) -> bool {
        self.check == self.seal(id)
    }

    /// Its state; none if its byte is none.
    #[inline(always)]
    pub const fn state(&self) -> Option<LbState> {
        match self.state {
            1 => Some(LbState::Active),
            2 => Some(LbState::Resting),
            _ => None,
        }
    }

    /// New flows may go there.
    #[inline(always)]
    pub const fn is_active(&self) -> bool {
        self.state == LbState::Active as u8
    }

    #[inline(always)]
    const fn seal(&self, id: u32) -> u32 {
        let [high, low] = halves(&self.address);
        let rest = self.port.get() as u64
            | ((self.frontend as u64) << 16)
            | ((self.protocol as u64) << 32)
            | ((self.family as u64) << 40)
            | ((self.state as u64) << 48);
        let own = ((id as u64) << 32) | self.resting as u64;
        // Never 0: a value of zeros is nobody's.
        mix(mix(mix(mix(0, high), low), rest), own) as u32 | 1
    }
}

/// A backend and 40 bits of [`bind`], in one word: what a flow or a client remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ChoiceWord(pub u64);

impl ChoiceWord {
    /// Packs.
    #[inline(always)]
    pub const fn new(backend: u32, bound: u64) -> Self {
        Self((bound << 24) | (backend & BACKEND_ID_MAX) as u64)
    }

    /// The backend's id.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.0 as u32 & BACKEND_ID_MAX
    }
}

/// The backend that a flow to a frontend goes to; under the flow's conntrack key with the frontend as
/// the peer and [`crate::FlowKind::Service`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct ServiceFlow {
    /// [`ChoiceWord`].
    pub word: u64,
    /// End of life, in seconds of the monotonic clock.
    pub expires: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<ServiceFlow>() == 16);
layout!(ServiceFlow: word, expires, reserved);

/// A client of a frontend with affinity.
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
pub struct AffinityKey {
    /// The client: an endpoint of this node.
    pub endpoint: u16,
    /// The frontend's id.
    pub frontend: u16,
}
const _: () = assert!(size_of::<AffinityKey>() == 4);
layout!(AffinityKey: endpoint, frontend);

/// The backend that a client stays with.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Affinity {
    /// [`ChoiceWord`].
    pub word: u64,
    /// Last use, in seconds of the monotonic clock.
    pub used: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Affinity>() == 16);
layout!(Affinity: word, used, reserved);

/// What a conntrack entry remembers of the frontend that its flow was sent to: the id (low 16 bits)
/// and 16 bits of [`bind`]. 0 for a flow that was not translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct NatWord(pub u32);

impl NatWord {
    /// Not translated.
    pub const NONE: Self = Self(0);

    /// Packs.
    #[inline(always)]
    pub const fn new(frontend: u16, bound: u64) -> Self {
        Self(frontend as u32 | ((bound as u32) << 16))
    }

    /// The frontend's id; 0 for none.
    #[inline(always)]
    pub const fn frontend(self) -> u16 {
        self.0 as u16
    }
}
