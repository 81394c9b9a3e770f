//! Watches a plan: packets are judged, and flows recorded, between any two of its writes.

use std::collections::{BTreeMap, BTreeSet};

use oxilium_abi::Epoch;
use oxilium_model::plan::{Plan, Reason, Write};

use super::kernel::{Kernel, Probe, Verdict};

/// Flows with the verdicts that programs recorded for them, at whatever moment: each with its stamp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows(BTreeMap<Probe, BTreeSet<(Epoch, Verdict)>>);

impl Flows {
    /// Every flow is judged anew and recorded, as by a packet that comes now.
    fn record(&mut self, kernel: &Kernel, probes: &[Probe]) {
        let stamp = kernel.0.published();
        for probe in probes {
            if kernel.judges(probe.endpoint, probe.direction) {
                let verdict = kernel.verdict(probe);
                self.0.entry(*probe).or_default().insert((stamp, verdict));
            }
        }
    }

    /// Recorded verdicts that are taken without another lookup.
    fn trusted<'a>(
        &'a self,
        kernel: &'a Kernel,
    ) -> impl Iterator<Item = (&'a Probe, Epoch, Verdict)> {
        self.0
            .iter()
            .filter(|(probe, _)| kernel.judges(probe.endpoint, probe.direction))
            .flat_map(|(probe, recorded)| recorded.iter().map(move |(e, v)| (probe, *e, *v)))
            .filter(|(probe, stamp, _)| kernel.trusts(probe.endpoint, *stamp))
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

/// Applies the first `count` writes of a plan, and checks after each that no packet whose verdict is the
/// same before and after the plan got another one, nor any packet one that it has neither before nor after.
pub(crate) fn apply(
    kernel: &mut Kernel,
    plan: &Plan,
    count: usize,
    probes: &[Probe],
    flows: &mut Flows,
) {
    let before = kernel.clone();
    let mut after = kernel.clone();
    plan.writes().for_each(|write| after.apply(write));
    let squeezed = plan
        .steps()
        .iter()
        .any(|step| matches!(step.reason, Reason::Narrowing { .. }));
    let known: BTreeMap<Probe, BTreeSet<(Epoch, Verdict)>> = flows.0.clone();
    flows.record(kernel, probes);
    let mut published = false;
    for (number, step) in plan.steps().iter().take(count).enumerate() {
        kernel.apply(&step.write);
        published |= matches!(step.write, Write::Publish(_));
        let at = || format!("after write {number} ({}) of\n{plan}", step.write);
        for probe in probes {
            if !kernel.judges(probe.endpoint, probe.direction) {
                continue;
            }
            let lived = before.judges(probe.endpoint, probe.direction);
            let stays = after.judges(probe.endpoint, probe.direction);
            let now = kernel.verdict(probe);
            let then = after.verdict(probe);
            if !stays {
                continue;
            }
            if !lived {
                assert_eq!(now, then, "a new endpoint, {probe:?} {}", at());
                continue;
            }
            let was = before.verdict(probe);
            if squeezed {
                let allowed = [was, then].contains(&Verdict::Allowed);
                assert!(now != Verdict::Allowed || allowed, "{probe:?} {}", at());
            } else {
                assert!(
                    now == was || now == then,
                    "{probe:?} was {was:?}, will be {then:?}, is {now:?} {}",
                    at()
                );
            }
        }
        for (probe, stamp, verdict) in flows.trusted(kernel) {
            let (was, then) = (before.verdict(probe), after.verdict(probe));
            if !after.judges(probe.endpoint, probe.direction) || !published && squeezed {
                continue;
            }
            let old = !published
                && (verdict == was
                    || known
                        .get(probe)
                        .is_some_and(|old| old.contains(&(stamp, verdict))));
            assert!(
                old || verdict == then,
                "{verdict:?} of epoch {} is trusted for {probe:?}, that was {was:?} and will be {then:?}, {}",
                stamp.get(),
                at()
            );
        }
        flows.record(kernel, probes);
    }
}

/// Applies a whole plan, watched, and checks that no flow is left with a verdict of the past.
pub(crate) fn apply_all(kernel: &mut Kernel, plan: &Plan, probes: &[Probe], flows: &mut Flows) {
    apply(kernel, plan, usize::MAX, probes, flows);
    flows.assert_current(kernel);
}
