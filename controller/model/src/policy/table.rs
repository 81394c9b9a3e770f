//! Policy tables as the kernel looks them up, and that lookup: the reference for the packet code.
//!
//! The verdict of a packet is the **maximum** over all entries that match it, by precedence, then length of
//! protocol and port prefix, then identity (its own, its aggregate, any). An entry's `auth` is final:
//! what a wider rule adds is in the entry already, so the packet code looks at the winner alone.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use oxilium_abi::{
    AuthRequirement, Direction, POLICY_CLASS_ALLOW, Precedence, ShapeMask, ShapeWord,
};

use super::l7::Redirect;
use super::port::PortPrefix;
use super::rule::RuleRef;
use crate::identity::{NumericIdentity, Protocol};

/// Key of an entry, within a direction of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The remote identity; [`NumericIdentity::ANY`] any, or an aggregate.
    pub identity: NumericIdentity,
    /// The protocol; [`Protocol::ANY`] every protocol, and then `port` is [`PortPrefix::ANY`].
    pub protocol: Protocol,
    /// The ports; for ICMP the types.
    pub port: PortPrefix,
}

impl EntryKey {
    /// Every packet.
    pub const ALL: Self = Self {
        identity: NumericIdentity::ANY,
        protocol: Protocol::ANY,
        port: PortPrefix::ANY,
    };

    /// Bits of protocol and port that count: 0, 8 (a protocol), 9…24.
    pub fn prefix_length(&self) -> u8 {
        if self.protocol == Protocol::ANY {
            0
        } else {
            8 + self.port.length()
        }
    }

    /// Index of the shape, as `oxilium_abi::ShapeMask` numbers them.
    pub fn shape(&self) -> u32 {
        ShapeMask::shape((self.protocol != Protocol::ANY).then(|| self.port.length()))
    }

    /// Holds the packets to or from `identity` with this protocol and port.
    pub fn matches(&self, packet: Packet, local_cluster: u8) -> bool {
        covers_identity(self.identity, packet.identity, local_cluster)
            && (self.protocol == Protocol::ANY
                || self.protocol == packet.protocol && self.port.contains(packet.port))
    }

    /// Holds every packet that `other` holds.
    pub fn covers(&self, other: &Self, local_cluster: u8) -> bool {
        covers_identity(self.identity, other.identity, local_cluster)
            && (self.protocol == Protocol::ANY
                || self.protocol == other.protocol && self.port.covers(other.port))
    }

    /// The packets that both hold: a key again, for identities, protocols and ports are nested or disjoint.
    pub fn intersection(&self, other: &Self, local_cluster: u8) -> Option<Self> {
        let identity = if covers_identity(self.identity, other.identity, local_cluster) {
            other.identity
        } else if covers_identity(other.identity, self.identity, local_cluster) {
            self.identity
        } else {
            return None;
        };
        let narrow = |wide: &Self, narrow: &Self| {
            wide.protocol == Protocol::ANY
                || wide.protocol == narrow.protocol && wide.port.covers(narrow.port)
        };
        let l4 = if narrow(self, other) {
            other
        } else if narrow(other, self) {
            self
        } else {
            return None;
        };
        Some(Self {
            identity,
            protocol: l4.protocol,
            port: l4.port,
        })
    }
}

/// `wide` stands for all that `narrow` stands for.
fn covers_identity(wide: NumericIdentity, narrow: NumericIdentity, local_cluster: u8) -> bool {
    wide == NumericIdentity::ANY
        || wide == narrow
        || wide.is_aggregate() && wide == narrow.aggregate(local_cluster)
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.identity {
            NumericIdentity::ANY => f.write_str("any")?,
            identity => write!(f, "{identity}")?,
        }
        write!(f, " {}", self.protocol)?;
        if self.protocol == Protocol::ANY || self.port == PortPrefix::ANY {
            return Ok(());
        }
        write!(f, "/{}", self.port)
    }
}

/// Hashes keys of entries quickly. They are made of numbers that we give and of ports that policies name:
/// nothing that a pod could choose to make them collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EntryHasher(u64);

impl EntryHasher {
    fn add(&mut self, value: u64) {
        // The golden ratio: an odd constant that spreads small numbers over all bits.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for EntryHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.add(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }
}

/// Something for each entry.
pub(crate) type EntryMap<V> = HashMap<EntryKey, V, BuildHasherDefault<EntryHasher>>;

/// What of a packet a policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// The remote identity.
    pub identity: NumericIdentity,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port of the flow, or ICMP type; 0 where the protocol has neither.
    pub port: u16,
}

/// An entry's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Precedence and verdict class.
    pub precedence: Precedence,
    /// Final: nothing is to be inherited at lookup.
    pub auth: AuthRequirement,
    /// The proxy that it hands flows to, where the class says so.
    pub redirect: Option<Redirect>,
    /// The rules that it comes from; never part of the kernel's table.
    pub origins: Origins,
}

impl Entry {
    /// As [`oxilium_abi::PolicyValue::restricts`].
    fn restricts(&self, identity: NumericIdentity) -> bool {
        let allows = self.precedence.class() == POLICY_CLASS_ALLOW && self.redirect.is_none();
        self.auth.kind() != 0 || identity != NumericIdentity::ANY && !allows
    }

    /// The same for every packet: all but precedence and origins.
    pub(crate) fn same_verdict(&self, other: &Self) -> bool {
        self.precedence == other.precedence
            && self.auth == other.auth
            && self.redirect == other.redirect
    }
}

/// Where entries come from: sorted, each once.
pub type Origins = Arc<[Origin]>;

/// Where an entry comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A rule of a policy object.
    Rule(Arc<RuleRef>),
    /// What holds without a rule.
    BuiltIn(BuiltIn),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => fmt::Display::fmt(rule, f),
            Self::BuiltIn(built_in) => f.write_str(built_in.text()),
        }
    }
}

/// What holds without a rule of any object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BuiltIn {
    /// The direction is not enforced, or only rules without default deny select the subject.
    AllowAny,
    /// The local node may reach its pods.
    AllowLocalhost,
    /// What a Pass leaves to nobody, under default deny.
    DenyAny,
}

impl BuiltIn {
    /// Text for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AllowAny => "allowed by default",
            Self::AllowLocalhost => "allowed: the local node (allow-localhost)",
            Self::DenyAny => "denied by default",
        }
    }
}

/// The union of two sets of origins.
pub(crate) fn merge_origins(a: &Origins, b: &Origins) -> Origins {
    if b.iter().all(|origin| a.binary_search(origin).is_ok()) {
        return a.clone();
    }
    let mut all: Vec<Origin> = a.iter().chain(b.iter()).cloned().collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

/// One direction of a subject's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionTable {
    /// What nothing allows is dropped. Otherwise one entry allows everything.
    pub enforced: bool,
    entries: Arc<[(EntryKey, Entry)]>,
}

impl DirectionTable {
    /// From entries in any order; the last of equal keys stays.
    pub fn new(enforced: bool, entries: impl IntoIterator<Item = (EntryKey, Entry)>) -> Self {
        let sorted: BTreeMap<EntryKey, Entry> = entries.into_iter().collect();
        Self {
            enforced,
            entries: sorted.into_iter().collect(),
        }
    }

    /// From entries that are sorted by key, each key once.
    pub(crate) fn from_sorted(enforced: bool, entries: Vec<(EntryKey, Entry)>) -> Self {
        debug_assert!(
            entries.is_sorted_by(|a, b| a.0 < b.0),
            "entries are not sorted"
        );
        Self {
            enforced,
            entries: entries.into(),
        }
    }

    /// Sorted by key.
    pub fn entries(&self) -> &[(EntryKey, Entry)] {
        &self.entries
    }

    /// The entry of a key.
    pub fn get(&self, key: &EntryKey) -> Option<&Entry> {
        let index = self.entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        Some(&self.entries[index].1)
    }

    /// The shapes in use, for the programs' tuple-space search.
    pub fn shapes(&self) -> ShapeWord {
        let mut masks = [0_u32; 3];
        let mut restricts = false;
        for (key, entry) in self.entries.iter() {
            masks[usize::from(kind(key.identity))] |= 1 << key.shape();
            restricts |= entry.restricts(key.identity);
        }
        let [any, aggregate, specific] = masks.map(ShapeMask);
        let word = ShapeWord::new(specific, aggregate, any);
        if restricts { word.restricting() } else { word }
    }

    /// The entry that decides a packet; none: it is dropped.
    pub fn lookup(&self, packet: Packet, local_cluster: u8) -> Option<(&EntryKey, &Entry)> {
        let identities = lineage(packet.identity, local_cluster);
        candidates(&identities, packet)
            .filter_map(|key| {
                let index = self.entries.binary_search_by(|(k, _)| k.cmp(&key)).ok()?;
                let (key, entry) = &self.entries[index];
                Some((key, entry))
            })
            .max_by_key(|(key, entry)| rank(key, entry.precedence))
    }
}

/// By what the greatest of several matching entries is the winner.
pub(crate) fn rank(key: &EntryKey, precedence: Precedence) -> (Precedence, u8, u8) {
    (precedence, key.prefix_length(), kind(key.identity))
}

/// 2 for an identity, 1 for an aggregate, 0 for any.
pub(crate) fn kind(identity: NumericIdentity) -> u8 {
    match identity {
        NumericIdentity::ANY => 0,
        identity if identity.is_aggregate() => 1,
        _ => 2,
    }
}

/// An identity, its aggregate, and any: under which it may stand in a table. May repeat.
pub(crate) fn lineage(identity: NumericIdentity, local_cluster: u8) -> [NumericIdentity; 3] {
    [
        identity,
        identity.aggregate(local_cluster),
        NumericIdentity::ANY,
    ]
}

/// All keys that match a packet, as one of `identities`.
fn candidates(
    identities: &[NumericIdentity; 3],
    packet: Packet,
) -> impl Iterator<Item = EntryKey> + '_ {
    identities.iter().flat_map(move |identity| {
        let l4 = (0..=16).map(move |length| EntryKey {
            identity: *identity,
            protocol: packet.protocol,
            port: PortPrefix::of(packet.port, length),
        });
        let any = EntryKey {
            identity: *identity,
            ..EntryKey::ALL
        };
        l4.chain(std::iter::once(any))
    })
}

/// A subject's policy in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTable {
    /// To the subject.
    pub ingress: DirectionTable,
    /// From the subject.
    pub egress: DirectionTable,
}

impl PolicyTable {
    /// One direction.
    pub fn direction(&self, direction: Direction) -> &DirectionTable {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Entries of both directions: what it takes in the kernel.
    pub fn len(&self) -> usize {
        self.ingress.entries.len() + self.egress.entries.len()
    }

    /// Allows nothing, in either direction.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
