//! Programs: taken over when pinned under the same tag, else loaded and pinned.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oxilium_model::node_state::{Hook, ProgramTag};

use super::elf::Prepared;
use super::{LoadError, Maps, pin_error};
use crate::count::{Action, Target, WriteCounter};
use crate::memory;
use crate::sys;

/// A program that is in the kernel and pinned.
#[derive(Debug)]
pub(crate) struct LoadedProgram {
    pub fd: OwnedFd,
    pub id: u32,
    pub tag: ProgramTag,
}

/// The values of the object's constants.
pub(crate) type Constants = BTreeMap<&'static str, Vec<u8>>;

/// What a program is loaded from.
pub(crate) struct Source<'a> {
    pub object: &'a [u8],
    pub constants: &'a Constants,
    pub maps: &'a Maps,
    /// Names of maps that this load gets for itself, empty, instead of the shared ones.
    pub own_maps: &'a [&'static str],
    /// Where the programs' directories are.
    pub directory: &'a Path,
    pub counter: &'a WriteCounter,
}

/// The programs of all hooks.
pub(crate) fn load_programs(
    source: &Source<'_>,
) -> Result<BTreeMap<Hook, LoadedProgram>, LoadError> {
    let tag = tag_of(source);
    let directory = source.directory.join(tag.to_string());
    if let Some(adopted) = adopt(source, &directory, tag)? {
        return Ok(adopted);
    }
    tracing::info!(%tag, "loading programs");
    let programs = load_and_pin(source, &directory, tag);
    memory::give_back();
    programs
}

fn load_and_pin(
    source: &Source<'_>,
    directory: &Path,
    tag: ProgramTag,
) -> Result<BTreeMap<Hook, LoadedProgram>, LoadError> {
    let object = Prepared::new(source)?;
    make_directory(directory, source.counter)?;
    let mut programs = BTreeMap::new();
    for hook in Hook::ALL {
        let fd = object.load(hook.program(), source.counter)?;
        let path = directory.join(hook.program());
        // One that was not adopted is in the way: damaged, or another's.
        if fs::symlink_metadata(&path).is_ok() {
            source
                .counter
                .result(Target::Programs, Action::File, fs::remove_file(&path))
                .map_err(pin_error(&path, "remove a pin that is in the way"))?;
        }
        let counter = source.counter;
        counter
            .result(
                Target::Programs,
                Action::Pin,
                sys::obj_pin(fd.as_fd(), &path),
            )
            .map_err(pin_error(&path, "pin the program"))?;
        let id = sys::prog_info(fd.as_fd())
            .map_err(pin_error(&path, "read what was loaded"))?
            .id;
        programs.insert(hook, LoadedProgram { fd, id, tag });
    }
    Ok(programs)
}

/// Loads a hook's program once more: another program for the kernel, which does the same.
pub(crate) fn load_copy(source: &Source<'_>, hook: Hook) -> Result<OwnedFd, LoadError> {
    let copy = Prepared::new(source).and_then(|all| all.load(hook.program(), source.counter));
    memory::give_back();
    copy
}

/// Directories of pinned programs, with their tags.
pub(crate) fn program_directories(directory: &Path) -> io::Result<Vec<(ProgramTag, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(tag) = entry
            .file_name()
            .to_str()
            .and_then(|name| u64::from_str_radix(name, 16).ok())
        {
            found.push((ProgramTag(tag.to_be_bytes()), entry.path()));
        }
    }
    Ok(found)
}

/// A directory for the administrator alone, unless it is there.
pub(crate) fn make_directory(path: &Path, counter: &WriteCounter) -> Result<(), LoadError> {
    if path.is_dir() {
        return Ok(());
    }
    counter
        .result(
            Target::Programs,
            Action::File,
            DirBuilder::new().mode(0o700).create(path),
        )
        .map_err(pin_error(path, "make the directory"))
}

/// Instructions, constants and the very maps: programs of one tag do the same.
fn tag_of(source: &Source<'_>) -> ProgramTag {
    let mut hash = Fnv::new();
    hash.add(source.object);
    for (name, value) in source.constants {
        hash.add(name.as_bytes());
        hash.add(value);
    }
    for id in source.maps.ids() {
        hash.add(&id.to_ne_bytes());
    }
    ProgramTag(hash.0.to_be_bytes())
}

/// FNV-1a, 64 bits. Tells builds apart; nobody but the builder chooses what goes in.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

/// The pinned programs of this tag, if all are there and are what they should be.
fn adopt(
    source: &Source<'_>,
    directory: &Path,
    tag: ProgramTag,
) -> Result<Option<BTreeMap<Hook, LoadedProgram>>, LoadError> {
    let ours: HashSet<u32> = source.maps.ids().collect();
    let mut adopted = BTreeMap::new();
    for hook in Hook::ALL {
        let path = directory.join(hook.program());
        let fd = match sys::obj_get(&path) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(pin_error(&path, "open the pinned program")(error)),
        };
        // A pin of something else than a program fails here, and is replaced.
        let Ok(info) = sys::prog_info(fd.as_fd()) else {
            return Ok(None);
        };
        let uses_ours = info.maps.is_empty() || info.maps.iter().any(|id| ours.contains(id));
        let name: String = hook.program().chars().take(15).collect();
        if !info.is_classifier() || info.name != name || !uses_ours {
            tracing::warn!(path = %path.display(), found = %info.name, "a pinned program is not what it should be; loading anew");
            return Ok(None);
        }
        adopted.insert(
            hook,
            LoadedProgram {
                fd,
                id: info.id,
                tag,
            },
        );
    }
    Ok(Some(adopted))
}
