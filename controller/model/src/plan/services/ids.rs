//! Ids of frontends and backends: taken from what the kernel holds, the lowest free one for who has none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use oxilium_abi::LbAddress;

use crate::plan::{PlanError, Table};

/// Ids of one kind: who has which, and which are free.
pub(super) struct Ids<'a, K> {
    there: &'a BTreeMap<u32, LbAddress>,
    /// Whose an entry is; none for one that is not in order.
    owner: fn(u32, &LbAddress) -> Option<K>,
    by_owner: HashMap<K, u32>,
    given: HashSet<u32>,
    next: u32,
    last: u32,
}

impl<'a, K: Hash + Eq> Ids<'a, K> {
    /// Of those entries that are of concern: nobody else is asked for.
    pub(super) fn new(
        there: &'a BTreeMap<u32, LbAddress>,
        last: u32,
        owner: fn(u32, &LbAddress) -> Option<K>,
        of_concern: impl Fn(&LbAddress) -> bool,
    ) -> Self {
        let mut by_owner = HashMap::new();
        for (id, value) in there.range(1..=last) {
            if of_concern(value)
                && let Some(owner) = owner(*id, value)
            {
                by_owner.entry(owner).or_insert(*id);
            }
        }
        Self {
            there,
            owner,
            by_owner,
            given: HashSet::new(),
            next: 1,
            last,
        }
    }

    /// The id that `owner` has already.
    pub(super) fn known(&self, owner: &K) -> Option<u32> {
        self.by_owner.get(owner).copied()
    }

    /// The id of `owner`, new if it has none.
    pub(super) fn of(&mut self, owner: K, table: Table) -> Result<u32, PlanError> {
        if let Some(id) = self.by_owner.get(&owner) {
            return Ok(*id);
        }
        while self.is_taken(self.next) {
            self.next += 1;
        }
        if self.next > self.last {
            return Err(PlanError::NoRoom {
                table,
                needed: self.last as usize + 1,
                available: self.last as usize,
            });
        }
        self.given.insert(self.next);
        self.by_owner.insert(owner, self.next);
        Ok(self.next)
    }

    fn is_taken(&self, id: u32) -> bool {
        let is_in_order = |value: &LbAddress| (self.owner)(id, value).is_some();
        id <= self.last
            && (self.given.contains(&id) || self.there.get(&id).is_some_and(is_in_order))
    }

    pub(super) fn there(&self, id: u32) -> Option<&'a LbAddress> {
        self.there.get(&id)
    }
}
