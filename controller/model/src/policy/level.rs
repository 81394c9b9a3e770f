//! Levels: the order in which rules are asked, as numbers that fit into precedences.
//!
//! Rules of a tier with equal priority are one level. A flow that a Pass matches goes on in the next tier,
//! so behind each level with a Pass lies a copy of the next tier's levels, restricted to what was passed;
//! the next tier proper comes behind the whole tier. Each tier's levels are rounded up to ten, so that a new
//! rule seldom renumbers others (Cilium 1.20 does the same, and the numbers are the same).

use std::collections::BTreeSet;

use thiserror::Error;

use super::rule::{Action, Rule, RulePriority, Tier};

/// Levels in all: what 24 bits of a precedence can tell apart.
const LEVELS: u32 = 1 << 24;
const ROUND: u32 = 10;

/// More levels than a precedence can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the rules that select this endpoint need more than {LEVELS} priority levels; use fewer Pass rules or fewer different priorities"
)]
pub struct TooManyLevels;

/// The levels of one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierLevels {
    /// Offset of each level from the tier's first, in order.
    pub(crate) offsets: Vec<u32>,
    /// Offset of the next tier's first level from this one's.
    pub(crate) next: u32,
    /// Offsets in all, this tier's and those of all that follow.
    size: u32,
}

impl TierLevels {
    /// Levels, each with a Pass or without, before a tier of `next_size` offsets (0: the last tier).
    fn new(passes: &[bool], next_size: u32) -> Result<Self, TooManyLevels> {
        let count = u32::try_from(passes.len()).map_err(|_| TooManyLevels)?;
        let mut offsets = Vec::with_capacity(passes.len());
        let mut offset = 0_u32;
        let mut pass_count = 0_u32;
        for pass in passes {
            offsets.push(offset);
            let behind = if *pass { next_size } else { 0 };
            pass_count += u32::from(*pass);
            offset = offset.checked_add(1 + behind).ok_or(TooManyLevels)?;
        }
        let size = (pass_count + 1)
            .checked_mul(next_size)
            .and_then(|behind| behind.checked_add(count.next_multiple_of(ROUND)))
            .map(|size| size.next_multiple_of(ROUND))
            .filter(|size| *size < LEVELS)
            .ok_or(TooManyLevels)?;
        Ok(Self {
            offsets,
            next: size - next_size,
            size,
        })
    }
}

/// The levels of a direction: tiers with rules, in order, and the built-in tier last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) tiers: Vec<(Tier, TierLevels)>,
    pub(crate) built_in: TierLevels,
    priorities: Vec<(Tier, RulePriority)>,
}

impl Levels {
    /// Of the rules that select a subject; `built_in` is the number of built-in levels (at least one).
    ///
    /// # Errors
    /// [`TooManyLevels`].
    pub(crate) fn new<'a>(
        rules: impl IntoIterator<Item = &'a Rule>,
        built_in: usize,
    ) -> Result<Self, TooManyLevels> {
        let mut priorities = BTreeSet::new();
        let mut passes = BTreeSet::new();
        for rule in rules {
            priorities.insert((rule.tier, rule.priority));
            if rule.action == Action::Pass {
                passes.insert((rule.tier, rule.priority));
            }
        }
        let built_in = TierLevels::new(&vec![false; built_in], 0)?;
        let mut tiers = Vec::new();
        let mut next_size = built_in.size;
        for tier in [Tier::Baseline, Tier::Normal, Tier::Admin] {
            let of_tier: Vec<bool> = priorities
                .iter()
                .filter(|(t, _)| *t == tier)
                .map(|level| passes.contains(level))
                .collect();
            if of_tier.is_empty() {
                continue;
            }
            let levels = TierLevels::new(&of_tier, next_size)?;
            next_size = levels.size;
            tiers.push((tier, levels));
        }
        tiers.reverse();
        Ok(Self {
            tiers,
            built_in,
            priorities: priorities.into_iter().collect(),
        })
    }

    /// The level of a rule's tier that it is on, from 0.
    pub(crate) fn of(&self, rule: &Rule) -> u32 {
        let before = |place: (Tier, RulePriority)| self.priorities.partition_point(|p| *p < place);
        let first = before((rule.tier, RulePriority::default()));
        let level = before((rule.tier, rule.priority)) - first;
        u32::try_from(level).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_leaves_room_for_the_next_tier_behind_it() {
        // Admin: pass, deny; then one normal level and two built-in ones: the numbers of Cilium 1.20.2.
        let built_in = TierLevels::new(&[false, false], 0).expect("few");
        let normal = TierLevels::new(&[false], built_in.size).expect("few");
        let admin = TierLevels::new(&[true, false], normal.size).expect("few");
        assert_eq!((normal.next, normal.size), (10, 20));
        assert_eq!(admin.offsets, [0, 21]);
        assert_eq!((admin.next, admin.size), (30, 50));
    }

    #[test]
    fn levels_that_do_not_fit_are_an_error() {
        assert_eq!(TierLevels::new(&[true; 1000], 100_000), Err(TooManyLevels));
    }
}
