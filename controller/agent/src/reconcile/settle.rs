//! Staged programs settle. A tcx link takes the kernel 10 to 20 ms, and no other link of the node can be made or changed
//! meanwhile, by nobody: so the pods of a burst get their programs by filters first, and the links come when nobody
//! waits for a pod any more, one at a time with pauses between them. Nothing is less enforced until then.

use std::time::{Duration, Instant};

use oxilium_kernel::Node;
use oxilium_model::observed::{Observed, Place};
use oxilium_model::plan::{Plan, Reason, Step, Write};

use super::failures::Object;
use super::{Reconciler, fold};

/// Each link is followed by a pause of so many times as long as it took: others change links too.
const PAUSE: u32 = 4;
/// But of no more than this part of the quiet: on a machine where all is slow a link that takes a second is no reason to
/// leave a hundred others waiting for minutes.
const LONGEST_PAUSE: u32 = 4;
/// However many pods come, links are made again after so many times the quiet.
const LONGEST: u32 = 30;

/// What is to settle, and when.
#[derive(Debug)]
pub(super) struct Settling {
    /// How long no pod must have come.
    quiet: Duration,
    /// From the last plan, the next one last.
    writes: Vec<Write>,
    due: Instant,
    /// When something was first to settle.
    since: Option<Instant>,
}

impl Settling {
    pub(super) fn new(quiet: Duration, now: Instant) -> Self {
        Self {
            quiet,
            writes: Vec::new(),
            due: now,
            since: None,
        }
    }

    /// A pod came.
    pub(super) fn put_off(&mut self, now: Instant) {
        let latest = self.since.map(|since| since + self.quiet * LONGEST);
        let due = now + self.quiet;
        self.due = self.due.max(latest.map_or(due, |latest| due.min(latest)));
    }

    /// What the present plan leaves to settle.
    pub(super) fn planned(&mut self, plan: &Plan, now: Instant) {
        let writes = plan.steps().iter().filter(|step| is_settling(step));
        self.writes = writes.map(|step| step.write).rev().collect();
        self.since = match self.since {
            _ if self.writes.is_empty() => None,
            None => Some(now),
            since => since,
        };
    }

    /// How many hooks wait for their links, and since when.
    pub(super) fn waiting(&self) -> (usize, Option<Instant>) {
        (self.writes.len(), self.since)
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.writes.is_empty()).then_some(self.due)
    }
}

/// The step is one that can be made any time.
pub(super) fn is_settling(step: &Step) -> bool {
    step.reason == Reason::Settle
}

/// What a write that settles is for.
pub(super) fn object_of(write: &Write) -> Option<Object> {
    let (Write::Replace { point, .. } | Write::Attach { point, .. }) = write else {
        return None;
    };
    Some(Object::Settle(*point))
}

fn is_staged(observed: &Observed, write: &Write) -> bool {
    let Write::Replace { point, .. } = write else {
        return false;
    };
    let there = observed.attachments.get(point);
    there.is_some_and(|there| there.place == Place::Staged)
}

impl<N: Node> Reconciler<N> {
    /// Makes one link, if it is time.
    pub(super) fn settle(&mut self, now: Instant) {
        let Some(observed) = self.observed.as_ref().filter(|_| !self.unfinished) else {
            return;
        };
        if self.settling.next().is_none_or(|due| due > now) {
            return;
        }
        // What is not there yet is left to the plan that brings it there.
        self.settling
            .writes
            .retain(|write| is_staged(observed, write));
        let next_try = |write: &Write| {
            object_of(write)
                .and_then(|object| self.failures.next_try(&object))
                .unwrap_or(now)
        };
        let writes = &self.settling.writes;
        let Some(place) = writes.iter().rposition(|write| next_try(write) <= now) else {
            if let Some(due) = writes.iter().map(next_try).min() {
                self.settling.due = due;
            }
            return;
        };
        let write = self.settling.writes.remove(place);
        let started = Instant::now();
        let result = self.node.apply(&write);
        let took = started.elapsed();
        self.settling.due =
            Instant::now() + (took * PAUSE).min(self.settling.quiet / LONGEST_PAUSE);
        match result {
            Ok(()) => {
                if let Some(observed) = &mut self.observed {
                    fold::note(observed, &write);
                }
                if let Some(object) = object_of(&write) {
                    self.failures.works(&object);
                }
                if self.settling.writes.is_empty() {
                    self.settling.since = None;
                    tracing::info!("all programs have their links");
                }
                self.show();
            }
            Err(error) => {
                let object = object_of(&write).unwrap_or(Object::Tables);
                // What is there is read anew, and planned anew.
                self.note_failed(object, &write, &error, now);
                self.unfinished = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_keep_coming_put_it_off_but_not_for_ever() {
        let start = Instant::now();
        let quiet = Duration::from_secs(1);
        let mut settling = Settling::new(quiet, start);
        settling.since = Some(start);
        let mut now = start;
        for _ in 0..100 {
            settling.put_off(now);
            assert!(settling.due >= now.min(start + quiet * LONGEST));
            now += quiet / 2;
        }
        assert_eq!(settling.due, start + quiet * LONGEST);
    }
}
