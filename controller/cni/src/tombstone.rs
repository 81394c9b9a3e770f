//! Word for an agent that is down: this container went away.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oxilium_api::AttachmentKey;

/// A tombstone's file. The key was checked: neither part can leave the directory.
pub(crate) fn path(directory: &Path, key: &AttachmentKey) -> PathBuf {
    directory.join(format!("{}:{}.json", key.container_id, key.interface))
}

/// Leaves word that `key` went away. Whole or not there: written beside and renamed.
pub(crate) fn write(directory: &Path, key: &AttachmentKey) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let target = path(directory, key);
    let beside = target.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(key)?)?;
    file.sync_all()?;
    fs::rename(&beside, &target)?;
    File::open(directory)?.sync_all()
}

/// Takes the word back; one that is not there is no error.
pub(crate) fn remove(directory: &Path, key: &AttachmentKey) -> io::Result<()> {
    match fs::remove_file(path(directory, key)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
