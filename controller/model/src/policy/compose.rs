//! Statements of all tiers, composed into one table.

use std::sync::Arc;

use oxilium_abi::{AuthRequirement, POLICY_CLASS_ALLOW, POLICY_CLASS_DENY, Precedence};

use super::auth;
use super::filter::Statement;
use super::l7::Redirect;
use super::level::TierLevels;
use super::rule::Action;
use super::table::{BuiltIn, Entry, EntryKey, EntryMap, Origin, Origins, merge_origins};

const LOWEST: u32 = 0x00FF_FFFF;

/// What a key's packets get, on one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Offset of the level from the first of its tier.
    offset: u32,
    deny: bool,
    auth: AuthRequirement,
    redirect: Option<Redirect>,
    origins: Origins,
}

/// One tier's verdicts and passes by key.
#[derive(Debug, Default)]
pub(crate) struct TierTable {
    verdicts: EntryMap<Verdict>,
    /// Offsets of the levels that pass.
    passes: EntryMap<u32>,
}

impl TierTable {
    /// Adds what a statement says of a key, on the level at `offset`.
    pub(crate) fn add(
        &mut self,
        key: EntryKey,
        statement: &Statement,
        offset: u32,
        origins: &Origins,
    ) {
        if statement.action == Action::Pass {
            self.passes
                .entry(key)
                .and_modify(|first| *first = (*first).min(offset))
                .or_insert(offset);
            return;
        }
        let verdict = Verdict {
            offset,
            deny: statement.action == Action::Deny,
            auth: auth::requirement(statement.auth),
            redirect: statement.redirect.clone(),
            origins: origins.clone(),
        };
        put(&mut self.verdicts, key, verdict);
    }

    /// Adds a built-in rule.
    pub(crate) fn add_built_in(&mut self, key: EntryKey, deny: bool, offset: u32, name: BuiltIn) {
        let verdict = Verdict {
            offset,
            deny,
            auth: AuthRequirement::default(),
            redirect: None,
            origins: Arc::new([Origin::BuiltIn(name)]),
        };
        put(&mut self.verdicts, key, verdict);
    }
}

/// Puts a verdict where its key may have one already: the higher level wins, then deny, then both together.
fn put(verdicts: &mut EntryMap<Verdict>, key: EntryKey, new: Verdict) {
    let Some(old) = verdicts.get_mut(&key) else {
        verdicts.insert(key, new);
        return;
    };
    if (new.offset, !new.deny) < (old.offset, !old.deny) {
        *old = new;
    } else if (new.offset, new.deny) == (old.offset, old.deny) {
        old.merge(&new);
    }
}

impl Verdict {
    /// Another verdict of the same key, level and kind.
    fn merge(&mut self, other: &Self) {
        self.auth = auth::merge(self.auth, other.auth);
        // The least is the first in order of priority.
        self.redirect = match (self.redirect.take(), &other.redirect) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs.clone())),
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
        self.origins = merge_origins(&self.origins, &other.origins);
    }

    fn entry(self) -> Entry {
        let class = match (&self.redirect, self.deny) {
            (_, true) => POLICY_CLASS_DENY,
            (Some(redirect), false) => POLICY_CLASS_DENY - redirect.priority,
            (None, false) => POLICY_CLASS_ALLOW,
        };
        Entry {
            precedence: Precedence((LOWEST - self.offset) << 8 | u32::from(class)),
            auth: self.auth,
            redirect: self.redirect,
            origins: self.origins,
        }
    }
}

/// Composes the tiers, each with its levels, from first to last.
pub(crate) fn compose(tiers: Vec<(TierTable, &TierLevels)>, local_cluster: u8) -> EntryMap<Entry> {
    let mut below: EntryMap<Verdict> = EntryMap::default();
    for (tier, levels) in tiers.into_iter().rev() {
        let mut all = tier.verdicts;
        // What was passed: the next tiers' verdicts, right behind the pass.
        for (pass, offset) in &tier.passes {
            for (key, verdict) in &below {
                if let Some(key) = pass.intersection(key, local_cluster) {
                    put(&mut all, key, verdict.moved(offset + 1));
                }
            }
        }
        for (key, verdict) in &below {
            put(&mut all, *key, verdict.moved(levels.next));
        }
        below = all;
    }
    below
        .into_iter()
        .map(|(key, verdict)| (key, verdict.entry()))
        .collect()
}

impl Verdict {
    fn moved(&self, by: u32) -> Self {
        Self {
            offset: self.offset + by,
            ..self.clone()
        }
    }
}
