//! The files: the directory that people write and the state that outlives the agent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Admitted, Content, Listing, Settings, Snapshot, admit_files};

/// Version of the state file's form.
const VERSION: u32 = 1;

/// Why the directory or its state could not be read or kept. What is in force stays in force.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The directory cannot be listed: it never reads as empty.
    #[error(
        "manifest directory {} cannot be read: {source}; what it held stays in force, make it readable again",
        path.display()
    )]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state cannot be written, so nothing new is admitted: it would be lost in a restart.
    #[error(
        "state of the manifest directory cannot be kept in {}: {source}; nothing new is admitted until it can",
        path.display()
    )]
    Keep {
        /// The state file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state cannot be read.
    #[error(
        "state of the manifest directory in {} cannot be read: {source}; move it away to start from the directory alone",
        path.display()
    )]
    Restore {
        /// The state file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    admitted: Admitted,
}

/// A directory of manifests with its state.
#[derive(Debug)]
pub struct ManifestDirectory {
    path: PathBuf,
    state: PathBuf,
    settings: Settings,
    admitted: Admitted,
    last: Option<(Listing, Snapshot)>,
}

impl ManifestDirectory {
    /// Opens the directory `path` and reads back what was admitted from the file `state`, which need not exist yet.
    ///
    /// # Errors
    /// [`DirectoryError::Restore`]: the state is there and cannot be read.
    pub fn open(path: &Path, state: &Path, settings: Settings) -> Result<Self, DirectoryError> {
        Ok(Self {
            path: path.to_owned(),
            state: state.to_owned(),
            settings,
            admitted: restore(state).map_err(|source| DirectoryError::Restore {
                path: state.to_owned(),
                source,
            })?,
            last: None,
        })
    }

    /// The directory that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all files, admits what can be admitted, and keeps that on disk before saying so.
    ///
    /// # Errors
    /// [`DirectoryError::Unreadable`] and [`DirectoryError::Keep`]; what was in force stays in force.
    pub fn scan(&mut self) -> Result<Snapshot, DirectoryError> {
        let listing = list(&self.path).map_err(|source| DirectoryError::Unreadable {
            path: self.path.clone(),
            source,
        })?;
        if let Some((last, snapshot)) = &self.last
            && *last == listing
        {
            return Ok(snapshot.clone());
        }
        let (admitted, snapshot) = admit_files(&self.admitted, &listing, &self.settings);
        if admitted != self.admitted {
            keep(&self.state, &admitted).map_err(|source| DirectoryError::Keep {
                path: self.state.clone(),
                source,
            })?;
            self.admitted = admitted;
        }
        self.last = Some((listing, snapshot.clone()));
        Ok(snapshot)
    }
}

/// A file name that is read: `.yaml`, `.yml` or `.json`, and not hidden (editors and mounts hide what is not finished).
pub fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

pub(crate) fn list(path: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Follows links: mounted directories are made of them.
        let is_file = fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file());
        if is_manifest(&name) && is_file {
            let content: Content = fs::read(entry.path())
                .map(Arc::from)
                .map_err(|error| error.to_string());
            listing.insert(name.into(), content);
        }
    }
    Ok(listing)
}

fn restore(state: &Path) -> io::Result<Admitted> {
    let text = match fs::read(state) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Admitted::default()),
        Err(error) => return Err(error),
    };
    let file: StateFile = serde_json::from_slice(&text)?;
    if file.version != VERSION {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "it is of version {}, this agent reads version {VERSION}",
                file.version
            ),
        ));
    }
    Ok(file.admitted)
}

/// Replaces the state file in one step: written beside it, brought to disk, renamed, and the rename brought to disk.
fn keep(state: &Path, admitted: &Admitted) -> io::Result<()> {
    let text = serde_json::to_vec(&StateFile {
        version: VERSION,
        admitted: admitted.clone(),
    })?;
    let directory = state
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let beside = state.with_added_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, state)?;
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
