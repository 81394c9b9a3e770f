//! The status directory: what would be published to Kubernetes, one object a file, written only when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::objects;
use crate::disk::{DiskError, make_directory};
use crate::reconcile::View;

/// Its subdirectories.
const KINDS: [&str; 3] = ["CiliumEndpoint", "CiliumIdentity", "Policy"];

/// The directory and what is in it.
#[derive(Debug)]
pub struct StatusDirectory {
    path: PathBuf,
    written: BTreeMap<PathBuf, String>,
}

impl StatusDirectory {
    /// Makes the directory if need be and reads what the last run left in it.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn open(path: PathBuf) -> Result<Self, DiskError> {
        let mut written = BTreeMap::new();
        for kind in KINDS {
            let directory = path.join(kind);
            make_directory(&directory)?;
            let entries = fs::read_dir(&directory).map_err(DiskError::io("read", &directory))?;
            for entry in entries {
                let file = entry.map_err(DiskError::io("read", &directory))?.path();
                // What cannot be read as text is not ours any more: it is written anew or removed.
                let content = fs::read_to_string(&file).unwrap_or_default();
                written.insert(file, content);
            }
        }
        Ok(Self { path, written })
    }

    /// Brings the directory up to date.
    ///
    /// # Errors
    /// [`DiskError::Io`] for the first file that cannot be written; the next call goes on with it.
    pub fn write(&mut self, view: &View) -> Result<(), DiskError> {
        let wanted: BTreeMap<PathBuf, String> = objects::all(view)
            .into_iter()
            .map(|file| {
                (
                    self.path.join(file.kind).join(file_name(&file.name)),
                    file.content,
                )
            })
            .collect();
        for (path, content) in &wanted {
            if self.written.get(path) != Some(content) {
                replace(path, content)?;
                self.written.insert(path.clone(), content.clone());
            }
        }
        let stale: BTreeSet<PathBuf> = self
            .written
            .keys()
            .filter(|path| !wanted.contains_key(*path))
            .cloned()
            .collect();
        for path in stale {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(DiskError::io("remove", &path)(error));
                }
                _ => {
                    self.written.remove(&path);
                }
            }
        }
        Ok(())
    }
}

/// Readers see a file whole or not at all. It need not survive a crash: the agent writes it again.
fn replace(path: &Path, content: &str) -> Result<(), DiskError> {
    let beside = path.with_extension("tmp");
    fs::write(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(DiskError::io("write", path))
}

/// Names of objects hold no slash; what else a file name may not be is written as `%`.
fn file_name(name: &str) -> String {
    let mut safe: String = name
        .chars()
        .map(|c| if c == '/' || c.is_control() { '%' } else { c })
        .collect();
    if safe.starts_with('.') {
        safe.insert(0, '%');
    }
    safe + ".yaml"
}
