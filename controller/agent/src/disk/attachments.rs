//! The attachments, in their file before they are used, so that a restart knows its pods.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oxilium_api::{ContainerInterface, HostInterface};
use oxilium_model::world::{AttachmentId, Lifecycle, PodRef};
use serde::{Deserialize, Serialize};

use super::{BootDirectory, DiskError, read_json, replace_json};

/// An attachment as CNI gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// Its name.
    pub id: AttachmentId,
    /// The pod.
    pub pod: PodRef,
    /// The pod's UID, as CNI said or as the Pod object had it; empty until one of them did.
    pub pod_uid: String,
    /// The boot in which it was made.
    pub boot_id: String,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// The node's end as it was at ADD. Its index counts only together with what else is here: the kernel
    /// gives it to another device as soon as this one is gone.
    pub host: HostInterface,
    /// The pod's end as it was at ADD.
    pub container: ContainerInterface,
    /// Whether CNI still wants it.
    pub lifecycle: Lifecycle,
    /// What the node's end was like before anything was put on it; none where an earlier version made the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
}

/// What the agent, or the kernel because of it, changes of an interface beside its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prior {
    /// It had a clsact qdisc.
    pub clsact: bool,
    /// Its `txqueuelen`: the kernel raises one of 0 when the device gets a qdisc.
    pub tx_queue_len: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    attachments: Vec<AttachmentRecord>,
}

const VERSION: u32 = 1;

/// All attachments of this boot. Each change is in their file when the call returns.
#[derive(Debug)]
pub struct Attachments {
    path: PathBuf,
    records: BTreeMap<AttachmentId, AttachmentRecord>,
}

impl Attachments {
    /// Reads what the last run left.
    ///
    /// # Errors
    /// [`DiskError`], also for a damaged file: pods live that it names.
    pub fn open(directory: &BootDirectory) -> Result<Self, DiskError> {
        let path = directory.path().join("attachments.json");
        let content: Option<Content> = read_json(&path)?;
        let records = content
            .into_iter()
            .flat_map(|content| content.attachments)
            .map(|record| (record.id.clone(), record))
            .collect();
        Ok(Self { path, records })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &AttachmentRecord> {
        self.records.values()
    }

    /// One of them.
    pub fn get(&self, id: &AttachmentId) -> Option<&AttachmentRecord> {
        self.records.get(id)
    }

    /// Adds attachments, each in place of the one of its name: one write for all.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing has changed.
    pub fn put(&mut self, new: Vec<AttachmentRecord>) -> Result<(), DiskError> {
        self.change(|records| {
            records.extend(new.into_iter().map(|record| (record.id.clone(), record)));
        })
    }

    /// Takes attachments away.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing has changed.
    pub fn remove(&mut self, ids: &[AttachmentId]) -> Result<(), DiskError> {
        self.change(|records| records.retain(|id, _| !ids.contains(id)))
    }

    /// Notes that CNI does not want these any more. Those that are not known are gone already.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing has changed.
    pub fn mark_deleted(&mut self, ids: &[AttachmentId]) -> Result<(), DiskError> {
        self.change(|records| {
            for id in ids {
                if let Some(record) = records.get_mut(id) {
                    record.lifecycle = Lifecycle::Deleted;
                }
            }
        })
    }

    fn change(
        &mut self,
        edit: impl FnOnce(&mut BTreeMap<AttachmentId, AttachmentRecord>),
    ) -> Result<(), DiskError> {
        let mut records = self.records.clone();
        edit(&mut records);
        if records == self.records {
            return Ok(());
        }
        let content = Content {
            version: VERSION,
            attachments: records.values().cloned().collect(),
        };
        replace_json(&self.path, &content)?;
        self.records = records;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str) -> AttachmentRecord {
        AttachmentRecord {
            id: AttachmentId {
                container: container.into(),
                interface: "eth0".into(),
            },
            pod: PodRef::new("default", container),
            pod_uid: String::new(),
            boot_id: "boot".into(),
            netns: "/run/netns/x".into(),
            host: HostInterface {
                ifindex: 7,
                name: "veth7".into(),
                mac: "02:00:00:00:00:01".into(),
            },
            container: ContainerInterface {
                ifindex: 2,
                mac: "02:00:00:00:00:02".into(),
                addresses: vec!["10.0.0.1".parse().unwrap()],
                ipv6_prefix_length: None,
            },
            lifecycle: Lifecycle::Added,
            prior: None,
        }
    }

    fn names(attachments: &Attachments) -> Vec<String> {
        attachments
            .iter()
            .map(|record| format!("{} {:?}", record.id.container, record.lifecycle))
            .collect()
    }

    #[test]
    fn a_restart_in_the_same_boot_knows_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let boot = BootDirectory::open(dir.path(), "boot").unwrap();
        let mut attachments = Attachments::open(&boot).unwrap();
        for container in ["a", "b", "c"] {
            attachments.put(vec![record(container)]).unwrap();
        }
        attachments.mark_deleted(&[record("b").id]).unwrap();
        attachments.remove(&[record("c").id]).unwrap();
        let again = Attachments::open(&boot).unwrap();
        assert_eq!(names(&again), ["a Added", "b Deleted"]);
    }

    #[test]
    fn another_boot_has_no_attachments() {
        let dir = tempfile::tempdir().unwrap();
        let first = BootDirectory::open(dir.path(), "first").unwrap();
        let mut attachments = Attachments::open(&first).unwrap();
        attachments.put(vec![record("a")]).unwrap();
        let second = BootDirectory::open(dir.path(), "second").unwrap();
        let again = Attachments::open(&second).unwrap();
        assert_eq!(names(&again), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_written_has_not_happened() {
        let dir = tempfile::tempdir().unwrap();
        let missing = BootDirectory::of(dir.path(), "boot");
        let mut attachments = Attachments::open(&missing).unwrap();
        attachments.put(vec![record("a")]).unwrap_err();
        assert_eq!(names(&attachments), Vec::<String>::new());
    }
}
