//! The numbers given out, in their file before any of them is used. What they name, the kernel forgets with the boot.

use std::path::PathBuf;

use oxilium_model::world::{Claims, ValidClaims};

use super::{BootDirectory, DiskError, read_json, replace_json};

/// The claims' file.
#[derive(Debug)]
pub struct ClaimsFile {
    path: PathBuf,
    written: Claims,
}

impl ClaimsFile {
    /// Reads the claims of the last run, without those that contradict each other.
    ///
    /// # Errors
    /// [`DiskError`], also for a damaged file: numbers are in use by what it names.
    pub fn open(directory: &BootDirectory) -> Result<(Self, ValidClaims), DiskError> {
        let path = directory.path().join("claims.json");
        let read: Claims = read_json(&path)?.unwrap_or_default();
        let valid = read.validated();
        Ok((
            Self {
                path,
                written: read,
            },
            valid,
        ))
    }

    /// Writes `claims`, if they are not what is there.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing may be planned with them.
    pub fn write(&mut self, claims: &Claims) -> Result<(), DiskError> {
        if *claims != self.written {
            replace_json(&self.path, claims)?;
        }
        self.written = claims.clone();
        Ok(())
    }
}
