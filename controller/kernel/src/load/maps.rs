//! Maps: those that are pinned taken over after a look at them, the others made and pinned.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya_obj::Object;
use aya_obj::maps::Map;

use super::migrate::{Fate, OLD, Pinned, Wanted, beside, carry_flows, fate, forget_begun, migrate};
use super::record::Records;
use super::types::Types;
use super::{LoadError, elf, layout, pin_error};
use crate::config::MapSizes;
use crate::count::{Action, Target, WriteCounter};
use crate::sys::{self, MapDescription};

/// The open maps, by name.
#[derive(Debug)]
pub(crate) struct Maps {
    current: BTreeMap<String, (OwnedFd, MapDescription)>,
    /// Maps of other sizes or layouts whose place these took, by name, with their pins: hooks may use them still.
    former: BTreeMap<String, (OwnedFd, PathBuf)>,
    records: BTreeMap<String, Records>,
}

impl Maps {
    /// Opens or makes every map that the agent or the object needs, pinned in `directory`.
    pub(crate) fn open(
        object: &Object,
        directory: &Path,
        sizes: &MapSizes,
        counter: &Arc<WriteCounter>,
    ) -> Result<Self, LoadError> {
        let mut wanted: BTreeMap<String, MapDescription> = layout::maps(sizes)
            .into_iter()
            .map(|(name, description)| (name.to_owned(), description))
            .collect();
        for (name, map) in shared_maps(object) {
            let defined = describe(name, map, sizes);
            if let Some(needed) = wanted.get(name) {
                agree(&defined, needed).map_err(|(field, found, expected)| LoadError::Object {
                    name: name.to_owned(),
                    field,
                    found,
                    expected,
                })?;
            }
            wanted.insert(name.to_owned(), defined);
        }
        let (mut maps, mut former) = (BTreeMap::new(), BTreeMap::new());
        let mut maker = Maker {
            records: layout::records(),
            types: None,
            counter,
        };
        for (name, description) in wanted {
            let path = directory.join(&name);
            forget_begun(&path, counter)?;
            let opened = maker.open_or_make(&path, &description)?;
            let old = beside(&path, OLD);
            match sys::obj_get(&old) {
                Ok(fd) => drop(former.insert(name.clone(), (fd, old))),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(pin_error(&old, "open the pinned map")(error)),
            }
            maps.insert(name, opened);
        }
        Ok(Self {
            current: maps,
            former,
            records: maker.records,
        })
    }

    /// There are maps of other sizes or layouts whose place these took.
    pub(crate) fn has_former(&self) -> bool {
        !self.former.is_empty()
    }

    /// Carries flows over that were noted in maps whose place these took; how many.
    pub(crate) fn carry_flows(&self, counter: &Arc<WriteCounter>) -> io::Result<usize> {
        let mut carried = 0;
        for (name, (old, _)) in &self.former {
            if let Some((new, _)) = self.current.get(name) {
                carried += carry_flows(old, new, self.records.get(name), counter)?;
            }
        }
        Ok(carried)
    }

    /// Removes the pins of maps whose place these took; how many.
    pub(crate) fn forget_former(&mut self, counter: &WriteCounter) -> io::Result<usize> {
        let count = self.former.len();
        while let Some((name, (fd, path))) = self.former.pop_first() {
            let removed = match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            if let Err(error) = counter.result(Target::Maps, Action::File, removed) {
                self.former.insert(name, (fd, path));
                return Err(error);
            }
        }
        Ok(count)
    }

    /// A map by its name.
    pub(crate) fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.current.get(name).map(|(fd, _)| fd.as_fd())
    }

    /// A second descriptor of a map.
    pub(crate) fn duplicate(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.current
            .get(name)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
            .and_then(|(fd, _)| fd.try_clone())
            .map_err(pin_error(Path::new(name), "duplicate the map's descriptor"))
    }

    /// Name and description of each map.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>, &MapDescription)> {
        self.current
            .iter()
            .map(|(name, (fd, description))| (name.as_str(), fd.as_fd(), description))
    }

    /// Ids of all maps.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.current.values().map(|(_, description)| description.id)
    }
}

/// The object's maps that programs share and that are pinned; its data sections belong to each load.
fn shared_maps(object: &Object) -> impl Iterator<Item = (&str, &Map)> {
    object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(name, map)| (name.as_str(), map))
}

fn describe(name: &str, map: &Map, sizes: &MapSizes) -> MapDescription {
    MapDescription {
        id: 0,
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: sizes.of(name).unwrap_or(map.max_entries()),
        flags: map.map_flags(),
        name: name.to_owned(),
    }
}

/// Type and sizes are the same; if not: which, what is, and what should be.
fn agree(
    found: &MapDescription,
    expected: &MapDescription,
) -> Result<(), (&'static str, u32, u32)> {
    let fields = [
        ("type", found.map_type, expected.map_type),
        ("key size", found.key_size, expected.key_size),
        ("value size", found.value_size, expected.value_size),
        ("max_entries", found.max_entries, expected.max_entries),
    ];
    fields
        .into_iter()
        .find(|(_, found, expected)| found != expected)
        .map_or(Ok(()), Err)
}

/// Takes over, moves or makes one map after the other.
struct Maker<'a> {
    records: BTreeMap<String, Records>,
    /// The records in the kernel, once a map is made that has them.
    types: Option<Types>,
    counter: &'a Arc<WriteCounter>,
}

impl Maker<'_> {
    /// Has the kernel know the types of the map of this name, if it has some.
    fn with_types(&mut self, name: &str) -> Result<(), LoadError> {
        if self.types.is_none() && self.records.contains_key(name) {
            let types = Types::load(&self.records, |bytes| elf::load_types(bytes, self.counter))?;
            self.types = Some(types);
        }
        Ok(())
    }

    fn open_or_make(
        &mut self,
        path: &Path,
        wanted: &MapDescription,
    ) -> Result<(OwnedFd, MapDescription), LoadError> {
        match sys::obj_get(path) {
            Ok(fd) => self.take_over(path, fd, wanted),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.make(path, wanted),
            Err(error) => Err(pin_error(path, "open the pinned map")(error)),
        }
    }

    fn take_over(
        &mut self,
        path: &Path,
        fd: OwnedFd,
        description: &MapDescription,
    ) -> Result<(OwnedFd, MapDescription), LoadError> {
        let found =
            sys::map_info(fd.as_fd()).map_err(pin_error(path, "read what the pin leads to"))?;
        let name = &description.name;
        let wanted = Wanted {
            description,
            records: self.records.get(name),
        };
        let fate = fate(&fd, &found, &wanted).map_err(pin_error(path, "read the map's types"))?;
        match fate {
            Fate::Stays => Ok((fd, found)),
            Fate::Moves(way) => {
                self.with_types(name)?;
                let wanted = Wanted {
                    description,
                    records: self.records.get(name),
                };
                let types = self.types.as_ref().and_then(|types| types.of(name));
                let pinned = Pinned { path, fd, found };
                migrate(&pinned, &wanted, &way, types.as_ref(), self.counter)
            }
            Fate::Refused => {
                let flags = ("flags", found.flags, description.flags);
                let (field, found, expected) = agree(&found, description)
                    .err()
                    .or((flags.1 != flags.2).then_some(flags))
                    .unwrap_or(("fields", found.value_size, description.value_size));
                Err(LoadError::Layout {
                    path: path.to_owned(),
                    field,
                    found,
                    expected,
                })
            }
        }
    }

    fn make(
        &mut self,
        path: &Path,
        wanted: &MapDescription,
    ) -> Result<(OwnedFd, MapDescription), LoadError> {
        let counter = self.counter;
        self.with_types(&wanted.name)?;
        let types = self.types.as_ref().and_then(|types| types.of(&wanted.name));
        let made = counter
            .result(
                Target::Maps,
                Action::Create,
                sys::map_create(wanted, types.as_ref()),
            )
            .map_err(pin_error(path, "make the map"))?;
        counter
            .result(Target::Maps, Action::Pin, sys::obj_pin(made.as_fd(), path))
            .map_err(pin_error(path, "pin the map"))?;
        let description =
            sys::map_info(made.as_fd()).map_err(pin_error(path, "read what was made"))?;
        Ok((made, description))
    }
}
