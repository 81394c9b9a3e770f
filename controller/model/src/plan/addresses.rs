//! The ipcache: which addresses change their identity, and the writes that make them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use oxilium_abi::{Family, IPCACHE_PREFIX_BASE, IpcacheKey, IpcacheValue};

use super::content::Moves;
use super::{Reason, Step, Write};
use crate::identity::NumericIdentity;
use crate::node_state::IpcacheTarget;

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

/// Prefixes with identities, asked by longest prefix.
struct Resolver {
    identities: BTreeMap<IpcacheKey, u32>,
    lengths: BTreeSet<(u8, u32)>,
}

impl Resolver {
    fn new(identities: BTreeMap<IpcacheKey, u32>) -> Self {
        let lengths = identities
            .keys()
            .map(|key| (key.family, key.prefix_len))
            .collect();
        Self {
            identities,
            lengths,
        }
    }

    /// The identity that an address of `key`'s prefix gets which no longer prefix covers. As the programs
    /// have it, an address that nothing covers is the world of its family.
    fn resolve(&self, key: &IpcacheKey) -> u32 {
        self.lengths
            .range((key.family, 0)..=(key.family, key.prefix_len))
            .rev()
            .find_map(|(_, len)| self.identities.get(&shortened(key, *len)))
            .copied()
            .unwrap_or(if key.family == Family::V4 as u8 {
                NumericIdentity::WORLD_IPV4.0
            } else {
                NumericIdentity::WORLD_IPV6.0
            })
    }
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
    wanted: BTreeMap<IpcacheKey, IpcacheValue>,
    /// The bank that programs read now.
    bank: u32,
    old: Resolver,
    new: Resolver,
    /// Prefixes whose identity in the bank in use differs, is not there, or shall not be.
    changed: Vec<IpcacheKey>,
    pub(super) moves: Moves,
}

impl<'a> AddressDiff<'a> {
    pub(super) fn new(
        observed: &'a BTreeMap<IpcacheKey, IpcacheValue>,
        desired: &BTreeMap<IpNet, IpcacheTarget>,
        bank: u32,
    ) -> Self {
        let wanted: BTreeMap<_, _> = desired
            .iter()
            .map(|(prefix, target)| (ipcache_key(*prefix), ipcache_value(target)))
            .collect();
        let identities = |map: &BTreeMap<IpcacheKey, IpcacheValue>| {
            map.iter()
                .map(|(key, value)| (*key, value.identity(bank)))
                .collect()
        };
        let mut diff = Self {
            bank,
            old: Resolver::new(identities(observed)),
            new: Resolver::new(identities(&wanted)),
            changed: Vec::new(),
            moves: Moves::default(),
            observed,
            wanted,
        };
        diff.find_changes();
        diff
    }

    fn find_changes(&mut self) {
        let keys: BTreeSet<&IpcacheKey> = self.observed.keys().chain(self.wanted.keys()).collect();
        for key in keys {
            let now = self.observed.get(key).map(|v| v.identity(self.bank));
            let then = self.wanted.get(key).map(|v| v.identity(self.bank));
            if now == then {
                continue;
            }
            self.changed.push(*key);
            let (from, to) = (self.old.resolve(key), self.new.resolve(key));
            if from != to {
                self.moves.from.insert(NumericIdentity(from));
                self.moves.to.insert(NumericIdentity(to));
            }
        }
    }

    /// The writes in place. Every address changes once, from its old identity to its new one: longer
    /// prefixes are there before shorter ones and go after them.
    pub(super) fn in_place(&self) -> Vec<Step> {
        let reason = Reason::AddressChange;
        let insert = |key: &IpcacheKey| {
            let value = self.wanted.get(key)?;
            (!self.observed.contains_key(key)).then(|| {
                Step::new(
                    Write::IpcacheUpsert {
                        key: *key,
                        value: *value,
                    },
                    reason,
                )
            })
        };
        let update = |(key, value): (&IpcacheKey, &IpcacheValue)| {
            let old = self.observed.get(key)?;
            let moves = old.identity(self.bank) != value.identity(self.bank);
            let reason = if moves { reason } else { Reason::Repair };
            (old != value).then(|| {
                Step::new(
                    Write::IpcacheUpsert {
                        key: *key,
                        value: *value,
                    },
                    reason,
                )
            })
        };
        // Keys sort by length first.
        let mut steps: Vec<Step> = self.changed.iter().rev().filter_map(insert).collect();
        steps.extend(self.wanted.iter().filter_map(update));
        steps.extend(self.deletions());
        steps
    }

    /// The writes that fill the bank which is not read, and change nothing in the one that is.
    pub(super) fn fill_other_bank(&self) -> Vec<Step> {
        let other = 1 - self.bank;
        let keys: BTreeSet<&IpcacheKey> = self.observed.keys().chain(self.wanted.keys()).collect();
        keys.into_iter()
            .filter_map(|key| {
                let old = self.observed.get(key);
                let value = self
                    .wanted
                    .get(key)
                    .or(old)?
                    .with_identity(self.bank, self.old.resolve(key))
                    .with_identity(other, self.new.resolve(key));
                (old != Some(&value)).then(|| {
                    Step::new(
                        Write::IpcacheUpsert { key: *key, value },
                        Reason::AddressChange,
                    )
                })
            })
            .collect()
    }

    /// The writes that bring the banks level once the other one is read.
    pub(super) fn level(&self) -> Vec<Step> {
        let other = 1 - self.bank;
        let update = |(key, value): (&IpcacheKey, &IpcacheValue)| {
            let filled = value.with_identity(self.bank, self.old.resolve(key));
            debug_assert_eq!(filled.identity(other), value.identity(other));
            (filled != *value).then(|| {
                Step::new(
                    Write::IpcacheUpsert {
                        key: *key,
                        value: *value,
                    },
                    Reason::AddressChange,
                )
            })
        };
        let mut steps: Vec<Step> = self.wanted.iter().filter_map(update).collect();
        steps.extend(self.deletions());
        steps
    }

    fn deletions(&self) -> impl Iterator<Item = Step> {
        self.changed
            .iter()
            .filter(|key| !self.wanted.contains_key(key))
            .map(|key| Step::new(Write::IpcacheDelete { key: *key }, Reason::AddressChange))
    }
}
