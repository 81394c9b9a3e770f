//! Whether the configuration under our name is ours, and what was there before.
//!
//! A node may have had one by this name, Cilium's. It is kept aside, and as long as it is there, the one in its place is
//! ours. Where there was none, an empty file says so. Each way ends with a single rename or removal, so that whoever is
//! killed in between finds on the second run what is still to be done.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{keep, put, remove, rename, sync};
use super::{ASIDE, CONFIGURATION, Done, InstallError, appended};

/// Where there was no configuration by our name. No runtime reads it.
const NONE_BEFORE: &str = ".05-cilium.conflist.oxilium";

/// The record of a directory of configurations.
pub(super) struct Record<'d> {
    directory: &'d Path,
}

impl<'d> Record<'d> {
    pub(super) fn of(directory: &'d Path) -> Self {
        Self { directory }
    }

    pub(super) fn ours(&self) -> PathBuf {
        self.directory.join(CONFIGURATION)
    }

    /// Where what was there before is kept.
    pub(super) fn before(&self) -> PathBuf {
        appended(&self.ours(), ASIDE)
    }

    fn none_before(&self) -> PathBuf {
        self.directory.join(NONE_BEFORE)
    }

    /// The configuration under our name is ours, or is about to be.
    pub(super) fn is_open(&self) -> bool {
        self.before().exists() || self.none_before().exists()
    }

    /// To be called before `text` is written under our name. The same text is ours, whoever wrote it.
    pub(super) fn open(&self, text: &str, done: &mut Done) -> Result<(), InstallError> {
        if self.is_open() {
            return Ok(());
        }
        let (ours, before) = (self.ours(), self.before());
        if ours.exists() && !fs::read(&ours).is_ok_and(|found| found == text.as_bytes()) {
            keep(&ours, &before)?;
            done.push(format!("kept {} as {}", ours.display(), before.display()));
        } else {
            put(&self.none_before(), b"", 0o600)?;
        }
        sync(self.directory)
    }

    /// Puts back what was there before ours.
    pub(super) fn close(&self, done: &mut Done) -> Result<(), InstallError> {
        let (ours, before) = (self.ours(), self.before());
        if before.exists() {
            rename(&before, &ours)?;
            // Two names of one file, where ours was never written: then a rename does nothing.
            remove(&before)?;
            done.push(format!("put {} back", ours.display()));
        } else {
            if remove(&ours)? {
                done.push(format!("removed {}", ours.display()));
            }
            sync(self.directory)?;
            remove(&self.none_before())?;
        }
        sync(self.directory)
    }
}
