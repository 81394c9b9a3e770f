//! The incremental engine: the same tables as [`resolve`](super::resolve()), kept up to date edit by edit.
//!
//! Rules are filed under the labels of their subjects, selectors under those of the identities that they
//! could select, so that an edit asks only what it may concern. Subjects with the same rules share a rule
//! set, and identities that the same selectors select share a column of its table. Nothing here depends on
//! the order of edits: the tables are those of the plain function for what is there now.

mod columns;
mod follower;
mod index;
mod rule_set;
mod rules;
mod selectors;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oxilium_abi::Direction;

use self::rule_set::{Blueprint, RuleSet, RuleSetId, RuleSetKey};
use self::rules::{RuleId, Rules};
use self::selectors::{Known, PeerId, Selectors};
use super::config::PolicyConfig;
use super::enforce::{self, Enforcement, SubjectView};
use super::peer::{Entity, Peer};
use super::resolve::{DirectionPolicy, ResolveError, SubjectPolicy};
use super::rule::{Policy, PolicyRef, PortRules, PortSpec, Rule};
use crate::identity::{Identities, Identity, NamedPorts, NumericIdentity};

pub use self::columns::ColumnTable;
pub use self::follower::{Follower, Policies};

/// What an edit changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The subjects whose table is another one now.
    pub subjects: BTreeSet<u64>,
    /// Entries that came or went in tables that stayed in place, counting a table once however many share it.
    pub entries: usize,
}

/// A subject's policy, as the engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnginePolicy {
    /// To the subject. Subjects with the same rules share it.
    pub ingress: Arc<ColumnTable>,
    /// From the subject.
    pub egress: Arc<ColumnTable>,
    /// Why the rules cannot be enforced together; then nothing is allowed in either direction.
    pub error: Option<ResolveError>,
}

impl EnginePolicy {
    /// Entries of both directions.
    pub fn len(&self) -> usize {
        self.ingress.len() + self.egress.len()
    }

    /// Allows nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct SubjectState {
    view: SubjectView,
    ingress: RuleSetId,
    egress: RuleSetId,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: PolicyConfig,
    known: Known,
    selectors: Selectors,
    everyone: PeerId,
    rules: Rules,
    subjects: BTreeMap<u64, SubjectState>,
    sets: HashMap<RuleSetId, RuleSet>,
    next_set: u32,
    by_key: HashMap<RuleSetKey, RuleSetId>,
    denied: Arc<ColumnTable>,
}

impl Engine {
    /// An engine that knows the reserved identities, and no policy.
    pub fn new(config: PolicyConfig) -> Self {
        let mut selectors = Selectors::default();
        let everyone = selectors.intern(&Peer::Entity(Entity::All));
        Self {
            config,
            known: Known::new(),
            selectors,
            everyone,
            rules: Rules::default(),
            subjects: BTreeMap::new(),
            sets: HashMap::new(),
            next_set: 0,
            by_key: HashMap::new(),
            denied: Arc::new(ColumnTable::new(true)),
        }
    }

    /// All identities.
    pub fn identities(&self) -> &Identities {
        &self.known.identities
    }

    /// How many policies there are.
    pub fn policies(&self) -> usize {
        self.rules.len()
    }

    /// Adds, replaces or (with `None`) removes an identity.
    pub fn set_identity(&mut self, id: NumericIdentity, identity: Option<Identity>) -> Changed {
        let before = self.known.identities.get(id).cloned();
        if before == identity {
            return Changed::default();
        }
        let empty = Identity::default();
        let old = before.as_ref().unwrap_or(&empty);
        let new = identity.as_ref().unwrap_or(&empty);
        let ports_differ = old.named_ports != new.named_ports;
        let peers_before = self.peers_of(before.as_ref());
        let peers_after = self.peers_of(identity.as_ref());
        if before.is_some() {
            self.known.unfile(id, &old.labels);
        }
        if identity.is_some() {
            self.known.file(id, &new.labels);
        }
        let mut users = BTreeSet::new();
        for peer in peers_before.iter().filter(|p| !peers_after.contains(p)) {
            self.selectors.update(*peer, id, false, &mut users);
        }
        for peer in peers_after.iter().filter(|p| !peers_before.contains(p)) {
            self.selectors.update(*peer, id, true, &mut users);
        }
        if ports_differ {
            users.extend(
                peers_after
                    .iter()
                    .flat_map(|peer| self.selectors.users(*peer)),
            );
        }
        match identity {
            Some(identity) => self.known.identities.insert(id, identity),
            None => self.known.identities.remove(id),
        };
        self.update_columns(id, &peers_after, &users)
    }

    /// The peers in use that select an identity.
    fn peers_of(&self, identity: Option<&Identity>) -> Vec<PeerId> {
        identity.map_or_else(Vec::new, |identity| {
            self.selectors.selecting(&identity.labels, &self.config)
        })
    }

    fn update_columns(
        &mut self,
        id: NumericIdentity,
        peers: &[PeerId],
        users: &BTreeSet<RuleSetId>,
    ) -> Changed {
        let mut changed = Changed::default();
        for user in users {
            let Some(set) = self.sets.get_mut(user) else {
                continue;
            };
            let own: Vec<PeerId> = peers
                .iter()
                .copied()
                .filter(|peer| set.uses(*peer))
                .collect();
            let entries = set.update(id, &own, &self.known.identities);
            if entries > 0 {
                changed.entries += entries;
                changed.subjects.extend(&set.subjects);
            }
        }
        changed
    }

    /// Adds or replaces a policy, or removes the one of that name.
    pub fn set_policy(
        &mut self,
        reference: &Arc<PolicyRef>,
        policy: Option<Arc<Policy>>,
    ) -> Changed {
        let replaced = self.rules.set(reference, policy, &mut self.selectors);
        let concerned: Vec<u64> = self
            .subjects
            .iter()
            .filter(|(_, state)| {
                let labels = &state.view.labels;
                replaced
                    .subjects
                    .iter()
                    .any(|subject| subject.selects(labels))
            })
            .map(|(subject, _)| *subject)
            .collect();
        let mut changed = Changed::default();
        for subject in concerned {
            if self.assign(subject) {
                changed.subjects.insert(subject);
            }
        }
        self.rules.forget(replaced, &mut self.selectors);
        changed
    }

    /// Adds, replaces or removes a subject; `subject` is the caller's number for it.
    pub fn set_subject(&mut self, subject: u64, view: Option<SubjectView>) -> Changed {
        let mut changed = Changed::default();
        match view {
            None => {
                if let Some(state) = self.subjects.remove(&subject) {
                    self.leave(state.ingress, subject);
                    self.leave(state.egress, subject);
                    changed.subjects.insert(subject);
                }
            }
            Some(view) => {
                let same = self
                    .subjects
                    .get(&subject)
                    .is_some_and(|state| state.view == view);
                if !same && self.place(subject, view) {
                    changed.subjects.insert(subject);
                }
            }
        }
        changed
    }

    /// Finds a subject's rule sets anew. True if they are others than before.
    fn assign(&mut self, subject: u64) -> bool {
        let Some(state) = self.subjects.get(&subject) else {
            return false;
        };
        let view = state.view.clone();
        self.place(subject, view)
    }

    fn place(&mut self, subject: u64, view: SubjectView) -> bool {
        let rules = self.rules.selecting(&view.labels);
        let ingress = self.join(&view, &rules, Direction::Ingress, subject);
        let egress = self.join(&view, &rules, Direction::Egress, subject);
        let state = SubjectState {
            view,
            ingress,
            egress,
        };
        let Some(old) = self.subjects.insert(subject, state) else {
            return true;
        };
        for (before, now) in [(old.ingress, ingress), (old.egress, egress)] {
            if before != now {
                self.leave(before, subject);
            }
        }
        (old.ingress, old.egress) != (ingress, egress)
    }

    /// The rule set of a subject in one direction, made if it is not there.
    fn join(
        &mut self,
        view: &SubjectView,
        rules: &[RuleId],
        direction: Direction,
        subject: u64,
    ) -> RuleSetId {
        let own: Vec<RuleId> = rules
            .iter()
            .copied()
            .filter(|id| {
                self.rules
                    .get(*id)
                    .is_some_and(|r| r.rule().direction == direction)
            })
            .collect();
        let names_ports = direction == Direction::Ingress
            && own
                .iter()
                .any(|id| self.rules.get(*id).is_some_and(|r| names_ports(r.rule())));
        let key = RuleSetKey {
            egress: direction == Direction::Egress,
            is_host: view.is_host(),
            is_init: view.labels.has_reserved("init"),
            rules: own,
            named_ports: if names_ports {
                view.named_ports.clone()
            } else {
                NamedPorts::default()
            },
        };
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => self.build(key, view, direction),
        };
        if let Some(set) = self.sets.get_mut(&id) {
            set.subjects.insert(subject);
        }
        id
    }

    fn build(&mut self, key: RuleSetKey, view: &SubjectView, direction: Direction) -> RuleSetId {
        let id = RuleSetId(self.next_set);
        self.next_set += 1;
        let mut rules: Vec<PlacedRule<'_>> = key
            .rules
            .iter()
            .filter_map(|id| self.rules.get(*id))
            .map(|stored| (stored.rule(), &*stored.peers))
            .collect();
        rules.sort_by_key(|(rule, _)| enforce::order(rule));
        let mut set = self.draw(&key, &rules, view, direction);
        if let Some(ResolveError::Conflict(_)) = set.error {
            // Which two rules are told is a matter of their names.
            rules.sort_by(|(a, _), (b, _)| {
                let by_name = || a.origin.cmp(&b.origin);
                enforce::order(a).cmp(&enforce::order(b)).then_with(by_name)
            });
            set = self.draw(&key, &rules, view, direction);
        }
        for peer in set.peers() {
            self.selectors.add_user(peer, id, &self.known, &self.config);
        }
        set.fill(&self.selectors, &self.known.identities);
        self.by_key.insert(key, id);
        self.sets.insert(id, set);
        id
    }

    /// A rule set without its table.
    fn draw(
        &self,
        key: &RuleSetKey,
        rules: &[PlacedRule<'_>],
        view: &SubjectView,
        direction: Direction,
    ) -> RuleSet {
        let (rules, peers): (Vec<&Rule>, Vec<_>) = rules.iter().copied().unzip();
        let blueprint = Blueprint {
            key,
            enforcement: Enforcement::of_rules(rules, view, &self.config, direction),
            peers,
            everyone: self.everyone,
            local_cluster: self.config.cluster_id,
        };
        RuleSet::new(&blueprint, &self.selectors)
    }

    /// A subject uses a rule set no more.
    fn leave(&mut self, id: RuleSetId, subject: u64) {
        let Some(set) = self.sets.get_mut(&id) else {
            return;
        };
        set.subjects.remove(&subject);
        if !set.subjects.is_empty() {
            return;
        }
        if let Some(set) = self.sets.remove(&id) {
            self.by_key.remove(&set.key);
            for peer in set.peers() {
                self.selectors.remove_user(peer, id);
            }
        }
    }

    fn sets_of(&self, subject: u64) -> Option<[&RuleSet; 2]> {
        let state = self.subjects.get(&subject)?;
        Some([
            self.sets.get(&state.ingress)?,
            self.sets.get(&state.egress)?,
        ])
    }

    /// A subject's policy.
    pub fn policy(&self, subject: u64) -> Option<EnginePolicy> {
        let [ingress, egress] = self.sets_of(subject)?;
        let error = ingress.error.clone().or_else(|| egress.error.clone());
        if error.is_some() {
            return Some(EnginePolicy {
                ingress: self.denied.clone(),
                egress: self.denied.clone(),
                error,
            });
        }
        Some(EnginePolicy {
            ingress: ingress.table.clone(),
            egress: egress.table.clone(),
            error: None,
        })
    }

    /// A subject's policy as the plain function gives it.
    pub fn subject_policy(&self, subject: u64) -> Option<SubjectPolicy> {
        let sets = self.sets_of(subject)?;
        let [ingress, egress] = sets.map(|set| match &set.error {
            Some(error) => Err(error.clone()),
            None => Ok(DirectionPolicy {
                table: set.table.to_table(),
                l7: set.l7(&self.selectors),
            }),
        });
        Some(SubjectPolicy::of(ingress, egress))
    }
}

/// A rule and its peers.
type PlacedRule<'a> = (&'a Rule, &'a [Option<PeerId>]);

/// A rule names a port.
fn names_ports(rule: &Rule) -> bool {
    let PortRules::AnyOf(rules) = &rule.ports else {
        return false;
    };
    rules
        .iter()
        .flat_map(|rule| &rule.ports)
        .any(|ports| matches!(ports.port, PortSpec::Named(_)))
}
