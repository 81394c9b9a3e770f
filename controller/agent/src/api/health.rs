//! What kubelet is told.

use oxilium_api::{ApiError, ComponentState, ComponentStatus, ErrorCode};
use oxilium_kernel::Node;
use serde_json::json;

use super::server::{Service, errand};
use crate::health::{Answer, Pages};
use crate::reconcile::View;

/// `/healthz`: what the sources say is enforced, and nothing fails. `/livez`: the loop still turns, whatever it is told.
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
    match view.failing.first() {
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
