//! What the agent makes on the host beside its own files: kept before it is made, for the day when all of it is to go.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use oxilium_kernel::bpffs;
use serde::{Deserialize, Serialize};

use super::{DiskError, read_json, write_json};

/// The file's name in the state directory.
const LEDGER: &str = "ledger.json";
/// The instance lock's name in the state directory.
pub(crate) const LOCK: &str = "agent.lock";
const VERSION: u32 = 1;

/// Where one agent put things.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Places {
    /// Pins.
    pub bpf_root: PathBuf,
    /// What would be published.
    pub status: PathBuf,
    /// Word from the CNI plugin.
    pub tombstones: PathBuf,
    /// The API socket.
    pub socket: PathBuf,
}

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    /// Directories that were not there before.
    pub directories: BTreeSet<PathBuf>,
    /// Mount points on which no bpffs was before.
    pub mounts: BTreeSet<PathBuf>,
    /// Every set of places that an agent was started with.
    pub places: BTreeSet<Places>,
}

/// The directories that making `path` would make, `path` among them.
pub(crate) fn missing(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .map(Path::to_owned)
        .collect()
}

impl Ledger {
    /// Reads it; empty when there is none. The state directory, which is there, was made for the agent where there is
    /// nothing in it: the agent died before it could say so.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read(state: &Path) -> Result<Self, DiskError> {
        if let Some(ledger) = read_json(&state.join(LEDGER))? {
            return Ok(ledger);
        }
        let mut ledger = Self::default();
        if is_empty(state)? {
            ledger.directories.insert(state.to_owned());
        }
        Ok(ledger)
    }

    /// Notes what is going to be made at `places`, and `made`, which was made for the state directory. On disk when the
    /// call returns; nothing is written when all of it is known.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing may be made.
    pub fn note(state: &Path, made: Vec<PathBuf>, places: Places) -> Result<(), DiskError> {
        let mut ledger = Self::read(state)?;
        let before = ledger.clone();
        ledger.version = VERSION;
        ledger.directories.extend(made);
        for directory in [
            Some(&*places.status),
            Some(&*places.tombstones),
            places.socket.parent(),
        ] {
            ledger
                .directories
                .extend(directory.into_iter().flat_map(missing));
        }
        let mounted = bpffs::is_bpffs(&places.bpf_root)
            .map_err(DiskError::io("look at", &places.bpf_root))?;
        if !mounted {
            ledger.mounts.insert(places.bpf_root.clone());
        }
        ledger.places.insert(places);
        if ledger == before {
            return Ok(());
        }
        write_json(&state.join(LEDGER), &ledger)
    }
}

/// Nothing is in the state directory but the lock, and what a write of the ledger left.
fn is_empty(state: &Path) -> Result<bool, DiskError> {
    for entry in fs::read_dir(state).map_err(DiskError::io("read", state))? {
        let name = entry.map_err(DiskError::io("read", state))?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK && !name.starts_with(LEDGER) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            bpf_root: root.join("bpf"),
            status: root.join("state/status"),
            tombstones: root.join("run/deleted"),
            socket: root.join("run/agent.sock"),
        }
    }

    #[test]
    fn what_was_there_is_not_noted_and_what_is_made_is() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let made = missing(&state);
        assert_eq!(made, std::slice::from_ref(&state));
        fs::create_dir(&state).unwrap();
        Ledger::note(&state, made, places(root.path())).unwrap();
        let ledger = Ledger::read(&state).unwrap();
        let expected = ["run", "run/deleted", "state", "state/status"];
        assert_eq!(
            ledger.directories,
            expected.map(|name| root.path().join(name)).into()
        );

        // Made meanwhile: a later start must not take them for what was there before.
        fs::create_dir_all(root.path().join("run/deleted")).unwrap();
        Ledger::note(&state, Vec::new(), places(root.path())).unwrap();
        assert_eq!(Ledger::read(&state).unwrap(), ledger);
    }

    #[test]
    fn a_directory_with_something_in_it_is_somebodys() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::write(state.join("notes.txt"), "mine").unwrap();
        Ledger::note(&state, missing(&state), places(root.path())).unwrap();
        assert!(!Ledger::read(&state).unwrap().directories.contains(&state));
    }
}
