//! The reconcile loop: inputs, desired state, what the kernel holds, the difference, its writes.
//!
//! One owner of everything ([`Reconciler`]), driven by [`Input`]s and by time. An input only changes the
//! index; a [`Reconciler::turn`] then does what there is to do. So any number of inputs makes one turn, and
//! nothing depends on their order.

mod adopt;
mod apply;
mod attach;
mod devices;
mod drift;
mod failures;
mod fights;
mod fold;
mod hooks;
mod index;
mod life;
mod overflow;
mod pace;
mod room;
mod settle;
mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use oxilium_api::{ApiError, Attach, Attached, AttachmentKey, Check, CollectGarbage, Detach, Done};
use oxilium_kernel::Node;
use oxilium_model::Incremental;
use oxilium_model::node_state::NodeState;
use oxilium_model::observed::Observed;
use oxilium_model::plan::Table;
use oxilium_model::world::{AttachmentId, NodeConfig, World};
use tokio::sync::{oneshot, watch};

use crate::disk::{Attachments, BootDirectory, ClaimsFile, DiskError};
use crate::explain::LeftOut;
use crate::metrics::Instruments;
use crate::publish::{PublishReport, StatusDirectory};
use crate::source::{Delivery, SourceReport, Tombstones};
use crate::staged::StagedReports;

use adopt::Adoption;
pub use adopt::InDoubt;
pub(crate) use devices::{mac_text, parse_mac};
use failures::{Failures, Object};
use fights::Fights;
use hooks::Looks;
use index::Index;
pub use index::{OBJECT_SOURCES, Objects};
use life::Lives;
pub(crate) use life::Regenerated;
use pace::Pace;
use settle::Settling;
pub use view::{EndpointView, Revisions, SweepReport, View};

/// Inputs that one turn takes in at most, so that a flood of them cannot keep it from happening.
const INPUTS_A_TURN: usize = 4096;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// Work on the node's kernel that is not reconciling: dumps for people, opening the event ring.
pub type Errand<N> = Box<dyn FnOnce(&mut N, &View) + Send>;

/// What happens to the loop.
pub enum Input<N> {
    /// The cluster's objects, or how their source does.
    Objects(Delivery),
    /// Links or addresses changed, or perhaps what is on their hooks.
    KernelChanged {
        /// Hooks are to be read anew.
        hooks: bool,
    },
    /// CNI ADD, and when it came.
    Attach(Box<Attach>, Instant, Reply<Attached>),
    /// CNI DEL.
    Detach(Detach, Reply<Done>),
    /// CNI CHECK.
    Check(Check, Reply<Done>),
    /// CNI GC.
    CollectGarbage(CollectGarbage, Reply<Done>),
    /// The CNI plugin may have left word.
    Tombstones,
    /// What staged policies would change: told, and no more.
    Staged(Arc<StagedReports>),
    /// How publishing to the API server does: told, and no more.
    Published(Arc<PublishReport>),
    /// See [`Errand`].
    Errand(Errand<N>),
}

/// What the loop starts with.
pub struct Start<N> {
    /// The kernel.
    pub node: N,
    /// The node's configuration, its programs included.
    pub config: NodeConfig,
    /// State directory.
    pub state_dir: PathBuf,
    /// Status directory, if there is to be one.
    pub status_dir: Option<PathBuf>,
    /// Where CNI leaves word.
    pub tombstones: PathBuf,
    /// Directories of network namespaces in which pods are looked for that run already; none: they are not.
    pub adopt_from: Vec<PathBuf>,
    /// Time between two sweeps.
    pub sweep: Duration,
    /// Time between two looks at hooks that announce nothing.
    pub hooks: Duration,
    /// How long no pod must have come before the programs of a burst get their links.
    pub settle: Duration,
    /// Time between two removals of flows that ended; none: as need be.
    pub conntrack_gc: Option<Duration>,
    /// What is counted as it happens.
    pub instruments: Instruments,
}

/// An ADD that is not answered yet.
struct Waiter {
    id: AttachmentId,
    deadline: Instant,
    reply: Reply<Attached>,
}

/// The single owner of inputs, kernel and answers.
pub struct Reconciler<N> {
    node: N,
    index: Index,
    attachments: Attachments,
    claims: ClaimsFile,
    tombstones: Tombstones,
    status: Option<StatusDirectory>,
    /// Remembers what the last inputs came to, so that a change costs only what it changes.
    resolver: Incremental,
    /// What the kernel holds; none when it must be read anew.
    observed: Option<Observed>,
    world: Arc<World>,
    state: Arc<NodeState>,
    /// What of it the ipcache lacks.
    left_out: Arc<LeftOut>,
    revisions: Revisions,
    links_changed: bool,
    /// Not all of the last plan is applied: the rest comes after other inputs.
    unfinished: bool,
    /// Pins may be left that nothing needs.
    untidy: bool,
    failures: Failures,
    fights: Fights,
    waiters: Vec<Waiter>,
    lives: Lives,
    source: Arc<SourceReport>,
    adoption: Adoption,
    staged: Arc<StagedReports>,
    published: Arc<PublishReport>,
    sweep_every: Duration,
    next_sweep: Instant,
    sweep: SweepReport,
    /// Tables that the sweep under way found other than they were left.
    drifted: BTreeSet<Table>,
    looks: Looks,
    /// Nothing is due before this time, unless an input comes.
    rest_until: Instant,
    settling: Settling,
    pace: Pace,
    /// When flows that ended are removed.
    next_collection: Instant,
    instruments: Instruments,
    /// Objects have changed since then that are not enforced yet.
    objects_since: Option<Instant>,
    view: watch::Sender<Arc<View>>,
}

impl<N: Node> Reconciler<N> {
    /// Reads what the last run left on disk. The kernel is read in the first turn.
    ///
    /// # Errors
    /// [`DiskError`]: without its attachments and numbers the agent must not touch the kernel.
    pub fn new(start: Start<N>) -> Result<(Self, watch::Receiver<Arc<View>>), DiskError> {
        let Start {
            node,
            config,
            state_dir,
            status_dir,
            tombstones,
            adopt_from,
            sweep,
            hooks,
            settle,
            conntrack_gc,
            instruments,
        } = start;
        let pace = Pace::new(conntrack_gc);
        let boot = BootDirectory::open(&state_dir, &config.boot_id)?;
        let attachments = Attachments::open(&boot)?;
        let (claims, valid) = ClaimsFile::open(&boot)?;
        for error in &valid.errors {
            tracing::warn!(%error, "a number read back is not honoured");
        }
        let (sender, receiver) = watch::channel(Arc::new(View::default()));
        let now = Instant::now();
        let mut lives = Lives::default();
        for record in attachments.iter() {
            lives.requested(&record.id, &record.pod.to_string(), &record.host.name, now);
        }
        let reconciler = Self {
            node,
            index: Index::new(Arc::new(config), valid.claims),
            attachments,
            claims,
            tombstones: Tombstones::new(tombstones)?,
            status: status_dir.map(StatusDirectory::open).transpose()?,
            resolver: Incremental::default(),
            observed: None,
            world: Arc::default(),
            state: Arc::default(),
            left_out: Arc::default(),
            revisions: Revisions::default(),
            links_changed: true,
            unfinished: false,
            untidy: true,
            failures: Failures::default(),
            fights: Fights::default(),
            waiters: Vec::new(),
            lives,
            source: Arc::default(),
            adoption: Adoption::new(adopt_from),
            staged: Arc::default(),
            published: Arc::default(),
            sweep_every: sweep,
            next_sweep: now + sweep,
            sweep: SweepReport::default(),
            drifted: BTreeSet::new(),
            looks: Looks::new(hooks, now),
            rest_until: now,
            settling: Settling::new(settle, now),
            next_collection: now + pace.interval(),
            pace,
            instruments,
            objects_since: None,
            view: sender,
        };
        Ok((reconciler, receiver))
    }

    /// Takes inputs in and does what there is to do, until nobody can send any more.
    pub fn drive(mut self, received: &Receiver<Input<N>>) {
        let mut next = Instant::now();
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            let mut inputs = Vec::new();
            match received.recv_timeout(wait) {
                Ok(input) => inputs.push(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            inputs.extend(received.try_iter().take(INPUTS_A_TURN));
            self.take(inputs);
            next = self.turn();
        }
    }

    /// Takes inputs in. What they bring about happens in the next [`Reconciler::turn`].
    pub fn take(&mut self, inputs: Vec<Input<N>>) {
        let now = Instant::now();
        if !inputs.is_empty() {
            self.rest_until = now;
        }
        let mut adds = Vec::new();
        for input in inputs {
            match input {
                Input::Objects(delivery) => {
                    if let Some(objects) = &delivery.objects {
                        let before = self.index.revision();
                        let changes = self
                            .index
                            .set_objects(Arc::clone(objects), &delivery.synced);
                        self.instruments.changes.policy(changes.policies);
                        self.instruments.changes.service(changes.services);
                        if self.index.revision() != before {
                            self.objects_since.get_or_insert(now);
                        }
                        self.adoption.due = true;
                    }
                    let refused = delivery.report.policies_refused_since(&self.source);
                    self.instruments.changes.policies_refused(refused as u64);
                    self.source = Arc::clone(&delivery.report);
                }
                Input::KernelChanged { hooks } => {
                    self.links_changed = true;
                    self.looks.changed |= hooks;
                }
                Input::Attach(attach, asked, reply) => adds.push((attach, asked, reply)),
                Input::Detach(detach, reply) => {
                    let answer = self.detach(&[attachment_id(&detach.key)]);
                    respond(reply, answer);
                }
                Input::Check(check, reply) => {
                    let answer = self.check(&check);
                    respond(reply, answer);
                }
                Input::CollectGarbage(gc, reply) => {
                    let answer = self.collect_garbage(&gc);
                    respond(reply, answer);
                }
                Input::Tombstones => self.read_tombstones(now),
                Input::Staged(reports) => self.staged = reports,
                Input::Published(report) => self.published = report,
                Input::Errand(errand) => {
                    let view = Arc::clone(&self.view.borrow());
                    errand(&mut self.node, &view);
                }
            }
        }
        self.attach(adds, now);
    }

    /// Does what there is to do now; tells when the next turn is due at the latest.
    pub fn turn(&mut self) -> Instant {
        let now = Instant::now();
        if !self.is_at_rest(now) {
            self.work(now);
            self.rest_until = self.next_turn();
        }
        if now >= self.next_collection {
            self.collect_flows(now);
        }
        self.rest_until
            .min(self.looks.next)
            .min(self.next_collection)
    }

    fn work(&mut self, now: Instant) {
        if now >= self.next_sweep {
            self.begin_sweep(now);
        }
        if self.links_changed && !self.failures.waits(&Object::Links, now) {
            self.read_links(now);
        }
        self.adopt(now);
        if self.links_changed && !self.failures.waits(&Object::Links, now) {
            self.read_links(now);
        }
        let due = self.revisions.applied < self.index.revision()
            || self.observed.is_none()
            || self.sweep.due
            || self.unfinished
            || self.failures.due(now);
        if due {
            self.unfinished = false;
            self.reconcile(now);
        }
        self.drop_gone(now);
        if self.failures.is_due(&Object::Tombstones, now) {
            self.read_tombstones(now);
        }
        self.tidy(now);
        self.fights.forget(now);
        self.show();
        self.answer_waiters(Instant::now());
        self.publish(now);
        self.settle(now);
    }

    fn next_turn(&self) -> Instant {
        let now = Instant::now();
        if self.unfinished || self.links_changed && !self.failures.waits(&Object::Links, now) {
            return now;
        }
        let mut next = self.next_sweep;
        next = next.min(self.failures.next().unwrap_or(next));
        next = next.min(self.settling.next().unwrap_or(next));
        next = next.min(self.fights.next().unwrap_or(next));
        for waiter in &self.waiters {
            next = next.min(waiter.deadline);
        }
        next
    }

    /// Reads links and addresses, and finds each attachment's device among them.
    fn read_links(&mut self, now: Instant) {
        let read = self.node.links().and_then(|links| {
            let links = devices::Links::new(links);
            let addresses = devices::local_addresses(&mut self.node, &links)?;
            Ok((links, addresses))
        });
        match read {
            Err(error) => {
                self.failures
                    .failed(Object::Links, error.to_string(), true, now);
            }
            Ok((links, addresses)) => {
                self.links_changed = false;
                if let Some(observed) = &mut self.observed {
                    // Programs went with their device.
                    observed
                        .attachments
                        .retain(|point, _| links.has(point.ifindex));
                }
                let known = devices::Known {
                    attachments: self.index.attachments(),
                    claims: self.index.claims(),
                };
                let records = self.attachments.iter();
                let (attachments, unsure) = links.attachments(records, known, &mut self.node);
                match unsure {
                    None => self.failures.works(&Object::Links),
                    // Looked at again after a while; until then nothing is gone.
                    Some(error) => {
                        self.links_changed = true;
                        self.failures
                            .failed(Object::Links, error.to_string(), true, now);
                    }
                }
                let before = self.index.revision();
                self.index.set_kernel(attachments, addresses);
                if self.index.revision() != before {
                    self.failures.inputs_changed(now);
                }
            }
        }
    }

    /// Attachments whose device is gone are over once the kernel holds nothing of them.
    fn drop_gone(&mut self, now: Instant) {
        if self.links_changed || self.revisions.applied < self.index.revision() {
            return;
        }
        let gone = devices::gone(self.index.attachments());
        if gone.is_empty() {
            return;
        }
        if let Err(error) = self.attachments.remove(&gone) {
            self.failures
                .failed(Object::Disk, error.to_string(), true, now);
            return;
        }
        self.failures.works(&Object::Disk);
        self.links_changed = true;
        self.untidy = true;
        let living: BTreeSet<AttachmentId> = self
            .attachments
            .iter()
            .map(|record| record.id.clone())
            .collect();
        self.lives.retain(|id| living.contains(id));
        self.note_room();
    }

    /// Removes flows that ended, a bounded number at a time.
    fn collect_flows(&mut self, now: Instant) {
        const BUDGET: usize = 65_536;
        let started = Instant::now();
        let collected = self.node.collect_garbage(BUDGET);
        let took = started.elapsed();
        self.instruments.collected(collected.as_ref().ok(), took);
        match collected {
            Ok(report) => {
                self.failures.works(&Object::Flows);
                self.pace.collected(&report, took);
                let next = self.pace.interval();
                tracing::debug!(?report, ?took, ?next, "removed flows that ended");
            }
            Err(error) => self
                .failures
                .failed(Object::Flows, error.to_string(), false, now),
        }
        self.next_collection = Instant::now() + self.pace.interval();
    }
}

fn respond<T>(reply: Reply<T>, answer: Result<T, ApiError>) {
    // A client that went away needs no answer.
    drop(reply.send(answer));
}

/// The model's name of an attachment.
pub(crate) fn attachment_id(key: &AttachmentKey) -> AttachmentId {
    AttachmentId {
        container: key.container_id.as_str().into(),
        interface: key.interface.as_str().into(),
    }
}

/// `interval`, a tenth more or less, so that the nodes of a cluster do not all sweep at once.
fn jitter(interval: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    let percent = 90 + nanos % 21;
    interval * percent / 100
}
