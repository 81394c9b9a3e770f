//! What means nothing after the next boot: it lies in a directory of the boot's name, and is not brought to disk, which a
//! pod that starts would wait for. Whoever is killed leaves each file whole; what a power cut leaves is of another boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{DiskError, make_directory};

const PREFIX: &str = "boot-";

/// The directory of this boot.
#[derive(Clone, Debug)]
pub struct BootDirectory(PathBuf);

impl BootDirectory {
    /// Where it is, or would be.
    pub fn of(state: &Path, boot_id: &str) -> Self {
        Self(state.join(format!("{PREFIX}{boot_id}")))
    }

    /// Makes it where it is not there, and removes those of other boots.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(state: &Path, boot_id: &str) -> Result<Self, DiskError> {
        let this = Self::of(state, boot_id);
        for other in Self::all(state)? {
            if other != this.0 {
                fs::remove_dir_all(&other).map_err(DiskError::io("remove", &other))?;
            }
        }
        make_directory(&this.0)?;
        Ok(this)
    }

    /// Those of all boots that are there.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn all(state: &Path) -> Result<Vec<PathBuf>, DiskError> {
        let read = match fs::read_dir(state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(DiskError::io("read", state))?,
        };
        let mut found = Vec::new();
        for entry in read {
            let path = entry.map_err(DiskError::io("read", state))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(PREFIX)) {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_boot_left_is_removed_whatever_state_it_is_in() {
        let state = tempfile::tempdir().unwrap();
        let first = BootDirectory::open(state.path(), "first").unwrap();
        fs::write(first.path().join("attachments.json"), "\0\0\0").unwrap();
        fs::write(state.path().join("ledger.json"), "{}").unwrap();

        let second = BootDirectory::open(state.path(), "second").unwrap();
        assert_eq!(
            BootDirectory::all(state.path()).unwrap(),
            [second.path().to_owned()]
        );
        assert!(state.path().join("ledger.json").exists());
    }

    #[test]
    fn what_this_boot_left_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let boot = BootDirectory::open(state.path(), "boot").unwrap();
        fs::write(boot.path().join("claims.json"), "{}").unwrap();
        BootDirectory::open(state.path(), "boot").unwrap();
        assert!(boot.path().join("claims.json").exists());
    }
}
