//! CNI requests: they change the inputs, and wait until these are in the kernel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oxilium_api::{ApiError, Attach, Attached, Check, CollectGarbage, Done, ErrorCode};
use oxilium_kernel::Node;
use oxilium_kernel::port::LinkInfo;
use oxilium_model::condition::{self, Reason};
use oxilium_model::node_state::{Endpoint, EndpointState};
use oxilium_model::world::{AttachmentId, Lifecycle, PodRef};

use super::adopt::is_adopted;
use super::devices::{mac_text, parse_mac};
use super::{Object, Reconciler, Reply, Waiter, attachment_id, respond};
use crate::disk::{AttachmentRecord, Prior};

/// An ADD that no limit was given for.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// With the time at which it came.
type Add = (Box<Attach>, Instant, Reply<Attached>);

impl<N: Node> Reconciler<N> {
    /// Takes any number of ADDs in: one look at the links and one write to disk for all of them.
    pub(super) fn attach(&mut self, adds: Vec<Add>, now: Instant) {
        if adds.is_empty() {
            return;
        }
        self.settling.put_off(now);
        let read = self.node.links().and_then(|links| {
            let by_index: BTreeMap<u32, LinkInfo> =
                links.into_iter().map(|link| (link.ifindex, link)).collect();
            Ok((by_index, self.node.clsact()?))
        });
        let (links, clsact) = match read {
            Ok(read) => read,
            Err(error) => {
                let answer = ApiError::new(ErrorCode::Kernel, error.to_string());
                for (_, _, reply) in adds {
                    respond(reply, Err(answer.clone()));
                }
                return;
            }
        };
        let mut accepted = Vec::new();
        let mut room = self.interface_room();
        for (attach, asked, reply) in adds {
            let verified = verify(&attach, &links).and_then(|()| {
                let pod = PodRef::new(&attach.pod.namespace, &attach.pod.name);
                let taken = room.take(&attachment_id(&attach.key), &pod);
                taken.map_err(|reason| {
                    self.note_full(reason.clone(), now);
                    ApiError::new(ErrorCode::NotReady, reason)
                })
            });
            match verified {
                Ok(()) => accepted.push((attach, asked, reply)),
                Err(error) => respond(reply, Err(error)),
            }
        }
        let records = accepted
            .iter()
            .map(|(attach, ..)| {
                let prior = links.get(&attach.host.ifindex).map(|link| Prior {
                    clsact: clsact.contains(&link.ifindex),
                    tx_queue_len: link.tx_queue_len,
                });
                self.record(attach, prior)
            })
            .collect();
        if let Err(error) = self.attachments.put(records) {
            for (_, _, reply) in accepted {
                let answer = ApiError::new(ErrorCode::Kernel, error.to_string());
                respond(reply, Err(answer));
            }
            return;
        }
        // Programs go with their device, and the kernel gives its index to the next one: what is remembered of
        // this index may be of a device that is gone.
        let remembered = self.observed.as_ref().is_some_and(|observed| {
            accepted.iter().any(|(attach, ..)| {
                let ifindex = attach.host.ifindex;
                let mut points = observed.attachments.keys();
                points.any(|point| point.ifindex == ifindex)
            })
        });
        if remembered {
            self.observed = None;
        }
        for (attach, asked, reply) in accepted {
            let id = attachment_id(&attach.key);
            let pod = format!("{}/{}", attach.pod.namespace, attach.pod.name);
            self.lives.requested(&id, &pod, &attach.host.name, asked);
            // Only the newest ADD of an attachment is waited for.
            self.fail_waiters(&id, "another ADD of the same attachment came");
            let wait = Duration::from_millis(attach.wait_millis).min(LONGEST_WAIT);
            self.waiters.push(Waiter {
                id,
                deadline: now + wait,
                reply,
            });
        }
        self.links_changed = true;
        // Also when nothing of it is new: somebody waits for the answer.
        self.unfinished = true;
    }

    fn record(&self, attach: &Attach, found: Option<Prior>) -> AttachmentRecord {
        // What is there now is the agent's own work where the interface was attached before.
        let known = self
            .attachments
            .iter()
            .find(|record| record.host == attach.host);
        AttachmentRecord {
            prior: known.map_or(found, |record| record.prior),
            id: attachment_id(&attach.key),
            pod: PodRef::new(&attach.pod.namespace, &attach.pod.name),
            pod_uid: attach.pod.uid.clone().unwrap_or_default(),
            boot_id: self.index.config().boot_id.to_string(),
            netns: attach.netns.clone(),
            host: attach.host.clone(),
            container: attach.container.clone(),
            lifecycle: Lifecycle::Added,
        }
    }

    /// Notes that attachments are not wanted any more. Their devices stay enforced while they live.
    pub(super) fn detach(&mut self, ids: &[AttachmentId]) -> Result<Done, ApiError> {
        let known: Vec<AttachmentId> = ids
            .iter()
            .filter(|id| {
                self.attachments
                    .get(id)
                    .is_some_and(|record| record.lifecycle == Lifecycle::Added)
            })
            .cloned()
            .collect();
        if known.is_empty() {
            return Ok(Done {});
        }
        self.attachments
            .mark_deleted(&known)
            .map_err(|error| ApiError::new(ErrorCode::Kernel, error.to_string()))?;
        for id in &known {
            if let Some(record) = self.attachments.get(id) {
                let pod = record.pod.to_string();
                self.lives.deleted(id, &pod);
            }
            self.fail_waiters(id, "the container was deleted");
        }
        self.links_changed = true;
        Ok(Done {})
    }

    /// Is the attachment known, with the device that the runtime sees, and enforced?
    pub(super) fn check(&self, check: &Check) -> Result<Done, ApiError> {
        let id = attachment_id(&check.key);
        let Some(attachment) = self.index.attachments().get(&id) else {
            let message = format!("attachment {id} is not known");
            return Err(ApiError::new(ErrorCode::NotFound, message));
        };
        let known = attachment.device.as_ref().map(|device| device.ifindex);
        if known != Some(check.host_ifindex) {
            let message = match known {
                Some(known) => format!(
                    "attachment {id} has interface {known} here, not {}",
                    check.host_ifindex
                ),
                None => format!("the device of attachment {id} is gone"),
            };
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        self.enforced(&id)
            .map(|_| Done {})
            .map_err(|reason| ApiError::new(ErrorCode::NotReady, reason))
    }

    /// Attachments that the runtime does not list are not wanted any more.
    pub(super) fn collect_garbage(&mut self, gc: &CollectGarbage) -> Result<Done, ApiError> {
        let valid: Vec<AttachmentId> = gc.valid.iter().map(attachment_id).collect();
        let stale: Vec<AttachmentId> = self
            .attachments
            .iter()
            .map(|record| record.id.clone())
            .filter(|id| !valid.contains(id) && !is_adopted(id))
            .collect();
        self.detach(&stale)
    }

    /// Reads what the CNI plugin left while nobody answered it.
    pub(super) fn read_tombstones(&mut self, now: Instant) {
        let read = match self.tombstones.read() {
            Ok(read) => read,
            Err(error) => {
                self.failures
                    .failed(Object::Tombstones, error.to_string(), true, now);
                return;
            }
        };
        let ids: Vec<AttachmentId> = read.iter().map(|stone| attachment_id(&stone.key)).collect();
        let done = self
            .detach(&ids)
            .map_err(|error| error.to_string())
            .and_then(|_| self.tombstones.remove(&read).map_err(|e| e.to_string()));
        match done {
            Ok(()) => self.failures.works(&Object::Tombstones),
            Err(reason) => self.failures.failed(Object::Tombstones, reason, true, now),
        }
    }

    /// Answers each ADD whose pod is enforced, or whose time is up.
    pub(super) fn answer_waiters(&mut self, now: Instant) {
        let mut waiting = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            match self.enforced(&waiter.id) {
                Ok(endpoint) => {
                    let attached = Attached {
                        endpoint: endpoint.id,
                        identity: endpoint.identity.0,
                        revision: self.revisions.plan,
                    };
                    respond(waiter.reply, Ok(attached));
                }
                Err(reason) if now >= waiter.deadline => {
                    let message = format!("pod is not enforced in time: {reason}");
                    tracing::warn!(container = %waiter.id.container, reason, "ADD fails");
                    respond(
                        waiter.reply,
                        Err(ApiError::new(ErrorCode::Timeout, message)),
                    );
                    // Nothing may be left of it, but a device that lives is never let loose.
                    if let Err(error) = self.detach(&[waiter.id]) {
                        self.failures
                            .failed(Object::Disk, error.to_string(), true, now);
                    }
                }
                Err(_) => waiting.push(waiter),
            }
        }
        waiting.append(&mut self.waiters);
        self.waiters = waiting;
    }

    fn fail_waiters(&mut self, id: &AttachmentId, reason: &str) {
        let (failed, others) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.id == *id);
        self.waiters = others;
        for waiter in failed {
            let error = ApiError::new(ErrorCode::Conflict, reason).retryable();
            respond(waiter.reply, Err(error));
        }
    }

    /// The attachment's endpoint if the kernel enforces what the present inputs say of it; else why not.
    pub(super) fn enforced(&self, id: &AttachmentId) -> Result<&Endpoint, String> {
        if let Err(waiting) = self.index.synced().complete() {
            return Err(waiting.to_string());
        }
        let endpoint = self
            .state
            .endpoints
            .values()
            .find(|endpoint| endpoint.attachment == *id)
            .ok_or("it is not part of the node's state yet")?;
        self.is_enforced(endpoint)?;
        Ok(endpoint)
    }

    /// Why an endpoint has no identity of its own.
    fn awaits(&self, endpoint: &Endpoint) -> String {
        let pending = self.state.conditions.iter().find(|told| {
            told.object == condition::Object::Pod(endpoint.pod.clone())
                && matches!(told.reason, Reason::IdentityPending { .. })
        });
        match pending {
            Some(told) => told.reason.to_string(),
            None => format!("there is no Pod {} with this UID yet", endpoint.pod),
        }
    }

    /// The kernel enforces what the present inputs say of the endpoint; else why not.
    pub(super) fn is_enforced(&self, endpoint: &Endpoint) -> Result<(), String> {
        let ifindex = match (endpoint.state, endpoint.ifindex) {
            (EndpointState::WaitingForIdentity, _) => return Err(self.awaits(endpoint)),
            (EndpointState::Invalid, _) => return Err("its policy cannot be resolved".to_owned()),
            (EndpointState::Disconnecting, _) => return Err("it is being deleted".to_owned()),
            (EndpointState::Disconnected, _) | (_, None) => {
                return Err("its device is gone".to_owned());
            }
            (EndpointState::Ready, Some(ifindex)) => ifindex,
        };
        if let Some(failing) = self.failures.of_interface(ifindex) {
            return Err(failing.text());
        }
        if !self.lives.is_ready(&endpoint.attachment) {
            let failing = self.failures.report(|ifindex| self.device(ifindex));
            return Err(failing.first().map_or_else(
                || "it is not written to the kernel yet".to_owned(),
                |failing| failing.reason.clone(),
            ));
        }
        Ok(())
    }
}

/// The request must describe a veth that is here: a mistake would enforce one pod's policy on another.
fn verify(attach: &Attach, links: &BTreeMap<u32, LinkInfo>) -> Result<(), ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message));
    if parse_mac(&attach.container.mac).is_none() {
        let message = format!("{:?} is no MAC address", attach.container.mac);
        return refuse(ErrorCode::InvalidRequest, message);
    }
    let index = attach.host.ifindex;
    let Some(link) = links.get(&index) else {
        let message = format!("interface {index} is not in the agent's network namespace");
        return refuse(ErrorCode::Conflict, message);
    };
    let fits = link.kind == "veth"
        && link.netns_id.is_some()
        && link.peer == Some(attach.container.ifindex)
        && link.mac.map(mac_text).as_deref() == Some(attach.host.mac.as_str());
    if !fits {
        let message = format!(
            "interface {index} ({}) is not the veth that the request describes",
            link.name
        );
        return refuse(ErrorCode::Conflict, message);
    }
    Ok(())
}
