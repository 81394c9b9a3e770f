//! A pinned map whose size or layout is not the one that is needed: one like that takes its place.
//!
//! A map cannot change, and programs hold the maps that they were loaded with. So the new map is made beside the old one,
//! filled with what that holds, and takes its name; the programs that use it are loaded, and replace the others hook
//! by hook. Until a hook has its new program, what runs there works on the old map as before. So the old one stays
//! pinned (`old_…`) until no hook uses it, and the flows that were noted in it meanwhile are carried over then: an entry
//! counts in the new map for no more than in the old, as its verdict's epoch goes with it.
//!
//! Killed at any point, a later start goes on: before the new map has its name it begins anew, after that it finds the
//! old one by its own.
//!
//! What another layout means, the maps themselves say ([`super::types`]). So it makes no difference which of two versions
//! of the agent is the older one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::map_type::{
    ARRAY, HASH, LPM_TRIE, LRU_HASH, LRU_PERCPU_HASH, PERCPU_ARRAY, RINGBUF,
};
use super::record::{Conversion, Records};
use super::types::records_of;
use super::{LoadError, pin_error};
use crate::count::{Action, Target, WriteCounter};
use crate::sys::{self, MapDescription, MapTypes};
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

/// A map that is needed.
pub(super) struct Wanted<'a> {
    pub description: &'a MapDescription,
    /// None for what holds nothing that another version could use.
    pub records: Option<&'a Records>,
}

/// What becomes of a map that is there.
pub(super) enum Fate {
    /// It is what is needed.
    Stays,
    /// Another takes its place, with its entries.
    Moves(Way),
    /// Nothing is known of how to do that.
    Refused,
}

/// How entries get from one map to another.
pub(super) enum Way {
    /// They do not: what it holds is nobody's but the programs' that run.
    Empty,
    /// Key and value.
    Each(Conversion, Conversion),
}

/// What becomes of the map behind `fd`.
pub(super) fn fate(fd: &OwnedFd, found: &MapDescription, wanted: &Wanted<'_>) -> io::Result<Fate> {
    let needed = wanted.description;
    let as_large = (found.key_size, found.value_size) == (needed.key_size, needed.value_size);
    let differs = !as_large || found.max_entries != needed.max_entries;
    if (found.map_type, found.flags) != (needed.map_type, needed.flags) {
        return Ok(Fate::Refused);
    }
    let Some(records) = wanted.records else {
        let empty = matches!(found.map_type, RINGBUF | PERCPU_ARRAY | LRU_PERCPU_HASH);
        return Ok(match (differs, empty) {
            (false, _) => Fate::Stays,
            (true, true) => Fate::Moves(Way::Empty),
            (true, false) => Fate::Refused,
        });
    };
    let known = records_of(fd.as_fd())?;
    let differs = differs || known.as_ref().is_some_and(|known| !known.is_like(records));
    if !differs {
        return Ok(Fate::Stays);
    }
    let way = match &known {
        Some(known) => Conversion::between_keys(&known.key, &records.key)
            .zip(Conversion::between(&known.value, &records.value)),
        // It was made by a version that did not say yet: the first layout, which is as large as it was.
        None if as_large => Some((
            Conversion::none(records.key.size),
            Conversion::none(records.value.size),
        )),
        None => None,
    };
    let can_be_copied = matches!(found.map_type, ARRAY | HASH | LRU_HASH | LPM_TRIE);
    Ok(match way {
        Some((key, value)) if can_be_copied => Fate::Moves(Way::Each(key, value)),
        _ => Fate::Refused,
    })
}

/// Puts a map like `wanted`, with the same entries, in the place of a pinned one, which stays pinned beside it.
pub(super) fn migrate(
    pinned: &Pinned<'_>,
    wanted: &Wanted<'_>,
    way: &Way,
    types: Option<&MapTypes<'_>>,
    counter: &Arc<WriteCounter>,
) -> Result<(OwnedFd, MapDescription), LoadError> {
    let Pinned { path, fd, found } = pinned;
    let needed = wanted.description;
    let entries = read(fd, found, way, counter).map_err(pin_error(path, "read the map"))?;
    let held = room_needed(needed, &entries);
    if let Some(room) = held.filter(|room| *room > needed.max_entries) {
        return Err(LoadError::TooSmall {
            path: path.to_path_buf(),
            needed: room,
            found: found.max_entries,
            wanted: needed.max_entries,
        });
    }
    let made = counter
        .result(Target::Maps, Action::Create, sys::map_create(needed, types))
        .map_err(pin_error(path, "make another map"))?;
    let description = sys::map_info(made.as_fd()).map_err(pin_error(path, "read what was made"))?;
    write(&made, &description, &entries, counter)
        .map_err(pin_error(path, "copy into another map"))?;
    keep_old(pinned, &made, wanted, counter)?;
    let new = beside(path, NEW);
    pin(&made, &new, counter)?;
    counter
        .result(Target::Maps, Action::File, fs::rename(&new, path))
        .map_err(pin_error(path, "put the map in its place"))?;
    tracing::info!(
        map = found.name,
        from = found.max_entries,
        to = needed.max_entries,
        from_bytes = found.key_size + found.value_size,
        to_bytes = needed.key_size + needed.value_size,
        entries = entries.iter(needed).count(),
        "another map takes the place of one"
    );
    Ok((made, description))
}

/// Removes the map that an earlier start made in the place of this one, and gave no name before it was cut off. This start
/// may want none.
pub(super) fn forget_begun(path: &Path, counter: &WriteCounter) -> Result<(), LoadError> {
    remove(&beside(path, NEW), counter)
}

/// Flows that are in the old map and not in the new one are noted there too.
pub(crate) fn carry_flows(
    old: &OwnedFd,
    new: &OwnedFd,
    records: Option<&Records>,
    counter: &Arc<WriteCounter>,
) -> io::Result<usize> {
    let (from, to) = (sys::map_info(old.as_fd())?, sys::map_info(new.as_fd())?);
    if from.map_type != LRU_HASH || from.id == to.id {
        return Ok(0);
    }
    let wanted = Wanted {
        description: &to,
        records,
    };
    let way = match (fate(old, &from, &wanted)?, records) {
        (Fate::Moves(way), _) => way,
        (Fate::Stays, Some(records)) => Way::Each(
            Conversion::none(records.key.size),
            Conversion::none(records.value.size),
        ),
        // Its programs run on it to their end; their flows are then as new ones.
        (Fate::Refused, _) | (Fate::Stays, None) => return Ok(0),
    };
    let entries = read(old, &from, &way, counter)?;
    let mut carried = 0;
    for (key, value) in entries.iter(&to) {
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
        LRU_HASH | RINGBUF | PERCPU_ARRAY | LRU_PERCPU_HASH => None,
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

/// All entries, as they are to be; of an array those that are not zero.
fn read(
    fd: &OwnedFd,
    map: &MapDescription,
    way: &Way,
    counter: &Arc<WriteCounter>,
) -> io::Result<Entries> {
    let mut entries = Entries::default();
    let Way::Each(keys, values) = way else {
        return Ok(entries);
    };
    raw(fd, map, counter)?.for_each(&mut |key, value| {
        if map.map_type != ARRAY || value.iter().any(|byte| *byte != 0) {
            keys.append(key, &mut entries.keys);
            values.append(value, &mut entries.values);
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

/// Pins the map that is about to lose its name. If there is an older one still, an earlier change was cut off: what is only
/// in that one is taken over now.
fn keep_old(
    pinned: &Pinned<'_>,
    made: &OwnedFd,
    wanted: &Wanted<'_>,
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
            carry_flows(&older, made, wanted.records, counter)
                .map_err(pin_error(&old, "carry flows over"))?;
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

#[cfg(test)]
mod tests;
