//! The life of each endpoint, as the log and `endpoint get` tell it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oxilium_api::StatusLogEntry;
use oxilium_model::node_state::{Endpoint, EndpointState};
use oxilium_model::world::AttachmentId;

use super::failures::Object;

/// Entries that are kept of one endpoint.
const KEPT: usize = 32;

/// What was last told of an endpoint.
#[derive(Clone, Debug)]
struct Told {
    endpoint: Arc<Endpoint>,
    /// All of it is in the kernel.
    written: bool,
}

#[derive(Clone, Debug)]
struct Life {
    since: Instant,
    /// `namespace/name`; outlives the endpoint.
    pod: Arc<str>,
    told: Option<Told>,
    /// Since when what is told is not in the kernel.
    unwritten_since: Instant,
    /// It has been ready.
    was_ready: bool,
    /// What of it fails, as its log says.
    failing: Option<Object>,
    log: Arc<Vec<StatusLogEntry>>,
}

/// What the inputs make of an endpoint has come into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regenerated {
    /// Time since it was computed.
    pub took: Duration,
    /// Time since the endpoint was asked for, where that makes it ready for the first time.
    pub ready_after: Option<Duration>,
}

/// All lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives(BTreeMap<AttachmentId, Life>);

impl Life {
    fn new(pod: &str, now: Instant) -> Self {
        Self {
            since: now,
            pod: pod.into(),
            told: None,
            unwritten_since: now,
            was_ready: false,
            failing: None,
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

    fn works(&mut self) {
        if self.failing.take().is_none() {
            return;
        }
        let (pod, ms) = (&self.pod, self.millis());
        tracing::info!(%pod, ms, "nothing of the endpoint fails any more");
        let written = self.told.as_ref().filter(|told| told.written);
        let state = written.map_or("regenerating", |told| told.endpoint.state.name());
        self.note(state, "works again");
    }

    fn millis(&self) -> u128 {
        self.since.elapsed().as_millis()
    }
}

impl Lives {
    /// CNI asked for an endpoint.
    pub(crate) fn requested(&mut self, id: &AttachmentId, pod: &str, device: &str, asked: Instant) {
        let mut life = Life::new(pod, asked);
        life.note_at(
            SystemTime::now() - asked.elapsed(),
            "waiting-for-identity",
            "endpoint requested",
        );
        let ms = life.millis();
        tracing::info!(pod, container = %id.container, interface = %id.interface, device, ms, "endpoint requested");
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
    pub(crate) fn computed(&mut self, endpoint: &Arc<Endpoint>, now: Instant) {
        let life = self
            .0
            .entry(endpoint.attachment.clone())
            .or_insert_with(|| Life::new(&endpoint.pod.to_string(), now));
        let before = life.told.take();
        let (id, pod, ms) = (endpoint.id, &endpoint.pod, life.millis());
        let state = endpoint.state;
        let was = before.as_ref().map(|told| &*told.endpoint);
        if was.map(|was| was.identity) != Some(endpoint.identity) {
            let identity = endpoint.identity.0;
            let labels = &endpoint.labels;
            tracing::info!(endpoint = id, %pod, identity, ?labels, ms, "identity assigned");
            life.note(state.name(), &format!("identity {identity} assigned"));
        }
        if !was.is_some_and(|was| was.state == state && is_policy_equal(was, endpoint)) {
            let policy = &endpoint.policy;
            let (ingress, egress) = (policy.ingress_enforced, policy.egress_enforced);
            let entries = policy.table.0.len();
            tracing::info!(endpoint = id, %pod, ingress, egress, entries, %state, ms, "policy computed");
            life.note(state.name(), &format!("policy computed: {entries} entries"));
        }
        let was_written = before.as_ref().is_none_or(|told| told.written);
        let written =
            before.is_some_and(|told| told.written && is_written_equal(&told.endpoint, endpoint));
        if was_written && !written {
            life.unwritten_since = now;
        }
        life.told = Some(Told {
            written,
            endpoint: Arc::clone(endpoint),
        });
    }

    /// Everything of an endpoint is in the kernel. If it was not before, tells how long it took.
    pub(crate) fn applied(
        &mut self,
        endpoint: &Endpoint,
        attached_now: bool,
        revision: u64,
    ) -> Option<Regenerated> {
        let life = self.0.get_mut(&endpoint.attachment)?;
        life.works();
        let (id, pod, ms) = (endpoint.id, &endpoint.pod, life.millis());
        if attached_now {
            let device = &endpoint.device;
            tracing::info!(endpoint = id, %pod, %device, ms, "programs attached");
            life.note(endpoint.state.name(), "programs attached");
        }
        let told = life.told.as_mut()?;
        if std::mem::replace(&mut told.written, true) {
            return None;
        }
        let mut regenerated = Regenerated {
            took: life.unwritten_since.elapsed(),
            ready_after: None,
        };
        if endpoint.state == EndpointState::Ready {
            tracing::info!(endpoint = id, %pod, revision, ms, "ready");
            life.note("ready", &format!("revision {revision} enforced"));
            let first = !std::mem::replace(&mut life.was_ready, true);
            regenerated.ready_after = first.then(|| life.since.elapsed());
        }
        Some(regenerated)
    }

    /// Something of an endpoint fails, or nothing. It is noted when that begins and when it ends, however often it is tried.
    /// True when it begins.
    pub(crate) fn failing(&mut self, id: &AttachmentId, failure: Option<(&Object, &str)>) -> bool {
        let Some(life) = self.0.get_mut(id) else {
            return false;
        };
        match failure {
            Some((object, _)) if life.failing.as_ref() == Some(object) => false,
            Some((object, reason)) => {
                life.failing = Some(object.clone());
                let (pod, ms) = (&life.pod, life.millis());
                tracing::info!(%pod, ms, reason, "something of the endpoint fails, and is tried again");
                life.note("not-ready", &format!("fails, and is tried again: {reason}"));
                true
            }
            None => {
                life.works();
                false
            }
        }
    }

    /// Endpoints that are not among `living` are over.
    pub(crate) fn retain(&mut self, living: impl Fn(&AttachmentId) -> bool) {
        self.0.retain(|id, life| {
            let lives = living(id);
            if !lives {
                let (pod, ms) = (&life.pod, life.millis());
                tracing::info!(%pod, container = %id.container, interface = %id.interface, ms, "endpoint gone");
            }
            lives
        });
    }

    /// Is everything of it in the kernel, and nothing missing?
    pub(crate) fn is_ready(&self, id: &AttachmentId) -> bool {
        let told = self.0.get(id).and_then(|life| life.told.as_ref());
        told.is_some_and(|told| told.written && told.endpoint.state == EndpointState::Ready)
    }

    /// Is everything of it in the kernel, whatever is missing?
    pub(crate) fn is_written(&self, id: &AttachmentId) -> bool {
        let told = self.0.get(id).and_then(|life| life.told.as_ref());
        told.is_some_and(|told| told.written)
    }

    /// What happened to it.
    pub(crate) fn log(&self, id: &AttachmentId) -> Arc<Vec<StatusLogEntry>> {
        self.0
            .get(id)
            .map(|life| life.log.clone())
            .unwrap_or_default()
    }
}

fn is_policy_equal(one: &Endpoint, other: &Endpoint) -> bool {
    let (one, other) = (&one.policy, &other.policy);
    one.ingress_enforced == other.ingress_enforced
        && one.egress_enforced == other.egress_enforced
        && (Arc::ptr_eq(&one.table, &other.table) || one.table == other.table)
}

/// What the kernel is to hold of both is the same.
fn is_written_equal(one: &Endpoint, other: &Endpoint) -> bool {
    let interface = |endpoint: &Endpoint| {
        (
            (endpoint.state, endpoint.identity, endpoint.ifindex),
            (endpoint.mac, endpoint.host_mac, endpoint.netns_id),
            endpoint.ipv6_prefix_length,
        )
    };
    interface(one) == interface(other)
        && one.addresses == other.addresses
        && one.link_local == other.link_local
        && is_policy_equal(one, other)
}
