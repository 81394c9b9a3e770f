//! Word that the CNI plugin left while the agent was down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
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

/// Watches the directory for as long as it is held.
#[derive(Debug)]
pub struct TombstoneWatch {
    _watcher: RecommendedWatcher,
}

impl TombstoneWatch {
    /// Calls `tell` whenever word was left in `directory`, or may have been.
    ///
    /// # Errors
    /// When the directory cannot be watched, e.g. because it is not there.
    pub fn begin(directory: &Path, tell: impl Fn() + Send + 'static) -> notify::Result<Self> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error (the queue of events ran over) is a reason to look, too.
                if event.map_or(true, |event| is_word(event.kind)) {
                    tell();
                }
            })?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher })
    }
}

/// A file came to be whole: renamed to its name, or closed by its writer. That one is gone is no word.
fn is_word(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Other
            | EventKind::Any
    )
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn word_is_told_of_when_it_is_whole() {
        const LONG: Duration = Duration::from_secs(30);
        let directory = tempfile::tempdir().unwrap();
        let tombstones = Tombstones::new(directory.path().join("deleted")).unwrap();
        let (told, telling) = channel();
        let watch = TombstoneWatch::begin(&tombstones.directory, move || {
            told.send(()).unwrap();
        })
        .unwrap();
        let key = AttachmentKey {
            container_id: "c1".to_owned(),
            interface: "eth0".to_owned(),
        };
        let beside = tombstones.directory.join("c1:eth0.1.tmp");
        fs::write(&beside, serde_json::to_vec(&key).unwrap()).unwrap();
        fs::rename(&beside, tombstones.directory.join("c1:eth0.json")).unwrap();
        let stones = loop {
            telling.recv_timeout(LONG).unwrap();
            let stones = tombstones.read().unwrap();
            if !stones.is_empty() {
                break stones;
            }
        };
        assert_eq!(stones[0].key, key);
        drop(watch);
    }

    #[test]
    fn only_what_may_be_a_whole_file_is_word() {
        use notify::event::{CreateKind, RemoveKind, RenameMode};
        let cases = [
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), true),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Write)),
                true,
            ),
            (EventKind::Other, true),
            (EventKind::Create(CreateKind::File), false),
            (EventKind::Remove(RemoveKind::File), false),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Read)),
                false,
            ),
        ];
        for (kind, word) in cases {
            assert_eq!(is_word(kind), word, "{kind:?}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_cannot_be_watched() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(TombstoneWatch::begin(&missing, || ()).is_err());
    }
}
