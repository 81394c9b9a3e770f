//! The rules of all policies, filed under their subjects.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::{self, AnchorIndex, Anchors};
use super::selectors::{PeerId, Selectors};
use crate::identity::IdentityLabels;
use crate::policy::filter;
use crate::policy::rule::{Policy, PolicyRef, Rule, Subject};

/// A rule, by number. Numbers are given again, but only after [`Rules::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RuleId(u32);

/// A subject selector, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SubjectId(u32);

#[derive(Debug)]
pub(super) struct StoredRule {
    policy: Arc<Policy>,
    /// Anyone where there is no peer.
    pub(super) peers: Box<[Option<PeerId>]>,
    index: u32,
    subject: SubjectId,
}

impl StoredRule {
    pub(super) fn rule(&self) -> &Rule {
        &self.policy.rules[self.index as usize]
    }
}

#[derive(Debug)]
struct StoredSubject {
    subject: Arc<Subject>,
    /// Sorted.
    rules: Vec<RuleId>,
    /// Which of its choices of anchors it is filed under.
    choice: usize,
}

impl StoredSubject {
    fn anchors(&self) -> Anchors {
        let mut choices = index::of_subject(&self.subject);
        choices.swap_remove(self.choice)
    }
}

/// Things by number; numbers of what is gone are given again.
#[derive(Debug)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, item: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(item);
            return number;
        }
        self.places.push(Some(item));
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    /// Takes a thing out; its number stays taken until it is given back.
    fn take(&mut self, number: u32) -> Option<T> {
        self.places.get_mut(number as usize)?.take()
    }

    fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }
}

/// A policy and its rules.
type Stored = (Arc<Policy>, Box<[RuleId]>);

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    by_id: Slab<StoredRule>,
    of_policy: HashMap<Arc<PolicyRef>, Stored>,
    subjects: Slab<StoredSubject>,
    by_subject: HashMap<Arc<Subject>, SubjectId>,
    index: AnchorIndex<SubjectId>,
}

impl Rules {
    /// Puts a policy in place of the one of the same name; tells whom that concerns. What it says is gone is
    /// to be forgotten when no rule set uses it any more.
    pub(super) fn set(
        &mut self,
        reference: &Arc<PolicyRef>,
        policy: Option<Arc<Policy>>,
        selectors: &mut Selectors,
    ) -> Replaced {
        let mut replaced = Replaced::default();
        match (self.of_policy.get(reference), &policy) {
            (Some((old, _)), Some(new)) if old == new => return replaced,
            _ => {}
        }
        if let Some((_, rules)) = self.of_policy.remove(reference) {
            for id in rules {
                self.remove(id, &mut replaced);
            }
        }
        let Some(policy) = policy else {
            return replaced;
        };
        let enforced = if policy.audit { 0 } else { policy.rules.len() };
        let rules = (0..enforced)
            .map(|index| self.add(&policy, index, selectors, &mut replaced))
            .collect();
        self.of_policy.insert(reference.clone(), (policy, rules));
        replaced
    }

    /// Nothing uses these rules any more: their numbers and peers may go.
    pub(super) fn forget(&mut self, replaced: Replaced, selectors: &mut Selectors) {
        for RuleId(number) in replaced.rules {
            self.by_id.give_back(number);
        }
        for peer in replaced.peers {
            selectors.release(peer);
        }
    }

    fn remove(&mut self, id: RuleId, replaced: &mut Replaced) {
        let Some(rule) = self.by_id.take(id.0) else {
            return;
        };
        replaced.rules.push(id);
        replaced.peers.extend(rule.peers.iter().flatten().copied());
        let SubjectId(number) = rule.subject;
        let Some(stored) = self.subjects.get_mut(number) else {
            return;
        };
        stored.rules.retain(|rule| *rule != id);
        replaced.subjects.push(stored.subject.clone());
        if stored.rules.is_empty() {
            let anchors = stored.anchors();
            self.by_subject.remove(&stored.subject);
            self.index.remove(&anchors, rule.subject);
            self.subjects.take(number);
            self.subjects.give_back(number);
        }
    }

    fn add(
        &mut self,
        policy: &Arc<Policy>,
        index: usize,
        selectors: &mut Selectors,
        replaced: &mut Replaced,
    ) -> RuleId {
        let rule = &policy.rules[index];
        let subject = self.subject(&rule.subject);
        let peers = filter::peers(&rule.peers)
            .map(|peer| peer.map(|peer| selectors.intern(peer)))
            .collect();
        let id = RuleId(self.by_id.insert(StoredRule {
            policy: policy.clone(),
            peers,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            subject,
        }));
        if let Some(stored) = self.subjects.get_mut(subject.0) {
            let place = stored.rules.partition_point(|rule| *rule < id);
            stored.rules.insert(place, id);
            replaced.subjects.push(stored.subject.clone());
        }
        id
    }

    fn subject(&mut self, subject: &Subject) -> SubjectId {
        if let Some(id) = self.by_subject.get(subject) {
            return *id;
        }
        let choices = index::of_subject(subject);
        let choice = (0..choices.len())
            .min_by_key(|choice| self.index.count(&choices[*choice]))
            .unwrap_or_default();
        let subject = Arc::new(subject.clone());
        let id = SubjectId(self.subjects.insert(StoredSubject {
            subject: subject.clone(),
            rules: Vec::new(),
            choice,
        }));
        self.index.insert(&choices[choice], id);
        self.by_subject.insert(subject, id);
        id
    }

    /// The rules whose subject these labels are, sorted.
    pub(super) fn selecting(&self, labels: &IdentityLabels) -> Vec<RuleId> {
        let mut subjects: Vec<SubjectId> = self.index.candidates(labels).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut rules: Vec<RuleId> = subjects
            .iter()
            .filter_map(|id| self.subjects.get(id.0))
            .filter(|stored| stored.subject.selects(labels))
            .flat_map(|stored| stored.rules.iter().copied())
            .collect();
        rules.sort_unstable();
        rules
    }

    pub(super) fn get(&self, id: RuleId) -> Option<&StoredRule> {
        self.by_id.get(id.0)
    }

    pub(super) fn len(&self) -> usize {
        self.of_policy.len()
    }
}

/// What a change of a policy concerns.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// Subjects of old and new rules.
    pub(super) subjects: Vec<Arc<Subject>>,
    /// The old rules, and their peers.
    rules: Vec<RuleId>,
    peers: Vec<PeerId>,
}
