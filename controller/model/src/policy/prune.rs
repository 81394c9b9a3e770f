//! Entries that decide nothing are left out.

use oxilium_abi::{POLICY_CLASS_DENY, Precedence};

use super::l7::Parser;
use super::port::PortPrefix;
use super::table::{Entry, EntryKey, EntryMap, kind, lineage};

/// The shapes of entries that are there, for each kind of identity: which wider keys can exist at all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShapesPresent([u32; 3]);

impl ShapesPresent {
    pub(crate) fn add(&mut self, key: &EntryKey) {
        self.0[usize::from(kind(key.identity))] |= 1 << key.shape();
    }

    /// One of the keys that cover `key` and may be there, itself left out, is as asked.
    fn any_wider(
        self,
        key: &EntryKey,
        local_cluster: u8,
        asked: impl Fn(EntryKey) -> bool,
    ) -> bool {
        let mut before = None;
        for identity in lineage(key.identity, local_cluster) {
            if before.replace(identity) == Some(identity) {
                continue;
            }
            // As many bits as there are shapes up to the key's own.
            let mut present = self.0[usize::from(kind(identity))] & ((2 << key.shape()) - 1);
            while present != 0 {
                let shape = present.trailing_zeros();
                present &= present - 1;
                let wider = match shape.checked_sub(1) {
                    None => EntryKey {
                        identity,
                        ..EntryKey::ALL
                    },
                    Some(length) => EntryKey {
                        identity,
                        protocol: key.protocol,
                        port: PortPrefix::of(key.port.first(), u8::try_from(length).unwrap_or(16)),
                    },
                };
                if wider != *key && asked(wider) {
                    return true;
                }
            }
        }
        false
    }
}

/// Takes out entries that can never be the greatest match, and those whose packets would get the same
/// verdict without them. `has_auth`: some rule of the direction speaks of authentication.
pub(crate) fn prune(
    entries: &EntryMap<Entry>,
    has_auth: bool,
    local_cluster: u8,
) -> Vec<(EntryKey, Entry)> {
    let mut shapes = ShapesPresent::default();
    for key in entries.keys() {
        shapes.add(key);
    }
    let pruner = Pruner {
        shapes,
        has_auth,
        local_cluster,
    };
    entries
        .iter()
        .filter(|(key, entry)| !pruner.is_idle(key, entry, |wide| entries.get(wide)))
        .map(|(key, entry)| (*key, entry.clone()))
        .collect()
}

/// Tells idle entries. Whether one of an identity is idle depends on nothing but that identity's entries, its
/// aggregate's and anyone's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pruner {
    pub(crate) shapes: ShapesPresent,
    pub(crate) has_auth: bool,
    pub(crate) local_cluster: u8,
}

impl Pruner {
    /// The entry decides nothing; `get` finds those that may cover it.
    pub(crate) fn is_idle<'a>(
        &self,
        key: &EntryKey,
        entry: &Entry,
        get: impl Fn(&EntryKey) -> Option<&'a Entry>,
    ) -> bool {
        let covers = |wide_key: EntryKey| {
            let Some(wide) = get(&wide_key) else {
                return false;
            };
            wide.precedence > entry.precedence
                || wide.same_verdict(entry)
                    && (tells_all(entry.precedence, self.has_auth)
                        || self.nothing_between(&get, key, &wide_key, entry))
        };
        self.shapes.any_wider(key, self.local_cluster, covers)
    }

    /// `wide` has the same ports as `key`, so that only an aggregate of the identity could lie between them.
    fn nothing_between<'a>(
        &self,
        get: impl Fn(&EntryKey) -> Option<&'a Entry>,
        key: &EntryKey,
        wide: &EntryKey,
        entry: &Entry,
    ) -> bool {
        if (wide.protocol, wide.port) != (key.protocol, key.port) {
            return false;
        }
        let aggregate = EntryKey {
            identity: key.identity.aggregate(self.local_cluster),
            ..*key
        };
        aggregate == *wide
            || aggregate == *key
            || get(&aggregate).is_none_or(|between| {
                between.same_verdict(entry) || between.precedence < entry.precedence
            })
    }
}

/// The precedence alone says the whole verdict: all entries that have it are alike, so that of two, one
/// within the other, the inner is idle. Not so for listeners, of which there are many, and for authentication.
fn tells_all(precedence: Precedence, has_auth: bool) -> bool {
    let of_parser =
        |parser: Parser| precedence.class() == POLICY_CLASS_DENY - parser.default_priority();
    let plain = !precedence.is_redirect();
    let built_in = [Parser::Http, Parser::Tls, Parser::Dns]
        .into_iter()
        .any(of_parser);
    !has_auth && (plain || built_in)
}
