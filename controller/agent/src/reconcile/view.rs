//! What readers see: one immutable picture of the agent, made after each turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxilium_abi::map;
use oxilium_api::{FailingObject, StatusLogEntry};
use oxilium_kernel::Node;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{Endpoint, Frontend, NodeState};
use oxilium_model::observed::Observed;
use oxilium_model::world::{Attachment, World};

use super::failures::{Failing, Failures, by_number};
use super::life::Lives;
use super::{InDoubt, Reconciler};
use crate::explain::{Known, LeftOut};
use crate::publish::{Names, PublishReport};
use crate::source::SourceReport;
use crate::staged::StagedReports;

/// How far the inputs have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Changes of the inputs so far.
    pub input: u64,
    /// The one that the last plan was made from.
    pub plan: u64,
    /// The one that the kernel holds.
    pub applied: u64,
    /// Writes of the last plan that had any.
    pub last_writes: u64,
}

/// The comparison of the kernel with what it should hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepReport {
    pub(super) due: bool,
    /// When the last one was.
    pub last: Option<Instant>,
    /// How long reading the kernel took.
    pub took: Duration,
    /// Writes that were needed although no input had changed, since the start.
    pub repaired: u64,
    /// How long the last look at the hooks alone took.
    pub hooks_took: Duration,
    /// Hooks that such looks found other than they were left, since the start.
    pub hooks_drifted: u64,
    /// Pins that others had removed, and that were set again, since the start.
    pub pins_restored: u64,
}

/// What happened to an endpoint, and whether all of it is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// Everything of it is in the kernel.
    pub ready: bool,
    /// What fails of it, how often it was tried and since when.
    pub failing: Option<String>,
    /// The same in words that stay as they are while it fails.
    pub failure: Option<Arc<str>>,
    /// Its policy table in the kernel.
    pub table: u32,
    /// Its life.
    pub log: Arc<Vec<StatusLogEntry>>,
}

/// One picture of the agent.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The inputs.
    pub world: Arc<World>,
    /// What they come to.
    pub state: Arc<NodeState>,
    /// What of that the ipcache lacks for want of room.
    pub left_out: Arc<LeftOut>,
    /// How far that is applied.
    pub revisions: Revisions,
    /// The last sweep.
    pub sweep: SweepReport,
    /// What fails and is tried again.
    pub failing: Vec<FailingObject>,
    /// Why the node as a whole is not served as it should be; none where at most some of its pods are not.
    pub unwell: Option<FailingObject>,
    /// Pods that run already and are not adopted.
    pub in_doubt: Arc<InDoubt>,
    /// Hooks whose programs enforce as filters and wait for their links, and since when.
    pub settling: (usize, Option<Instant>),
    /// The sources that are waited for; none once all have told what they know.
    pub waiting: Option<String>,
    /// How the source of objects does.
    pub source: Arc<SourceReport>,
    /// What staged policies would change.
    pub staged: Arc<StagedReports>,
    /// How publishing to the API server does.
    pub published: Arc<PublishReport>,
    /// Endpoints by id.
    pub endpoints: BTreeMap<u16, EndpointView>,
    /// Entries of the tables that nobody but plans writes, by the map's name.
    pub table_entries: BTreeMap<&'static str, usize>,
}

impl View {
    /// The agent may be asked to add pods.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(waiting) = &self.waiting {
            return Err(waiting.clone());
        }
        if self.revisions.applied == 0 {
            let first = self.failing.first();
            return Err(first.map_or_else(
                || "the node's first state is not applied yet".to_owned(),
                |failing| format!("{}: {}", failing.object, failing.reason),
            ));
        }
        Ok(())
    }

    /// What the verdicts on packets follow from.
    pub fn known(&self) -> Known<'_> {
        Known {
            world: &self.world,
            state: &self.state,
            left_out: &self.left_out,
        }
    }

    /// The endpoint of that id, or of the pod `namespace/name`.
    pub fn endpoint(&self, name: &str) -> Option<&Arc<Endpoint>> {
        match name.parse::<u16>() {
            Ok(id) => self.state.endpoints.get(&id),
            Err(_) => self
                .state
                .endpoints
                .values()
                .find(|endpoint| endpoint.pod.to_string() == name),
        }
    }

    /// Labels of an identity, as text.
    pub fn labels(&self, identity: NumericIdentity) -> Vec<String> {
        self.state
            .identities
            .get(identity)
            .map(|identity| identity.labels.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }
}

impl Names for View {
    fn pod(&self, endpoint: u16) -> Option<String> {
        let endpoint = self.state.endpoints.get(&endpoint)?;
        Some(endpoint.pod.to_string())
    }

    fn identity(&self, endpoint: u16) -> Option<NumericIdentity> {
        Some(self.state.endpoints.get(&endpoint)?.identity)
    }

    fn endpoint(&self, address: IpAddr) -> Option<u16> {
        let mut endpoints = self.state.endpoints.values();
        let endpoint = endpoints.find(|endpoint| endpoint.addresses.contains(&address))?;
        Some(endpoint.id)
    }

    fn service(&self, frontend: &Frontend) -> Option<String> {
        Some(self.state.services.get(frontend)?.service.to_string())
    }

    /// Goes through all of them; for many events there is [`crate::publish::AddressBook`].
    fn remote_pod(&self, address: IpAddr) -> Option<String> {
        let mut pods = self.world.remote_endpoints.values();
        let pod = pods.find(|pod| pod.addresses.contains(&address))?;
        Some(pod.reference.to_string())
    }

    fn identity_labels(&self, identity: NumericIdentity) -> Option<String> {
        let labels = self.labels(identity);
        (!labels.is_empty()).then(|| labels.join(","))
    }
}

impl<N: Node> Reconciler<N> {
    /// Makes a new picture and hands it to all who look. Whoever is told that something is done must find it there:
    /// so it comes before any answer, and nothing slow before it.
    pub(super) fn show(&mut self) -> Arc<View> {
        for endpoint in self.state.endpoints.values() {
            let failing = failing_of(&self.failures, &self.lives, endpoint);
            let told = failing.map(|failing| (failing.object, failing.reason()));
            if self.lives.failing(&endpoint.attachment, told) {
                self.instruments.changes.regeneration_fails();
            }
        }
        let tables = |id: u16| {
            self.observed
                .as_ref()
                .map_or(0, |observed| observed.endpoint_word_in_use(id).table())
        };
        let endpoints: BTreeMap<u16, EndpointView> = self
            .state
            .endpoints
            .values()
            .map(|endpoint| {
                let failing = failing_of(&self.failures, &self.lives, endpoint);
                let view = EndpointView {
                    ready: self.is_enforced(endpoint).is_ok(),
                    failing: failing.map(Failing::text),
                    failure: failing.map(|failing| failing.reason().into()),
                    table: tables(endpoint.id),
                    log: self.lives.log(&endpoint.attachment),
                };
                (endpoint.id, view)
            })
            .collect();
        self.revisions.input = self.index.revision();
        let device = |ifindex| self.device(ifindex);
        let fights = self.fights.report(device);
        let failing = [self.failures.report(device), fights.clone()].concat();
        let view = Arc::new(View {
            world: Arc::clone(&self.world),
            state: Arc::clone(&self.state),
            left_out: Arc::clone(&self.left_out),
            revisions: self.revisions,
            sweep: self.sweep,
            unwell: self.unwell(&failing, &fights, &endpoints),
            in_doubt: Arc::clone(&self.adoption.in_doubt),
            failing,
            settling: self.settling.waiting(),
            waiting: self
                .index
                .synced()
                .complete()
                .err()
                .map(|waiting| waiting.to_string()),
            source: Arc::clone(&self.source),
            staged: Arc::clone(&self.staged),
            published: Arc::clone(&self.published),
            endpoints,
            table_entries: self
                .observed
                .as_ref()
                .map(table_entries)
                .unwrap_or_default(),
        });
        self.view.send_replace(Arc::clone(&view));
        view
    }

    /// What keeps kubelet from calling the agent ready. Some pods of which something fails do not; none that works does.
    fn unwell(
        &self,
        failing: &[FailingObject],
        fights: &[FailingObject],
        endpoints: &BTreeMap<u16, EndpointView>,
    ) -> Option<FailingObject> {
        let none_works =
            !endpoints.is_empty() && endpoints.values().all(|endpoint| !endpoint.ready);
        self.failures
            .of_node()
            .or_else(|| fights.first().cloned())
            .or_else(|| none_works.then(|| failing.first().cloned()).flatten())
    }

    /// An interface as people know it.
    pub(super) fn device(&self, ifindex: u32) -> String {
        let of = |attachment: &Attachment| {
            let device = attachment.device.as_ref()?;
            (device.ifindex == ifindex)
                .then(|| format!("{} of pod {}", device.name, attachment.pod))
        };
        let attachments = self.index.attachments().values();
        attachments
            .map(AsRef::as_ref)
            .find_map(of)
            .unwrap_or_else(|| by_number(ifindex))
    }

    /// Makes a new picture and brings it to the status directory.
    pub(super) fn publish(&mut self, now: Instant) {
        let view = self.show();
        let may_write = !self.failures.waits(&super::Object::Publish, now);
        // A slice of a longer piece of work is no occasion to write files.
        if view.waiting.is_none()
            && may_write
            && !self.unfinished
            && let Some(status) = &mut self.status
        {
            match status.write(&view) {
                Ok(()) => self.failures.works(&super::Object::Publish),
                Err(error) => {
                    self.failures
                        .failed(super::Object::Publish, error.to_string(), true, now);
                }
            }
        }
    }
}

fn table_entries(observed: &Observed) -> BTreeMap<&'static str, usize> {
    [
        (map::POLICY, observed.policy.len()),
        (map::IPCACHE, observed.ipcache.len()),
        (map::INTERFACES, observed.interfaces.len()),
        (map::SERVICES, observed.services.len()),
        (map::BACKENDS, observed.backends.len()),
        (map::REVERSE_NAT, observed.reverse_nat.len()),
    ]
    .into()
}

/// What fails of the endpoint: something on its interface, or the tables while not all of it is in them.
fn failing_of<'f>(
    failures: &'f Failures,
    lives: &Lives,
    endpoint: &Endpoint,
) -> Option<Failing<'f>> {
    let of_interface = |ifindex| failures.of_interface(ifindex);
    endpoint.ifindex.and_then(of_interface).or_else(|| {
        let is_written = lives.is_written(&endpoint.attachment);
        failures.of_tables().filter(|_| !is_written)
    })
}
