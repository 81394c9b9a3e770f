//! The life of each endpoint, as the log and `endpoint get` tell it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oxilium_api::StatusLogEntry;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{Endpoint, EndpointState};
use oxilium_model::world::AttachmentId;

/// Entries that are kept of one endpoint.
const KEPT: usize = 32;

/// What was last told of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    identity: NumericIdentity,
    entries: usize,
    enforced: (bool, bool),
    state: EndpointState,
    ready: bool,
}

#[derive(Clone, Debug)]
struct Life {
    since: Instant,
    told: Option<Told>,
    log: Arc<Vec<StatusLogEntry>>,
}

/// All lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives(BTreeMap<AttachmentId, Life>);

impl Life {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            told: None,
            log: Arc::default(),
        }
    }

    fn note(&mut self, state: &str, message: &str) {
        self.note_at(SystemTime::now(), state, message);
    }

    fn note_at(&mut self, time: SystemTime, state: &str, message: &str) {
        let log = Arc::make_mut(&mut self.log);
        if log.len() == KEPT {
            log.remove(0);
        }
        log.push(StatusLogEntry {
            timestamp: oxilium_api::rfc3339(time),
            state: state.to_owned(),
            message: message.to_owned(),
        });
    }

    fn millis(&self) -> u128 {
        self.since.elapsed().as_millis()
    }
}

impl Lives {
    /// CNI asked for an endpoint.
    pub(crate) fn requested(&mut self, id: &AttachmentId, pod: &str, device: &str, asked: Instant) {
        let mut life = Life::new(asked);
        life.note_at(
            SystemTime::now() - asked.elapsed(),
            "waiting-for-identity",
            "endpoint requested",
        );
        tracing::info!(pod, container = %id.container, interface = %id.interface, device, "endpoint requested");
        self.0.insert(id.clone(), life);
    }

    /// CNI does not want it any more.
    pub(crate) fn deleted(&mut self, id: &AttachmentId, pod: &str) {
        tracing::info!(pod, container = %id.container, "endpoint to be deleted");
        if let Some(life) = self.0.get_mut(id) {
            life.note("disconnecting", "deletion requested");
        }
    }

    /// What the inputs make of an endpoint, before it is written.
    pub(crate) fn computed(&mut self, endpoint: &Endpoint, now: Instant) {
        let life = self
            .0
            .entry(endpoint.attachment.clone())
            .or_insert_with(|| Life::new(now));
        let policy = &endpoint.policy;
        let told = Told {
            identity: endpoint.identity,
            entries: policy.table.0.len(),
            enforced: (policy.ingress_enforced, policy.egress_enforced),
            state: endpoint.state,
            ready: false,
        };
        let before = life.told.clone();
        let (id, pod, ms) = (endpoint.id, &endpoint.pod, life.millis());
        if before.as_ref().map(|told| told.identity) != Some(told.identity) {
            let identity = told.identity.0;
            let labels = &endpoint.labels;
            tracing::info!(endpoint = id, %pod, identity, ?labels, ms, "identity assigned");
            life.note(
                endpoint.state.name(),
                &format!("identity {identity} assigned"),
            );
        }
        let same = before.as_ref().is_some_and(|before| {
            before.entries == told.entries
                && before.enforced == told.enforced
                && before.state == told.state
        });
        if !same {
            let (ingress, egress) = told.enforced;
            let entries = told.entries;
            tracing::info!(endpoint = id, %pod, ingress, egress, entries, state = %endpoint.state, ms, "policy computed");
            life.note(
                endpoint.state.name(),
                &format!("policy computed: {entries} entries"),
            );
        }
        let ready = before.is_some_and(|before| before.ready) && same;
        life.told = Some(Told { ready, ..told });
    }

    /// Everything of an endpoint is in the kernel. If that makes it ready, tells how long it took.
    pub(crate) fn applied(
        &mut self,
        endpoint: &Endpoint,
        attached_now: bool,
        revision: u64,
    ) -> Option<Duration> {
        let life = self.0.get_mut(&endpoint.attachment)?;
        let (id, pod, ms) = (endpoint.id, &endpoint.pod, life.millis());
        if attached_now {
            let device = &endpoint.device;
            tracing::info!(endpoint = id, %pod, %device, ms, "programs attached");
            life.note(endpoint.state.name(), "programs attached");
        }
        let told = life.told.as_mut()?;
        if told.ready || endpoint.state != EndpointState::Ready {
            return None;
        }
        told.ready = true;
        tracing::info!(endpoint = id, %pod, revision, ms, "ready");
        life.note("ready", &format!("revision {revision} enforced"));
        Some(life.since.elapsed())
    }

    /// Endpoints that are not among `living` are over.
    pub(crate) fn retain(&mut self, living: impl Fn(&AttachmentId) -> bool) {
        self.0.retain(|id, _| {
            let lives = living(id);
            if !lives {
                tracing::info!(container = %id.container, interface = %id.interface, "endpoint gone");
            }
            lives
        });
    }

    /// Was everything of it in the kernel at last?
    pub(crate) fn is_ready(&self, id: &AttachmentId) -> bool {
        self.0
            .get(id)
            .and_then(|life| life.told.as_ref())
            .is_some_and(|told| told.ready)
    }

    /// What happened to it.
    pub(crate) fn log(&self, id: &AttachmentId) -> Arc<Vec<StatusLogEntry>> {
        self.0
            .get(id)
            .map(|life| life.log.clone())
            .unwrap_or_default()
    }
}
