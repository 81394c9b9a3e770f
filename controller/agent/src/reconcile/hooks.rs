//! Hooks that announce nothing are asked, each second: what somebody took off is back before long. Those that
//! announce their changes are asked when they do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oxilium_kernel::Node;
use oxilium_model::node_state::AttachPoint;
use oxilium_model::observed::{AttachedProgram, Observed, Place};

use super::failures::Object;
use super::fights::Ground;
use super::{Reconciler, jitter};

/// When hooks are looked at.
#[derive(Debug)]
pub(super) struct Looks {
    every: Duration,
    pub(super) next: Instant,
    /// It was announced that somebody, perhaps this agent, changed what is on hooks.
    pub(super) changed: bool,
}

impl Looks {
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            next: now + every,
            changed: false,
        }
    }
}

impl<N: Node> Reconciler<N> {
    /// Nothing came in and nothing is due: what a look at the hooks leaves to be done is nothing.
    pub(super) fn is_at_rest(&mut self, now: Instant) -> bool {
        let drifted = self.look_at_hooks(now);
        !drifted && now < self.rest_until
    }

    /// Compares the hooks of our interfaces with what is remembered of them, if it is time; true when they
    /// differ. Whoever changed a hook may have changed more: then everything is compared.
    fn look_at_hooks(&mut self, now: Instant) -> bool {
        let announced = self.node.announces_hooks();
        let due = if announced {
            self.looks.changed
        } else {
            now >= self.looks.next
        };
        if now >= self.looks.next {
            self.looks.next = now + jitter(self.looks.every);
        }
        if !due || self.failures.waits(&Object::Observe, now) {
            return false;
        }
        // What is to be read anew, or written still, is looked at by whoever does that.
        let Some(known) = self.observed.as_ref().filter(|_| !self.unfinished) else {
            return false;
        };
        self.looks.changed = false;
        let interfaces: BTreeMap<u32, u16> = known
            .interfaces
            .iter()
            .map(|(ifindex, config)| (*ifindex, config.endpoint))
            .collect();
        let started = Instant::now();
        let found = self.node.attachments(&interfaces);
        self.sweep.hooks_took = started.elapsed();
        match found {
            Ok(found) => {
                let differing = differing(known, &interfaces, &found);
                if differing.is_empty() {
                    return false;
                }
                for point in &differing {
                    self.wait_in_a_fight(*point, now);
                    let found = found.get(point).map_or("no program of ours", |program| {
                        if program.place == Place::Misplaced {
                            "a program out of order"
                        } else {
                            "another program"
                        }
                    });
                    tracing::info!(interface = point.ifindex, hook = %point.hook, found, "a hook is not as it was left");
                }
                self.sweep.hooks_drifted += differing.len() as u64;
                // A device that went takes its programs with it.
                self.links_changed = true;
                self.sweep.due = true;
                self.untidy = true;
            }
            Err(error) => {
                self.observed = None;
                self.failures
                    .failed(Object::Observe, error.to_string(), true, now);
            }
        }
        true
    }

    /// A hook is not as it was left. Where that happens again and again it waits with its repair.
    fn wait_in_a_fight(&mut self, point: AttachPoint, now: Instant) {
        let wait = self.fights.undone(Ground::Hook(point), now);
        if !wait.is_zero() {
            let reason = "somebody else keeps changing it".to_owned();
            self.failures
                .put_off(Object::Attach(point), reason, wait, now);
        }
    }
}

/// Hooks of these interfaces that hold something else than is known.
fn differing(
    known: &Observed,
    interfaces: &BTreeMap<u32, u16>,
    found: &BTreeMap<AttachPoint, AttachedProgram>,
) -> Vec<AttachPoint> {
    let mut known = known.attachments.clone();
    known.retain(|point, _| interfaces.contains_key(&point.ifindex));
    let mut points: Vec<AttachPoint> = known.keys().chain(found.keys()).copied().collect();
    points.sort_unstable();
    points.dedup();
    points.retain(|point| known.get(point) != found.get(point));
    points
}
