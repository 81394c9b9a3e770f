//! The files: the directory that people write and the state that outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Admitted, AdmittedFile, Content, Listing, Memo, Settings, Snapshot, admit_with};

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

/// End of the names of state files: `web.yaml` is kept in `web.yaml.admitted`.
const SUFFIX: &str = ".admitted";

/// A longer name would leave no room for the end of its state file's name.
const LONGEST_NAME: usize = 240;

/// How long a file must be missing to be gone, and an object in its file: editors and git take files away and put
/// them back, a listing may miss a file that is renamed under it, and a file may be read while it is being written.
pub const GONE_AFTER: Duration = Duration::from_secs(1);

/// What was admitted of one file.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    admitted: AdmittedFile,
}

/// A directory of manifests with its state.
#[derive(Debug)]
pub struct ManifestDirectory {
    path: PathBuf,
    state: PathBuf,
    settings: Settings,
    admitted: Admitted,
    memo: Memo,
    last: Option<(Listing, Snapshot)>,
    /// Files of which something is in force and that are not there, since when.
    missing: BTreeMap<Arc<str>, Instant>,
    /// Since when each file has held what it holds.
    still: BTreeMap<Arc<str>, Instant>,
    /// Files whose state on disk is not what was admitted: it lies beside, or is to be removed.
    unkept: BTreeMap<Arc<str>, Unkept>,
}

/// What is to become of a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unkept {
    /// The file beside it takes its place.
    Written,
    /// It goes.
    Gone,
}

impl ManifestDirectory {
    /// Opens the directory `path` and reads back what was admitted from the directory `state`, which is made if need be.
    ///
    /// # Errors
    /// [`DirectoryError::Restore`]: the state is there and cannot be read; [`DirectoryError::Keep`]: it cannot be made.
    pub fn open(path: &Path, state: &Path, settings: Settings) -> Result<Self, DirectoryError> {
        fs::create_dir_all(state).map_err(|source| DirectoryError::Keep {
            path: state.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            state: state.to_owned(),
            settings,
            admitted: restore(state)?,
            memo: Memo::default(),
            last: None,
            missing: BTreeMap::new(),
            still: BTreeMap::new(),
            unkept: BTreeMap::new(),
        })
    }

    /// The directory that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all files at `now`, admits what can be admitted, and keeps that on disk before saying so.
    /// A file that is missing is gone once it was missing for [`GONE_AFTER`]; so is an object that a file no longer has.
    ///
    /// # Errors
    /// [`DirectoryError::Unreadable`] and [`DirectoryError::Keep`]; what was in force stays in force.
    pub fn scan(&mut self, now: Instant) -> Result<Snapshot, DirectoryError> {
        let snapshot = self.admit(now)?;
        self.keep()?;
        Ok(snapshot)
    }

    /// As [`Self::scan`], but what was admitted is written only, and not yet in its place: [`Self::keep`] does that,
    /// which waits for the disk. A crash in between is one before the admission: the files are there still,
    /// and are read again.
    ///
    /// # Errors
    /// [`DirectoryError::Unreadable`] and [`DirectoryError::Keep`]; what was in force stays in force.
    pub fn admit(&mut self, now: Instant) -> Result<Snapshot, DirectoryError> {
        let mut listing = list(&self.path).map_err(|source| DirectoryError::Unreadable {
            path: self.path.clone(),
            source,
        })?;
        self.keep_missing(&mut listing, now);
        let whole = self.standing_still(&listing, now);
        if let Some((last, snapshot)) = &self.last
            && *last == listing
            && !self.memo.leaving().any(|file| whole.contains(file))
        {
            return Ok(snapshot.clone());
        }
        let (admitted, snapshot) = admit_with(
            &self.admitted,
            &listing,
            &whole,
            &self.settings,
            &mut self.memo,
        );
        self.write(admitted)
            .map_err(|source| self.not_kept(source))?;
        self.last = Some((listing, snapshot.clone()));
        Ok(snapshot)
    }

    /// Something is in force still that is about to go, unless its file says otherwise: look again after
    /// [`GONE_AFTER`].
    pub fn in_doubt(&self) -> bool {
        !self.missing.is_empty() || self.memo.leaving().next().is_some()
    }

    /// The files that hold now what they have held for [`GONE_AFTER`].
    fn standing_still(&mut self, listing: &Listing, now: Instant) -> BTreeSet<Arc<str>> {
        let before = std::mem::take(&mut self.still);
        let last = self.last.as_ref().map(|(last, _)| last);
        let mut whole = BTreeSet::new();
        for (file, content) in listing {
            let same = last.is_some_and(|last| last.get(file) == Some(content));
            let since = before.get(file).copied().filter(|_| same).unwrap_or(now);
            self.still.insert(file.clone(), since);
            if now.saturating_duration_since(since) >= GONE_AFTER {
                whole.insert(file.clone());
            }
        }
        whole
    }

    fn keep_missing(&mut self, listing: &mut Listing, now: Instant) {
        let before = std::mem::take(&mut self.missing);
        for file in self.admitted.files.keys() {
            if listing.contains_key(file) {
                continue;
            }
            let since = before.get(file).copied().unwrap_or(now);
            if now.saturating_duration_since(since) < GONE_AFTER {
                self.missing.insert(file.clone(), since);
                listing.insert(file.clone(), Err("it vanished a moment ago".into()));
            }
        }
    }

    fn not_kept(&self, source: io::Error) -> DirectoryError {
        DirectoryError::Keep {
            path: self.state.clone(),
            source,
        }
    }

    /// Writes the state of the files that changed beside what is there. What cannot be written is not admitted,
    /// and tried again at the next scan.
    fn write(&mut self, admitted: Admitted) -> io::Result<()> {
        for (file, now) in admitted.files {
            let before = self.admitted.files.get(&file);
            let nothing = before.is_none() && now == AdmittedFile::default();
            if nothing || before == Some(&now) {
                continue;
            }
            write_beside(&state_file(&self.state, &file), &now)?;
            self.unkept.insert(file.clone(), Unkept::Written);
            self.admitted.files.insert(file, now);
        }
        let listed = |file: &Arc<str>| self.memo.has(file);
        let gone: Vec<Arc<str>> = self
            .admitted
            .files
            .keys()
            .filter(|file| !listed(file))
            .cloned()
            .collect();
        for file in gone {
            self.admitted.files.remove(&file);
            self.unkept.insert(file, Unkept::Gone);
        }
        Ok(())
    }

    /// Brings what was admitted to disk, for good. What fails is tried again at the next call.
    ///
    /// # Errors
    /// [`DirectoryError::Keep`].
    pub fn keep(&mut self) -> Result<(), DirectoryError> {
        if self.unkept.is_empty() {
            return Ok(());
        }
        self.put_in_place()
            .map_err(|source| self.not_kept(source))?;
        self.unkept.clear();
        Ok(())
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        for (file, unkept) in &self.unkept {
            let path = state_file(&self.state, file);
            let done = match unkept {
                Unkept::Written => keep_file(&path),
                Unkept::Gone => fs::remove_file(&path),
            };
            match done {
                // It was done before something else failed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        File::open(&self.state)?.sync_all()
    }
}

fn state_file(state: &Path, manifest: &str) -> PathBuf {
    state.join(format!("{manifest}{SUFFIX}"))
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
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                let shown = name.to_string_lossy();
                if is_manifest(&shown) {
                    listing.insert(shown.into(), Err("its name is not UTF-8".into()));
                }
                continue;
            }
        };
        // Follows links: mounted directories are made of them.
        let is_file = fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file());
        if !is_manifest(&name) || !is_file {
            continue;
        }
        let content: Content = if name.len() > LONGEST_NAME {
            Err(format!("its name has more than {LONGEST_NAME} bytes"))
        } else {
            fs::read(entry.path())
                .map(Arc::from)
                .map_err(|error| error.to_string())
        };
        listing.insert(name.into(), content);
    }
    Ok(listing)
}

fn restore(state: &Path) -> Result<Admitted, DirectoryError> {
    let damaged = |path: PathBuf| move |source| DirectoryError::Restore { path, source };
    let mut admitted = Admitted::default();
    for entry in fs::read_dir(state).map_err(damaged(state.to_owned()))? {
        let path = entry.map_err(damaged(state.to_owned()))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Some(manifest) = name.strip_suffix(SUFFIX) else {
            continue;
        };
        let file = read_state(&path).map_err(damaged(path.clone()))?;
        admitted.files.insert(manifest.into(), file);
    }
    Ok(admitted)
}

fn read_state(path: &Path) -> io::Result<AdmittedFile> {
    let file: StateFile = serde_json::from_slice(&fs::read(path)?)?;
    if file.version != VERSION {
        let text = format!(
            "it is of version {}, this agent reads version {VERSION}",
            file.version
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(file.admitted)
}

fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Writes what is to replace a state file.
fn write_beside(path: &Path, admitted: &AdmittedFile) -> io::Result<()> {
    let text = serde_json::to_vec(&StateFile {
        version: VERSION,
        admitted: admitted.clone(),
    })?;
    File::create(beside(path))?.write_all(&text)
}

/// Replaces a state file in one step by what is beside it: brought to disk, then renamed. The caller brings the
/// renames to disk.
fn keep_file(path: &Path) -> io::Result<()> {
    let beside = beside(path);
    File::open(&beside)?.sync_all()?;
    fs::rename(&beside, path)
}
