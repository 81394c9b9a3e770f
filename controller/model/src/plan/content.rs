//! Policy tables: what is there, what should be there, and the writes between them.

use std::collections::{BTreeMap, BTreeSet};

use oxilium_abi::{Direction, POLICY_CLASS_ALLOW, PolicyKey, PolicyValue};

use super::rank::{self, Rank, Shapes, Specificity};
use super::{Reason, Step, Write};
use crate::identity::NumericIdentity;
use crate::node_state::{EntryValue, TableContent};
use crate::observed::Observed;

/// A policy table in the kernel.
#[derive(Debug, Default)]
pub(super) struct Existing<'a> {
    pub(super) table: u32,
    /// Sorted by key.
    entries: Vec<(&'a PolicyKey, &'a PolicyValue)>,
    shapes: Shapes,
    /// Every entry is well formed, sealed and reachable through the shape words.
    coherent: bool,
    has_auth: bool,
}

impl<'a> Existing<'a> {
    /// Every table of which there is anything in the kernel, and those of `used`.
    pub(super) fn read_all(
        observed: &'a Observed,
        used: impl IntoIterator<Item = u32>,
    ) -> BTreeMap<u32, Self> {
        let mut entries: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        let mut last: Option<(u32, Vec<_>)> = None;
        for (key, value) in &observed.policy {
            match &mut last {
                Some((table, list)) if *table == key.table => list.push((key, value)),
                _ => entries.extend(last.replace((key.table, vec![(key, value)]))),
            }
        }
        entries.extend(last);
        let shaped = observed.shapes.keys().map(|(table, _)| *table);
        for table in shaped.chain(used) {
            entries.entry(table).or_default();
        }
        entries
            .into_iter()
            .map(|(table, entries)| (table, Self::new(observed, table, entries)))
            .collect()
    }

    fn new(
        observed: &Observed,
        table: u32,
        entries: Vec<(&'a PolicyKey, &'a PolicyValue)>,
    ) -> Self {
        let shape = |direction| {
            observed
                .shapes
                .get(&(table, direction))
                .copied()
                .unwrap_or_default()
        };
        let shapes = Shapes::new(shape(Direction::Ingress), shape(Direction::Egress));
        let sealed = entries
            .iter()
            .all(|(key, value)| rank::is_well_formed(key) && EntryValue::of(key, value).is_some());
        Self {
            table,
            coherent: sealed && shapes.covers(Shapes::needed(entries.iter().copied())),
            has_auth: entries.iter().any(|(_, value)| value.auth().kind() != 0),
            entries,
            shapes,
        }
    }

    fn get(&self, key: &PolicyKey) -> Option<&'a PolicyValue> {
        let index = self.entries.binary_search_by(|(k, _)| (*k).cmp(key)).ok()?;
        Some(self.entries[index].1)
    }

    /// Holds exactly this content, in force.
    pub(super) fn holds(&self, content: &TableContent) -> bool {
        self.coherent
            && self.entries.len() == content.0.len()
            && content.0.iter().all(|(key, value)| {
                let key = key.in_table(self.table);
                self.get(&key) == Some(&value.sealed(&key))
            })
    }

    /// The writes that make it hold `content`, if an order is known that is safe at each of them.
    ///
    /// None when what is there is damaged (what would come to light on the way is unknown), or when
    /// authentication is inherited between entries: then a verdict is not the highest entry's alone.
    pub(super) fn in_place(&self, content: &TableContent) -> Option<TableDiff> {
        let asks_auth = content.0.values().any(|value| value.auth.kind() != 0);
        (self.coherent && !self.has_auth && !asks_auth).then(|| self.diff(content))
    }

    /// The writes that make it hold `content`, whatever happens between them.
    pub(super) fn diff(&self, content: &TableContent) -> TableDiff {
        let wanted = sealed(content, self.table);
        let mut diff = TableDiff {
            table: self.table,
            old_shapes: self.shapes,
            new_shapes: Shapes::needed(&wanted),
            changes: Vec::new(),
        };
        for (key, new) in &wanted {
            let old = self.get(key).copied();
            if old != Some(*new) {
                diff.changes.push(Change {
                    key: *key,
                    old,
                    new: Some(*new),
                });
            }
        }
        for (key, old) in &self.entries {
            if !wanted.contains_key(key) {
                diff.changes.push(Change {
                    key: **key,
                    old: Some(**old),
                    new: None,
                });
            }
        }
        diff
    }

    /// Fewer shapes where some are not needed for what it holds: costs programs lookups, changes no verdict.
    pub(super) fn trim_shapes(&self) -> Vec<Step> {
        let needed = Shapes::needed(self.entries.iter().copied());
        shape_steps(self.table, self.shapes, needed, Reason::Repair)
    }

    /// The writes that make it vanish. The shape words go last: while one is there the id is not free.
    pub(super) fn removal(&self) -> Vec<Step> {
        let reason = Reason::Unused { table: self.table };
        let mut steps: Vec<Step> = self
            .entries
            .iter()
            .map(|(key, _)| Step::new(Write::PolicyDelete { key: **key }, reason))
            .collect();
        steps.extend(shape_steps(
            self.table,
            self.shapes,
            Shapes::default(),
            reason,
        ));
        steps
    }
}

/// The writes that build a table which nobody uses yet.
pub(super) fn staged(table: u32, content: &TableContent) -> Vec<Step> {
    let reason = Reason::Staging { table };
    let entries = sealed(content, table);
    let shapes = Shapes::needed(&entries);
    let mut steps = shape_steps(table, Shapes::default(), shapes, reason);
    steps.extend(
        entries
            .into_iter()
            .map(|(key, value)| Step::new(Write::PolicyInsert { key, value }, reason)),
    );
    steps
}

fn sealed(content: &TableContent, table: u32) -> BTreeMap<PolicyKey, PolicyValue> {
    content
        .0
        .iter()
        .map(|(key, value)| {
            let key = key.in_table(table);
            (key, value.sealed(&key))
        })
        .collect()
}

fn shape_steps(table: u32, from: Shapes, to: Shapes, reason: Reason) -> Vec<Step> {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .filter(|direction| from.of(*direction) != to.of(*direction))
        .map(|direction| {
            let word = to.of(direction);
            Step::new(
                Write::ShapeWord {
                    table,
                    direction,
                    word,
                },
                reason,
            )
        })
        .collect()
}

/// One entry that differs.
#[derive(Clone, Copy, Debug)]
struct Change {
    key: PolicyKey,
    old: Option<PolicyValue>,
    new: Option<PolicyValue>,
}

/// When a change may happen, relative to the change of addresses' identities.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    After,
}

impl Change {
    /// What is added or raised comes first, what is taken away or lowered last.
    fn phase(&self) -> Phase {
        match (self.old, self.new) {
            (Some(old), Some(new)) if new.precedence() < old.precedence() => Phase::After,
            (_, None) => Phase::After,
            _ => Phase::Before,
        }
    }

    /// What narrows what is allowed comes first, what widens it last. What asks for a proxy or for
    /// authentication counts as a denial, as it is one until there is a component for it.
    fn narrowing_phase(&self) -> Phase {
        let allows = |value: PolicyValue| {
            value.precedence().class() == POLICY_CLASS_ALLOW && value.auth().kind() == 0
        };
        let narrows = match (self.old, self.new) {
            (None, None) => false,
            (None, Some(new)) => !allows(new),
            (Some(old), None) => allows(old),
            (Some(old), Some(new)) => match (allows(old), allows(new)) {
                (true, false) => true,
                (false, true) => false,
                (false, false) => new.precedence() > old.precedence(),
                (true, true) => new.precedence() < old.precedence(),
            },
        };
        if narrows { Phase::Before } else { Phase::After }
    }

    /// Where it stands in its phase: the highest first on the way in, the lowest first on the way out.
    fn rank(&self) -> Option<Rank> {
        let value = match self.phase() {
            Phase::Before => self.new,
            Phase::After => self.old,
        };
        value.map(|value| Rank::of(&self.key, &value))
    }

    fn is_same_rank(&self) -> bool {
        matches!((self.old, self.new), (Some(old), Some(new)) if old.precedence() == new.precedence())
    }

    fn step(&self, reason: Reason) -> Step {
        let key = self.key;
        let write = match (self.old, self.new) {
            (Some(_), Some(value)) => Write::PolicyReplace { key, value },
            (None, Some(value)) => Write::PolicyInsert { key, value },
            (_, None) => Write::PolicyDelete { key },
        };
        Step::new(write, reason)
    }
}

/// Changes of one table in place.
///
/// # Why the order is safe
///
/// A verdict is that of the highest entry that matches. Let A be what is there, B what shall be, M
/// what lies between the two phases: each key with the higher of its two values. If the highest
/// match in M has A's value, it is the highest in A too, since every other key ranks no higher in A
/// than in M; and likewise for B. So a packet of one verdict in A and B has it in M. The same
/// argument holds for each state on the way to M, as what is not yet written ranks below what is
/// (descending), and, read backwards, for each state on the way from M to B (ascending).
#[derive(Clone, Debug)]
pub(super) struct TableDiff {
    pub(super) table: u32,
    old_shapes: Shapes,
    new_shapes: Shapes,
    changes: Vec<Change>,
}

impl TableDiff {
    /// How many entries differ.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// The writes before and after the identities of addresses change, in an order that is safe for
    /// packets whose peer keeps its identity.
    pub(super) fn phases(&self) -> (Vec<Step>, Vec<Step>) {
        let reason = Reason::PolicyChange { table: self.table };
        self.split(Change::phase, reason)
    }

    /// Another order, for want of room: nothing is allowed on the way but what is allowed before and
    /// after, and some of that may be dropped for a moment.
    pub(super) fn narrowing_phases(&self) -> (Vec<Step>, Vec<Step>) {
        let reason = Reason::Narrowing { table: self.table };
        self.split(Change::narrowing_phase, reason)
    }

    fn split(&self, phase: fn(&Change) -> Phase, reason: Reason) -> (Vec<Step>, Vec<Step>) {
        let (mut first, mut last): (Vec<&Change>, Vec<&Change>) = self
            .changes
            .iter()
            .partition(|change| phase(change) == Phase::Before);
        first.sort_by(|a, b| {
            (a.is_same_rank().cmp(&b.is_same_rank())).then_with(|| b.rank().cmp(&a.rank()))
        });
        last.sort_by_key(|change| change.rank());

        // Shapes grow before the entries that need them and shrink after those that did.
        let all = self.old_shapes.union(self.new_shapes);
        let mut before = shape_steps(self.table, self.old_shapes, all, reason);
        before.extend(first.into_iter().map(|change| change.step(reason)));
        let mut after: Vec<Step> = last.into_iter().map(|change| change.step(reason)).collect();
        after.extend(shape_steps(self.table, all, self.new_shapes, reason));
        (before, after)
    }

    /// The order of [`Self::phases`] holds also for packets whose peer changes its identity between
    /// the two: nothing that comes before speaks of an identity that is left, and nothing that comes
    /// after of one that is entered.
    pub(super) fn allows(&self, moves: &Moves, local_cluster: u8) -> bool {
        self.changes.iter().all(|change| {
            let concerned = match change.phase() {
                Phase::Before => &moves.from,
                Phase::After => &moves.to,
            };
            !concerned
                .iter()
                .any(|identity| speaks_of(&change.key, *identity, local_cluster))
        })
    }
}

/// Identities that addresses leave and enter in a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) from: BTreeSet<NumericIdentity>,
    pub(super) to: BTreeSet<NumericIdentity>,
}

impl Moves {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.to.is_empty()
    }
}

fn speaks_of(key: &PolicyKey, identity: NumericIdentity, local_cluster: u8) -> bool {
    match Specificity::of(key) {
        Specificity::Any => true,
        // Whether anybody is restricted is its concern.
        _ if identity == NumericIdentity::UNRESOLVED => true,
        Specificity::Aggregate => identity.aggregate(local_cluster).0 == key.identity,
        Specificity::Specific => identity.0 == key.identity,
    }
}
