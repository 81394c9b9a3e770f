//! The selector cache: each selector that a rule set uses, with the identities that it selects.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::index::{self, Anchor, AnchorIndex};
use super::rule_set::RuleSetId;
use crate::identity::{Identities, IdentityLabels, NumericIdentity};
use crate::label::{self, LabelSource};
use crate::policy::config::PolicyConfig;
use crate::policy::peer::Peer;
use crate::policy::select;
use crate::policy::selector::Operator;

/// A peer, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerId(u32);

/// A peer that some rule names.
#[derive(Debug)]
struct Slot {
    peer: Peer,
    /// Rules that name it.
    rules: u32,
    /// The selection, while a rule set uses it.
    live: Option<Selection>,
}

#[derive(Debug)]
struct Selection {
    /// Sorted, aggregates included.
    identities: Vec<NumericIdentity>,
    users: BTreeSet<RuleSetId>,
    anchors: Vec<Anchor>,
}

/// Peers by content, and what they select.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    slots: Vec<Option<Slot>>,
    free: Vec<PeerId>,
    by_peer: HashMap<Peer, PeerId>,
    live: AnchorIndex<PeerId>,
}

impl Selectors {
    /// The number of a peer, for a rule that names it.
    pub(super) fn intern(&mut self, peer: &Peer) -> PeerId {
        if let Some(id) = self.by_peer.get(peer) {
            let id = *id;
            if let Some(slot) = self.slot_mut(id) {
                slot.rules += 1;
            }
            return id;
        }
        let slot = Some(Slot {
            peer: peer.clone(),
            rules: 1,
            live: None,
        });
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PeerId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        });
        self.slots[id.0 as usize] = slot;
        self.by_peer.insert(peer.clone(), id);
        id
    }

    /// A rule that names the peer is gone. No rule set may use it any more when the last one is.
    pub(super) fn release(&mut self, id: PeerId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.rules -= 1;
        if slot.rules == 0 {
            let peer = slot.peer.clone();
            self.by_peer.remove(&peer);
            self.slots[id.0 as usize] = None;
            self.free.push(id);
        }
    }

    fn slot(&self, id: PeerId) -> Option<&Slot> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn slot_mut(&mut self, id: PeerId) -> Option<&mut Slot> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// The peer.
    pub(super) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.slot(id).map(|slot| &slot.peer)
    }

    /// The identities that a peer in use selects, sorted.
    pub(super) fn selection(&self, id: PeerId) -> &[NumericIdentity] {
        self.slot(id)
            .and_then(|slot| slot.live.as_ref())
            .map_or(&[], |selection| &selection.identities)
    }

    /// A rule set begins to use a peer.
    pub(super) fn add_user(
        &mut self,
        id: PeerId,
        user: RuleSetId,
        known: &Known,
        config: &PolicyConfig,
    ) {
        let Some(slot) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        if let Some(selection) = &mut slot.live {
            selection.users.insert(user);
            return;
        }
        let choices = index::of_peer(&slot.peer, config);
        let identities = known.select(&slot.peer, &choices, config);
        // File it where it will be a candidate for the fewest.
        let anchors = choices
            .into_iter()
            .min_by_key(|anchors| self.live.count(anchors))
            .unwrap_or_else(|| vec![Anchor::Nothing]);
        self.live.insert(&anchors, id);
        slot.live = Some(Selection {
            identities,
            users: [user].into(),
            anchors,
        });
    }

    /// A rule set uses a peer no more.
    pub(super) fn remove_user(&mut self, id: PeerId, user: RuleSetId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(selection) = &mut slot.live else {
            return;
        };
        selection.users.remove(&user);
        if selection.users.is_empty() {
            self.live.remove(&selection.anchors, id);
            slot.live = None;
        }
    }

    /// The peers in use that select these labels, sorted.
    pub(super) fn selecting(&self, labels: &IdentityLabels, config: &PolicyConfig) -> Vec<PeerId> {
        let mut found: Vec<PeerId> = self
            .live
            .candidates(labels)
            .filter(|id| {
                self.peer(*id)
                    .is_some_and(|peer| peer.selects(labels, config))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// An identity comes to or leaves a selection; tells the users.
    pub(super) fn update(
        &mut self,
        id: PeerId,
        identity: NumericIdentity,
        selected: bool,
        users: &mut BTreeSet<RuleSetId>,
    ) {
        let Some(selection) = self.slot_mut(id).and_then(|slot| slot.live.as_mut()) else {
            return;
        };
        users.extend(&selection.users);
        match (selection.identities.binary_search(&identity), selected) {
            (Err(place), true) => selection.identities.insert(place, identity),
            (Ok(place), false) => {
                selection.identities.remove(place);
            }
            _ => {}
        }
    }

    /// The users of a peer.
    pub(super) fn users(&self, id: PeerId) -> impl Iterator<Item = RuleSetId> + '_ {
        let live = self.slot(id).and_then(|slot| slot.live.as_ref());
        live.into_iter()
            .flat_map(|selection| selection.users.iter().copied())
    }
}

/// The identities, filed under their labels. The aggregates are among them.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) identities: Identities,
    index: AnchorIndex<NumericIdentity>,
    /// Keys of labels that are not all of Kubernetes, or that an identity has twice, and how often: by key
    /// and value alone one cannot tell there what a selector finds.
    odd_keys: HashMap<Arc<str>, usize>,
}

/// The keys under which the index does not tell all.
fn odd_keys(labels: &IdentityLabels) -> impl Iterator<Item = &Arc<str>> {
    let mut before: Option<&Arc<str>> = None;
    labels.iter().filter_map(move |label| {
        let key = label.shared_key();
        let twice = before.replace(key) == Some(key);
        (twice || *label.source() != LabelSource::K8s).then_some(key)
    })
}

impl Known {
    pub(super) fn new() -> Self {
        let mut known = Self::default();
        let reserved: Vec<_> = known
            .identities
            .iter()
            .map(|(id, identity)| (id, identity.labels.clone()))
            .chain(select::aggregates())
            .collect();
        for (id, labels) in reserved {
            known.file(id, &labels);
        }
        known
    }

    pub(super) fn file(&mut self, id: NumericIdentity, labels: &IdentityLabels) {
        self.index.insert(&index::of_labels(labels), id);
        for key in odd_keys(labels) {
            *self.odd_keys.entry(key.clone()).or_default() += 1;
        }
    }

    pub(super) fn unfile(&mut self, id: NumericIdentity, labels: &IdentityLabels) {
        self.index.remove(&index::of_labels(labels), id);
        for key in odd_keys(labels) {
            if let Some(count) = self.odd_keys.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.odd_keys.remove(key);
                }
            }
        }
    }

    fn select(
        &self,
        peer: &Peer,
        choices: &[Vec<Anchor>],
        config: &PolicyConfig,
    ) -> Vec<NumericIdentity> {
        let mut choices: Vec<&Vec<Anchor>> = choices.iter().collect();
        choices.sort_by_key(|anchors| self.index.count(anchors));
        let Some((fewest, others)) = choices.split_first() else {
            return Vec::new();
        };
        let mut found = self.index.under(fewest);
        for anchors in others {
            self.index.keep(&mut found, anchors);
        }
        if self.is_told_by_anchors(peer) {
            return found;
        }
        found.retain(|id| match self.identities.get(*id) {
            Some(identity) => peer.selects(&identity.labels, config),
            None => select::aggregates()
                .any(|(aggregate, labels)| aggregate == *id && peer.selects(&labels, config)),
        });
        found
    }

    /// Who bears one anchor of each choice is selected: nothing else is asked, and no key is odd.
    fn is_told_by_anchors(&self, peer: &Peer) -> bool {
        let Peer::Endpoints(selector) = peer else {
            return false;
        };
        let asked = selector.requirements().iter().all(|requirement| {
            let of_k8s = matches!(requirement.key.source, None | Some(LabelSource::K8s));
            let positive = matches!(requirement.operator, Operator::In(_) | Operator::Exists);
            of_k8s && positive && !self.odd_keys.contains_key(&requirement.key.key)
        });
        let scope = [label::POD_NAMESPACE, label::POLICY_CLUSTER];
        asked && !scope.iter().any(|key| self.odd_keys.contains_key(*key))
    }
}
