//! Which policy table each endpoint is to use, and what must become of the tables for that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::PlanError;
use super::content::{Existing, Moves, TableDiff};
use crate::node_state::{NodeState, TableContent};
use crate::observed::Observed;
use crate::world::NodeConfig;

/// What becomes of a table that endpoints will use.
#[derive(Debug)]
pub(super) enum Change {
    /// It holds what it should.
    None,
    /// Its entries change where they are, in an order that is safe at each write.
    InPlace(TableDiff),
    /// As before, but for want of room to stage it: what is allowed before and after may be dropped in between.
    Narrowing(TableDiff),
    /// It is new, and built beside the others.
    Staged(Arc<TableContent>),
}

/// Tables and their users as they shall be.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// The table of each endpoint that has an interface.
    pub(super) tables: BTreeMap<u16, u32>,
    /// What becomes of each table that is used.
    pub(super) changes: BTreeMap<u32, Change>,
    /// Tables that hold something and that nobody will use.
    pub(super) unused: Vec<u32>,
}

impl Assignment {
    /// The table's content, as programs see it, changes.
    pub(super) fn changes_content(&self, table: u32) -> bool {
        !matches!(self.changes.get(&table), Some(Change::None))
    }
}

/// How much is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Whatever needs it.
    Plenty,
    /// Only what cannot do without: the content that a part of a table's users goes to.
    Scarce,
}

/// Chooses tables: one that holds the content already; else one whose users all go to that content, in
/// place; else a new one.
pub(super) struct Assigner<'a> {
    existing: BTreeMap<u32, Existing<'a>>,
    /// Contents by the endpoints that want them.
    wanted: Vec<(Arc<TableContent>, BTreeSet<u16>)>,
    /// Tables now used by endpoints that will have an interface.
    users: BTreeMap<u32, BTreeSet<u16>>,
    /// Endpoints through which packets may be on their way.
    live: BTreeSet<u16>,
    taken: BTreeSet<u32>,
    max_table: u32,
    local_cluster: u8,
}

impl<'a> Assigner<'a> {
    pub(super) fn new(
        observed: &'a Observed,
        desired: &NodeState,
        live: &BTreeSet<u16>,
        config: &NodeConfig,
    ) -> Self {
        let max_table = config.capacities.max_table;
        let mut wanted: Vec<(Arc<TableContent>, BTreeSet<u16>)> = Vec::new();
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut users: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        for interface in desired.interfaces.values() {
            let Some(endpoint) = desired.endpoints.get(&interface.endpoint) else {
                continue;
            };
            let content = &endpoint.policy.table;
            let place = places
                .entry(Arc::as_ptr(content).addr())
                .or_insert_with(|| {
                    let known = wanted.iter().position(|(other, _)| other == content);
                    known.unwrap_or_else(|| {
                        wanted.push((content.clone(), BTreeSet::new()));
                        wanted.len() - 1
                    })
                });
            wanted[*place].1.insert(endpoint.id);
            let table = observed.endpoint_word_in_use(endpoint.id).table();
            if table != 0 && table <= max_table {
                users.entry(table).or_default().insert(endpoint.id);
            }
        }
        let existing = Existing::read_all(observed, users.keys().copied());
        let mut taken: BTreeSet<u32> = existing.keys().copied().collect();
        taken.extend(
            observed
                .endpoint_words
                .values()
                .flatten()
                .map(|word| word.table()),
        );
        Self {
            existing,
            wanted,
            users,
            live: live.clone(),
            taken,
            max_table,
            local_cluster: config.policy.cluster_id,
        }
    }

    /// Chooses for all endpoints.
    pub(super) fn assign(&mut self, moves: &Moves, room: Room) -> Result<Assignment, PlanError> {
        let mut result = Assignment::default();
        let wanted = std::mem::take(&mut self.wanted);
        let mut rest = Vec::new();
        for (content, endpoints) in wanted {
            match self.holding(&content, &endpoints, &result) {
                Some(table) => result.enter(table, &endpoints, Change::None),
                None => rest.push((content, endpoints)),
            }
        }
        for (content, endpoints) in rest {
            let (table, change) = match self.changeable(&content, &endpoints, &result, moves, room)
            {
                Some(found) => found,
                None => (self.free()?, Change::Staged(content)),
            };
            result.enter(table, &endpoints, change);
        }
        result.unused = self
            .existing
            .keys()
            .filter(|table| !result.changes.contains_key(table))
            .copied()
            .collect();
        Ok(result)
    }

    pub(super) fn existing(&self, table: u32) -> Option<&Existing<'a>> {
        self.existing.get(&table)
    }

    /// A table with this content: the one that most of its users have already, else the lowest.
    fn holding(
        &self,
        content: &TableContent,
        endpoints: &BTreeSet<u16>,
        so_far: &Assignment,
    ) -> Option<u32> {
        self.existing
            .iter()
            .filter(|(table, existing)| {
                **table != 0
                    && **table <= self.max_table
                    && !so_far.changes.contains_key(table)
                    && existing.holds(content)
            })
            .map(|(table, _)| *table)
            .max_by_key(|table| (self.users_among(*table, endpoints), u32::MAX - table))
    }

    fn users_among(&self, table: u32, endpoints: &BTreeSet<u16>) -> usize {
        self.users
            .get(&table)
            .map_or(0, |users| users.intersection(endpoints).count())
    }

    /// A table all of whose users go to this content, and which can change in place: the one nearest to it.
    fn changeable(
        &self,
        content: &TableContent,
        endpoints: &BTreeSet<u16>,
        so_far: &Assignment,
        moves: &Moves,
        room: Room,
    ) -> Option<(u32, Change)> {
        self.users
            .iter()
            .filter(|(table, users)| {
                users.is_subset(endpoints) && !so_far.changes.contains_key(table)
            })
            .filter_map(|(table, _)| {
                let existing = self.existing.get(table)?;
                let joins = |e: &u16| self.live.contains(e) && !self.users[table].contains(e);
                let change = match existing.in_place(content) {
                    Some(diff) if moves.is_empty() => Change::InPlace(diff),
                    // Who joins it when identities change finds it between its two phases.
                    Some(diff)
                        if diff.allows(moves, self.local_cluster)
                            && !endpoints.iter().any(joins) =>
                    {
                        Change::InPlace(diff)
                    }
                    _ if room == Room::Scarce => Change::Narrowing(existing.diff(content)),
                    _ => return None,
                };
                Some((*table, change))
            })
            .min_by_key(|(table, change)| match change {
                Change::InPlace(diff) => (0, diff.len(), *table),
                Change::Narrowing(diff) => (1, diff.len(), *table),
                Change::None | Change::Staged(_) => (2, 0, *table),
            })
    }

    /// The lowest id that nothing in the kernel speaks of.
    fn free(&mut self) -> Result<u32, PlanError> {
        let table = (1..=self.max_table)
            .find(|table| !self.taken.contains(table))
            .ok_or(PlanError::TablesExhausted {
                available: self.max_table,
            })?;
        self.taken.insert(table);
        Ok(table)
    }
}

impl Assignment {
    fn enter(&mut self, table: u32, endpoints: &BTreeSet<u16>, change: Change) {
        self.changes.insert(table, change);
        self.tables
            .extend(endpoints.iter().map(|endpoint| (*endpoint, table)));
    }
}
