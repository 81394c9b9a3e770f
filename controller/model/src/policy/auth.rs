//! Authentication: which requirement is in force where several entries match.
//!
//! An entry that says nothing of authentication takes it over from others that match the same packet and are
//! on its level or above: from the most specific explicit one of its own identity, and from the winner of
//! another kind of identity (its aggregate, any) where that asks for more. An explicit requirement stays.
//! All of that is worked out here, so that the packet code only reads the winner's.

use oxilium_abi::AuthRequirement;

use super::table::{Entry, EntryKey, EntryMap, rank};
use crate::policy::l7::AuthMode;

const EXPLICIT: u8 = 1 << 7;

/// The auth byte of what a rule says.
pub(crate) fn requirement(mode: Option<AuthMode>) -> AuthRequirement {
    AuthRequirement(mode.map_or(0, |mode| mode.number() | EXPLICIT))
}

/// Of two requirements for the same key and level: explicit first, then the greater.
pub(crate) fn merge(a: AuthRequirement, b: AuthRequirement) -> AuthRequirement {
    match (a.is_explicit(), b.is_explicit()) {
        (true, false) => a,
        (false, true) => b,
        _ => a.max(b),
    }
}

/// The winner of entries that match one packet, and the authentication that is in force for it.
pub(crate) fn decide<'a>(
    matching: &[(EntryKey, &'a Entry)],
) -> Option<(EntryKey, &'a Entry, AuthRequirement)> {
    let (key, winner) = *matching
        .iter()
        .max_by_key(|(key, entry)| rank(key, entry.precedence))?;
    if winner.precedence.is_deny() || winner.auth.is_explicit() {
        return Some((key, winner, winner.auth));
    }
    let level = winner.precedence.0 >> 8;
    let of_level = |entry: &Entry| !entry.precedence.is_deny() && entry.precedence.0 >> 8 >= level;
    let explicit_of = |same: EntryKey| {
        matching
            .iter()
            .filter(|(k, e)| k.identity == same.identity && e.auth.is_explicit() && of_level(e))
            .max_by_key(|(k, _)| k.prefix_length())
            .map(|(_, e)| e.auth.kind())
    };
    let mut auth = explicit_of(key).unwrap_or(winner.auth.kind());
    let mut kinds: Vec<_> = matching.iter().map(|(k, _)| k.identity).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for identity in kinds
        .into_iter()
        .filter(|identity| *identity != key.identity)
    {
        let best = matching
            .iter()
            .filter(|(k, _)| k.identity == identity)
            .max_by_key(|(k, e)| rank(k, e.precedence));
        let Some((other_key, other)) = best else {
            continue;
        };
        if !of_level(other) {
            continue;
        }
        let theirs = if other.auth.is_explicit() {
            other.auth.kind()
        } else {
            explicit_of(*other_key).unwrap_or(other.auth.kind())
        };
        auth = auth.max(theirs);
    }
    Some((key, winner, AuthRequirement(auth)))
}

/// Makes each entry's requirement final, adding entries where two that overlap differ in it.
pub(crate) fn settle(entries: EntryMap<Entry>, local_cluster: u8) -> EntryMap<Entry> {
    let explicit: Vec<EntryKey> = entries
        .iter()
        .filter(|(_, entry)| entry.auth.is_explicit())
        .map(|(key, _)| *key)
        .collect();
    if explicit.is_empty() {
        return entries;
    }
    let overlaps = entries.keys().flat_map(|key| {
        explicit
            .iter()
            .filter_map(move |other| key.intersection(other, local_cluster))
    });
    let keys: std::collections::HashSet<EntryKey> =
        entries.keys().copied().chain(overlaps).collect();
    keys.into_iter()
        .filter_map(|key| {
            let covering: Vec<(EntryKey, &Entry)> = entries
                .iter()
                .filter(|(wide, _)| wide.covers(&key, local_cluster))
                .map(|(wide, entry)| (*wide, entry))
                .collect();
            if !covering.iter().any(|(_, entry)| entry.auth.is_explicit()) {
                return Some((key, entries.get(&key)?.clone()));
            }
            let (_, winner, auth) = decide(&covering)?;
            let settled = Entry {
                auth,
                ..winner.clone()
            };
            Some((key, settled))
        })
        .collect()
}
