//! Staged policies at work: live flows compared with what each staged policy would make of them.
//!
//! Flows that pass are read from conntrack, flows that are dropped from the programs' events. What comes of it
//! is told like everything else, and decides nothing.

mod sighting;
mod tally;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oxilium_abi::Event;
use oxilium_api::{Condition, StagedReport};
use oxilium_kernel::port::Flow;
use oxilium_model::policy::rule::{Policy, PolicyRef};
use oxilium_model::{Change, Incremental, Shadow};

use crate::reconcile::View;
use sighting::Sighting;
use tally::Tally;
pub(crate) use watcher::{Tap, any_staged, watch};

/// What each staged policy would change.
pub type StagedReports = BTreeMap<Arc<PolicyRef>, StagedReport>;

/// Seconds that a conntrack entry may have outlived itself and still be counted: between two looks it passed.
const LATELY: i64 = 15;

/// A staged policy, with the node as it would be under it.
struct Staged {
    policy: Arc<Policy>,
    shadow: Shadow,
    resolver: Incremental,
    tally: Tally,
}

/// Compares flows with all staged policies.
#[derive(Default)]
pub struct Auditor {
    view: Arc<View>,
    staged: BTreeMap<Arc<PolicyRef>, Staged>,
    /// How long computing what would be took last.
    took: Duration,
    /// Events that were lost, since the programs began.
    lost: u64,
}

impl Auditor {
    /// Computes what would be under each staged policy of this picture. A policy that changed counts anew.
    pub fn look(&mut self, view: Arc<View>) {
        let started = Instant::now();
        let mut before = std::mem::take(&mut self.staged);
        for (reference, policy) in &view.world.policies {
            if !policy.audit {
                continue;
            }
            let known = before
                .remove(reference)
                .filter(|known| known.policy == *policy);
            let (mut resolver, tally) = match known {
                Some(known) => (known.resolver, known.tally),
                None => (
                    Incremental::default(),
                    Tally::new(SystemTime::now(), self.lost),
                ),
            };
            let shadow = Shadow::of(&view.world, &view.state, policy, &mut resolver);
            let staged = Staged {
                policy: policy.clone(),
                shadow,
                resolver,
                tally,
            };
            self.staged.insert(reference.clone(), staged);
        }
        self.view = view;
        self.took = started.elapsed();
    }

    /// The picture differs from the one that was looked at in what flows are compared with.
    fn is_behind(&self, view: &View) -> bool {
        !Arc::ptr_eq(&view.world, &self.view.world) || !Arc::ptr_eq(&view.state, &self.view.state)
    }

    /// Takes in conntrack as it is now. Each flow is counted once, however often it is seen.
    pub fn flows(&mut self, flows: &[Flow], now: Instant) {
        for flow in flows {
            if let Some(sighting) = Sighting::of_entry(flow, LATELY) {
                self.see(&sighting, now);
            }
        }
        for staged in self.staged.values_mut() {
            staged.tally.forget(now);
        }
    }

    /// Takes in an event; one that tells of no flow dropped by policy is left aside.
    pub fn event(&mut self, event: &Event, now: Instant) {
        if let Some(sighting) = Sighting::of_event(event) {
            self.see(&sighting, now);
        }
    }

    /// So many events were lost in total.
    pub fn lost(&mut self, events: u64) {
        self.lost = events;
    }

    fn see(&mut self, sighting: &Sighting, now: Instant) {
        let view = &self.view;
        for staged in self.staged.values_mut() {
            let Some(change) = staged.shadow.compare(&view.state, &sighting.flow) else {
                continue;
            };
            // A verdict of before the policies of this picture is no verdict of theirs.
            if (change == Change::NewlyDenied) == sighting.passes {
                staged.tally.note(sighting, change, view, now);
            }
        }
    }

    /// What there is to tell of each staged policy.
    pub fn reports(&self) -> StagedReports {
        self.staged
            .iter()
            .map(|(reference, staged)| {
                let mut report = staged.tally.report(self.lost);
                report.conditions = staged
                    .shadow
                    .conditions()
                    .iter()
                    .map(|condition| Condition {
                        kind: condition.reason.kind().to_owned(),
                        status: "True".to_owned(),
                        reason: condition.reason.kind().to_owned(),
                        message: format!(
                            "if it were enforced: {}: {}",
                            condition.object, condition.reason
                        ),
                    })
                    .collect();
                (reference.clone(), report)
            })
            .collect()
    }
}
