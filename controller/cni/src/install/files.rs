//! Files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Done, InstallError};

/// An error with what was done to which file.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io {
        action,
        path,
        source,
    }
}

/// Files of a directory in the order of their names. Temporary ones of ours are none.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let path = entry.map_err(failed("read", directory))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Appended to the name of a file that is being written.
const NEW: &str = ".oxilium-new";

/// Beside a file, under a name that no runtime reads.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{NEW}"))
}

/// Removes what runs that were killed left half written.
pub(super) fn sweep(directory: &Path, done: &mut Done) -> Result<(), InstallError> {
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(NEW) && remove(&entry.path())? {
            done.push(format!("removed {}", entry.path().display()));
        }
    }
    Ok(())
}

/// Writes a file unless it is so already.
pub(super) fn put(path: &Path, content: &[u8], mode: u32) -> Result<bool, InstallError> {
    let same = |found: Vec<u8>| found == content;
    let mode_of = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    if fs::read(path).is_ok_and(same) && mode_of(path).is_ok_and(|found| found == mode) {
        return Ok(false);
    }
    let new = beside(path);
    // One that was left by a run that was killed.
    remove(&new)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content)?;
            // The mode that was asked for, whatever the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
    written.map_err(failed("write", &new))?;
    rename(&new, path)?;
    Ok(true)
}

/// Copies a program unless it is there already. One that runs meanwhile goes on as it was.
pub(super) fn copy_program(from: &Path, to: &Path) -> Result<bool, InstallError> {
    let content = fs::read(from).map_err(failed("read", from))?;
    put(to, &content, 0o755)
}

/// Is there something by this name, be it a link that leads nowhere?
pub(super) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Is it this symbolic link?
pub(super) fn is_link(path: &Path, target: &str) -> bool {
    fs::read_link(path).is_ok_and(|found| found == Path::new(target))
}

/// Makes a symbolic link unless it is there already.
pub(super) fn link(path: &Path, target: &str) -> Result<bool, InstallError> {
    if is_link(path, target) {
        return Ok(false);
    }
    let new = beside(path);
    remove(&new)?;
    symlink(target, &new).map_err(failed("make", &new))?;
    rename(&new, path)?;
    Ok(true)
}

/// Gives a file a second name, which it keeps when the first is given to another.
pub(super) fn keep(path: &Path, second: &Path) -> Result<(), InstallError> {
    remove(second)?;
    fs::hard_link(path, second).map_err(failed("keep", path))
}

/// Renames, over what is there.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), InstallError> {
    fs::rename(from, to).map_err(failed("rename", from))
}

/// Removes a file; true if it was there.
pub(super) fn remove(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Makes renames in a directory last.
pub(super) fn sync(directory: &Path) -> Result<(), InstallError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", directory))
}
