//! A process that is an operator.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::lease::{Candidate, Election, Terms};
use crate::metrics::Metrics;
use crate::{OperatorError, OperatorOptions, definitions, endpoints, identities, policies};

/// Between two attempts to install the definitions.
const AGAIN: Duration = Duration::from_secs(10);

/// How the operator does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Another one is the leader.
    Waiting,
    /// It is the leader, and works.
    Leading,
    /// It is the leader, and something does not work.
    Failing(String),
}

/// Works whenever this operator is the leader, until it is told to end. `name` is no other operator's, not that of an
/// earlier run either.
///
/// # Errors
/// [`OperatorError::LeaseLost`] when another may be the leader: the process must end, nothing of it may go on.
pub async fn run(
    client: Client,
    options: &OperatorOptions,
    (name, terms): (String, Terms),
    resources: &[DynamicObject],
    (health, metrics): (&watch::Sender<Health>, &Metrics),
) -> Result<(), OperatorError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(OperatorError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(OperatorError::Signals)?;
    let api: Api<Lease> = Api::namespaced(client.clone(), &options.k8s_namespace);
    let mut candidate = Candidate::new(api, Election::new(name.clone(), terms));
    tracing::info!(name, "operator starts; waiting for the lease");
    tokio::select! {
        () = candidate.acquire() => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tracing::info!(name, "this operator is the leader");
    health.send_replace(Health::Leading);
    // What is not awaited any more does nothing any more: work ends with the lease.
    tokio::select! {
        lost = candidate.hold() => return Err(lost),
        () = work(&client, options, resources, (health, metrics)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    candidate.release().await;
    Ok(())
}

/// Never ends by itself.
async fn work(
    client: &Client,
    options: &OperatorOptions,
    resources: &[DynamicObject],
    (health, metrics): (&watch::Sender<Health>, &Metrics),
) {
    while let Err(error) = definitions::install(client, resources).await {
        tracing::warn!(%error, "definitions are not installed; trying again");
        health.send_replace(Health::Failing(error.to_string()));
        sleep(AGAIN).await;
    }
    health.send_replace(Health::Leading);
    let follow = |kind| policies::Follower::new(client.clone(), kind).run();
    tokio::join!(
        join_all(policies::KINDS.map(follow)),
        every(options.cilium_endpoint_gc_interval, async || {
            let pass = endpoints::collect(client).await;
            if let Ok(pass) = &pass {
                metrics.endpoints(pass);
            }
            tell("CiliumEndpoints", pass.map(|pass| format!("{pass:?}")));
        }),
        every(options.identity_gc_interval, async || {
            let began = Instant::now();
            let pass = identities::collect(client, options.identity_heartbeat_timeout).await;
            metrics.identities(pass.as_ref().ok(), began.elapsed());
            tell("CiliumIdentities", pass.map(|pass| format!("{pass:?}")));
        }),
    );
}

fn tell(what: &str, pass: Result<String, OperatorError>) {
    match pass {
        Ok(pass) => tracing::debug!(what, pass, "looked through"),
        Err(error) => tracing::warn!(what, %error, "not looked through; trying again later"),
    }
}

/// At once, and then each time that so much time has passed; never if it is no time.
async fn every(time: Duration, pass: impl AsyncFn()) {
    if time.is_zero() {
        return std::future::pending().await;
    }
    let mut ticks = interval(time);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pass().await;
    }
}
