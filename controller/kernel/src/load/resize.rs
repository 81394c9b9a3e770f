//! A pinned map whose size is not the one that is asked for: one of the right size takes its place.
//!
//! A map cannot grow, and programs hold the maps that they were loaded with. So the new map is made beside the old one,
//! filled with what that holds, and takes its name; the programs that use it are loaded, and replace the others hook
//! by hook. Until a hook has its new program, what runs there works on the old map as before. So the old one stays
//! pinned (`old_…`) until no hook uses it, and the flows that were noted in it meanwhile are carried over then: an entry
//! counts in the new map for no more than in the old, as its verdict's epoch goes with it.
//!
//! Killed at any point, a later start goes on: before the new map has its name it begins anew, after that it finds the
//! old one by its own.
//!
//! Another *layout* is another version's, below another directory. It takes the same way; what copies would convert.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::map_type::{ARRAY, HASH, LPM_TRIE, LRU_HASH, RINGBUF};
use super::{LoadError, pin_error};
use crate::count::{Action, Target, WriteCounter};
use crate::sys::{self, MapDescription};
use crate::table::RawTable;

/// Before the name of a map whose place another one took.
pub(super) const OLD: &str = "old_";
/// Before the name of a map that is to take another's place.
const NEW: &str = "new_";

/// A pinned map and what it is like.
pub(super) struct Pinned<'a> {
    pub path: &'a Path,
    pub fd: OwnedFd,
    pub found: MapDescription,
}

/// They differ in size alone, and the kind of map can be copied.
pub(super) fn can_resize(found: &MapDescription, wanted: &MapDescription) -> bool {
    let same = MapDescription {
        id: wanted.id,
        max_entries: wanted.max_entries,
        name: wanted.name.clone(),
        ..found.clone()
    };
    same == *wanted && matches!(found.map_type, ARRAY | HASH | LRU_HASH | LPM_TRIE | RINGBUF)
}

/// Puts a map like `wanted`, with the same entries, in the place of a pinned one, which stays pinned beside it.
pub(super) fn resize(
    pinned: &Pinned<'_>,
    wanted: &MapDescription,
    counter: &Arc<WriteCounter>,
) -> Result<(OwnedFd, MapDescription), LoadError> {
    let Pinned { path, fd, found } = pinned;
    let entries = read(fd, found, counter).map_err(pin_error(path, "read the map"))?;
    if let Some(needed) = room_needed(found, &entries).filter(|needed| *needed > wanted.max_entries)
    {
        return Err(LoadError::TooSmall {
            path: path.to_path_buf(),
            needed,
            found: found.max_entries,
            wanted: wanted.max_entries,
        });
    }
    let made = counter
        .result(Target::Maps, Action::Create, sys::map_create(wanted, None))
        .map_err(pin_error(path, "make a map of another size"))?;
    let description = sys::map_info(made.as_fd()).map_err(pin_error(path, "read what was made"))?;
    write(&made, &description, &entries, counter)
        .map_err(pin_error(path, "copy into a map of another size"))?;
    keep_old(pinned, &made, &description, counter)?;
    let new = beside(path, NEW);
    remove(&new, counter)?;
    pin(&made, &new, counter)?;
    counter
        .result(Target::Maps, Action::File, fs::rename(&new, path))
        .map_err(pin_error(path, "put the map in its place"))?;
    tracing::info!(
        map = found.name,
        from = found.max_entries,
        to = wanted.max_entries,
        entries = entries.keys.len() / found.key_size.max(1) as usize,
        "a map has another size"
    );
    Ok((made, description))
}

/// Flows that are in the old map and not in the new one are noted there too.
pub(crate) fn carry_flows(
    old: &OwnedFd,
    new: &OwnedFd,
    counter: &Arc<WriteCounter>,
) -> io::Result<usize> {
    let (from, to) = (sys::map_info(old.as_fd())?, sys::map_info(new.as_fd())?);
    if from.map_type != LRU_HASH || from.id == to.id {
        return Ok(0);
    }
    let entries = read(old, &from, counter)?;
    let mut carried = 0;
    for (key, value) in entries.iter(&from) {
        match raw(new, &to, counter)?.insert(key, value) {
            Ok(()) => carried += 1,
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(carried)
}

/// Keys and values, one after the other.
#[derive(Default)]
struct Entries {
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Entries {
    fn iter(&self, map: &MapDescription) -> impl Iterator<Item = (&[u8], &[u8])> {
        // A ring has neither.
        let keys = self.keys.chunks_exact(map.key_size.max(1) as usize);
        keys.zip(self.values.chunks_exact(map.value_size.max(1) as usize))
    }
}

/// Entries for which the new map must have room; none where it may forget some.
fn room_needed(map: &MapDescription, entries: &Entries) -> Option<u32> {
    let count = entries.iter(map).count();
    match map.map_type {
        LRU_HASH | RINGBUF => None,
        // By index: up to the last that is in use.
        ARRAY => entries
            .iter(map)
            .filter_map(|(key, _)| key.first_chunk().map(|index| u32::from_ne_bytes(*index)))
            .max()
            .map(|last| last.saturating_add(1)),
        _ => u32::try_from(count).ok(),
    }
}

fn raw(fd: &OwnedFd, map: &MapDescription, counter: &Arc<WriteCounter>) -> io::Result<RawTable> {
    Ok(RawTable::of(
        fd.try_clone()?,
        map,
        Target::Maps,
        Arc::clone(counter),
    ))
}

/// All entries; of an array those that are not zero.
fn read(fd: &OwnedFd, map: &MapDescription, counter: &Arc<WriteCounter>) -> io::Result<Entries> {
    let mut entries = Entries::default();
    if map.map_type == RINGBUF {
        return Ok(entries);
    }
    raw(fd, map, counter)?.for_each(&mut |key, value| {
        if map.map_type != ARRAY || value.iter().any(|byte| *byte != 0) {
            entries.keys.extend_from_slice(key);
            entries.values.extend_from_slice(value);
        }
    })?;
    Ok(entries)
}

fn write(
    fd: &OwnedFd,
    map: &MapDescription,
    entries: &Entries,
    counter: &Arc<WriteCounter>,
) -> io::Result<()> {
    if entries.keys.is_empty() {
        return Ok(());
    }
    raw(fd, map, counter)?
        .update_all(&entries.keys, &entries.values)
        .map_err(io::Error::other)
}

/// Pins the map that is about to lose its name. If there is an older one still, an earlier change of size was cut off:
/// what is only in that one is taken over now.
fn keep_old(
    pinned: &Pinned<'_>,
    made: &OwnedFd,
    description: &MapDescription,
    counter: &Arc<WriteCounter>,
) -> Result<(), LoadError> {
    let old = beside(pinned.path, OLD);
    match sys::obj_get(&old) {
        Ok(older) => {
            let info = sys::map_info(older.as_fd())
                .map_err(pin_error(&old, "read what the pin leads to"))?;
            if info.id == pinned.found.id {
                return Ok(());
            }
            if can_resize(&info, description) {
                carry_flows(&older, made, counter).map_err(pin_error(&old, "carry flows over"))?;
            }
            remove(&old, counter)?;
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(pin_error(&old, "open the pinned map")(error)),
    }
    pin(&pinned.fd, &old, counter)
}

/// `prefix` before the file's name. (The BPF file system takes no dots.)
pub(super) fn beside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}"))
}

fn pin(fd: &OwnedFd, path: &Path, counter: &WriteCounter) -> Result<(), LoadError> {
    counter
        .result(Target::Maps, Action::Pin, sys::obj_pin(fd.as_fd(), path))
        .map_err(pin_error(path, "pin the map"))
}

fn remove(path: &Path, counter: &WriteCounter) -> Result<(), LoadError> {
    if !path.exists() {
        return Ok(());
    }
    counter
        .result(Target::Maps, Action::File, fs::remove_file(path))
        .map_err(pin_error(path, "remove what an earlier run left"))
}
