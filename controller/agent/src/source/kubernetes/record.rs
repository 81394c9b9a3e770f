//! What a restart must know of the definitions whose objects were in force: an agent that starts after one of them was
//! deleted, or deleted and made anew, must not take the empty list for the truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::resource::Resource;
use crate::disk::{DiskError, read_json, write_json};

/// The definitions whose objects are in force, by [`Resource::qualified`]: their UIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    definitions: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

/// The file.
pub(super) struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    /// What the last run left.
    pub(super) fn open(state_dir: &Path) -> Result<Self, DiskError> {
        let path = state_dir.join("definitions.json");
        let content = read_json(&path)?.unwrap_or_default();
        Ok(Self { path, content })
    }

    /// The definition whose objects are in force, if any are.
    pub(super) fn of(&self, resource: Resource) -> Option<&str> {
        let uid = self.content.definitions.get(&resource.qualified())?;
        Some(uid)
    }

    /// Objects of this definition are in force, or none are. On disk when the call returns.
    pub(super) fn set(&mut self, resource: Resource, uid: Option<&str>) -> Result<(), DiskError> {
        if self.of(resource) == uid {
            return Ok(());
        }
        let mut content = self.content.clone();
        content.version = VERSION;
        match uid {
            Some(uid) => content
                .definitions
                .insert(resource.qualified(), uid.to_owned()),
            None => content.definitions.remove(&resource.qualified()),
        };
        write_json(&self.path, &content)?;
        self.content = content;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_knows_whose_objects_were_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::open(directory.path()).unwrap();
        record.set(Resource::CiliumNodes, Some("u1")).unwrap();
        record.set(Resource::CiliumEndpoints, Some("u2")).unwrap();
        record.set(Resource::CiliumNodes, None).unwrap();
        let again = Record::open(directory.path()).unwrap();
        assert_eq!(again.of(Resource::CiliumEndpoints), Some("u2"));
        assert_eq!(again.of(Resource::CiliumNodes), None);
    }
}
