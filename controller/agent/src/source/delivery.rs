//! What a source of objects hands to the reconcile loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oxilium_api::{FailingObject, SourceStatus};
use oxilium_model::policy::rule::PolicyRef;
use oxilium_model::world::Source;
use tokio::sync::oneshot;

use crate::reconcile::{OBJECT_SOURCES, Objects};

/// How a source of objects does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// Why not all that there is can be read at present; what was read last stays in force.
    pub problem: Option<String>,
    /// The source, and what it consists of.
    pub components: Vec<SourceStatus>,
    /// Objects that are not in force as they stand, each with the reason.
    pub refused: Vec<FailingObject>,
    /// Policies in force that lack fields with which they were written: which.
    pub pruned: BTreeMap<Arc<PolicyRef>, String>,
}

impl SourceReport {
    /// Policies that are refused and were not in the report before, or not for the same reason.
    pub fn policies_refused_since(&self, before: &Self) -> usize {
        // Kinds of policies: NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, ClusterNetworkPolicy.
        let is_policy = |refused: &&FailingObject| {
            let kind = refused.object.split(' ').next();
            kind.is_some_and(|kind| kind.ends_with("NetworkPolicy"))
        };
        let known: BTreeSet<&FailingObject> = before.refused.iter().collect();
        let refused = self.refused.iter().filter(is_policy);
        refused.filter(|refused| !known.contains(refused)).count()
    }
}

/// Objects, whole, and how their source does.
#[derive(Debug)]
pub struct Delivery {
    /// Everything that is known; none when what was told last stays.
    pub objects: Option<Arc<Objects>>,
    /// The parts of it of which the first full list is in there.
    pub synced: BTreeSet<Source>,
    /// How the source does.
    pub report: Arc<SourceReport>,
    taken: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// A full list of everything.
    pub fn full(objects: Arc<Objects>, report: Arc<SourceReport>) -> Self {
        Self::of(objects, OBJECT_SOURCES.into(), report)
    }

    /// A full list of what is in `synced`; of the rest, what is known so far.
    pub fn of(objects: Arc<Objects>, synced: BTreeSet<Source>, report: Arc<SourceReport>) -> Self {
        Self {
            objects: Some(objects),
            synced,
            report,
            taken: None,
        }
    }

    /// The source cannot be read: what it told last stays.
    pub fn frozen(report: Arc<SourceReport>) -> Self {
        Self {
            objects: None,
            synced: BTreeSet::new(),
            report,
            taken: None,
        }
    }

    /// The other end is closed once this was taken in. A source that waits for that has one delivery under
    /// way, however fast its objects change.
    #[must_use]
    pub fn awaited(mut self) -> (Self, oneshot::Receiver<()>) {
        let (taken, wait) = oneshot::channel();
        self.taken = Some(taken);
        (self, wait)
    }
}
