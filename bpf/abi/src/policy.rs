//! Policy tables: all in one hash map, keyed by table.
//!
//! # Lookup
//!
//! A packet's verdict is the **maximum** over all entries of the endpoint's table that match it, by
//! precedence, then length of the protocol and port prefix, then specificity of the identity
//! (its own, its aggregate, any). The programs search the tuple space: a [`ShapeWord`] for a table
//! and direction says which prefix lengths occur for the three kinds of identity, and each is one
//! hash lookup. A true maximum (not the first longest prefix) makes every order "add from the
//! highest, then delete from the lowest" safe between any two writes.
//!
//! # Values move under a reader
//!
//! The kernel reuses a freed element for the next key at once, so a program may read another key's
//! value. [`PolicyValue::check`] binds a value to its key: a reader that finds it wrong looks up again.

use core::cmp::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::layout;
use crate::net::{Be16, Direction};

/// Low byte of a precedence: a deny.
pub const POLICY_CLASS_DENY: u8 = 255;
/// Low byte of a precedence: a plain allow. Between it and deny lie the redirects to a proxy.
pub const POLICY_CLASS_ALLOW: u8 = 1;

/// Key of a policy entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PolicyKey {
    /// Policy table, 1…2²⁴-1.
    #[cfg(not(feature = "test-layout"))]
    pub table: u32,
    /// Remote identity; 0 any, 11…14 aggregates.
    pub identity: u32,
    /// Policy table, 1…2²⁴-1.
    #[cfg(feature = "test-layout")]
    pub table: u32,
    /// Destination port with the bits behind the prefix zero; for ICMP the type. 0 where the shape has no port.
    pub port: Be16,
    /// IP protocol; 0 any (then there is no port).
    pub protocol: u8,
    /// Bit 7 the [`Direction`], bits 0…4 the shape's index ([`ShapeMask`]).
    pub direction_shape: u8,
}
const _: () = assert!(size_of::<PolicyKey>() == 12);
layout!(PolicyKey: table, identity, port, protocol, direction_shape);

/// By table first, wherever it stands in memory: the entries of one lie together.
impl Ord for PolicyKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = |key: &Self| {
            let Self {
                table,
                identity,
                port,
                protocol,
                direction_shape,
            } = *key;
            (table, identity, port, protocol, direction_shape)
        };
        parts(self).cmp(&parts(other))
    }
}

impl PartialOrd for PolicyKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PolicyKey {
    /// Direction and shape in one byte.
    #[inline(always)]
    pub const fn pack(direction: Direction, shape: u32) -> u8 {
        ((direction as u8) << 7) | (shape as u8 & 0x1F)
    }

    /// The direction.
    pub const fn direction(&self) -> Direction {
        if self.direction_shape & 0x80 == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// Index of the shape.
    pub const fn shape(&self) -> u32 {
        (self.direction_shape & 0x1F) as u32
    }

    /// 64 bits that depend on each bit of the key; not secret, not collision-free.
    #[inline(always)]
    pub const fn fingerprint(&self) -> u64 {
        let a = ((self.table as u64) << 32) | self.identity as u64;
        let b = ((self.port.get() as u64) << 16)
            | ((self.protocol as u64) << 8)
            | self.direction_shape as u64;
        // Odd constants of the golden ratio and of xxHash64; a bijection in each argument.
        a.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
            ^ b.wrapping_mul(0xC2B2_AE3D_27D4_EB4F)
    }
}

/// Verdict of a policy entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct PolicyValue {
    /// [`Precedence`] (high 32 bits), proxy port in host order (16), [`AuthRequirement`] (8), zero (8).
    pub word: u64,
    /// `word` combined with the key's fingerprint.
    pub check: u64,
}
const _: () = assert!(size_of::<PolicyValue>() == 16);
layout!(PolicyValue: word, check);

impl PolicyValue {
    /// The value of `key`.
    #[inline(always)]
    pub const fn new(
        key: &PolicyKey,
        precedence: Precedence,
        proxy_port: u16,
        auth: AuthRequirement,
    ) -> Self {
        let word =
            ((precedence.0 as u64) << 32) | ((proxy_port as u64) << 16) | ((auth.0 as u64) << 8);
        Self {
            word,
            check: Self::seal(key, word),
        }
    }

    /// Because of this entry some identity may get less than what entries for any identity allow: it names one and does
    /// more than allow, or it asks for authentication, which others inherit.
    pub const fn restricts(&self, key: &PolicyKey) -> bool {
        let allows = self.precedence().class() == POLICY_CLASS_ALLOW && self.proxy_port() == 0;
        self.auth().kind() != 0 || key.identity != 0 && !allows
    }

    /// What `check` must be for `word` under `key`.
    #[inline(always)]
    pub const fn seal(key: &PolicyKey, word: u64) -> u64 {
        key.fingerprint().wrapping_add(word)
    }

    /// Precedence and verdict class.
    #[inline(always)]
    pub const fn precedence(&self) -> Precedence {
        Precedence((self.word >> 32) as u32)
    }

    /// Port of the proxy in host order, 0 for none.
    #[inline(always)]
    pub const fn proxy_port(&self) -> u16 {
        (self.word >> 16) as u16
    }

    /// What authentication the entry asks for.
    #[inline(always)]
    pub const fn auth(&self) -> AuthRequirement {
        AuthRequirement((self.word >> 8) as u8)
    }
}

/// Key of what an entry of an endpoint's policy table has decided: the entry's key, for the endpoint and not for the table,
/// which others share and which is built anew.
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
pub struct PolicyCountKey {
    /// As [`PolicyKey::identity`].
    pub identity: u32,
    /// The endpoint's id.
    pub endpoint: u16,
    /// As [`PolicyKey::port`].
    pub port: Be16,
    /// As [`PolicyKey::protocol`].
    pub protocol: u8,
    /// As [`PolicyKey::direction_shape`].
    pub direction_shape: u8,
    reserved: [u8; 2],
}
const _: () = assert!(size_of::<PolicyCountKey>() == 12);

impl PolicyCountKey {
    /// Of an entry in the table of `endpoint`.
    #[inline(always)]
    pub const fn of(endpoint: u16, key: &PolicyKey) -> Self {
        Self {
            identity: key.identity,
            endpoint,
            port: key.port,
            protocol: key.protocol,
            direction_shape: key.direction_shape,
            reserved: [0; 2],
        }
    }
}

/// Precedence as Cilium 1.20 numbers it: `(0xFFFFFF - priority) << 8 | class`; higher wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Precedence(pub u32);

impl Precedence {
    /// The verdict class, the low byte.
    #[inline(always)]
    pub const fn class(self) -> u8 {
        self.0 as u8
    }

    /// A deny entry.
    #[inline(always)]
    pub const fn is_deny(self) -> bool {
        self.class() == POLICY_CLASS_DENY
    }

    /// An entry that hands the flow to a proxy.
    #[inline(always)]
    pub const fn is_redirect(self) -> bool {
        self.class() > POLICY_CLASS_ALLOW && self.class() < POLICY_CLASS_DENY
    }
}

/// Authentication that an entry asks for: type in bits 0…6 (0 none), bit 7 set where a policy said so itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct AuthRequirement(pub u8);

impl AuthRequirement {
    /// The type; 0 means none is required.
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        self.0 & 0x7F
    }

    /// A policy named this type itself (it is not inherited from another entry).
    #[inline(always)]
    pub const fn is_explicit(self) -> bool {
        self.0 & 0x80 != 0
    }
}

/// The shapes of entries in use, for one kind of identity: bit 0 any protocol, bit `1 + n` a protocol
/// with an n-bit port prefix (so bit 17 is an exact port). Higher bits are longer prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ShapeMask(pub u32);

impl ShapeMask {
    /// Number of shapes.
    pub const SHAPES: u32 = 18;
    /// All shapes.
    pub const ALL: Self = Self((1 << Self::SHAPES) - 1);

    /// Index of the shape: none for any protocol, else the length of the port prefix (0…16).
    #[inline(always)]
    pub const fn shape(port_prefix: Option<u8>) -> u32 {
        match port_prefix {
            None => 0,
            Some(length) => 1 + length as u32,
        }
    }

    /// The port bits that a shape compares, in host order.
    #[inline(always)]
    pub const fn port_mask(shape: u32) -> u16 {
        if shape <= 1 {
            0
        } else {
            // shape - 1 is the prefix length, 1…16.
            (0xFFFF_u32 << (17 - shape)) as u16
        }
    }
}

/// The three [`ShapeMask`]s of a table and direction: specific identities, aggregates, any identity. Beside them, whether
/// some identity may less than what entries for any identity allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ShapeWord(pub u64);

impl ShapeWord {
    const RESTRICTS: u64 = 1 << 63;

    /// Packs the masks.
    pub const fn new(specific: ShapeMask, aggregate: ShapeMask, any: ShapeMask) -> Self {
        Self(specific.0 as u64 | ((aggregate.0 as u64) << 18) | ((any.0 as u64) << 36))
    }

    /// Shapes of entries for identities 16 and above and 1…10.
    #[inline(always)]
    pub const fn specific(self) -> ShapeMask {
        ShapeMask(self.0 as u32 & ShapeMask::ALL.0)
    }

    /// Shapes of entries for aggregates 11…14.
    #[inline(always)]
    pub const fn aggregate(self) -> ShapeMask {
        ShapeMask((self.0 >> 18) as u32 & ShapeMask::ALL.0)
    }

    /// Shapes of entries for any identity (0).
    #[inline(always)]
    pub const fn any(self) -> ShapeMask {
        ShapeMask((self.0 >> 36) as u32 & ShapeMask::ALL.0)
    }

    /// Some identity may less than what entries for any identity allow. Without this, what those allow whoever it is may.
    #[inline(always)]
    pub const fn restricts(self) -> bool {
        self.0 & Self::RESTRICTS != 0
    }

    /// This word, which [restricts](Self::restricts).
    #[must_use]
    pub const fn restricting(self) -> Self {
        Self(self.0 | Self::RESTRICTS)
    }
}

/// Index of the shape word of a table and direction in the array.
#[inline(always)]
pub const fn shape_word_index(table: u32, direction: Direction) -> u32 {
    (table << 1) | direction as u32
}
