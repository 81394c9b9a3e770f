//! Watches a plan: packets are judged, and flows recorded, between any two of its writes.

use std::collections::{BTreeMap, BTreeSet};

use oxilium_abi::Epoch;
use oxilium_model::plan::{Plan, Reason, Write};

use super::kernel::{Kernel, Probe, Verdict};

/// Flows with the verdicts that programs recorded for them, at whatever moment: each with its stamp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows(BTreeMap<Probe, BTreeSet<(Epoch, Verdict)>>);

impl Flows {
    /// Every flow that is judged is recorded with its verdict, as by a packet that comes now.
    fn record(&mut self, kernel: &Kernel, verdicts: &BTreeMap<Probe, Verdict>) {
        let stamp = kernel.0.published();
        for (probe, verdict) in verdicts {
            self.0.entry(*probe).or_default().insert((stamp, *verdict));
        }
    }

    /// Recorded verdicts that are taken without another lookup.
    fn trusted<'a>(
        &'a self,
        kernel: &'a Kernel,
    ) -> impl Iterator<Item = (&'a Probe, Epoch, Verdict)> {
        let mut newest = BTreeMap::new();
        self.0
            .iter()
            .filter(|(probe, _)| kernel.judges(probe.endpoint, probe.direction))
            .flat_map(|(probe, recorded)| recorded.iter().map(move |(e, v)| (probe, *e, *v)))
            .filter(move |(probe, stamp, _)| {
                let oldest = newest
                    .entry(probe.endpoint)
                    .or_insert_with(|| kernel.oldest_trusted(probe.endpoint));
                oldest.is_some_and(|oldest| *stamp >= oldest)
            })
    }

    /// Every recorded verdict that is trusted is the one that the tables give.
    pub(crate) fn assert_current(&self, kernel: &Kernel) {
        for (probe, stamp, verdict) in self.trusted(kernel) {
            assert_eq!(
                verdict,
                kernel.verdict(probe),
                "a verdict of epoch {} is trusted for {probe:?}",
                stamp.get()
            );
        }
    }
}

/// The verdict of every packet that is judged.
fn judge(kernel: &Kernel, probes: &[Probe]) -> BTreeMap<Probe, Verdict> {
    let mut identities = BTreeMap::new();
    probes
        .iter()
        .filter(|probe| kernel.judges(probe.endpoint, probe.direction))
        .map(|probe| {
            let identity = identities
                .entry(probe.remote)
                .or_insert_with(|| kernel.identity(probe.remote));
            (*probe, kernel.verdict_of(probe, *identity))
        })
        .collect()
}

/// A plan while it is applied.
struct Watch<'a> {
    plan: &'a Plan,
    before: BTreeMap<Probe, Verdict>,
    after: BTreeMap<Probe, Verdict>,
    /// What flows had recorded before the plan.
    known: Flows,
    /// Some tables change in the order that may drop what is allowed.
    narrows: bool,
    published: bool,
}

impl Watch<'_> {
    fn check_packets(&self, now: &BTreeMap<Probe, Verdict>, write: &Write) {
        for (probe, now) in now {
            // What has vanished when the plan ends is no more than that.
            let Some(then) = self.after.get(probe) else {
                continue;
            };
            let was = self.before.get(probe);
            let fits = match was {
                None => now == then,
                Some(was) if self.narrows => {
                    *now != Verdict::Allowed || [was, then].contains(&&Verdict::Allowed)
                }
                Some(was) => now == was || now == then,
            };
            assert!(
                fits,
                "{probe:?} was {was:?}, will be {then:?}, is {now:?} after {write} of\n{}",
                self.plan
            );
        }
    }

    /// No verdict of the past is trusted once the plan is published.
    fn check_flows(&self, flows: &Flows, kernel: &Kernel, write: &Write) {
        if self.narrows && !self.published {
            return;
        }
        for (probe, stamp, verdict) in flows.trusted(kernel) {
            let Some(then) = self.after.get(probe) else {
                continue;
            };
            let was = self.before.get(probe);
            let known = self.known.0.get(probe);
            let of_the_past =
                was == Some(&verdict) || known.is_some_and(|k| k.contains(&(stamp, verdict)));
            assert!(
                verdict == *then || of_the_past && !self.published,
                "{verdict:?} of epoch {} is trusted for {probe:?}, that was {was:?} and will be {then:?}, after {write} of\n{}",
                stamp.get(),
                self.plan
            );
        }
    }
}

/// Applies the first `count` writes of a plan, and checks after each that no packet whose verdict is the
/// same before and after the plan got another one, nor any packet one that it has neither before nor after.
pub(crate) fn apply(
    kernel: &mut Kernel,
    plan: &Plan,
    count: usize,
    probes: &[Probe],
    flows: &mut Flows,
) {
    let mut end = kernel.clone();
    plan.writes().for_each(|write| end.apply(write));
    let narrows = |reason: &Reason| matches!(reason, Reason::Narrowing { .. });
    let mut watch = Watch {
        plan,
        before: judge(kernel, probes),
        after: judge(&end, probes),
        known: flows.clone(),
        narrows: plan.steps().iter().any(|step| narrows(&step.reason)),
        published: false,
    };
    flows.record(kernel, &watch.before);
    for write in plan.writes().take(count) {
        kernel.apply(write);
        watch.published |= matches!(write, Write::Publish(_));
        let now = judge(kernel, probes);
        watch.check_packets(&now, write);
        watch.check_flows(flows, kernel, write);
        flows.record(kernel, &now);
    }
}

/// Applies a whole plan, watched, and checks that no flow is left with a verdict of the past.
pub(crate) fn apply_all(kernel: &mut Kernel, plan: &Plan, probes: &[Probe], flows: &mut Flows) {
    apply(kernel, plan, usize::MAX, probes, flows);
    flows.assert_current(kernel);
}
