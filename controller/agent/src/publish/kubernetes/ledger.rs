//! What is to be done next at the API server, what failed, and when it is tried again: each object for itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oxilium_api::FailingObject;

use super::requests::{Outcome, RequestError};
use super::wanted::{Key, Shown, Wanted};
use super::{Limits, PublishReport};

/// First wait after a failure; it doubles each time.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// An identity that the API server took and that the watches do not show is asked for again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// What nobody tells of is looked at again after this time: somebody may have put the Node's taint back.
const LOOK_AGAIN: Duration = Duration::from_mins(5);
/// How long an endpoint may be regenerating, or something be wrong with a pod, before that is news.
const PASSING: Duration = Duration::from_secs(5);
/// A pod's events of one reason come no more often than this, whatever they say. What is still so is told again, as the API
/// server forgets events after an hour.
const TELL_AGAIN: Duration = Duration::from_mins(10);

/// A piece of work.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) wanted: Wanted,
    /// The object is there, as this agent left it, under this UID.
    pub(super) uid: Option<String>,
}

/// A piece of work and what came of it.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) job: Job,
    pub(super) outcome: Result<Outcome, RequestError>,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    tries: u32,
}

/// One object.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    /// How it was left, and under which UID.
    done: Option<(Wanted, Option<String>)>,
    under_way: bool,
    failure: Option<Failure>,
    /// Not before.
    wait_until: Option<Instant>,
    /// Nothing wants it any more; it goes once what is under way has ended.
    forgotten: bool,
}

impl Entry {
    fn new(wanted: Wanted, now: Instant) -> Self {
        let passes = matches!(wanted, Wanted::Event(_));
        Self {
            wanted,
            done: None,
            under_way: false,
            failure: None,
            wait_until: passes.then(|| now + PASSING),
            forgotten: false,
        }
    }

    fn is_done(&self) -> bool {
        let Some((done, _)) = &self.done else {
            return false;
        };
        match (&self.wanted, done) {
            // Done, but for the watches to say so; who puts a taint back tells nobody, nor does an event that is over.
            (Wanted::Identity(_) | Wanted::Availability { .. } | Wanted::Event(_), _) => false,
            // Until the watches show it, it is looked at now and then.
            (Wanted::Endpoint(wanted), Wanted::Endpoint(done)) => {
                wanted.object == done.object
                    && wanted.pod_uid == done.pod_uid
                    && wanted.shown == Shown::Same
            }
            (wanted, done) => wanted == done,
        }
    }

    /// The object is where it was left, as far as the watches tell.
    fn known_uid(&self) -> Option<String> {
        let (done, uid) = self.done.as_ref()?;
        match (&self.wanted, done) {
            // It changes together with what is shown of it.
            (Wanted::Endpoint(wanted), Wanted::Endpoint(done))
                if wanted.object != done.object
                    && wanted.pod_uid == done.pod_uid
                    && wanted.shown != Shown::Absent =>
            {
                uid.clone()
            }
            _ => None,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<Key, Entry>,
    identities: Bucket,
    others: Bucket,
}

impl Ledger {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            entries: BTreeMap::new(),
            identities: Bucket::new(limits, now),
            others: Bucket::new(limits, now),
        }
    }

    /// This, and no more, is wanted.
    pub(super) fn want(&mut self, all: BTreeMap<Key, Wanted>, now: Instant) {
        self.entries.retain(|key, entry| {
            entry.forgotten = !all.contains_key(key);
            !entry.forgotten || entry.under_way
        });
        for (key, wanted) in all {
            let entry = self
                .entries
                .entry(key)
                .or_insert_with(|| Entry::new(wanted.clone(), now));
            if entry.wanted == wanted {
                continue;
            }
            if let (Wanted::Endpoint(new), Some((Wanted::Endpoint(done), _))) =
                (&wanted, &entry.done)
                && new.is_regenerating(done)
            {
                let already =
                    matches!(&entry.wanted, Wanted::Endpoint(old) if old.is_regenerating(done));
                if !already {
                    entry.wait_until = Some(now + PASSING);
                }
            } else if entry.failure.is_none() && !matches!(wanted, Wanted::Event(_)) {
                entry.wait_until = None;
            }
            entry.wanted = wanted;
        }
    }

    /// The next piece of work, if something is due and the API server may be asked.
    pub(super) fn next(&mut self, now: Instant) -> Option<Job> {
        for (key, entry) in &mut self.entries {
            let waits = entry.wait_until.is_some_and(|until| until > now);
            if entry.under_way || waits || entry.is_done() {
                continue;
            }
            let bucket = match key {
                Key::Identity(_) => &mut self.identities,
                _ => &mut self.others,
            };
            if !bucket.take(now) {
                continue;
            }
            entry.under_way = true;
            return Some(Job {
                key: key.clone(),
                wanted: entry.wanted.clone(),
                uid: entry.known_uid(),
            });
        }
        None
    }

    /// When there is something to do that is not under way; at once if need be.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.under_way && !entry.is_done())
            .map(|(key, entry)| {
                let bucket = match key {
                    Key::Identity(_) => &self.identities,
                    _ => &self.others,
                };
                let until = entry.wait_until.unwrap_or(now);
                until.max(bucket.ready_at(now))
            })
            .min()
    }

    /// Notes what came of a piece of work.
    pub(super) fn finished(&mut self, finished: Finished, now: Instant) {
        let Finished { job, outcome } = finished;
        let Some(entry) = self.entries.get_mut(&job.key) else {
            return;
        };
        entry.under_way = false;
        match outcome {
            Ok(outcome) => {
                if let Some(failure) = entry.failure.take() {
                    let tries = failure.tries;
                    tracing::info!(object = job.key.name(), tries, "published after all");
                }
                entry.wait_until = match job.wanted {
                    Wanted::Identity(_) => Some(now + ASK_AGAIN),
                    Wanted::Event(_) => Some(now + TELL_AGAIN),
                    _ if entry.wanted == job.wanted => Some(now + LOOK_AGAIN),
                    _ => None,
                };
                entry.done = Some((job.wanted, outcome.uid));
            }
            Err(error) => {
                // What is there is not known any more.
                entry.done = None;
                let tries = entry.failure.as_ref().map_or(0, |failure| failure.tries);
                let wait = FIRST.saturating_mul(1 << tries.min(16)).min(LONGEST);
                let reason = error.to_string();
                let wait_millis = wait.as_millis();
                tracing::warn!(object = job.key.name(), tries, wait_millis, "{reason}");
                entry.failure = Some(Failure {
                    reason,
                    tries: tries + 1,
                });
                entry.wait_until = Some(now + jittered(wait, &job.key));
            }
        }
        if entry.forgotten {
            self.entries.remove(&job.key);
        }
    }

    /// This agent had an endpoint of this life of the pod.
    pub(super) fn had_endpoint(&self, key: &Key, uid: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| {
            let is_it = |wanted: &Wanted| match wanted {
                Wanted::Endpoint(endpoint) => &*endpoint.pod_uid == uid,
                // It stays that way.
                Wanted::NoEndpoint { live: None, .. } => true,
                _ => false,
            };
            is_it(&entry.wanted) || entry.done.as_ref().is_some_and(|(done, _)| is_it(done))
        })
    }

    pub(super) fn report(&self) -> PublishReport {
        PublishReport {
            on: true,
            published: self
                .entries
                .values()
                .filter(|entry| entry.done.is_some())
                .count(),
            failing: self
                .entries
                .iter()
                .filter_map(|(key, entry)| {
                    let failure = entry.failure.as_ref()?;
                    Some(FailingObject {
                        object: key.name(),
                        reason: failure.reason.clone(),
                    })
                })
                .collect(),
        }
    }
}

/// Up to a quarter longer, so that what failed together is not tried again together.
fn jittered(wait: Duration, key: &Key) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let part = RandomState::new().hash_one(key.name()) % 256;
    wait + wait * u32::try_from(part).unwrap_or_default() / 1024
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    limits: Limits,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            tokens: f64::from(limits.burst.max(1)),
            filled: now,
        }
    }

    fn rate(&self) -> f64 {
        f64::from(self.limits.per_second.max(1))
    }

    fn level(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.tokens + since * self.rate()).min(f64::from(self.limits.burst.max(1)))
    }

    fn take(&mut self, now: Instant) -> bool {
        let level = self.level(now);
        if level < 1.0 {
            return false;
        }
        self.tokens = level - 1.0;
        self.filled = now;
        true
    }

    fn ready_at(&self, now: Instant) -> Instant {
        let missing = 1.0 - self.level(now);
        if missing <= 0.0 {
            return now;
        }
        now + Duration::from_secs_f64(missing / self.rate())
    }
}

#[cfg(test)]
mod tests;
