//! The ipcache: which addresses change their identity, and the writes that make them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Bound;

use ipnet::IpNet;
use oxilium_abi::{Family, IPCACHE_PREFIX_BASE, IpcacheKey, IpcacheValue};

use super::content::Moves;
use super::{Reason, Step, Write};
use crate::identity::NumericIdentity;
use crate::node_state::{Ipcache, IpcacheTarget};
use crate::observed::Observed;

/// The kernel's key of a prefix.
pub fn ipcache_key(prefix: IpNet) -> IpcacheKey {
    match prefix.trunc() {
        IpNet::V4(net) => IpcacheKey::v4(net.addr().octets(), net.prefix_len()),
        IpNet::V6(net) => IpcacheKey::v6(net.addr().octets(), net.prefix_len()),
    }
}

/// The prefix of a kernel's key; none for a key that no prefix has.
pub fn ipcache_prefix(key: &IpcacheKey) -> Option<IpNet> {
    let len = u8::try_from(key.prefix_len.checked_sub(IPCACHE_PREFIX_BASE)?).ok()?;
    let address = if key.family == Family::V4 as u8 {
        let [a, b, c, d, ..] = key.address;
        IpAddr::from([a, b, c, d])
    } else if key.family == Family::V6 as u8 {
        IpAddr::V6(Ipv6Addr::from(key.address))
    } else {
        return None;
    };
    let prefix = IpNet::new(address, len).ok()?.trunc();
    (ipcache_key(prefix) == *key).then_some(prefix)
}

/// The kernel's value for a target, the same in both banks.
pub fn ipcache_value(target: &IpcacheTarget) -> IpcacheValue {
    let mut value = IpcacheValue::level(target.identity.0);
    if let Some(address) = target.tunnel_endpoint {
        value.tunnel_endpoint[..4].copy_from_slice(&address.octets());
    }
    value
}

fn shortened(key: &IpcacheKey, prefix_len: u32) -> IpcacheKey {
    let bits = prefix_len.saturating_sub(IPCACHE_PREFIX_BASE).min(128);
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let mut shorter = *key;
    shorter.prefix_len = prefix_len;
    shorter.address = (u128::from_be_bytes(key.address) & mask).to_be_bytes();
    shorter
}

/// The difference between the ipcache that is there and the one that shall be.
pub(super) struct AddressDiff<'a> {
    observed: &'a BTreeMap<IpcacheKey, IpcacheValue>,
    desired: &'a Ipcache,
    /// The bank that programs read now.
    bank: u32,
    /// By family, the lengths of prefixes of either.
    lengths: BTreeSet<(u8, u32)>,
    /// Prefixes that are not there as they shall be. All others are, in both banks.
    differing: BTreeSet<IpcacheKey>,
    /// Those of them whose identity in the bank in use differs, is not there, or shall not be.
    changed: Vec<IpcacheKey>,
    pub(super) moves: Moves,
}

impl<'a> AddressDiff<'a> {
    pub(super) fn new(observed: &'a Observed, desired: &'a Ipcache) -> Self {
        let mut diff = Self {
            bank: observed.ipcache_word().bank(),
            observed: &observed.ipcache,
            desired,
            lengths: lengths(&observed.ipcache),
            differing: BTreeSet::new(),
            changed: Vec::new(),
            moves: Moves::default(),
        };
        diff.differing = match observed.settled_ipcache.what() {
            Some(settled) => settled
                .differing(desired)
                .map(|entry| ipcache_key(*entry.key))
                .collect(),
            None => diff.compare_all(),
        };
        let lengths = diff
            .differing
            .iter()
            .map(|key| (key.family, key.prefix_len));
        diff.lengths.extend(lengths);
        diff.find_changes();
        diff
    }

    fn compare_all(&self) -> BTreeSet<IpcacheKey> {
        let keys = self.desired.keys().map(|prefix| ipcache_key(*prefix));
        let others = |key: &IpcacheKey| self.observed.get(key).copied() != self.wanted(key);
        let gone = |key: &&IpcacheKey| self.wanted(key).is_none();
        let gone = self.observed.keys().filter(gone).copied();
        keys.filter(others).chain(gone).collect()
    }

    fn wanted(&self, key: &IpcacheKey) -> Option<IpcacheValue> {
        let target = self.desired.get(&ipcache_prefix(key)?)?;
        Some(ipcache_value(target))
    }

    fn find_changes(&mut self) {
        for key in &self.differing {
            let now = self.observed.get(key).map(|v| v.identity(self.bank));
            let then = self.wanted(key).map(|v| v.identity(self.bank));
            if now == then {
                continue;
            }
            self.changed.push(*key);
            let (from, to) = (self.old_identity(key), self.new_identity(key));
            if from != to {
                self.moves.from.insert(NumericIdentity(from));
                self.moves.to.insert(NumericIdentity(to));
            }
        }
    }

    /// The identity that an address of the key's prefix has which no longer prefix covers, in the bank in use.
    fn old_identity(&self, key: &IpcacheKey) -> u32 {
        self.longest(key, |key| {
            self.observed.get(key).map(|v| v.identity(self.bank))
        })
    }

    /// The identity that it shall have.
    fn new_identity(&self, key: &IpcacheKey) -> u32 {
        self.longest(key, |key| self.wanted(key).map(|v| v.identity(self.bank)))
    }

    /// By the longest prefix around. As the programs have it, an address that nothing covers is the world of its family.
    fn longest(&self, key: &IpcacheKey, find: impl Fn(&IpcacheKey) -> Option<u32>) -> u32 {
        self.lengths
            .range((key.family, 0)..=(key.family, key.prefix_len))
            .rev()
            .find_map(|(_, len)| find(&shortened(key, *len)))
            .unwrap_or(if key.family == Family::V4 as u8 {
                NumericIdentity::WORLD_IPV4.0
            } else {
                NumericIdentity::WORLD_IPV6.0
            })
    }

    /// Both banks of what is there hold the same.
    pub(super) fn is_level(&self) -> bool {
        let level = |key: &IpcacheKey| {
            let value = self.observed.get(key);
            value.is_none_or(|value| value.identity(0) == value.identity(1))
        };
        self.differing.iter().all(level)
    }

    /// The writes in place. Every address changes once, from its old identity to its new one: longer
    /// prefixes are there before shorter ones and go after them.
    pub(super) fn in_place(&self) -> Vec<Step> {
        let insert = |key: &IpcacheKey| {
            let value = self.wanted(key)?;
            let is_new = !self.observed.contains_key(key);
            is_new.then(|| upsert(*key, value, Reason::AddressChange))
        };
        let update = |key: &IpcacheKey| {
            let (old, value) = (self.observed.get(key)?, self.wanted(key)?);
            let moves = old.identity(self.bank) != value.identity(self.bank);
            let reason = if moves {
                Reason::AddressChange
            } else {
                Reason::Repair
            };
            (*old != value).then(|| upsert(*key, value, reason))
        };
        // Keys sort by length first.
        let mut steps: Vec<Step> = self.changed.iter().rev().filter_map(insert).collect();
        steps.extend(self.differing.iter().filter_map(update));
        steps.extend(self.deletions());
        steps
    }

    /// The writes that fill the bank which is not read, and change nothing in the one that is.
    pub(super) fn fill_other_bank(&self) -> Vec<Step> {
        let other = 1 - self.bank;
        let fill = |key: &IpcacheKey| {
            let old = self.observed.get(key).copied();
            let value = self
                .wanted(key)
                .or(old)?
                .with_identity(self.bank, self.old_identity(key))
                .with_identity(other, self.new_identity(key));
            (old != Some(value)).then(|| upsert(*key, value, Reason::AddressChange))
        };
        self.differing.iter().filter_map(fill).collect()
    }

    /// The writes that bring the banks level once the other one is read.
    pub(super) fn level(&self) -> Vec<Step> {
        let other = 1 - self.bank;
        let update = |key: &IpcacheKey| {
            let value = self.wanted(key)?;
            let filled = value.with_identity(self.bank, self.old_identity(key));
            debug_assert_eq!(filled.identity(other), value.identity(other));
            (filled != value).then(|| upsert(*key, value, Reason::AddressChange))
        };
        let mut steps: Vec<Step> = self.differing.iter().filter_map(update).collect();
        steps.extend(self.deletions());
        steps
    }

    fn deletions(&self) -> impl Iterator<Item = Step> {
        self.changed
            .iter()
            .filter(|key| self.wanted(key).is_none())
            .map(|key| Step::new(Write::IpcacheDelete { key: *key }, Reason::AddressChange))
    }
}

const fn upsert(key: IpcacheKey, value: IpcacheValue, reason: Reason) -> Step {
    Step::new(Write::IpcacheUpsert { key, value }, reason)
}

/// The lengths of prefixes that there are, by family. Keys sort by both first, so most are passed over.
fn lengths(map: &BTreeMap<IpcacheKey, IpcacheValue>) -> BTreeSet<(u8, u32)> {
    let mut lengths = BTreeSet::new();
    let mut next = map.keys().next();
    while let Some(key) = next {
        lengths.insert((key.family, key.prefix_len));
        let mut last = *key;
        last.address = [u8::MAX; 16];
        let after = (Bound::Excluded(last), Bound::Unbounded);
        next = map.range(after).map(|(key, _)| key).next();
    }
    lengths
}
