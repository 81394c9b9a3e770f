//! What failed, and when to try it again: each object for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use oxilium_api::FailingObject;
use oxilium_model::node_state::AttachPoint;

/// First wait after a failure.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Something that can fail without the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    /// The tables as a whole: their writes are in one order.
    Tables,
    /// Room in a table for what can be left out.
    Room,
    /// Room in the table of interfaces for one more pod: it waits for another to go, and is not tried again by itself.
    Interfaces,
    /// A program on a hook.
    Attach(AttachPoint),
    /// A staged program that is to settle: it is enforced all the while.
    Settle(AttachPoint),
    /// Flows of an endpoint that is gone.
    Purge(u16),
    /// Reading the kernel.
    Observe,
    /// Reading links and addresses.
    Links,
    /// Word from the CNI plugin.
    Tombstones,
    /// Removing flows that ended.
    Flows,
    /// Pins that nothing needs any more.
    Pins,
    /// The state directory.
    Disk,
    /// The status directory.
    Publish,
    /// Looking for pods that run already. A pod that was looked for and is in doubt is no failure of this.
    Adoption,
}

impl Object {
    /// Whoever it fails for, it is one pod: the node goes on without it.
    const fn is_of_one_pod(&self) -> bool {
        matches!(
            self,
            Self::Interfaces | Self::Attach(_) | Self::Settle(_) | Self::Purge(_)
        )
    }

    /// `device` says whose interface one is, by its number.
    fn name(&self, device: impl Fn(u32) -> String) -> String {
        match self {
            Self::Tables => "tables".to_owned(),
            Self::Room => "room in the tables".to_owned(),
            Self::Interfaces => "room for one more pod".to_owned(),
            Self::Attach(point) => format!("{} on {}", point.hook, device(point.ifindex)),
            Self::Settle(point) => {
                format!("the link of {} on {}", point.hook, device(point.ifindex))
            }
            Self::Purge(endpoint) => format!("flows of endpoint {endpoint}"),
            Self::Observe => "reading the kernel".to_owned(),
            Self::Links => "reading interfaces".to_owned(),
            Self::Tombstones => "tombstones".to_owned(),
            Self::Flows => "removing flows that ended".to_owned(),
            Self::Pins => "pins".to_owned(),
            Self::Disk => "state directory".to_owned(),
            Self::Publish => "status directory".to_owned(),
            Self::Adoption => "pods that run already".to_owned(),
        }
    }
}

/// An interface of which nothing else is known.
pub(super) fn by_number(ifindex: u32) -> String {
    format!("interface {ifindex}")
}

#[derive(Clone, Debug)]
struct Failure {
    reason: String,
    tries: u32,
    /// When it failed first.
    since: SystemTime,
    next: Instant,
    /// What it waits for is a change of the inputs; time is only the last resort.
    for_inputs: bool,
}

impl Failure {
    /// What fails, how often it was tried and since when.
    fn text(&self) -> String {
        let since = oxilium_api::rfc3339(self.since);
        format!("{} (tried {} times since {since})", self.reason, self.tries)
    }
}

/// Something that fails.
#[derive(Clone, Copy)]
pub(super) struct Failing<'f> {
    pub(super) object: &'f Object,
    failure: &'f Failure,
}

impl<'f> Failing<'f> {
    /// Why, in the same words however often it was tried.
    pub(super) fn reason(self) -> &'f str {
        &self.failure.reason
    }

    /// Why, how often it was tried and since when.
    pub(super) fn text(self) -> String {
        self.failure.text()
    }
}

/// All that fails at present.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(BTreeMap<Object, Failure>);

impl Failures {
    /// `object` failed. It is tried again after a wait that doubles each time; when `again` is false, at the
    /// next change of the inputs, or else after the longest wait.
    pub(crate) fn failed(&mut self, object: Object, reason: String, again: bool, now: Instant) {
        let tries = self.0.get(&object).map_or(0, |failure| failure.tries);
        let wait = if again {
            FIRST.saturating_mul(1 << tries.min(16)).min(LONGEST)
        } else {
            LONGEST
        };
        self.put(object, reason, wait, !again, now);
    }

    /// `object` is tried again after `wait`.
    pub(crate) fn put_off(&mut self, object: Object, reason: String, wait: Duration, now: Instant) {
        self.put(object, reason, wait, false, now);
    }

    fn put(
        &mut self,
        object: Object,
        reason: String,
        wait: Duration,
        for_inputs: bool,
        now: Instant,
    ) {
        let before = self.0.get(&object);
        let failure = Failure {
            reason,
            tries: before.map_or(0, |failure| failure.tries) + 1,
            since: before.map_or_else(SystemTime::now, |failure| failure.since),
            next: now + wait,
            for_inputs,
        };
        let wait_millis = wait.as_millis();
        tracing::warn!(
            object = object.name(by_number),
            tries = failure.tries,
            wait_millis,
            "{}",
            failure.reason
        );
        self.0.insert(object, failure);
    }

    /// `object` works.
    pub(crate) fn works(&mut self, object: &Object) {
        if self.0.remove(object).is_some() {
            tracing::info!(object = object.name(by_number), "works again");
        }
    }

    /// The inputs changed: nothing waits any longer for that.
    pub(crate) fn inputs_changed(&mut self, now: Instant) {
        for failure in self.0.values_mut().filter(|failure| failure.for_inputs) {
            failure.next = now;
        }
    }

    /// Must `object` wait still?
    pub(crate) fn waits(&self, object: &Object, now: Instant) -> bool {
        self.0.get(object).is_some_and(|failure| failure.next > now)
    }

    /// When `object`, which fails, is tried again; none if it does not fail.
    pub(crate) fn next_try(&self, object: &Object) -> Option<Instant> {
        self.0.get(object).map(|failure| failure.next)
    }

    /// A plan was made and applied as far as it could be: what fails by itself and was not part of it is
    /// not to be done any more.
    pub(crate) fn retain_planned(&mut self, planned: &BTreeSet<Object>) {
        self.0.retain(|object, _| match object {
            Object::Attach(_) | Object::Settle(_) | Object::Purge(_) => planned.contains(object),
            _ => true,
        });
    }

    /// What fails on this interface.
    pub(super) fn of_interface(&self, ifindex: u32) -> Option<Failing<'_>> {
        self.find(|object| matches!(object, Object::Attach(point) if point.ifindex == ifindex))
    }

    /// What keeps the tables from being written.
    pub(super) fn of_tables(&self) -> Option<Failing<'_>> {
        self.find(|object| matches!(object, Object::Tables | Object::Observe))
    }

    fn find(&self, is_it: impl Fn(&Object) -> bool) -> Option<Failing<'_>> {
        let mut failures = self.0.iter();
        let (object, failure) = failures.find(|(object, _)| is_it(object))?;
        Some(Failing { object, failure })
    }

    /// The first that fails for the node, and not for one of its pods alone.
    pub(crate) fn of_node(&self) -> Option<FailingObject> {
        self.0
            .iter()
            .find(|(object, _)| !object.is_of_one_pod())
            .map(|(object, failure)| told(object, failure, by_number))
    }

    /// Is something due that reconciling would try again?
    pub(crate) fn due(&self, now: Instant) -> bool {
        self.0.iter().any(|(object, failure)| {
            !matches!(
                object,
                Object::Interfaces
                    | Object::Settle(_)
                    | Object::Tombstones
                    | Object::Flows
                    | Object::Pins
                    | Object::Publish
            ) && failure.next <= now
        })
    }

    /// Does `object` fail, and is it time to try it again?
    pub(crate) fn is_due(&self, object: &Object, now: Instant) -> bool {
        self.0
            .get(object)
            .is_some_and(|failure| failure.next <= now)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0
            .iter()
            // Flows and links that are to be made have rounds of their own.
            .filter(|(object, _)| {
                !matches!(
                    object,
                    Object::Interfaces | Object::Flows | Object::Settle(_)
                )
            })
            .map(|(_, failure)| failure.next)
            .min()
    }

    /// For people; `device` says whose interface one is.
    pub(crate) fn report(&self, device: impl Fn(u32) -> String) -> Vec<FailingObject> {
        self.0
            .iter()
            .map(|(object, failure)| told(object, failure, &device))
            .collect()
    }
}

fn told(object: &Object, failure: &Failure, device: impl Fn(u32) -> String) -> FailingObject {
    FailingObject {
        object: object.name(device),
        reason: failure.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_half_a_minute_and_success_ends_it() {
        let start = Instant::now();
        let mut failures = Failures::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            failures.failed(Object::Tables, "full".into(), true, start);
            let wait = failures.next().unwrap() - start;
            waits.push(u64::try_from(wait.as_millis()).unwrap());
        }
        assert_eq!(
            waits,
            [
                50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000
            ]
        );
        failures.works(&Object::Tables);
        assert!(failures.report(by_number).is_empty());
    }

    #[test]
    fn one_failing_object_does_not_make_another_wait() {
        let now = Instant::now();
        let mut failures = Failures::default();
        failures.failed(Object::Purge(1), "busy".into(), true, now);
        assert!(failures.waits(&Object::Purge(1), now));
        assert!(!failures.waits(&Object::Purge(2), now));
        assert!(!failures.waits(&Object::Purge(1), now + FIRST));
    }

    #[test]
    fn what_waits_for_other_inputs_is_not_due_before() {
        let now = Instant::now();
        let mut failures = Failures::default();
        failures.failed(Object::Tables, "full".into(), false, now);
        assert!(failures.waits(&Object::Tables, now + LONGEST / 2));
        failures.inputs_changed(now);
        assert!(!failures.waits(&Object::Tables, now));
    }
}
