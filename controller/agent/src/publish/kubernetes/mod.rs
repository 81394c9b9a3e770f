//! What the API server is told of this node: CiliumIdentities that its pods need, a CiliumEndpoint for each pod, its
//! CiliumNode, that its network works, and what users of a pod must know, as events on it.
//!
//! Everything follows from the picture that the reconcile loop shows ([`View`]) and from what the API server holds; nothing
//! goes back but by way of the watches, and a restart needs no memory. What is there as it should be is not written.
//!
//! - [`wanted`]: what the picture asks for (pure)
//! - [`news`]: what is to be told of pods (pure)
//! - [`ledger`]: what is to be done next, what failed and when it is tried again (pure)
//! - [`requests`]: one piece of work with the API server

mod ledger;
mod news;
mod requests;
mod wanted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use oxilium_api::{ComponentState, ComponentStatus, FailingObject, SourceStatus};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::reconcile::View;
use ledger::{Finished, Ledger};
use requests::{NodeFacts, Requests};

/// Who writes: `metadata.managedFields` and events name it.
pub const FIELD_MANAGER: &str = "oxilium-agent";

/// Requests under way at once: one that waits for an API server that is away does not hold up the others.
const AT_ONCE: usize = 8;

/// How much the API server may be asked, in Cilium's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pieces of work a second, over time: `k8s-client-qps`.
    pub per_second: u32,
    /// And at once: `k8s-client-burst`.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_second: 10,
            burst: 20,
        }
    }
}

/// What is published and how.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// See [`Limits`].
    pub limits: Limits,
    /// The taint that keeps pods away until the node's network works: `agent-not-ready-taint-key`.
    pub not_ready_taint: Arc<str>,
}

impl Default for Publishing {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            not_ready_taint: "node.cilium.io/agent-not-ready".into(),
        }
    }
}

/// How publishing does, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// It is on.
    pub on: bool,
    /// Objects at the API server that are as they should be.
    pub published: usize,
    /// What cannot be written and is tried again.
    pub failing: Vec<FailingObject>,
}

impl PublishReport {
    /// As a component of the status; none where nothing is published to an API server.
    pub fn component(&self) -> Option<SourceStatus> {
        if !self.on {
            return None;
        }
        let status = match self.failing.first() {
            None => ComponentStatus {
                state: ComponentState::Ok,
                msg: format!("{} objects published", self.published),
            },
            Some(first) => ComponentStatus {
                state: ComponentState::Warning,
                msg: format!(
                    "{} objects cannot be published, first {}: {}",
                    self.failing.len(),
                    first.object,
                    first.reason
                ),
            },
        };
        Some(SourceStatus {
            name: "Publishing".to_owned(),
            synced: self.failing.is_empty(),
            status,
        })
    }
}

/// Publishes what `view` shows until nobody shows anything any more. `tell` is told how it goes, whenever that changes.
pub async fn publish(
    client: Client,
    publishing: Publishing,
    mut view: watch::Receiver<Arc<View>>,
    tell: impl Fn(PublishReport),
) {
    let now = Instant::now();
    let requests = Arc::new(Requests::new(client, publishing.not_ready_taint));
    let mut ledger = Ledger::new(publishing.limits, now);
    let mut facts: Option<Arc<NodeFacts>> = None;
    let mut under_way = JoinSet::new();
    let mut told = None;
    let mut changed = true;
    loop {
        let now = Instant::now();
        if std::mem::take(&mut changed) {
            let shown = Arc::clone(&view.borrow_and_update());
            ledger.want(wanted::wanted(&shown, facts.as_deref(), &ledger), now);
        }
        while under_way.len() < AT_ONCE
            && let Some(job) = ledger.next(now)
        {
            let requests = Arc::clone(&requests);
            under_way.spawn(async move {
                let outcome = requests.perform(&job).await;
                Finished { job, outcome }
            });
        }
        let report = ledger.report();
        if told.as_ref() != Some(&report) {
            tell(report.clone());
            told = Some(report);
        }
        let wait = ledger.next_due(now).map_or(Duration::MAX, |due| {
            due.saturating_duration_since(Instant::now())
        });
        tokio::select! {
            shown = view.changed() => match shown {
                Ok(()) => changed = true,
                Err(_) => return,
            },
            Some(done) = under_way.join_next() => match done {
                Ok(finished) => {
                    if let Ok(requests::Outcome { facts: Some(new), .. }) = &finished.outcome {
                        changed |= facts.as_ref() != Some(new);
                        facts = Some(Arc::clone(new));
                    }
                    ledger.finished(finished, Instant::now());
                }
                Err(error) => tracing::error!(%error, "publishing: a request's task ended"),
            },
            // With all hands busy, one has to come free first.
            () = tokio::time::sleep(wait.min(LONG)), if under_way.len() < AT_ONCE => {}
        }
    }
}

/// As good as never: time has a largest value.
const LONG: Duration = Duration::from_hours(24);
