//! Pins of tcx links: `links/<endpoint>_<program>`. By endpoint, because the kernel gives an
//! interface's index to another one at once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::plan::Table;

use crate::count::{Action, Target, WriteCounter};
use crate::error::ApplyError;
use crate::sys;

/// The directory of pinned links.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    counter: Arc<WriteCounter>,
}

impl Pins {
    pub(crate) fn new(directory: PathBuf, counter: Arc<WriteCounter>) -> Self {
        Self { directory, counter }
    }

    fn path(&self, endpoint: u16, hook: Hook) -> PathBuf {
        self.directory
            .join(format!("{endpoint}_{}", hook.program()))
    }

    /// Where a pin is set that is to take the place of another.
    fn new_path(&self, endpoint: u16, hook: Hook) -> PathBuf {
        self.directory
            .join(format!("new_{endpoint}_{}", hook.program()))
    }

    /// The pin of this endpoint and hook leads to this link.
    pub(crate) fn leads_to(&self, endpoint: u16, hook: Hook, link: u32) -> bool {
        sys::obj_get(&self.path(endpoint, hook))
            .and_then(|fd| sys::link_info(fd.as_fd()))
            .is_ok_and(|info| info.is_tcx && info.id == link)
    }

    /// Makes sure that the endpoint's pin can be set: what is there is of this hook, or of a device
    /// that is gone.
    pub(crate) fn clear_way(&self, endpoint: u16, point: AttachPoint) -> Result<(), ApplyError> {
        // A pin that was half set may be the only one of its link.
        for path in [
            self.path(endpoint, point.hook),
            self.new_path(endpoint, point.hook),
        ] {
            let Some(fd) = absent(sys::obj_get(&path)).map_err(|error| failed(&path, error))?
            else {
                continue;
            };
            match sys::link_info(fd.as_fd()) {
                Ok(info) if info.is_tcx && info.ifindex != 0 && info.ifindex != point.ifindex => {
                    return Err(ApplyError::PinInTheWay {
                        path,
                        other: info.ifindex,
                    });
                }
                Ok(info) if info.is_tcx && info.ifindex == point.ifindex => {}
                // Defunct, or no link at all.
                _ => self.unlink(&path)?,
            }
        }
        Ok(())
    }

    /// Pins a link as this endpoint's and no other's, atomically over what is there.
    pub(crate) fn move_to(
        &self,
        endpoint: u16,
        hook: Hook,
        link: &OwnedFd,
    ) -> Result<(), ApplyError> {
        let path = self.path(endpoint, hook);
        let unreadable = |error| failed(&path, error);
        let id = sys::link_info(link.as_fd()).map_err(unreadable)?.id;
        let before = self.all().map_err(unreadable)?;
        self.set(endpoint, hook, link)?;
        for (other, info) in before {
            if info.id == id && other != path {
                self.unlink(&other)?;
            }
        }
        Ok(())
    }

    /// Pins a link as this endpoint's, atomically over what is there.
    pub(crate) fn set(&self, endpoint: u16, hook: Hook, link: &OwnedFd) -> Result<(), ApplyError> {
        let path = self.path(endpoint, hook);
        let pin = |path: &Path| {
            let result = sys::obj_pin(link.as_fd(), path);
            self.counter.result(Target::Links, Action::Pin, result)
        };
        match pin(&path) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let new = self.new_path(endpoint, hook);
                if new.exists() {
                    self.unlink(&new)?;
                }
                pin(&new).map_err(|error| failed(&new, error))?;
                self.counter
                    .result(Target::Links, Action::File, fs::rename(&new, &path))
                    .map_err(|error| failed(&path, error))?;
            }
            result => result.map_err(|error| failed(&path, error))?,
        }
        Ok(())
    }

    /// Removes every pin of a link.
    pub(crate) fn remove_link(&self, link: u32) -> Result<(), ApplyError> {
        let all = self.all().map_err(|error| failed(&self.directory, error))?;
        for (path, info) in all {
            if info.id == link {
                self.unlink(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the pins of links whose device is gone, and all but the first by name of each link: one that was half
    /// set (`new_…`) goes before one in its place. The only pin of a link whose device lives stays, whatever its name.
    pub(crate) fn tidy(&self) -> Result<usize, ApplyError> {
        let all = self.all().map_err(|error| failed(&self.directory, error))?;
        let mut seen = BTreeSet::new();
        let mut removed = 0;
        for (path, info) in all {
            if info.ifindex == 0 || !seen.insert(info.id) {
                self.unlink(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// All pins and the links that they lead to.
    fn all(&self) -> io::Result<Vec<(PathBuf, sys::LinkDescription)>> {
        let mut found = Vec::new();
        let Some(entries) = absent(fs::read_dir(&self.directory))? else {
            return Ok(found);
        };
        for entry in entries {
            let path = entry?.path();
            if let Some(fd) = absent(sys::obj_get(&path))?
                && let Ok(info) = sys::link_info(fd.as_fd())
            {
                found.push((path, info));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    fn unlink(&self, path: &Path) -> Result<(), ApplyError> {
        let result = fs::remove_file(path);
        match self.counter.result(Target::Links, Action::File, result) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| failed(path, error)),
        }
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(path: &Path, error: io::Error) -> ApplyError {
    ApplyError::of(
        Table::Attachments,
        || format!("pin {}", path.display()),
        error,
    )
}
