//! What kubelet's probes and Prometheus are told.

use std::sync::Arc;

use oxilium_api::{ApiError, ComponentState, ComponentStatus, ErrorCode};
use oxilium_kernel::{Node, ObserveError};
use serde_json::json;

use super::server::{Service, errand};
use crate::http::{Answer, Pages};
use crate::metrics::{self, Kernel, Picture, Process};
use crate::reconcile::View;

/// `/healthz`: what the sources say is enforced, and nothing fails but for single pods. `/livez`: the loop still turns, whatever it is told.
/// `/metrics` has a port of its own: see [`Metrics`].
impl<N: Node + 'static> Pages for Service<N> {
    async fn page(&self, path: &str) -> Answer {
        match path {
            "/healthz" => readiness(&self.view.borrow()),
            "/livez" => liveness(errand(self, |_, _| Ok(())).await),
            _ => Answer::NoSuchPage,
        }
    }
}

fn readiness(view: &View) -> Answer {
    if let Err(reason) = view.ready() {
        return answer(ComponentState::Failure, reason);
    }
    match &view.unwell {
        None => answer(ComponentState::Ok, env!("CARGO_PKG_VERSION").to_owned()),
        Some(first) => {
            let msg = format!("{}: {}", first.object, first.reason);
            answer(ComponentState::Failure, msg)
        }
    }
}

fn liveness(turned: Result<(), ApiError>) -> Answer {
    match turned {
        Ok(()) => answer(ComponentState::Ok, String::new()),
        // It waits for the sources, and answers.
        Err(error) if error.code != ErrorCode::Timeout => answer(ComponentState::Ok, error.message),
        Err(error) => answer(ComponentState::Failure, error.message),
    }
}

/// As Cilium's agent answers a probe that wants it brief.
fn answer(state: ComponentState, msg: String) -> Answer {
    let status = ComponentStatus { state, msg };
    let body = json!({"cilium": status}).to_string();
    match state {
        ComponentState::Failure => Answer::Unwell(body),
        _ => Answer::Well(body),
    }
}

/// `/metrics`, and nothing else.
pub struct Metrics<N>(pub Arc<Service<N>>);

impl<N: Node + 'static> Pages for Metrics<N> {
    async fn page(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics().await,
            _ => Answer::NoSuchPage,
        }
    }
}

impl<N: Node + 'static> Metrics<N> {
    async fn metrics(&self) -> Answer {
        let Self(service) = self;
        let counted = errand(service, |node, _| {
            let failed = |error: ObserveError| ApiError::new(ErrorCode::Kernel, error.to_string());
            Ok(Kernel {
                counters: node.counters().map_err(failed)?,
                writes: node.writes(),
                evicted: node.evicted(),
                flow_tables: node.flow_tables(),
                map_memory: node.map_memory().map_err(failed)?,
            })
        });
        let kernel = match counted.await {
            Ok(kernel) => kernel,
            // Prometheus notes a scrape that failed; numbers that are missing would look like zeros.
            Err(error) => return answer(ComponentState::Failure, error.message),
        };
        let picture = Picture {
            view: Arc::clone(&service.view.borrow()),
            kernel,
            monitor_readers: service.monitors.readers(),
            attach_mode: service.attach_mode,
        };
        let page = metrics::page(&service.instruments, picture, Process::read());
        Answer::Metrics(page)
    }
}
