//! Word that the CNI plugin left while the agent was down.

use std::fs;
use std::io;
use std::path::PathBuf;

use oxilium_api::AttachmentKey;

use crate::disk::{DiskError, make_directory};

/// The directory that the plugin writes to.
#[derive(Debug)]
pub struct Tombstones {
    directory: PathBuf,
}

/// Word of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    path: PathBuf,
    /// Which attachment is not wanted any more.
    pub key: AttachmentKey,
}

impl Tombstones {
    /// The tombstones in `directory`, which is made if need be.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn new(directory: PathBuf) -> Result<Self, DiskError> {
        make_directory(&directory)?;
        Ok(Self { directory })
    }

    /// All that there are. A file that is none (half written ones have another name) is reported and left.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn read(&self) -> Result<Vec<Tombstone>, DiskError> {
        let failed = |error| DiskError::io("read", &self.directory)(error);
        let mut stones = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let content = match fs::read(&path) {
                Ok(content) => content,
                // The plugin took it back.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(DiskError::io("read", &path)(error)),
            };
            match serde_json::from_slice(&content) {
                Ok(key) => stones.push(Tombstone { path, key }),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a file among the tombstones is none");
                }
            }
        }
        Ok(stones)
    }

    /// Removes those that were heeded.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn remove(&self, stones: &[Tombstone]) -> Result<(), DiskError> {
        for stone in stones {
            match fs::remove_file(&stone.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(DiskError::io("remove", &stone.path)(error));
                }
                _ => tracing::info!(container = stone.key.container_id, "heeded a tombstone"),
            }
        }
        Ok(())
    }
}
