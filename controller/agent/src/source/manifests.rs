//! The manifest directory as a source of objects.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use oxilium_api::{ComponentState, ComponentStatus, FailingObject, SourceStatus};
use oxilium_manifest::directory::{
    DirectoryError, DocumentState, DocumentStatus, GONE_AFTER, ManifestDirectory, Snapshot,
};
use oxilium_manifest::object::{Input, cluster_services};
use oxilium_model::world::{Node, NodeOrigin, Table};

use crate::reconcile::Objects;
use crate::source::{Delivery, SourceReport};

/// The directory is read again at the latest after this time: an event may be missed.
const RESCAN: Duration = Duration::from_secs(10);
/// And after this time when it could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// What became of the documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    /// Why the directory cannot be read at present; what was in force stays.
    problem: Option<String>,
    /// Objects in force.
    objects: usize,
    /// Documents that are not in force as they stand in their file, each with the reason.
    refused: Vec<FailingObject>,
}

/// The thread that reads the directory.
pub struct ManifestSource {
    directory: ManifestDirectory,
    node: String,
    last: Arc<Objects>,
    report: Report,
    /// Why what is in force is not kept on disk.
    unkept: Option<String>,
}

impl ManifestSource {
    /// A source that reads `directory` for the node of that name.
    pub fn new(directory: ManifestDirectory, node: &str) -> Self {
        Self {
            directory,
            node: node.to_owned(),
            last: Arc::default(),
            report: Report::default(),
            unkept: None,
        }
    }

    /// Reads the directory whenever it changes and hands on what it says, until `deliver` says that
    /// nobody wants it any more.
    pub fn run(mut self, mut deliver: impl FnMut(Delivery) -> bool) {
        let (sender, events) = channel();
        let mut watch = Watch::new(sender);
        let mut first = true;
        loop {
            // Watched before it is read, so that no change falls in between.
            let watching = watch.begin(self.directory.path());
            let before = (Arc::clone(&self.last), self.report.clone());
            let delivery = self.scan(watching.err(), !first);
            let changed = before != (Arc::clone(&self.last), self.report.clone());
            // The first list is a promise that nothing older is in force: it waits until what is missing is
            // known to be gone.
            let unsettled = first && self.directory.in_doubt();
            let full = delivery.objects.is_some() && !unsettled;
            if !unsettled && (changed || (first && full)) && !deliver(delivery) {
                return;
            }
            // While this waits for the disk, the kernel is written.
            self.unkept = self.keep();
            first &= !full;
            let wait = if self.directory.in_doubt() {
                GONE_AFTER
            } else if self.report.problem.is_some() || self.unkept.is_some() {
                RETRY
            } else {
                RESCAN
            };
            if !wait_for_change(&events, wait) {
                return;
            }
        }
    }

    fn keep(&mut self) -> Option<String> {
        let started = Instant::now();
        let kept = self.directory.keep();
        let us = started.elapsed().as_micros();
        tracing::debug!(us, "kept what was admitted");
        kept.err().map(|error| error.to_string())
    }

    fn scan(&mut self, watching: Option<notify::Error>, synced: bool) -> Delivery {
        let started = Instant::now();
        match self.directory.admit(Instant::now()) {
            Ok(snapshot) => {
                let admitted = started.elapsed();
                self.last = Arc::new(objects(&snapshot, &self.node, &self.last));
                self.report = report(&snapshot);
                self.report.problem =
                    watching.map(|error| format!("the directory cannot be watched: {error}"));
                if let Some(unkept) = &self.unkept {
                    self.report.problem = Some(unkept.clone());
                }
                tracing::debug!(
                    admit_us = admitted.as_micros(),
                    lower_us = started.elapsed().saturating_sub(admitted).as_micros(),
                    "read the manifests"
                );
                Delivery::full(Arc::clone(&self.last), self.told(true))
            }
            Err(error) => {
                self.report.problem = Some(error.to_string());
                if let DirectoryError::Unreadable { .. } = error {
                    tracing::warn!(%error, "manifests");
                }
                Delivery::frozen(self.told(synced))
            }
        }
    }

    fn told(&self, synced: bool) -> Arc<SourceReport> {
        let report = &self.report;
        let (state, msg) = if let Some(problem) = &report.problem {
            (ComponentState::Failure, problem.clone())
        } else {
            let directory = self.directory.path().display();
            let msg = format!("{directory}: {} objects", report.objects);
            (ComponentState::Ok, msg)
        };
        Arc::new(SourceReport {
            problem: report.problem.clone(),
            components: vec![SourceStatus {
                name: "Manifests".to_owned(),
                synced,
                status: ComponentStatus { state, msg },
            }],
            refused: report.refused.clone(),
            ..SourceReport::default()
        })
    }
}

struct Watch {
    sender: std::sync::mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    fn new(sender: std::sync::mpsc::Sender<()>) -> Self {
        Self {
            sender,
            watcher: None,
        }
    }

    /// Watches `path`; once only, unless the directory went away in between.
    fn begin(&mut self, path: &Path) -> notify::Result<()> {
        if let Some(watcher) = &mut self.watcher {
            if path.is_dir() {
                // Watching twice is no error, and a directory made anew needs it.
                return watcher.watch(path, RecursiveMode::NonRecursive);
            }
            self.watcher = None;
        }
        let sender = self.sender.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error (the queue of events ran over) is a reason to look, too.
                if event.is_ok_and(|event| !matters(event.kind)) {
                    return;
                }
                if sender.send(()).is_err() {
                    tracing::trace!("nobody reads the manifests any more");
                }
            })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        self.watcher = Some(watcher);
        Ok(())
    }
}

/// A file is worth reading when its writer is done: closed it, renamed it, or took it away.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_))
        | EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Other
        | EventKind::Any => true,
        EventKind::Access(_) | EventKind::Modify(_) => false,
    }
}

/// Waits until something changes or `wait` is over; false when nothing ever will.
fn wait_for_change(events: &Receiver<()>, wait: Duration) -> bool {
    match events.recv_timeout(wait) {
        Ok(()) => {
            while events.try_recv().is_ok() {}
            true
        }
        Err(RecvTimeoutError::Timeout) => true,
        Err(RecvTimeoutError::Disconnected) => false,
    }
}

fn report(snapshot: &Snapshot) -> Report {
    Report {
        problem: None,
        objects: snapshot.objects.len(),
        refused: snapshot.documents.iter().filter_map(refused).collect(),
    }
}

/// Why a document is not in force as it stands.
fn refused(document: &DocumentStatus) -> Option<FailingObject> {
    let what = match &document.state {
        // What leaves goes by itself, in a moment.
        DocumentState::InForce | DocumentState::Unread | DocumentState::Leaving => return None,
        DocumentState::RefusedEarlierInForce => {
            "refused, an earlier version is in force".to_owned()
        }
        DocumentState::Refused => "refused".to_owned(),
        DocumentState::Closed => {
            "refused, though it was admitted by an earlier version or configuration of the agent: what it allowed is denied until it is mended".to_owned()
        }
        DocumentState::Shadowed { by } => format!("not in force: {by} defines the same object"),
        DocumentState::Retained => {
            "no longer in its file, which is empty or has an error in it: in force until that is mended or the file is gone".to_owned()
        }
        DocumentState::Unreadable { in_force } => {
            format!("the file cannot be read; {in_force} objects of it stay in force")
        }
    };
    let errors = document
        .errors
        .iter()
        .map(|error| format!("{}: {error}", error.place()));
    let reasons: Vec<String> = std::iter::once(what).chain(errors).collect();
    Some(FailingObject {
        object: format!("{} ({})", document.object, document.file),
        reason: reasons.join("; "),
    })
}

/// The objects of a snapshot, as the model has them. What is equal to before is the same allocation.
pub fn objects(snapshot: &Snapshot, node: &str, before: &Objects) -> Objects {
    let mut new = Objects::default();
    let mut api_slices = BTreeSet::new();
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for object in &snapshot.objects {
        match &object.input {
            Input::Policy(lowered) => {
                let policy = &lowered.policy;
                new.policies
                    .insert(Arc::clone(&policy.reference), Arc::new(policy.clone()));
            }
            Input::Pod(pod) => {
                // A manifest need not say which node: then it is this one.
                if pod.node.as_deref().is_none_or(|name| name == node) {
                    new.pods
                        .insert(pod.reference.clone(), Arc::new((**pod).clone()));
                }
            }
            Input::Node(node) => add_node(&mut new.nodes, node),
            Input::Namespace(namespace) => {
                new.namespaces
                    .insert(Arc::clone(&namespace.name), Arc::new((**namespace).clone()));
            }
            Input::RemoteEndpoint(endpoint) => {
                new.remote_endpoints
                    .insert(endpoint.reference.clone(), Arc::new((**endpoint).clone()));
            }
            Input::ClusterIdentity(id, identity) => {
                new.cluster_identities.insert(*id, identity.clone());
            }
            Input::CidrGroup(group) => {
                new.cidr_groups
                    .insert(Arc::clone(&group.name), Arc::new((**group).clone()));
            }
            Input::EndpointSlice(slice) => {
                slices.push(&**slice);
                let of_api = slice.metadata.namespace == "default"
                    && slice
                        .metadata
                        .labels
                        .get(oxilium_crds::discovery::SERVICE_NAME)
                        .is_some_and(|service| service == "kubernetes");
                if of_api {
                    api_slices.extend(slice.endpoints.iter().flat_map(|e| e.addresses.clone()));
                }
            }
            Input::Service(service) => services.push(&**service),
            Input::Unread => {}
        }
    }
    new.services = cluster_services(services, slices, node, &before.services);
    new.api_servers = api_slices
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect();
    share(&before.policies, &mut new.policies);
    share(&before.pods, &mut new.pods);
    share(&before.nodes, &mut new.nodes);
    share(&before.namespaces, &mut new.namespaces);
    share(&before.remote_endpoints, &mut new.remote_endpoints);
    share(&before.cidr_groups, &mut new.cidr_groups);
    new
}

fn add_node(nodes: &mut Table<Arc<str>, Arc<Node>>, node: &Node) {
    let merged = match nodes.get(&node.name) {
        None => node.clone(),
        Some(other) => of_both(node, other),
    };
    nodes.insert(Arc::clone(&node.name), Arc::new(merged));
}

/// A node may have both a Node and a CiliumNode: the latter tells every address, the former has the labels.
pub(super) fn of_both(one: &Node, other: &Node) -> Node {
    let (cilium, kubernetes) = if one.origin == NodeOrigin::CiliumNode {
        (one, other)
    } else {
        (other, one)
    };
    Node {
        labels: kubernetes.labels.clone(),
        ..cilium.clone()
    }
}

/// What is equal stays the same: only what differs is put into a copy of what was.
fn share<K: Clone + Ord, V: PartialEq>(before: &Table<K, Arc<V>>, new: &mut Table<K, Arc<V>>) {
    let mut shared = before.clone();
    for entry in before.differing(new) {
        match entry.is {
            Some(is) => shared.insert(entry.key.clone(), Arc::clone(is)),
            None => shared.remove(entry.key),
        };
    }
    *new = shared;
}
