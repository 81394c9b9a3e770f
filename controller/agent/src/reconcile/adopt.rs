//! Pods that run already when the agent comes, or that some other chain of plugins made: nobody asked for them.
//!
//! Each is found by its addresses: the Pod object names them, and exactly one network namespace of this node has them,
//! all of them and no others, on the pod's end of a veth whose other end is here. Anything less is a guess: a pod that may
//! change its addresses could pass for another, so a pod in doubt stays without an attachment. `status` warns of it and the
//! pod gets an event; the agent is ready all the same, for all the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use oxilium_api::{ContainerInterface, HostInterface};
use oxilium_kernel::port::{LinkInfo, PodInterface};
use oxilium_kernel::{NetlinkError, Node};
use oxilium_model::world::{AttachmentId, Lifecycle, Pod, PodRef};

use super::Reconciler;
use super::devices::mac_text;
use super::failures::Object;
use crate::disk::{AttachmentRecord, Prior};

/// The interface that a pod has in the cluster's network.
const INTERFACE: &str = "eth0";
/// What stands for a container's id, before the pod's UID: the runtime was not asked for it.
const ADOPTED: &str = "adopted-";

/// No runtime knows this attachment by its name.
pub(super) fn is_adopted(id: &AttachmentId) -> bool {
    id.container.starts_with(ADOPTED)
}

/// A namespace with a pod's interface whose other end is here.
struct Found {
    netns: PathBuf,
    inside: PodInterface,
    host: LinkInfo,
    prior: Prior,
}

/// Where pods' namespaces are, and whether it is time to look.
#[derive(Debug)]
pub(super) struct Adoption {
    /// Directories with a file for each namespace. None: pods are not adopted.
    directories: Vec<PathBuf>,
    /// It is time to look.
    pub(super) due: bool,
    /// UIDs of pods that had an attachment: one whose device is gone already has ended, though its object is still there.
    known: BTreeSet<String>,
    /// Pods that were looked for and not adopted, and why.
    pub(super) in_doubt: Arc<InDoubt>,
}

/// Pods that run without anybody having asked for their enforcement, and why they are not adopted.
pub type InDoubt = BTreeMap<PodRef, Arc<str>>;

impl Adoption {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            due: true,
            known: BTreeSet::new(),
            in_doubt: Arc::default(),
        }
    }
}

impl Adoption {
    /// These are in doubt, and no others. They are looked for again whenever objects change, and with each sweep.
    fn doubt(&mut self, now: InDoubt) {
        for (pod, reason) in &now {
            if self.in_doubt.get(pod) != Some(reason) {
                tracing::warn!(%pod, %reason, "policy is not enforced on a pod that runs already");
            }
        }
        if *self.in_doubt != now {
            self.in_doubt = Arc::new(now);
        }
    }
}

impl<N: Node> Reconciler<N> {
    /// Gives each pod without an attachment the one that can only be its own.
    pub(super) fn adopt(&mut self, now: Instant) {
        if self.adoption.directories.is_empty() {
            return;
        }
        let uids = self.attachments.iter().map(|record| &record.pod_uid);
        self.adoption.known.extend(uids.cloned());
        let due =
            std::mem::take(&mut self.adoption.due) || self.failures.is_due(&Object::Adoption, now);
        if !due {
            return;
        }
        let pods = self.index.pods();
        let uids: BTreeSet<&str> = pods.values().map(|pod| &*pod.uid).collect();
        self.adoption
            .known
            .retain(|uid| uids.contains(uid.as_str()));
        let orphans = self.orphans();
        if orphans.is_empty() {
            self.failures.works(&Object::Adoption);
            self.adoption.doubt(InDoubt::new());
            return;
        }
        match self.find_pods() {
            Err(reason) => self.failures.failed(Object::Adoption, reason, true, now),
            Ok(found) => self.take_in(&orphans, &found, now),
        }
    }

    /// Pods of this node in the cluster's network that nobody asked an attachment for.
    fn orphans(&self) -> Vec<Arc<Pod>> {
        let records = self.attachments.iter();
        let asked: BTreeSet<&PodRef> = records
            .filter(|record| record.lifecycle == Lifecycle::Added)
            .map(|record| &record.pod)
            .collect();
        self.index
            .pods()
            .values()
            .filter(|pod| {
                !pod.host_network
                    && !pod.addresses.is_empty()
                    && !asked.contains(&pod.reference)
                    && !self.adoption.known.contains(&*pod.uid)
            })
            .cloned()
            .collect()
    }

    /// Every namespace that may be a pod's and belongs to no attachment.
    fn find_pods(&mut self) -> Result<Vec<Found>, String> {
        let links = self.node.links().map_err(|error| error.to_string())?;
        let clsact = self.node.clsact().map_err(|error| error.to_string())?;
        let taken: BTreeSet<u32> = self
            .index
            .attachments()
            .values()
            .filter_map(|attachment| attachment.device.as_ref())
            .map(|device| device.ifindex)
            .collect();
        // One namespace may have several names.
        let mut found: BTreeMap<u32, Found> = BTreeMap::new();
        for netns in namespaces(&self.adoption.directories)? {
            let inside = match self.node.pod_interface(&netns, INTERFACE) {
                Ok(inside) => inside,
                // It went, or is none, or has no such interface.
                Err(NetlinkError::Namespace { .. }) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let host = links.iter().find(|link| is_other_end(link, &inside));
            if let Some(host) = host.filter(|host| !taken.contains(&host.ifindex)) {
                found.entry(host.ifindex).or_insert(Found {
                    netns,
                    inside,
                    prior: Prior {
                        clsact: clsact.contains(&host.ifindex),
                        tx_queue_len: host.tx_queue_len,
                    },
                    host: host.clone(),
                });
            }
        }
        Ok(found.into_values().collect())
    }

    fn take_in(&mut self, orphans: &[Arc<Pod>], found: &[Found], now: Instant) {
        let mut records = Vec::new();
        let mut in_doubt = InDoubt::new();
        let mut room = self.interface_room();
        for pod in orphans {
            let record = only(pod, orphans, found).and_then(|found| {
                let record = self.record_of(pod, found);
                room.take(&record.id, &record.pod).map(|()| record)
            });
            match record {
                Ok(record) => records.push(record),
                Err(reason) => {
                    in_doubt.insert(pod.reference.clone(), reason.into());
                }
            }
        }
        let adopted: Vec<_> = records
            .iter()
            .map(|record| {
                let pod = record.pod.to_string();
                (record.id.clone(), pod, record.host.name.clone())
            })
            .collect();
        if !records.is_empty() {
            if let Err(error) = self.attachments.put(records) {
                self.failures
                    .failed(Object::Adoption, error.to_string(), true, now);
                return;
            }
            self.links_changed = true;
        }
        for (id, pod, device) in adopted {
            tracing::info!(pod, device, "adopted a pod that runs already");
            self.lives.requested(&id, &pod, &device, now);
        }
        self.failures.works(&Object::Adoption);
        self.adoption.doubt(in_doubt);
    }

    fn record_of(&self, pod: &Pod, found: &Found) -> AttachmentRecord {
        let Found {
            netns,
            inside,
            host,
            prior,
        } = found;
        let link_local = inside
            .link_local
            .iter()
            .map(|address| IpAddr::from(*address));
        AttachmentRecord {
            prior: Some(*prior),
            id: AttachmentId {
                container: format!("{ADOPTED}{}", pod.uid).into(),
                interface: INTERFACE.into(),
            },
            pod: pod.reference.clone(),
            pod_uid: pod.uid.to_string(),
            boot_id: self.index.config().boot_id.to_string(),
            netns: netns.display().to_string(),
            host: HostInterface {
                ifindex: host.ifindex,
                name: host.name.clone(),
                mac: host.mac.map(mac_text).unwrap_or_default(),
            },
            container: ContainerInterface {
                ifindex: inside.ifindex,
                mac: mac_text(inside.mac),
                addresses: inside.addresses.iter().copied().chain(link_local).collect(),
                ipv6_prefix_length: None,
            },
            lifecycle: Lifecycle::Added,
        }
    }
}

/// The link is the node's end of the veth whose pod's end this is: each says so of the other.
fn is_other_end(link: &LinkInfo, inside: &PodInterface) -> bool {
    link.kind == "veth"
        && link.netns_id == Some(inside.netns_id)
        && link.peer == Some(inside.ifindex)
        && inside.peer == Some(link.ifindex)
}

/// The one namespace that can be the pod's; else why there is none.
fn only<'f>(pod: &Pod, orphans: &[Arc<Pod>], found: &'f [Found]) -> Result<&'f Found, String> {
    let addresses: BTreeSet<IpAddr> = pod.addresses.iter().copied().collect();
    let shared = |other: &&Arc<Pod>| {
        other.reference != pod.reference && other.addresses.iter().any(|a| addresses.contains(a))
    };
    if let Some(other) = orphans.iter().find(shared) {
        return Err(format!("pod {} has the same address", other.reference));
    }
    let holders: Vec<&Found> = found
        .iter()
        .filter(|found| !found.inside.addresses.is_disjoint(&addresses))
        .collect();
    match holders.as_slice() {
        [] => Err("no network namespace on this node has its addresses".to_owned()),
        [one] if one.inside.addresses == addresses => Ok(one),
        [one] => Err(format!(
            "its network namespace {} has the addresses {:?}",
            one.netns.display(),
            one.inside.addresses
        )),
        [one, other, ..] => Err(format!(
            "the network namespaces {} and {} both have an address of its",
            one.netns.display(),
            other.netns.display()
        )),
    }
}

/// The files of the directories. A directory that is not there has none.
fn namespaces(directories: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for directory in directories {
        let failed = |error: io::Error| told(directory, &error);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            all.push(entry.map_err(failed)?.path());
        }
    }
    all.sort();
    Ok(all)
}

fn told(directory: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", directory.display())
}
