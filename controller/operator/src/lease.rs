//! Leader election by a Lease, as Kubernetes' own components do it.
//!
//! A candidate never compares its clock with another's: it takes the lease over only after it has itself watched it
//! unchanged for the whole lease duration. The leader stops its work when it has not renewed the lease for the renew
//! deadline, counted from before the last renewal was sent. The deadline is shorter than the duration, so it has stopped
//! before anybody else may begin.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::{sleep, timeout_at};

use crate::OperatorError;

/// Name of the lease, which Cilium's operator uses, too: the two do not work at the same time.
pub const NAME: &str = "cilium-operator-resource-lock";

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

impl Terms {
    /// Others wait `lease`, the leader goes on for `renew`, all look every `retry`.
    ///
    /// # Errors
    /// Unless each is longer than the next.
    pub fn new(lease: Duration, renew: Duration, retry: Duration) -> Result<Self, String> {
        if lease > renew && renew > retry && !retry.is_zero() && lease.as_secs() > 0 {
            return Ok(Self {
                lease,
                renew,
                retry,
            });
        }
        Err(format!(
            "leader-election-lease-duration ({lease:?}) must be a second at least and longer than \
             leader-election-renew-deadline ({renew:?}), and that longer than leader-election-retry-period ({retry:?})"
        ))
    }
}

/// What is to be done about the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make it.
    Create(LeaseSpec),
    /// Write this over the version that was looked at.
    Write(LeaseSpec),
    /// Somebody else has it.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    name: String,
    terms: Terms,
    seen: Option<Seen>,
}

/// A version of the lease, and when it was first seen here.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Election {
    /// `name` is nobody else's, not that of an earlier run either.
    pub fn new(name: String, terms: Terms) -> Self {
        Self {
            name,
            terms,
            seen: None,
        }
    }

    /// What to do about the lease that was found now.
    pub fn step(&mut self, found: Option<&Lease>, now: Instant, clock: Timestamp) -> Step {
        let Some(lease) = found else {
            return Step::Create(self.record(clock, 0));
        };
        let version = &lease.metadata.resource_version;
        let since = match &self.seen {
            Some(seen) if seen.version == *version => seen.at,
            _ => {
                self.seen = Some(Seen {
                    version: version.clone(),
                    at: now,
                });
                now
            }
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        if holder == self.name {
            return Step::Write(LeaseSpec {
                renew_time: Some(MicroTime(clock)),
                ..spec
            });
        }
        let theirs = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.terms.lease, Duration::from_secs);
        if holder.is_empty() || now.duration_since(since) >= theirs {
            let transitions = spec.lease_transitions.unwrap_or(0).saturating_add(1);
            return Step::Write(self.record(clock, transitions));
        }
        Step::Wait
    }

    fn record(&self, clock: Timestamp, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            acquire_time: Some(MicroTime(clock)),
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.terms.lease.as_secs()).unwrap_or(i32::MAX),
            ),
            lease_transitions: Some(transitions),
            renew_time: Some(MicroTime(clock)),
            ..LeaseSpec::default()
        }
    }
}

/// A candidate and the lease.
pub struct Candidate {
    api: Api<Lease>,
    election: Election,
    /// When the renewal was sent that succeeded last.
    renewed: Instant,
}

impl Candidate {
    /// A candidate for the lease of this API's namespace.
    pub fn new(api: Api<Lease>, election: Election) -> Self {
        Self {
            api,
            election,
            renewed: Instant::now(),
        }
    }

    /// Waits until this candidate is the leader.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be looked at"),
            }
            sleep(self.election.terms.retry).await;
        }
    }

    /// Renews the lease as long as that works; returns why it does not any more.
    pub async fn hold(&mut self) -> OperatorError {
        loop {
            let deadline = self.renewed + self.election.terms.renew;
            let renewal = async {
                sleep(self.election.terms.retry).await;
                self.attempt().await
            };
            match timeout_at(deadline.into(), renewal).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    return OperatorError::LeaseLost("somebody else has it".to_owned());
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease is not renewed"),
                Err(_) => {
                    let waited = self.election.terms.renew;
                    return OperatorError::LeaseLost(format!("not renewed for {waited:?}"));
                }
            }
        }
    }

    /// Gives the lease up, so that the next need not wait. Only if it is ours.
    pub async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(NAME).await? else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_deref() == Some(&self.election.name)
            {
                spec.holder_identity = Some(String::new());
                self.api
                    .replace(NAME, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(self.election.terms.retry, released).await {
            Ok(Ok(())) => tracing::info!("the lease is given up"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be given up; it runs out"),
            Err(_) => tracing::warn!("the lease cannot be given up in time; it runs out"),
        }
    }

    /// True if the lease is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let sent = Instant::now();
        let found = self.api.get_opt(NAME).await?;
        let step = self.election.step(found.as_ref(), sent, Timestamp::now());
        let params = PostParams::default();
        match step {
            Step::Wait => return Ok(false),
            Step::Create(spec) => {
                let mut lease = Lease::default();
                lease.metadata.name = Some(NAME.to_owned());
                lease.spec = Some(spec);
                self.api.create(&params, &lease).await?;
            }
            Step::Write(spec) => {
                let mut lease = found.unwrap_or_default();
                lease.spec = Some(spec);
                // A conflict: another candidate was first, or somebody touched it. The next look tells.
                self.api.replace(NAME, &params, &lease).await?;
            }
        }
        self.renewed = sent;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
