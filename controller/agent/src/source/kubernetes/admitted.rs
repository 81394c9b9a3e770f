//! Policies as they were admitted last, on disk: one whose update is refused stays in force as it was, also when the
//! agent starts anew and the API server has nothing but the refused version.
//!
//! A file of lines. A line says that a version was admitted, or that an object is gone; the last one about an object
//! counts. Lines are added until half of the file is old; then it is written anew. What is damaged ends the file: the
//! API server has the objects, and what is lost is but the earlier version of one that is refused now.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oxilium_manifest::diagnostic::ObjectId;
use oxilium_manifest::tree::{FromJson, Node};
use serde::{Deserialize, Serialize};

use super::convert::PolicyVersion;
use crate::disk::{DiskError, write_whole};

/// A file of less is not worth writing anew.
const SMALL: u64 = 1 << 18;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    kind: String,
    namespace: String,
    name: String,
    /// None: the object is gone.
    admitted: Option<AdmittedVersion>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AdmittedVersion {
    uid: String,
    version: String,
    /// The object's JSON.
    object: String,
}

/// Where the line about an object is.
#[derive(Debug)]
struct Place {
    uid: Box<str>,
    version: Box<str>,
    offset: u64,
    length: usize,
}

/// The file.
#[derive(Debug)]
pub(super) struct Admitted {
    path: PathBuf,
    file: File,
    places: HashMap<ObjectId, Place>,
    /// What of the file is on disk.
    written: u64,
    /// What comes after it.
    pending: Vec<u8>,
    /// How much of both counts.
    live: u64,
}

fn id_of(line: &Line) -> ObjectId {
    ObjectId {
        kind: line.kind.clone(),
        namespace: line.namespace.clone(),
        name: line.name.clone(),
    }
}

impl Admitted {
    /// What the last run left.
    pub(super) fn open(state_dir: &Path) -> Result<Self, DiskError> {
        let path = state_dir.join("admitted-policies.jsonl");
        let mut file = open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(DiskError::io("read", &path))?;
        let mut admitted = Self {
            path,
            file,
            places: HashMap::new(),
            written: 0,
            pending: Vec::new(),
            live: 0,
        };
        for bytes in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line>(bytes) else {
                break;
            };
            if !bytes.ends_with(b"\n") {
                break;
            }
            admitted.place(&line, bytes.len());
            admitted.written += bytes.len() as u64;
        }
        if admitted.written < bytes.len() as u64 {
            let path = admitted.path.display();
            let lost = bytes.len() as u64 - admitted.written;
            tracing::warn!(%path, lost, "the end of the file is damaged and is left out");
        }
        Ok(admitted)
    }

    /// Notes where the line is that comes after all that there are.
    fn place(&mut self, line: &Line, length: usize) {
        let id = id_of(line);
        let offset = self.written + self.pending.len() as u64;
        let place = line.admitted.as_ref().map(|admitted| Place {
            uid: admitted.uid.as_str().into(),
            version: admitted.version.as_str().into(),
            offset,
            length,
        });
        let before = match place {
            Some(place) => {
                self.live += length as u64;
                self.places.insert(id, place)
            }
            None => self.places.remove(&id),
        };
        self.live -= before.map_or(0, |before| before.length as u64);
    }

    fn add(&mut self, line: &Line) {
        let mut bytes = match serde_json::to_vec(line) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a line of texts is no JSON");
                return;
            }
        };
        bytes.push(b'\n');
        self.place(line, bytes.len());
        self.pending.extend(bytes);
    }

    /// That version of the object was admitted. On disk after [`Self::keep`].
    pub(super) fn note(&mut self, id: &ObjectId, policy: PolicyVersion) {
        let known = self
            .places
            .get(id)
            .is_some_and(|place| *place.uid == *policy.uid && *place.version == *policy.version);
        if !known {
            self.add(&Line {
                kind: id.kind.clone(),
                namespace: id.namespace.clone(),
                name: id.name.clone(),
                admitted: Some(AdmittedVersion {
                    uid: policy.uid,
                    version: policy.version,
                    object: policy.json,
                }),
            });
        }
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, id: &ObjectId) {
        if self.places.contains_key(id) {
            self.add(&Line {
                kind: id.kind.clone(),
                namespace: id.namespace.clone(),
                name: id.name.clone(),
                admitted: None,
            });
        }
    }

    /// Objects of that kind of which a version was admitted.
    pub(super) fn known(&self, kind: &str) -> Vec<ObjectId> {
        let ids = self.places.keys();
        ids.filter(|id| id.kind == kind).cloned().collect()
    }

    /// The object as it was admitted last, if it is the one of that UID.
    pub(super) fn find(&self, id: &ObjectId, uid: &str) -> Result<Option<Node>, DiskError> {
        let place = self.places.get(id).filter(|place| *place.uid == *uid);
        let Some(place) = place else {
            return Ok(None);
        };
        let damaged = |source| DiskError::Damaged {
            path: self.path.clone(),
            source,
        };
        let line: Line = serde_json::from_slice(&self.bytes(place)?).map_err(damaged)?;
        let Some(admitted) = line.admitted else {
            return Ok(None);
        };
        let FromJson(tree) = serde_json::from_str(&admitted.object).map_err(damaged)?;
        Ok(Some(tree))
    }

    fn bytes(&self, place: &Place) -> Result<Vec<u8>, DiskError> {
        if let Some(start) = place.offset.checked_sub(self.written) {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let pending = self.pending.iter().skip(start).take(place.length);
            return Ok(pending.copied().collect());
        }
        let mut bytes = vec![0; place.length];
        self.file
            .read_exact_at(&mut bytes, place.offset)
            .map_err(DiskError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// What was noted is on disk when the call returns. What failed is tried again by the next call.
    pub(super) fn keep(&mut self) -> Result<(), DiskError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let whole = self.written + self.pending.len() as u64;
        if whole > SMALL && whole > 2 * self.live {
            return self.write_anew();
        }
        let add = || {
            self.file.write_all_at(&self.pending, self.written)?;
            // What a write that failed half way, or a damaged end, left behind.
            self.file.set_len(whole)?;
            self.file.sync_data()
        };
        add().map_err(DiskError::io("write", &self.path))?;
        self.written = whole;
        self.pending.clear();
        Ok(())
    }

    fn write_anew(&mut self) -> Result<(), DiskError> {
        let mut content = Vec::new();
        let mut offsets = Vec::new();
        for (id, place) in &self.places {
            offsets.push((id.clone(), content.len() as u64));
            content.extend(self.bytes(place)?);
        }
        write_whole(&self.path, &content)?;
        self.file = open(&self.path)?;
        self.written = content.len() as u64;
        self.live = self.written;
        self.pending.clear();
        for (id, offset) in offsets {
            if let Some(place) = self.places.get_mut(&id) {
                place.offset = offset;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(DiskError::io("open", path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::super::resource::Resource;
    use super::*;

    fn id(name: &str) -> ObjectId {
        Resource::CiliumNetworkPolicies.object("default", name)
    }

    fn version(uid: &str, version: &str) -> PolicyVersion {
        PolicyVersion {
            uid: uid.to_owned(),
            version: version.to_owned(),
            json: json!({"said": version}).to_string(),
            pruned: Vec::new(),
        }
    }

    /// What is known of an object of that UID: its version.
    fn said(admitted: &Admitted, name: &str, uid: &str) -> Option<String> {
        let found = admitted.find(&id(name), uid).unwrap()?;
        found.text_of("said").map(str::to_owned)
    }

    fn again(directory: &TempDir) -> Admitted {
        Admitted::open(directory.path()).unwrap()
    }

    #[test]
    fn the_last_version_of_each_object_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut admitted = again(&directory);
        admitted.note(&id("a"), version("u1", "1"));
        admitted.note(&id("b"), version("u2", "2"));
        assert_eq!(said(&admitted, "b", "u2").as_deref(), Some("2"), "pending");
        admitted.keep().unwrap();
        admitted.note(&id("a"), version("u1", "3"));
        admitted.forget(&id("b"));
        admitted.keep().unwrap();
        // Not kept: it was never in force.
        admitted.note(&id("c"), version("u3", "4"));
        let admitted = again(&directory);
        assert_eq!(said(&admitted, "a", "u1").as_deref(), Some("3"));
        for (name, uid) in [("a", "another"), ("b", "u2"), ("c", "u3")] {
            assert_eq!(said(&admitted, name, uid), None, "{name}");
        }
        assert_eq!(admitted.known("CiliumNetworkPolicy"), [id("a")]);
        assert_eq!(admitted.known("NetworkPolicy"), []);
    }

    #[test]
    fn what_is_known_already_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut admitted = again(&directory);
        admitted.note(&id("a"), version("u1", "1"));
        admitted.keep().unwrap();
        let before = admitted.written;
        let mut admitted = again(&directory);
        admitted.note(&id("a"), version("u1", "1"));
        admitted.forget(&id("b"));
        admitted.keep().unwrap();
        assert_eq!(admitted.written, before);
    }

    #[test]
    fn a_damaged_end_is_left_out_and_written_over() {
        for end in ["{\"kind\":", "{}\n", "\0\0\0\0\0\0\n", "null\nnull\n"] {
            let directory = tempfile::tempdir().unwrap();
            let mut admitted = again(&directory);
            admitted.note(&id("a"), version("u1", "1"));
            admitted.keep().unwrap();
            let path = directory.path().join("admitted-policies.jsonl");
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend(end.as_bytes());
            fs::write(&path, bytes).unwrap();
            let mut admitted = again(&directory);
            admitted.note(&id("b"), version("u2", "2"));
            admitted.keep().unwrap();
            let admitted = again(&directory);
            for (name, uid, expected) in [("a", "u1", "1"), ("b", "u2", "2")] {
                let found = said(&admitted, name, uid);
                assert_eq!(found.as_deref(), Some(expected), "{end:?} {name}");
            }
        }
    }

    #[test]
    fn a_file_of_old_lines_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut admitted = again(&directory);
        let long = "x".repeat(1000);
        admitted.note(&id("kept"), version("u1", "1"));
        for round in 0..2000 {
            admitted.note(&id("busy"), version("u2", &format!("{round}{long}")));
            admitted.keep().unwrap();
        }
        let size = fs::metadata(&admitted.path).unwrap().len();
        assert!(size <= 2 * SMALL, "{size}");
        for admitted in [admitted, again(&directory)] {
            assert_eq!(said(&admitted, "kept", "u1").as_deref(), Some("1"));
            let busy = said(&admitted, "busy", "u2").unwrap();
            assert!(busy.starts_with("1999x"));
        }
    }
}
