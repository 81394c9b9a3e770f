//! Which programs are ours, and which build each is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use oxilium_model::node_state::{Hook, ProgramTag};

use crate::error::ObserveError;
use crate::load::{LoadedProgram, program_directories};
use crate::sys::{self, Kind};

/// What is known of a program.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub name: String,
    pub ours: bool,
    tag: ProgramTag,
}

/// Programs by id. Ids are not reused, so what was once found out stays true.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    known: HashMap<u32, Known>,
}

impl Catalog {
    /// Notes the loaded programs and those that are pinned below `directory` from earlier runs.
    pub(crate) fn new<'a>(
        loaded: impl Iterator<Item = &'a LoadedProgram>,
        directory: &Path,
    ) -> io::Result<Self> {
        let mut catalog = Self::default();
        for (tag, path) in program_directories(directory)? {
            for hook in Hook::ALL {
                let Ok(fd) = sys::obj_get(&path.join(hook.program())) else {
                    continue;
                };
                if let Ok(info) = sys::prog_info(fd.as_fd()) {
                    catalog.note(info.id, info.name, tag);
                }
            }
        }
        for program in loaded {
            let info = sys::prog_info(program.fd.as_fd())?;
            catalog.note(info.id, info.name, program.tag);
        }
        Ok(catalog)
    }

    fn note(&mut self, id: u32, name: String, tag: ProgramTag) {
        self.known.insert(
            id,
            Known {
                name,
                ours: true,
                tag,
            },
        );
    }

    /// The build of a program: its pin's tag; of one of ours without a pin the kernel's tag, which
    /// is no loaded one's.
    pub(crate) fn tag(&mut self, id: u32) -> Result<ProgramTag, ObserveError> {
        Ok(self.look(id)?.map(|known| known.tag).unwrap_or_default())
    }

    /// What is known of a program; none when it is gone.
    pub(crate) fn look(&mut self, id: u32) -> Result<Option<&Known>, ObserveError> {
        match self.known.entry(id) {
            Entry::Occupied(known) => Ok(Some(known.into_mut())),
            Entry::Vacant(place) => {
                let found = read(id).map_err(|source| ObserveError::Programs {
                    what: format!("program {id}"),
                    source,
                })?;
                Ok(found.map(|found| &*place.insert(found)))
            }
        }
    }
}

fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(id: u32) -> io::Result<Option<Known>> {
    let Some(fd) = gone(sys::fd_by_id(Kind::Program, id))? else {
        return Ok(None);
    };
    let info = sys::prog_info(fd.as_fd())?;
    let mut ours = false;
    if info.is_classifier() {
        for map in info.maps {
            if let Some(map) = gone(sys::fd_by_id(Kind::Map, map))? {
                ours |= sys::map_info(map.as_fd())?.name == oxilium_abi::map::NODE_WORDS;
            }
        }
    }
    Ok(Some(Known {
        name: info.name,
        ours,
        tag: ProgramTag(info.tag),
    }))
}
