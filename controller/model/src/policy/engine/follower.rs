//! Follows worlds: turns what differs from one world to the next into edits of the engine.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Engine, EnginePolicy};
use crate::identity::{Identities, NumericIdentity};
use crate::policy::config::PolicyConfig;
use crate::policy::enforce::SubjectView;
use crate::policy::quota::{Fitted, resolve_within};
use crate::policy::rule::{Policy, PolicyRef};
use crate::world::Table;

/// Policies by name.
pub type Policies = Table<Arc<PolicyRef>, Arc<Policy>>;

/// Resolves subjects of one world after the other, remembering what stays the same. What it says is what
/// [`resolve_within`] says of each subject by itself.
#[derive(Debug)]
pub struct Follower {
    config: PolicyConfig,
    engine: Engine,
    policies: Policies,
    identities: Arc<Identities>,
    subjects: u64,
    /// What was said of tables that are still in use. They are held, so that no other takes their place.
    fitted: HashMap<Tables, (EnginePolicy, Arc<Fitted>)>,
}

/// A pair of tables, by where they are: compared, never followed.
type Tables = (usize, usize);

impl Follower {
    /// Knows nothing yet.
    pub fn new(config: PolicyConfig) -> Self {
        Self {
            engine: Engine::new(config.clone()),
            config,
            policies: Policies::default(),
            identities: Arc::new(Identities::default()),
            subjects: 0,
            fitted: HashMap::new(),
        }
    }

    /// The policy of each subject, in their order, with at most `available` entries in each direction.
    pub fn follow(
        &mut self,
        config: &PolicyConfig,
        policies: &Policies,
        identities: &Arc<Identities>,
        subjects: &[SubjectView],
        available: usize,
    ) -> Vec<Arc<Fitted>> {
        if self.config != *config {
            *self = Self::new(config.clone());
        }
        self.follow_identities(identities);
        self.follow_policies(policies);
        self.follow_subjects(subjects);
        let mut all: Option<Vec<Policy>> = None;
        let mut fitted = HashMap::new();
        let results = (0..)
            .zip(subjects)
            .map(|(number, subject)| {
                if let Some((tables, policy, result)) = self.within(number, available) {
                    fitted.insert(tables, (policy, result.clone()));
                    return result;
                }
                let all = all.get_or_insert_with(|| {
                    policies.values().map(|policy| (**policy).clone()).collect()
                });
                Arc::new(resolve_within(all, identities, subject, config, available))
            })
            .collect();
        self.fitted = fitted;
        results
    }

    /// What the engine says of a subject, unless its rules contradict each other or its table is too large.
    fn within(
        &self,
        subject: u64,
        available: usize,
    ) -> Option<(Tables, EnginePolicy, Arc<Fitted>)> {
        let policy = self.engine.policy(subject)?;
        let fits = policy.ingress.len() <= available && policy.egress.len() <= available;
        if policy.error.is_some() || !fits {
            return None;
        }
        let tables = (
            Arc::as_ptr(&policy.ingress).addr(),
            Arc::as_ptr(&policy.egress).addr(),
        );
        if let Some((_, known)) = self.fitted.get(&tables) {
            return Some((tables, policy, known.clone()));
        }
        let fitted = Fitted {
            policy: self.engine.subject_policy(subject)?,
            overflow: Vec::new(),
        };
        Some((tables, policy, Arc::new(fitted)))
    }

    fn follow_identities(&mut self, identities: &Arc<Identities>) {
        if Arc::ptr_eq(&self.identities, identities) {
            return;
        }
        let gone: Vec<NumericIdentity> = self
            .identities
            .iter()
            .map(|(id, _)| id)
            .filter(|id| identities.get(*id).is_none())
            .collect();
        for id in gone {
            self.engine.set_identity(id, None);
        }
        for (id, identity) in identities.iter() {
            if self.identities.get(id) != Some(identity) {
                self.engine.set_identity(id, Some(identity.clone()));
            }
        }
        self.identities = identities.clone();
    }

    fn follow_policies(&mut self, policies: &Policies) {
        for policy in self.policies.differing(policies) {
            self.engine.set_policy(policy.key, policy.is.cloned());
        }
        self.policies.clone_from(policies);
    }

    fn follow_subjects(&mut self, subjects: &[SubjectView]) {
        let mut count = 0;
        for subject in subjects {
            self.engine.set_subject(count, Some(subject.clone()));
            count += 1;
        }
        for surplus in count..self.subjects {
            self.engine.set_subject(surplus, None);
        }
        self.subjects = count;
    }
}
