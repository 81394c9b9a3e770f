//! One kind of objects: listed once, then its changes, for ever.
//!
//! A deletion of an object whose kind a CustomResourceDefinition defines is believed only after a look at that
//! definition: whoever deletes the definition by mistake has the API server delete every object of it, one event each,
//! and nobody meant those policies to end. The definition is marked before its objects go, so a look after the
//! deletion sees the mark.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::WatchEvent;
use oxilium_manifest::diagnostic::ObjectId;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::convert::{self, Change, Reading};
use super::health::{Failure, Health};
use super::requests::{Crd, Requests, Version};
use super::resource::{Definition, Resource};
use crate::kubernetes::{Backoff, chance};

/// A watch that says nothing for so long, not even how far it is, is asked for anew.
const SILENCE: Duration = Duration::from_secs(150);
/// Pages that wait to be read at most.
const PAGES_AT_ONCE: usize = 3;
/// Deletions of one moment are looked into together.
const GATHER: Duration = Duration::from_millis(20);
/// Between two looks into deletions. So long a pod of another node can be gone while its address still has its identity.
const PACE: Duration = Duration::from_millis(200);
/// As long as deletions keep coming each look is followed by a longer wait, up to this: a thousand nodes look.
const SLOWEST: Duration = Duration::from_secs(2);

/// What the owner of all objects is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// All objects that there are, and what defines them if a definition does.
    Listed(Resource, Vec<Change>, Option<Crd>),
    /// An object is new or another.
    Changed(Resource, Change),
    /// Objects are gone.
    Deleted(Resource, Vec<ObjectId>),
    /// How it goes.
    Health(Resource, Health),
    /// What the API server says of itself, or that it says nothing.
    Server(Result<Version, Failure>),
    /// Objects of an earlier definition are not wanted any more.
    GivenUp(Resource),
}

/// Follows one kind.
pub(super) struct Follower {
    resource: Resource,
    requests: Requests,
    reading: Arc<Reading>,
    told: mpsc::Sender<Told>,
    /// From where to go on watching; none: list again.
    version: Option<String>,
    definition: Option<Crd>,
    /// Gone, it is said.
    deleted: BTreeSet<ObjectId>,
    next_look: Instant,
    looked: Instant,
    pace: Duration,
    backoff: Backoff,
}

/// Why following ends for now.
enum End {
    Failed(Failure),
    /// Nobody listens any more.
    Closed,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Follower {
    pub(super) fn new(
        resource: Resource,
        requests: Requests,
        reading: Arc<Reading>,
        told: mpsc::Sender<Told>,
    ) -> Self {
        Self {
            resource,
            requests,
            reading,
            told,
            version: None,
            definition: None,
            deleted: BTreeSet::new(),
            next_look: Instant::now(),
            looked: Instant::now(),
            pace: PACE,
            backoff: Backoff::default(),
        }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(()) => {}
                Err(End::Closed) => return,
                Err(End::Failed(failure)) => {
                    if self.failed(failure).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn tell(&self, told: Told) -> Result<(), End> {
        self.told.send(told).await.map_err(|_| End::Closed)
    }

    async fn failed(&mut self, failure: Failure) -> Result<(), End> {
        let Failure::Unwell(health) = failure else {
            self.version = None;
            sleep(self.backoff.wait()).await;
            return Ok(());
        };
        let (missing, going) = (health == Health::Missing, health == Health::Terminating);
        self.tell(Told::Health(self.resource, health)).await?;
        sleep(self.backoff.wait()).await;
        if missing || going {
            // Whatever comes after this is another list.
            self.version = None;
        }
        if going {
            // An error of another kind is told by the list that comes next.
            while let Err(Failure::Unwell(Health::Terminating)) = self.look().await {
                sleep(self.backoff.wait()).await;
            }
        } else if missing && self.resource.definition() != Definition::BuiltIn {
            // So is this one.
            drop(self.requests.until_defined(self.resource).await);
        }
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), End> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let started = Instant::now();
        let watched = self.watch(&version).await;
        if started.elapsed() > Backoff::WORKED {
            self.backoff.reset();
        } else if watched.is_ok() {
            sleep(self.backoff.wait()).await;
        }
        watched
    }

    async fn list(&mut self) -> Result<String, End> {
        let mut objects = Vec::new();
        let mut reading = VecDeque::new();
        let mut next = String::new();
        let version = loop {
            let page = self.requests.page(self.resource, &next).await?;
            page.next().clone_into(&mut next);
            let version = page.version().to_owned();
            // The next page is asked for while this one is read.
            let (resource, reader) = (self.resource, Arc::clone(&self.reading));
            reading.push_back(spawn_blocking(move || reader.page(resource, &page)));
            while reading.len() > PAGES_AT_ONCE || next.is_empty() {
                let Some(page) = reading.pop_front() else {
                    break;
                };
                // It only ends without a result when the process ends, or by a panic, which is to be seen.
                objects.extend(page.await.map_err(|_| End::Closed)?);
            }
            if next.is_empty() {
                break version;
            }
        };
        // After the list: a list of what is being deleted is short.
        self.definition = self.look().await?;
        self.deleted.clear();
        self.version = Some(version.clone());
        let definition = self.definition.clone();
        self.tell(Told::Listed(self.resource, objects, definition))
            .await?;
        Ok(version)
    }

    async fn look(&self) -> Result<Option<Crd>, Failure> {
        match self.resource.definition() {
            Definition::BuiltIn => Ok(None),
            Definition::Required | Definition::Optional => {
                self.requests.definition(self.resource).await.map(Some)
            }
        }
    }

    async fn watch(&mut self, version: &str) -> Result<(), End> {
        let spread = u32::try_from(chance() >> 32).unwrap_or_default();
        let events = self.requests.watch(self.resource, version, spread).await?;
        let mut events = pin!(events);
        self.tell(Told::Health(self.resource, Health::Connected))
            .await?;
        loop {
            tokio::select! {
                event = timeout(SILENCE, events.next()) => match event {
                    Ok(Some(event)) => self.event(event?).await?,
                    // It ended, as it must now and then, or nobody is there.
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = sleep_until(self.next_look), if !self.deleted.is_empty() => {
                    self.believe().await?;
                }
            }
        }
    }

    async fn event(&mut self, event: WatchEvent<Box<RawValue>>) -> Result<(), End> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let (change, version) = self.reading.object(self.resource, object.get());
                self.advance(version);
                self.deleted.remove(&change.id);
                self.tell(Told::Changed(self.resource, change)).await
            }
            WatchEvent::Deleted(object) => {
                let (id, version) = convert::named(self.resource, object.get());
                self.advance(version);
                if self.resource.definition() == Definition::BuiltIn {
                    return self.tell(Told::Deleted(self.resource, vec![id])).await;
                }
                if self.deleted.is_empty() {
                    self.next_look = self.next_look.max(Instant::now() + GATHER);
                }
                self.deleted.insert(id);
                Ok(())
            }
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                Ok(())
            }
            WatchEvent::Error(status) => {
                let qualified = self.resource.qualified();
                Err(Failure::answered(&status, "watch", &qualified).into())
            }
        }
    }

    fn advance(&mut self, version: String) {
        if !version.is_empty() {
            self.version = Some(version);
        }
    }

    /// Believes the deletions if what defines the objects still stands.
    async fn believe(&mut self) -> Result<(), End> {
        let found = self.look().await?;
        let now = Instant::now();
        self.pace = next_pace(self.pace, now.saturating_duration_since(self.looked));
        self.looked = now;
        self.next_look = now + self.pace;
        let same = match (&found, &self.definition) {
            (Some(found), Some(known)) => found.uid == known.uid,
            _ => false,
        };
        if !same {
            // Deleted and made anew meanwhile: what there is now is another list.
            return Err(Failure::Expired.into());
        }
        let deleted = std::mem::take(&mut self.deleted);
        self.tell(Told::Deleted(self.resource, deleted.into_iter().collect()))
            .await
    }
}

/// How long to wait after a look; the one before was so long ago.
fn next_pace(pace: Duration, since: Duration) -> Duration {
    if since > pace * 2 {
        PACE
    } else {
        (pace * 2).min(SLOWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_grow_rare_while_deletions_keep_coming_and_are_quick_after_a_rest() {
        let mut pace = PACE;
        let waits: Vec<u128> = (0..5)
            .map(|_| {
                pace = next_pace(pace, pace);
                pace.as_millis()
            })
            .collect();
        assert_eq!(waits, [400, 800, 1600, 2000, 2000]);
        assert_eq!(next_pace(pace, SLOWEST * 3), PACE);
    }
}
