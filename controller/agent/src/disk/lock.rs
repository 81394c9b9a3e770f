//! One agent a node.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{DiskError, make_directory};

/// Why the agent may not run.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one runs.
    #[error(
        "another agent runs on this node already (process {pid}, lock {}): two would write against each other; stop it first",
        path.display()
    )]
    Held {
        /// Process id that the other one left in the file; `unknown` when it left none.
        pid: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Held as long as the agent runs; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: Flock<File>,
}

impl InstanceLock {
    /// Takes the lock file `path`.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(DiskError::io("open", path))?;
        let mut pid = String::new();
        file.read_to_string(&mut pid)
            .map_err(DiskError::io("read", path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(LockError::Held {
                    pid,
                    path: path.to_owned(),
                });
            }
            Err((_, errno)) => return Err(DiskError::io("lock", path)(errno.into()).into()),
        };
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(text.as_bytes()))
            .map_err(DiskError::io("write", path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_refused_and_told_which_process_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.lock");
        let first = InstanceLock::take(&path).unwrap();
        let error = InstanceLock::take(&path).unwrap_err();
        let me = std::process::id().to_string();
        assert!(
            matches!(&error, LockError::Held { pid, .. } if *pid == me),
            "{error}"
        );
        drop(first);
        InstanceLock::take(&path).unwrap();
    }
}
