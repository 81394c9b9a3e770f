//! One reconciliation: desired state, difference, writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxilium_kernel::{ApplyError, Node, Retry};
use oxilium_model::desired_with;
use oxilium_model::node_state::AttachPoint;
use oxilium_model::plan::{Plan, Write, plan};
use oxilium_model::world::Complete;

use super::failures::Object;
use super::{Reconciler, fold, overflow, settle};
use crate::explain::LeftOut;
use crate::metrics::Phase;

/// Plans that one turn makes at most: each failure needs another look at the kernel.
const PLANS: u32 = 8;

/// How long programs are put on hooks before other inputs are looked at. The kernel waits for an RCU grace
/// period for each, milliseconds that a hundred new pods take one after the other.
const SLICE: Duration = Duration::from_millis(100);

/// Pods of a plan that are enforced are told of at once, but no more often than this: it takes a picture of all.
const TELL_EVERY: Duration = Duration::from_millis(5);

/// What applying a plan came to.
enum Applied {
    /// All of it is in the kernel, but for objects that wait for their next try.
    AllButFailing,
    /// The tables are written; of the programs some are still to come.
    Unfinished,
    /// A write failed; what is there must be read again.
    Failed { again: bool },
}

impl<N: Node> Reconciler<N> {
    /// Brings the kernel to what the inputs say, as far as it lets itself be brought.
    pub(super) fn reconcile(&mut self, now: Instant) {
        let started = Instant::now();
        let Ok(complete) = self.index.synced().complete() else {
            return;
        };
        if self.failures.waits(&Object::Disk, now) {
            return;
        }
        if !self.compute(now) {
            return;
        }
        self.keep_uids(now);
        let computed = started.elapsed();
        self.instruments.took(Phase::compute, computed);
        let revision = self.revisions.plan;
        let mut attached = BTreeSet::new();
        for _ in 0..PLANS {
            if self.failures.waits(&Object::Tables, now) || !self.observe(now) {
                return;
            }
            let observed = started.elapsed();
            let Some(plan) = self.plan(complete, now) else {
                return;
            };
            tracing::debug!(
                compute_us = computed.as_micros(),
                observe_us = observed.saturating_sub(computed).as_micros(),
                plan_us = started.elapsed().saturating_sub(observed).as_micros(),
                steps = plan.steps().len(),
                "planned"
            );
            match self.apply(&plan, &mut attached, now) {
                Applied::AllButFailing if plan.goes_on() => {}
                // What fails by itself is told by itself; all the rest of this revision is in the kernel.
                Applied::AllButFailing => {
                    self.note_left_out(&plan, now);
                    self.note_settled(&plan);
                    return self.applied(revision, &attached);
                }
                Applied::Unfinished => {
                    self.unfinished = true;
                    return;
                }
                Applied::Failed { again: true } => {}
                Applied::Failed { again: false } => return,
            }
        }
    }

    /// All of a whole plan's tables are written.
    fn note_settled(&mut self, plan: &Plan) {
        if let Some(observed) = &mut self.observed {
            observed.settle(&self.state, plan.left_out());
        }
    }

    /// What there is no room for is told for as long as it is so.
    fn note_left_out(&mut self, plan: &Plan, now: Instant) {
        let left_out = LeftOut::of(plan);
        if *self.left_out != left_out {
            self.left_out = Arc::new(left_out);
        }
        let Some(first) = plan.left_out().first() else {
            self.failures.works(&Object::Room);
            return;
        };
        let reason = format!(
            "the ipcache is full ({} prefixes): {} addresses of pods on other nodes have no entry, and may only what everybody may, first {first}; \
             let fewer prefixes be named by policies or fewer pods be in the cluster",
            self.index.config().capacities.ipcache,
            plan.left_out().len(),
        );
        self.failures.failed(Object::Room, reason, false, now);
    }

    /// Computes the desired state of the present inputs, and brings the numbers that it uses to disk.
    fn compute(&mut self, now: Instant) -> bool {
        let revision = self.index.revision();
        let world = Arc::new(self.index.world());
        let state = Arc::new(desired_with(&world, &mut self.resolver));
        if let Err(error) = self.claims.write(&state.claims) {
            self.failures
                .failed(Object::Disk, error.to_string(), true, now);
            return false;
        }
        self.failures.works(&Object::Disk);
        self.index.set_claims(state.claims.clone());
        for endpoint in state.endpoints.values() {
            self.lives.computed(endpoint, now);
        }
        overflow::tell(&self.state.conditions, &state.conditions);
        self.world = world;
        self.state = state;
        self.revisions.plan = revision;
        true
    }

    /// A runtime that tells no UID means the pod that is there now: a later one of its name is another.
    fn keep_uids(&mut self, now: Instant) {
        let records: Vec<_> = self
            .attachments
            .iter()
            .filter(|record| record.pod_uid.is_empty())
            .filter_map(|record| {
                let pod = self.world.pods.get(&record.pod)?;
                (!pod.uid.is_empty()).then(|| {
                    let mut record = record.clone();
                    record.pod_uid = pod.uid.to_string();
                    record
                })
            })
            .collect();
        if records.is_empty() {
            return;
        }
        match self.attachments.put(records) {
            Ok(()) => self.links_changed = true,
            Err(error) => {
                self.failures
                    .failed(Object::Disk, error.to_string(), true, now);
            }
        }
    }

    /// Reads the kernel, if what is remembered of it cannot be trusted.
    fn observe(&mut self, now: Instant) -> bool {
        let sweeping = std::mem::take(&mut self.sweep.due);
        if self.observed.is_some() && !sweeping {
            return true;
        }
        if self.failures.waits(&Object::Observe, now) {
            return false;
        }
        let started = Instant::now();
        match self.node.observe() {
            Ok(mut observed) => {
                self.failures.works(&Object::Observe);
                self.drifted.clear();
                if let Some(known) = &mut self.observed {
                    let differing = known.differing(&observed);
                    if differing.is_empty() {
                        observed.settled_services = std::mem::take(&mut known.settled_services);
                        observed.settled_ipcache = std::mem::take(&mut known.settled_ipcache);
                    }
                    if sweeping {
                        self.drifted = differing;
                    }
                }
                self.observed = Some(observed);
                self.sweep.last = Some(started);
                self.sweep.took = started.elapsed();
                self.instruments.took(Phase::observe, self.sweep.took);
                // The former picture of the kernel is gone.
                oxilium_kernel::memory::give_back();
                true
            }
            Err(error) => {
                self.observed = None;
                let again = error.retry() != Retry::Never;
                self.failures
                    .failed(Object::Observe, error.to_string(), again, now);
                false
            }
        }
    }

    fn plan(&mut self, complete: Complete, now: Instant) -> Option<Plan> {
        let observed = self.observed.as_ref()?;
        let started = Instant::now();
        let planned = plan(observed, &self.state, self.index.config(), complete);
        self.instruments.took(Phase::plan, started.elapsed());
        match planned {
            Ok(plan) => {
                self.note_drift(&plan, now);
                Some(plan)
            }
            Err(error) => {
                self.failures
                    .failed(Object::Tables, error.to_string(), false, now);
                None
            }
        }
    }

    /// Makes the plan's writes up to the first that fails. Programs that fail on one interface, and flows of
    /// one endpoint, wait by themselves.
    fn apply(
        &mut self,
        plan: &Plan,
        attached: &mut BTreeSet<AttachPoint>,
        now: Instant,
    ) -> Applied {
        let mut writes = 0;
        let mut planned = BTreeSet::new();
        let started = Instant::now();
        let end = started + SLICE;
        let mut told = started;
        let steps = plan.steps();
        let tables = steps
            .iter()
            .rposition(|step| {
                object_of(&step.write) == Object::Tables && step.write.target().is_some()
            })
            .map_or(0, |last| last + 1);
        self.settling.planned(plan, now);
        for (place, step) in (1..).zip(steps) {
            if settle::is_settling(step) {
                planned.extend(settle::object_of(&step.write));
                continue;
            }
            let object = object_of(&step.write);
            planned.insert(object.clone());
            if self.failures.waits(&object, now) {
                continue;
            }
            if let Err(error) = self.node.apply(&step.write) {
                return self.write_failed(object, &step.write, &error, now);
            }
            if let Some(observed) = &mut self.observed {
                fold::note(observed, &step.write);
            }
            writes += u64::from(step.write.target().is_some());
            if object != Object::Tables {
                self.failures.works(&object);
            }
            if let Write::Attach { point, .. } | Write::Replace { point, .. } = &step.write {
                attached.insert(*point);
                if place >= tables && self.completed(point.ifindex) && told.elapsed() >= TELL_EVERY
                {
                    self.show();
                    self.answer_waiters(Instant::now());
                    told = Instant::now();
                }
            }
            if (tables..steps.len()).contains(&place) && Instant::now() >= end {
                self.failures.works(&Object::Tables);
                return Applied::Unfinished;
            }
        }
        self.failures.works(&Object::Tables);
        self.failures.retain_planned(&planned);
        if writes > 0 {
            self.revisions.last_writes = writes;
            self.instruments.planned(writes);
            self.instruments.took(Phase::apply, started.elapsed());
            let apply_us = started.elapsed().as_micros();
            tracing::debug!(writes, apply_us, revision = self.revisions.plan, "applied");
        }
        Applied::AllButFailing
    }

    /// A program was put on a hook of this interface, with all tables written: if it was the last one, the
    /// endpoint behind it is enforced, and who waits for that need not wait for others.
    fn completed(&mut self, ifindex: u32) -> bool {
        let state = Arc::clone(&self.state);
        let is_there = |point: &AttachPoint| {
            self.observed
                .as_ref()
                .is_some_and(|observed| observed.attachments.contains_key(point))
        };
        let all = state
            .attachments
            .keys()
            .filter(|point| point.ifindex == ifindex)
            .all(is_there);
        let endpoint = state
            .endpoints
            .values()
            .find(|endpoint| endpoint.ifindex == Some(ifindex));
        let Some(endpoint) = endpoint.filter(|_| all) else {
            return false;
        };
        if let Some(regenerated) = self.lives.applied(endpoint, true, self.revisions.plan) {
            self.instruments.regenerated(&regenerated);
        }
        true
    }

    fn write_failed(
        &mut self,
        object: Object,
        write: &Write,
        error: &ApplyError,
        now: Instant,
    ) -> Applied {
        let alone = object != Object::Tables;
        self.note_failed(object, write, error, now);
        Applied::Failed { again: alone }
    }

    /// A write failed: what is there must be read again.
    pub(super) fn note_failed(
        &mut self,
        object: Object,
        write: &Write,
        error: &ApplyError,
        now: Instant,
    ) {
        self.observed = None;
        let retry = error.retry();
        if retry == Retry::Now {
            // The kernel is not what it was thought to be, e.g. a device is gone: look again.
            tracing::info!(%error, "a write came too late");
            self.links_changed = true;
        }
        let again = matches!(retry, Retry::Now | Retry::Backoff);
        self.failures
            .failed(object, format!("{write}: {error}"), again, now);
    }

    /// Everything that revision `revision` asks for is in the kernel, or fails by itself.
    fn applied(&mut self, revision: u64, attached: &BTreeSet<AttachPoint>) {
        self.revisions.applied = revision;
        if let Some(since) = self.objects_since.take() {
            self.instruments.implemented(since.elapsed());
        }
        for endpoint in self.state.endpoints.values() {
            let Some(ifindex) = endpoint.ifindex else {
                continue;
            };
            if self.failures.of_interface(ifindex).is_some() {
                continue;
            }
            let attached_now = attached.iter().any(|point| point.ifindex == ifindex)
                && !self.lives.is_ready(&endpoint.attachment);
            if let Some(regenerated) = self.lives.applied(endpoint, attached_now, revision) {
                self.instruments.regenerated(&regenerated);
            }
        }
    }
}

/// Which object a write belongs to: what fails with it, and what does not.
fn object_of(write: &Write) -> Object {
    match write {
        Write::Attach { point, .. } | Write::Replace { point, .. } | Write::Detach { point } => {
            Object::Attach(*point)
        }
        Write::PurgeConntrack { endpoint } => Object::Purge(*endpoint),
        _ => Object::Tables,
    }
}
