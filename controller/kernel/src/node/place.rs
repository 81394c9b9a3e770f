//! Where pins are, and that nobody else writes there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use oxilium_abi::SCHEMA_VERSION;

use crate::bpffs;
use crate::config::KernelConfig;
use crate::count::WriteCounter;
use crate::load::{LoadError, make_directory, pin_error};

/// The agent's directory on the BPF file system. It is locked as long as this lives: two agents, also with state of their
/// own, would write to one set of maps.
#[derive(Debug)]
pub(super) struct Place {
    bpf_root: PathBuf,
    accept_private: bool,
    exclusive: bool,
    held: Option<Flock<File>>,
}

impl Place {
    pub(super) fn new(config: &KernelConfig) -> Self {
        Self {
            bpf_root: config.bpf_root.clone(),
            accept_private: config.accept_private_bpffs,
            exclusive: config.exclusive,
            held: None,
        }
    }

    fn product(&self) -> PathBuf {
        self.bpf_root.join("oxilium")
    }

    /// Maps directly, `links` and `programs` below.
    pub(super) fn directory(&self) -> PathBuf {
        self.product().join(format!("v{SCHEMA_VERSION}"))
    }

    /// All directories are there, and it is the locked one that they are in.
    pub(super) fn is_there(&self) -> bool {
        let directory = self.directory();
        self.is_held()
            && ["links", "programs"]
                .iter()
                .all(|name| directory.join(name).is_dir())
    }

    /// What is at the path is what was locked, if it is to be: another file system may have been mounted there since.
    fn is_held(&self) -> bool {
        let same = |held: &File| -> io::Result<bool> {
            let (held, there) = (held.metadata()?, fs::metadata(&self.bpf_root)?);
            Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
        };
        !self.exclusive
            || self
                .held
                .as_ref()
                .is_some_and(|held| same(held).unwrap_or(false))
    }

    /// Makes what is missing of it.
    pub(super) fn ensure(&mut self, counter: &WriteCounter) -> Result<(), LoadError> {
        bpffs::ensure(&self.bpf_root, self.accept_private)?;
        if !self.is_held() {
            self.held = Some(lock(&self.bpf_root)?);
        }
        let directory = self.directory();
        for path in [
            &self.product(),
            &directory,
            &directory.join("links"),
            &directory.join("programs"),
        ] {
            make_directory(path, counter)?;
        }
        Ok(())
    }
}

/// Locks what agents work in below `bpf_root`, which is there.
pub(crate) fn lock(bpf_root: &Path) -> Result<Flock<File>, LoadError> {
    let directory = File::open(bpf_root).map_err(pin_error(bpf_root, "open the directory"))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(held),
        Err((_, Errno::EWOULDBLOCK)) => Err(LoadError::Held {
            path: bpf_root.to_owned(),
        }),
        Err((_, errno)) => Err(pin_error(bpf_root, "lock the directory")(errno.into())),
    }
}
