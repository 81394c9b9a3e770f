//! What is counted as it happens.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use oxilium_kernel::port::GarbageReport;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::api_calls::ApiCalls;
use super::changes::Changes;
use crate::reconcile::Regenerated;

/// A part of a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "the names are those of the label's values"
)]
pub enum Phase {
    /// The desired state is computed.
    compute,
    /// The kernel is read.
    observe,
    /// The difference is found.
    plan,
    /// It is written.
    apply,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

pub(super) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// From 50 µs to 100 s, each bound twice the one before.
pub(super) fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 22))
}

/// Handles: a clone counts in the same instruments.
#[derive(Clone, Debug)]
pub struct Instruments {
    reconcile: Histograms<PhaseLabel>,
    plan_writes: Histogram,
    implementation_delay: Histogram,
    endpoint_ready: Histogram,
    /// Changes of what is wanted.
    pub changes: Changes,
    /// Requests to the API server.
    pub api_calls: ApiCalls,
    /// Log lines that are warnings or errors.
    pub log_lines: LogLines,
    garbage_runs: Family<StatusLabel, Counter>,
    garbage_seconds: Histogram,
    flows: Family<StatusLabel, Gauge<u64, AtomicU64>>,
}

impl Default for Instruments {
    fn default() -> Self {
        let instruments = Self {
            reconcile: Family::new_with_constructor(seconds),
            plan_writes: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            implementation_delay: seconds(),
            endpoint_ready: seconds(),
            changes: Changes::default(),
            api_calls: ApiCalls::default(),
            log_lines: LogLines::default(),
            garbage_runs: Family::default(),
            garbage_seconds: seconds(),
            flows: Family::default(),
        };
        // A counter that is not there yet has no rate when it comes.
        for phase in [Phase::compute, Phase::observe, Phase::plan, Phase::apply] {
            drop(instruments.reconcile.get_or_create(&PhaseLabel { phase }));
        }
        for status in ["completed", "uncompleted"] {
            let label = StatusLabel { status };
            drop(instruments.garbage_runs.get_or_create(&label));
        }
        for status in ["alive", "deleted"] {
            drop(instruments.flows.get_or_create(&StatusLabel { status }));
        }
        instruments
    }
}

impl Instruments {
    /// A part of a reconciliation took this long.
    pub fn took(&self, phase: Phase, time: Duration) {
        let label = PhaseLabel { phase };
        self.reconcile
            .get_or_create(&label)
            .observe(time.as_secs_f64());
    }

    /// A plan with this many writes was applied.
    pub fn planned(&self, writes: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a plan has fewer than 2^52 writes"
        )]
        self.plan_writes.observe(writes as f64);
    }

    /// Objects that changed are enforced, this long after they were told of.
    pub fn implemented(&self, time: Duration) {
        self.implementation_delay.observe(time.as_secs_f64());
    }

    /// What is new for an endpoint is enforced.
    pub(crate) fn regenerated(&self, regenerated: &Regenerated) {
        self.changes.regenerated(regenerated.took);
        if let Some(time) = regenerated.ready_after {
            self.endpoint_ready.observe(time.as_secs_f64());
        }
    }

    /// Flows that ended were removed; none when that failed.
    pub fn collected(&self, report: Option<&GarbageReport>, time: Duration) {
        let run = |status| {
            let label = StatusLabel { status };
            self.garbage_runs.get_or_create(&label).inc();
        };
        let Some(report) = report else {
            return run("uncompleted");
        };
        run("completed");
        self.garbage_seconds.observe(time.as_secs_f64());
        let flows = |status, count: usize| {
            let label = StatusLabel { status };
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.flows.get_or_create(&label).set(count);
        };
        flows("alive", report.scanned.saturating_sub(report.deleted));
        flows("deleted", report.deleted);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "oxilium_reconcile_duration",
            "Time that each part of a reconciliation took",
            Unit::Seconds,
            self.reconcile.clone(),
        );
        registry.register(
            "oxilium_plan_writes",
            "Writes of each plan that was applied",
            self.plan_writes.clone(),
        );
        registry.register(
            "cilium_policy_implementation_delay",
            "Seconds from word of changed objects to their enforcement in the kernel",
            self.implementation_delay.clone(),
        );
        registry.register_with_unit(
            "oxilium_endpoint_ready_duration",
            "Time from the request of an endpoint, or the agent's start, to its enforcement",
            Unit::Seconds,
            self.endpoint_ready.clone(),
        );
        self.changes.register(registry);
        self.log_lines.register(registry, "cilium");
        self.api_calls.register(registry, "cilium");
        registry.register(
            "cilium_datapath_conntrack_gc_runs",
            "Times that flows which had ended were removed",
            self.garbage_runs.clone(),
        );
        registry.register_with_unit(
            "cilium_datapath_conntrack_gc_duration",
            "Time that removing ended flows took",
            Unit::Seconds,
            self.garbage_seconds.clone(),
        );
        registry.register(
            "cilium_datapath_conntrack_gc_entries",
            "Flows that the last removal left and took",
            self.flows.clone(),
        );
    }
}

/// How many log lines are warnings or errors. A clone counts in the same instrument.
#[derive(Clone, Debug)]
pub struct LogLines(Family<LevelLabel, Counter>);

impl Default for LogLines {
    fn default() -> Self {
        let lines = Family::default();
        for level in ["error", "warning"] {
            drop(lines.get_or_create(&LevelLabel { level }));
        }
        Self(lines)
    }
}

impl LogLines {
    /// Under a name that begins with `prefix`.
    pub fn register(&self, registry: &mut Registry, prefix: &str) {
        registry.register(
            format!("{prefix}_errors_warnings"),
            "Log lines that are warnings or errors",
            self.0.clone(),
        );
    }
}

/// Counts log lines that are warnings or errors.
#[derive(Clone, Debug)]
pub struct CountLogLines(pub LogLines);

impl<S: Subscriber> Layer<S> for CountLogLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => return,
        };
        let label = LevelLabel { level };
        let CountLogLines(LogLines(lines)) = self;
        lines.get_or_create(&label).inc();
    }
}
