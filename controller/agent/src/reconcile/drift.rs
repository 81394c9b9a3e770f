//! What somebody else changed: found by a sweep, put right, counted, and made less of where it is changed again and again.

use std::path::PathBuf;
use std::time::Instant;

use oxilium_kernel::Node;
use oxilium_model::plan::{Plan, Table};

use super::failures::Object;
use super::fights::Ground;
use super::{Reconciler, jitter, settle};

impl<N: Node> Reconciler<N> {
    /// The kernel is to be compared with what it should hold, whatever is remembered of it.
    pub(super) fn begin_sweep(&mut self, now: Instant) {
        self.links_changed = true;
        self.adoption.due = true;
        self.sweep.due = true;
        self.untidy = true;
        self.read_tombstones(now);
        self.next_sweep = now + jitter(self.sweep_every);
    }

    /// The sweep that this plan follows found the kernel other than remembered: so the plan repairs.
    pub(super) fn note_drift(&mut self, plan: &Plan, now: Instant) {
        let drifted = std::mem::take(&mut self.drifted);
        let repairs = plan
            .steps()
            .iter()
            .filter(|step| !settle::is_settling(step));
        let targets: Vec<Table> = repairs
            .filter_map(|step| step.write.target())
            .map(|(table, _)| table)
            .collect();
        if drifted.is_empty() || targets.is_empty() {
            return;
        }
        self.sweep.repaired += targets.len() as u64;
        tracing::warn!(
            writes = targets.len(),
            "the kernel is not as it was left; repairing:\n{plan}"
        );
        for table in drifted {
            // What a repair writes besides is not fought over; of each hook by itself it is told by whoever looks at hooks.
            if targets.contains(&table) && table != Table::Attachments {
                self.undone(Ground::Table(table), now);
            }
        }
    }

    /// Removes pins that nothing needs any more, once everything is written.
    pub(super) fn tidy(&mut self, now: Instant) {
        let settled = self.revisions.applied > 0
            && self.revisions.applied == self.index.revision()
            && !self.links_changed;
        if !self.untidy || !settled || self.failures.waits(&Object::Pins, now) {
            return;
        }
        let tidied = self.node.tidy();
        let restored = self.node.restored_pins();
        self.sweep.pins_restored += restored.len() as u64;
        // With their place all pins go.
        let outermost = |path: &&PathBuf| {
            let mut places = restored.iter().filter(|place| place != path);
            !places.any(|place| path.starts_with(place))
        };
        for path in restored.iter().filter(outermost) {
            self.undone(Ground::Pin(path.clone()), now);
        }
        match tidied {
            Ok(changed) => {
                self.untidy = false;
                self.failures.works(&Object::Pins);
                if changed > 0 {
                    tracing::info!(changed, "put the pins in order");
                }
            }
            Err(error) => {
                self.failures
                    .failed(Object::Pins, error.to_string(), true, now);
            }
        }
    }

    /// This was found other than it was left. Where that happens again and again, the next look at all comes later.
    fn undone(&mut self, ground: Ground, now: Instant) {
        let wait = self.fights.undone(ground, now);
        if !wait.is_zero() {
            self.next_sweep = self.next_sweep.max(now + self.sweep_every + wait);
        }
    }
}
