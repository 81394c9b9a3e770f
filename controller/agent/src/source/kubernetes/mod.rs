//! The Kubernetes API as the source of objects.
//!
//! - [`follow`]: one task a kind lists and watches
//! - [`convert`]: at once each object becomes what the model needs of it; the rest is forgotten
//! - [`store`]: one owner of all of it, which hands on what is in force, whole
//!
//! Nothing that the API server does not say counts as said: one that is away, that lacks a definition or refuses an answer
//! leaves in force what it said last ([`health`] tells it in `status`). A kind counts as read when its first full list
//! arrived; no timeout stands in for it. Even a deletion is looked into ([`follow`]).
//!
//! What a restart must know of policies is on disk before they are in force ([`record`], [`admitted`]). While it cannot be
//! written, policies stay as they were; everything else goes on, for an address must not keep the identity of a pod that is gone.

mod admitted;
mod convert;
mod follow;
mod health;
mod heartbeat;
mod kind;
mod node_config;
mod record;
mod requests;
mod resource;
mod services;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use kube::Client;
use oxilium_api::{ComponentState, ComponentStatus, FailingObject, SourceStatus, rfc3339};
use oxilium_manifest::LowerOptions;
use oxilium_model::policy::rule::{Policy, PolicyRef};
use oxilium_model::world::{Source, Table};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::admitted::Admitted;
use self::convert::Reading;
use self::follow::{Follower, Told};
use self::health::{Failure, Health};
use self::kind::Kind;
use self::record::Record;
use self::requests::{Requests, Version};
use self::resource::Resource;
use self::store::Store;
use crate::disk::DiskError;
use crate::kubernetes::Backoff;
use crate::reconcile::OBJECT_SOURCES;
use crate::source::{Delivery, SourceReport};

/// Messages of followers that wait to be taken in.
const QUEUE: usize = 1024;

/// See [`crate::reconcile::Objects::policies`].
type Policies = Table<Arc<PolicyRef>, Arc<Policy>>;

/// What the API server says of itself.
struct Server {
    url: String,
    version: Option<Version>,
    /// Since when it does not answer, and why.
    away: Option<(SystemTime, String)>,
}

impl Server {
    /// Takes in what it says of itself, or that it says nothing. True: that is something new.
    fn found(&mut self, found: Result<Version, Failure>) -> bool {
        match found {
            Ok(version) => {
                let away = self.away.take();
                let version = Some(version);
                let changed = away.is_some() || self.version != version;
                self.version = version;
                changed
            }
            Err(Failure::Unwell(Health::Away { reason })) => {
                let since = self.away.as_ref().map(|(since, _)| *since);
                self.away = Some((since.unwrap_or_else(SystemTime::now), reason));
                true
            }
            // It answers, if only that it does not answer that.
            Err(_) => self.away.take().is_some(),
        }
    }
}

/// The owner of all that the API tells.
pub struct KubernetesSource {
    store: Store,
    kinds: BTreeMap<Resource, Kind>,
    record: Record,
    /// Why what a restart must know is not on disk.
    unkept: Option<String>,
    /// When that is tried again at the latest.
    next_try: Instant,
    tries: Backoff,
    /// The policies when all of it was on disk last; none before the first full list was.
    kept: Option<Policies>,
    server: Server,
    told: mpsc::Receiver<Told>,
    /// See [`heartbeat`].
    held: watch::Sender<BTreeSet<Resource>>,
}

impl KubernetesSource {
    /// Begins to follow every kind, for the node of that name. `url`: of the API server, for people. Inside a runtime.
    ///
    /// # Errors
    /// When what the last run left on disk cannot be read.
    pub fn start(
        client: Client,
        url: &str,
        node: &str,
        options: LowerOptions,
        state_dir: &Path,
    ) -> Result<Self, DiskError> {
        let record = Record::open(state_dir)?;
        let requests = Requests::new(client, node);
        let reading = Arc::new(Reading::new(node, options));
        let (sender, told) = mpsc::channel(QUEUE);
        let kinds = Resource::ALL
            .map(|resource| (resource, Kind::new(resource, record.of(resource))))
            .into();
        for resource in Resource::ALL {
            let (requests, reading) = (requests.clone(), Arc::clone(&reading));
            tokio::spawn(Follower::new(resource, requests, reading, sender.clone()).run());
        }
        let (held, holding) = watch::channel(BTreeSet::new());
        tokio::spawn(heartbeat::beat(requests, sender, holding));
        Ok(Self {
            store: Store::new(reading, Admitted::open(state_dir)?),
            kinds,
            record,
            unkept: None,
            next_try: Instant::now(),
            tries: Backoff::default(),
            kept: None,
            server: Server {
                url: url.to_owned(),
                version: None,
                away: None,
            },
            told,
            held,
        })
    }

    /// Hands on what is in force whenever it changes, until `deliver` says that nobody wants it any more. While one
    /// delivery waits to be taken in, changes gather for the next.
    pub async fn run(mut self, mut deliver: impl FnMut(Delivery) -> bool) {
        let mut under_way: Option<oneshot::Receiver<()>> = None;
        let mut changed = true;
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            if changed && under_way.is_none() {
                self.keep();
                self.tell_held();
                let (delivery, taken) = self.delivery().awaited();
                if !deliver(delivery) {
                    return;
                }
                under_way = Some(taken);
                changed = false;
            }
            tokio::select! {
                count = self.told.recv_many(&mut batch, QUEUE) => {
                    if count == 0 {
                        return;
                    }
                    for told in batch.drain(..) {
                        changed |= self.take(told);
                    }
                }
                () = taken(&mut under_way), if under_way.is_some() => under_way = None,
                () = sleep_until(self.next_try), if self.unkept.is_some() && !changed => changed = true,
            }
        }
    }

    /// True: something changed.
    fn take(&mut self, told: Told) -> bool {
        match told {
            Told::Listed(resource, objects, definition) => {
                let count = objects.len();
                let replaced = self
                    .kind(resource)
                    .is_some_and(|kind| kind.listed(definition.as_ref()));
                let replaced = replaced && resource.source().is_some();
                if definition.is_some_and(|found| found.gives_up_former) {
                    self.store.give_up_former(resource);
                }
                self.store.list(resource, objects, replaced);
                let resource = resource.qualified();
                tracing::info!(resource, count, replaced, "all objects read");
            }
            Told::Changed(resource, change) => self.store.change(resource, change),
            Told::Deleted(resource, ids) => {
                for id in ids {
                    self.store.delete(resource, &id);
                }
            }
            Told::Health(resource, health) => {
                if let Some(kind) = self.kind(resource) {
                    kind.set_health(health);
                }
            }
            Told::Server(found) => return self.server.found(found),
            Told::GivenUp(resource) => {
                self.store.give_up_former(resource);
                if let Some(kind) = self.kind(resource) {
                    kind.give_up_former();
                }
            }
        }
        true
    }

    fn kind(&mut self, resource: Resource) -> Option<&mut Kind> {
        self.kinds.get_mut(&resource)
    }

    fn former(&self, resource: Resource) -> usize {
        self.store.former(resource).map_or(0, BTreeSet::len)
    }

    /// Says what the API server is to be asked about now and then.
    fn tell_held(&self) {
        let held = self
            .kinds
            .iter()
            .filter(|(resource, kind)| kind.is_held() || self.former(**resource) > 0);
        let held = held.map(|(resource, _)| *resource).collect();
        self.held.send_if_modified(|told| {
            let changed = *told != held;
            *told = held;
            changed
        });
    }

    /// Brings to disk what a restart must know.
    fn keep(&mut self) {
        self.unkept = self.write().err().map(|error| error.to_string());
        match &self.unkept {
            Some(_) => self.next_try = Instant::now() + self.tries.wait(),
            None => self.tries.reset(),
        }
    }

    fn write(&mut self) -> Result<(), DiskError> {
        let mut written = Ok(());
        let enforced = |(resource, _): &(&Resource, _)| resource.source().is_some();
        for (resource, kind) in self.kinds.iter().filter(enforced) {
            let former = self.former(*resource);
            let uid = match kind.record(self.store.count(*resource), former) {
                kind::Record::AsIs => continue,
                kind::Record::Uid(uid) => Some(uid),
                kind::Record::Nothing => None,
            };
            written = self.record.set(*resource, uid).and(written);
        }
        self.store.keep().and(written)
    }

    fn delivery(&mut self) -> Delivery {
        let synced: BTreeSet<Source> = OBJECT_SOURCES
            .into_iter()
            .filter(|source| self.is_synced(*source))
            .collect();
        let report = Arc::new(self.report());
        let mut objects = self.store.objects();
        if self.unkept.is_none() {
            let all_read = synced.contains(&Source::Policies);
            self.kept = all_read.then(|| objects.policies.clone());
        } else if let Some(kept) = &self.kept {
            // Where nothing is known that could stay, none in force would be worse than a restart that knows less.
            objects.policies = kept.clone();
        }
        Delivery::of(Arc::new(objects), synced, report)
    }

    /// Every kind that it consists of was read.
    fn is_synced(&self, source: Source) -> bool {
        let mut kinds = self.kinds.iter();
        kinds.all(|(resource, kind)| resource.source() != Some(source) || kind.is_synced())
    }

    fn report(&self) -> SourceReport {
        let of_kinds = self.kinds.iter().map(|(resource, kind)| {
            kind.component(self.store.count(*resource), self.former(*resource))
        });
        let refused = self.store.refused().iter().map(|(id, refused)| {
            let what = if refused.earlier_in_force {
                "refused, an earlier version is in force"
            } else {
                "refused"
            };
            FailingObject {
                object: id.to_string(),
                reason: format!("{what}; {}", refused.reason),
            }
        });
        let mut problems = self.kinds.iter().filter_map(|(resource, kind)| {
            kind.problem(self.store.count(*resource), self.former(*resource))
        });
        let server = self.server_component();
        let away = (server.status.state != ComponentState::Ok)
            .then(|| format!("Kubernetes: {}", server.status.msg));
        SourceReport {
            problem: away.or_else(|| problems.next()).or_else(|| {
                let unkept = self.unkept.as_ref()?;
                Some(format!("{unkept}; until then policies stay as they are"))
            }),
            components: std::iter::once(server).chain(of_kinds).collect(),
            refused: refused.chain(self.store.not_followed()).collect(),
            pruned: self.store.pruned(),
        }
    }

    fn server_component(&self) -> SourceStatus {
        let url = &self.server.url;
        let (state, msg) = match (&self.server.away, &self.server.version) {
            (Some((since, reason)), _) => {
                let since = rfc3339(*since);
                let msg = format!(
                    "{url} is away since {since} ({reason}); what it said last stays in force"
                );
                (ComponentState::Failure, msg)
            }
            (None, Some(version)) => {
                let Version {
                    git_version,
                    platform,
                } = version;
                (
                    ComponentState::Ok,
                    format!("{git_version} [{platform}] {url}"),
                )
            }
            (None, None) => (ComponentState::Ok, url.clone()),
        };
        SourceStatus {
            name: "Kubernetes".to_owned(),
            synced: self.kinds.values().all(Kind::is_synced),
            status: ComponentStatus { state, msg },
        }
    }
}

/// Until the delivery under way was taken in.
async fn taken(under_way: &mut Option<oneshot::Receiver<()>>) {
    if let Some(receiver) = under_way {
        // Closed is what is waited for.
        drop(receiver.await);
    }
}

impl std::fmt::Debug for KubernetesSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesSource")
            .field("server", &self.server.url)
            .finish_non_exhaustive()
    }
}
