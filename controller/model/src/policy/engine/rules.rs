//! The rules of all policies, filed under their subjects.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::index::{self, Anchor, AnchorIndex};
use super::selectors::{PeerId, Selectors};
use crate::identity::IdentityLabels;
use crate::policy::filter;
use crate::policy::rule::{Policy, PolicyRef, Rule, Subject};

/// A rule, by number. A number means another rule once its policy has changed, so that equal numbers are equal rules
/// as long as nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RuleId(u32);

/// A subject selector, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SubjectId(u32);

#[derive(Debug)]
pub(super) struct StoredRule {
    policy: Arc<Policy>,
    index: usize,
    /// Anyone where there is no peer.
    pub(super) peers: Box<[Option<PeerId>]>,
    subject: SubjectId,
}

impl StoredRule {
    pub(super) fn rule(&self) -> &Rule {
        &self.policy.rules[self.index]
    }
}

#[derive(Debug)]
struct StoredSubject {
    subject: Subject,
    rules: BTreeSet<RuleId>,
    anchors: Vec<Anchor>,
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    by_id: HashMap<RuleId, StoredRule>,
    next: u32,
    of_policy: HashMap<Arc<PolicyRef>, (Arc<Policy>, Vec<RuleId>)>,
    subjects: HashMap<SubjectId, StoredSubject>,
    next_subject: u32,
    by_subject: HashMap<Subject, SubjectId>,
    index: AnchorIndex<SubjectId>,
}

impl Rules {
    /// Puts a policy in place of the one of the same name; tells the subjects that are concerned, and the
    /// old rules' peers, to be released when no rule set uses them any more.
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
        let mut rules = Vec::new();
        if !policy.audit {
            for index in 0..policy.rules.len() {
                rules.push(self.add(&policy, index, selectors, &mut replaced));
            }
        }
        self.of_policy.insert(reference.clone(), (policy, rules));
        replaced
    }

    fn remove(&mut self, id: RuleId, replaced: &mut Replaced) {
        let Some(rule) = self.by_id.remove(&id) else {
            return;
        };
        replaced.peers.extend(rule.peers.iter().flatten().copied());
        let Some(subject) = self.subjects.get_mut(&rule.subject) else {
            return;
        };
        subject.rules.remove(&id);
        replaced.subjects.push(subject.subject.clone());
        if subject.rules.is_empty() {
            self.by_subject.remove(&subject.subject);
            self.index.remove(&subject.anchors, rule.subject);
            self.subjects.remove(&rule.subject);
        }
    }

    fn add(
        &mut self,
        policy: &Arc<Policy>,
        index: usize,
        selectors: &mut Selectors,
        replaced: &mut Replaced,
    ) -> RuleId {
        let id = RuleId(self.next);
        self.next += 1;
        let rule = &policy.rules[index];
        let subject = self.subject(&rule.subject);
        if let Some(stored) = self.subjects.get_mut(&subject) {
            stored.rules.insert(id);
        }
        replaced.subjects.push(rule.subject.clone());
        let peers = filter::peers(&rule.peers)
            .map(|peer| peer.map(|peer| selectors.intern(peer)))
            .collect();
        let stored = StoredRule {
            policy: policy.clone(),
            index,
            peers,
            subject,
        };
        self.by_id.insert(id, stored);
        id
    }

    fn subject(&mut self, subject: &Subject) -> SubjectId {
        if let Some(id) = self.by_subject.get(subject) {
            return *id;
        }
        let id = SubjectId(self.next_subject);
        self.next_subject += 1;
        let anchors = index::of_subject(subject)
            .into_iter()
            .min_by_key(|anchors| self.index.count(anchors))
            .unwrap_or_default();
        self.index.insert(&anchors, id);
        self.by_subject.insert(subject.clone(), id);
        let stored = StoredSubject {
            subject: subject.clone(),
            rules: BTreeSet::new(),
            anchors,
        };
        self.subjects.insert(id, stored);
        id
    }

    /// The rules whose subject these labels are, sorted.
    pub(super) fn selecting(&self, labels: &IdentityLabels) -> Vec<RuleId> {
        let mut subjects: Vec<SubjectId> = self.index.candidates(labels).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut rules: Vec<RuleId> = subjects
            .iter()
            .filter_map(|id| self.subjects.get(id))
            .filter(|stored| stored.subject.selects(labels))
            .flat_map(|stored| stored.rules.iter().copied())
            .collect();
        rules.sort_unstable();
        rules
    }

    pub(super) fn get(&self, id: RuleId) -> Option<&StoredRule> {
        self.by_id.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.of_policy.len()
    }
}

/// What a change of a policy concerns.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// Subjects of old and new rules.
    pub(super) subjects: Vec<Subject>,
    /// Peers of the old rules.
    pub(super) peers: Vec<PeerId>,
}
