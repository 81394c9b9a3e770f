//! Changes of what is wanted, and their way to the endpoints, as Cilium counts them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::instruments::{Histograms, seconds};

const SUCCESS: OutcomeLabel = OutcomeLabel { outcome: "success" };
const FAIL: OutcomeLabel = OutcomeLabel { outcome: "fail" };

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

/// Cilium's labels: which part of a regeneration, and how it ended. Here they are always the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegenerationLabel {
    scope: &'static str,
    status: &'static str,
}

const WHOLE: RegenerationLabel = RegenerationLabel {
    scope: "total",
    status: "success",
};

/// How many objects of a kind differ between two lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Came.
    pub added: u64,
    /// Say something else.
    pub updated: u64,
    /// Went.
    pub deleted: u64,
}

/// The counters. A clone counts in the same instruments.
#[derive(Clone, Debug)]
pub struct Changes {
    policies: Family<OutcomeLabel, Counter>,
    services: Family<ActionLabel, Counter>,
    regenerations: Family<OutcomeLabel, Counter>,
    regeneration: Histograms<RegenerationLabel>,
}

impl Default for Changes {
    fn default() -> Self {
        let changes = Self {
            policies: Family::default(),
            services: Family::default(),
            regenerations: Family::default(),
            regeneration: Family::new_with_constructor(seconds as fn() -> Histogram),
        };
        for outcome in [SUCCESS, FAIL] {
            drop(changes.policies.get_or_create(&outcome));
            drop(changes.regenerations.get_or_create(&outcome));
        }
        changes.service(Differences::default());
        drop(changes.regeneration.get_or_create(&WHOLE));
        changes
    }
}

impl Changes {
    /// Policies differ, and are in force as they are now.
    pub fn policy(&self, differences: Differences) {
        let Differences {
            added,
            updated,
            deleted,
        } = differences;
        let count = added + updated + deleted;
        self.policies.get_or_create(&SUCCESS).inc_by(count);
    }

    /// So many policies were refused that had not been, or not for the same reason.
    pub fn policies_refused(&self, count: u64) {
        self.policies.get_or_create(&FAIL).inc_by(count);
    }

    /// Services differ.
    pub fn service(&self, differences: Differences) {
        let Differences {
            added,
            updated,
            deleted,
        } = differences;
        for (action, count) in [("add", added), ("update", updated), ("delete", deleted)] {
            self.services
                .get_or_create(&ActionLabel { action })
                .inc_by(count);
        }
    }

    /// What was computed anew for an endpoint is in the kernel, so long after.
    pub fn regenerated(&self, took: Duration) {
        self.regenerations.get_or_create(&SUCCESS).inc();
        self.regeneration
            .get_or_create(&WHOLE)
            .observe(took.as_secs_f64());
    }

    /// Something of an endpoint begins to fail.
    pub fn regeneration_fails(&self) {
        self.regenerations.get_or_create(&FAIL).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cilium_policy_change",
            "Policies that came, changed or went, and those that were refused",
            self.policies.clone(),
        );
        registry.register(
            "cilium_services_events",
            "Services that came, changed (also in their backends) or went",
            self.services.clone(),
        );
        registry.register(
            "cilium_endpoint_regenerations",
            "Times that what was computed anew for an endpoint was brought into the kernel, or began to fail",
            self.regenerations.clone(),
        );
        registry.register_with_unit(
            "cilium_endpoint_regeneration_time_stats",
            "Time from the computation of what is new for an endpoint to its enforcement",
            Unit::Seconds,
            self.regeneration.clone(),
        );
    }
}
