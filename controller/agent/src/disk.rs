//! What outlives the agent: files that are there whole or not at all.

mod attachments;
mod boot;
mod claims;
mod ledger;
mod lock;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use attachments::{AttachmentRecord, Attachments, Prior};
pub use boot::BootDirectory;
pub use claims::ClaimsFile;
pub(crate) use ledger::{LOCK, missing};
pub use ledger::{Ledger, Places};
pub use lock::{InstanceLock, LockError};

/// A file of the state directory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading or writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not what the agent wrote.
    #[error(
        "{} is damaged: {source}; move it away to start without what it held", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl DiskError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Makes a directory that only root may enter, if it is not there.
///
/// # Errors
/// [`DiskError::Io`].
pub fn make_directory(path: &Path) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DiskError::io("make the directory", path))
}

/// Replaces a file by `content`: written beside it, brought to disk, renamed, and the rename brought to disk.
///
/// # Errors
/// [`DiskError::Io`]; the file is then as it was.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let beside = path.with_added_extension("tmp");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(DiskError::io("write", path))
}

/// Replaces a file of a [`BootDirectory`] by the JSON of `value`: whole at any time for whoever reads it in this boot.
///
/// # Errors
/// [`DiskError`]; the file is then as it was.
fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DiskError> {
    let content = to_json(path, value)?;
    let beside = path.with_added_extension("tmp");
    fs::write(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(DiskError::io("write", path))
}

/// Reads a file of JSON; `None` when there is none.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::io("read", path)(error)),
    };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|source| DiskError::Damaged {
            path: path.to_owned(),
            source,
        })
}

/// Replaces a file by the JSON of `value`.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DiskError> {
    write_whole(path, &to_json(path, value)?)
}

fn to_json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, DiskError> {
    let mut content = serde_json::to_vec_pretty(value).map_err(|source| DiskError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    content.push(b'\n');
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        for value in [vec![1_u32], vec![2, 3]] {
            write_json(&path, &value).unwrap();
            assert_eq!(read_json(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        fs::write(&path, "[1,").unwrap();
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert!(error.to_string().contains("numbers.json is damaged"));
    }
}
