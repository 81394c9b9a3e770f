//! A directory that goes with its owner, and with it the processes that work there, also when the owner is killed.
//!
//! A small shell holds the other end of a pipe. When the pipe closes, because the owner closed it or died, the shell kills
//! what it was told of, if that still works in the directory, and removes the directory.

use std::{
    env, fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// `$1`: the directory. A process that ended, or whose number somebody else has now, does not name it.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
works_here() { tr '\0' '\n' <"/proc/$1/cmdline" | grep -qF -- "$directory"; }
directory=$1
pids=
while read -r pid; do pids="$pids $pid"; done
for pid in $pids; do
    if works_here "$pid"; then kill -9 "$pid"; fi
done
for pid in $pids; do
    while works_here "$pid"; do sleep 0.05; done
done
exec rm -rf -- "$directory"
"#;

/// A directory in memory where there is one, for its owner alone.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    reaper: Child,
}

impl Directory {
    /// Makes it, with nothing in it.
    pub(super) fn create() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("oxilium-api-")
            .tempdir_in("/dev/shm")
            .or_else(|_| tempfile::Builder::new().prefix("oxilium-api-").tempdir())
            .with_context(|| format!("cannot make a directory in {}", env::temp_dir().display()))?;
        let reaper = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "oxilium-reaper"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // A group of its own: Ctrl-C ends the owner and not the one who cleans up after it.
            .process_group(0)
            .spawn()
            .context("cannot start the shell that cleans up")?;
        Ok(Self {
            path: directory.keep(),
            reaper,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The process `pid`, which names the directory on its command line, goes with it.
    pub(super) fn take_along(&self, pid: u32) -> Result<()> {
        let mut pipe = self.reaper.stdin.as_ref().context("the pipe is open")?;
        writeln!(pipe, "{pid}").context("the shell that cleans up has gone")
    }

    /// Writes a file that only its owner may read.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Removes a file or a directory, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // Nothing can be done about a shell that somebody killed.
        drop(self.reaper.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process::Process, wait};

    #[test]
    fn what_works_in_the_directory_goes_with_it_and_nobody_else() {
        let directory = Directory::create().unwrap();
        let path = directory.path().to_owned();
        let log = tempfile::NamedTempFile::new().unwrap();
        let spawn = |name: &str| {
            Process::spawn(
                name,
                // The name lands on the command line, and `exec` would take it away.
                Command::new("/bin/sh").args([
                    "-c",
                    "read -r _ </dev/tcp || while :; do sleep 60; done",
                    name,
                ]),
                log.path().to_owned(),
            )
            .unwrap()
        };
        let mut ours = spawn(path.to_str().unwrap());
        let mut other = spawn("elsewhere");
        directory.take_along(ours.pid()).unwrap();
        directory.take_along(other.pid()).unwrap();
        drop(directory);
        assert!(!path.exists());
        assert!(!ours.wait(wait::LONG).unwrap().success());
        assert!(other.ended().unwrap().is_none(), "somebody else's process");
    }
}
