//! Programs: taken over when pinned under the same tag, else loaded and pinned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya_obj::btf::BtfFeatures;
use aya_obj::{Function, Object};
use oxilium_model::node_state::{Hook, ProgramTag};

use super::{LoadError, Maps, pin_error};
use crate::count::{Action, Target, WriteCounter};
use crate::sys::{self, MapDescription, ProgLoad, ProgTypes};

/// `BPF_F_RDONLY_PROG`.
const READ_ONLY_PROG: u32 = 1 << 7;

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
    let object = Prepared::new(source)?;
    make_directory(&directory, source.counter)?;
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
    Prepared::new(source)?.load(hook.program(), source.counter)
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

/// The object with its constants set and its maps put in.
struct Prepared {
    object: Object,
    btf: Option<OwnedFd>,
    /// Held until the programs are loaded and hold them themselves.
    _constants: Vec<OwnedFd>,
}

impl Prepared {
    fn new(source: &Source<'_>) -> Result<Self, LoadError> {
        let parse = |what: &'static str| {
            move |error: &dyn std::fmt::Display| LoadError::Parse {
                what,
                detail: error.to_string(),
            }
        };
        let mut object = Object::parse(source.object).map_err(|e| parse("parse")(&e))?;
        // An object without any constant has no use for ours; one with some must have all.
        let has_constants = object.maps.keys().any(|name| name.starts_with(".rodata"));
        let globals: HashMap<&str, (&[u8], bool)> = source
            .constants
            .iter()
            .map(|(name, value)| (*name, (value.as_slice(), has_constants)))
            .collect();
        object
            .patch_map_data(globals)
            .map_err(|e| parse("constants")(&e))?;
        let btf = load_btf(&mut object, source.counter)?;
        let mut constants = Vec::new();
        let mut descriptors = Vec::new();
        for (name, map) in &object.maps {
            let fd = if name.starts_with('.') {
                let fd = data_section(name, map, source.counter)?;
                let raw = fd.as_raw_fd();
                constants.push(fd);
                raw
            } else {
                source
                    .maps
                    .get(name)
                    .ok_or_else(|| LoadError::Parse {
                        what: "maps",
                        detail: format!("map {name} was not opened"),
                    })?
                    .as_raw_fd()
            };
            descriptors.push((name.clone(), fd, map.clone()));
        }
        let sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        object
            .relocate_maps(
                descriptors
                    .iter()
                    .map(|(name, fd, map)| (name.as_str(), *fd, map)),
                &sections,
            )
            .map_err(|e| parse("map relocation")(&e))?;
        object
            .relocate_calls(&sections)
            .map_err(|e| parse("call relocation")(&e))?;
        Ok(Self {
            object,
            btf,
            _constants: constants,
        })
    }

    fn load(&self, name: &'static str, counter: &WriteCounter) -> Result<OwnedFd, LoadError> {
        let program = self
            .object
            .programs
            .get(name)
            .ok_or(LoadError::MissingProgram { name })?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or(LoadError::MissingProgram { name })?;
        let instructions = instruction_bytes(function);
        let func_info = function.func_info.func_info_bytes();
        let line_info = function.line_info.line_info_bytes();
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let request = ProgLoad {
            name,
            instructions: &instructions,
            license: &program.license,
            types: self.btf.as_ref().map(|btf| ProgTypes {
                btf: btf.as_fd(),
                func_info: &func_info,
                func_info_size: size(function.func_info_rec_size),
                line_info: &line_info,
                line_info_size: size(function.line_info_rec_size),
            }),
        };
        verify(&request, counter)
    }
}

/// Loads; on a refusal once more with a log, which grows until it holds everything.
fn verify(request: &ProgLoad<'_>, counter: &WriteCounter) -> Result<OwnedFd, LoadError> {
    const LARGEST_LOG: usize = 64 << 20;
    // A signal that arrives while the verifier works makes it give up with EAGAIN.
    let mut patience = 5;
    let mut log = Vec::new();
    loop {
        let result = counter.result(
            Target::Programs,
            Action::Create,
            sys::prog_load(request, &mut log),
        );
        let error = match result {
            Ok(fd) => return Ok(fd),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN) if patience > 0 => patience -= 1,
            Some(libc::ENOSPC) if !log.is_empty() && log.len() < LARGEST_LOG => {
                log = vec![0; log.len() * 8];
            }
            _ if log.is_empty() => log = vec![0; 1 << 20],
            _ => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                return Err(LoadError::Verifier {
                    name: request.name.to_owned(),
                    source: error,
                    log: String::from_utf8_lossy(&log[..end]).into_owned(),
                });
            }
        }
    }
}

/// Instructions as the kernel reads them.
fn instruction_bytes(function: &Function) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(function.instructions.len() * 8);
    for instruction in &function.instructions {
        bytes.push(instruction.code);
        bytes.push((instruction.dst_reg() & 0xF) | (instruction.src_reg() << 4));
        bytes.extend_from_slice(&instruction.off.to_ne_bytes());
        bytes.extend_from_slice(&instruction.imm.to_ne_bytes());
    }
    bytes
}

/// Type information makes map dumps readable and loops with callbacks possible; a program without
/// these loads without it too.
fn load_btf(object: &mut Object, counter: &WriteCounter) -> Result<Option<OwnedFd>, LoadError> {
    // All of these came before Linux 6.1, the oldest kernel that is served.
    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let Some(btf) = object
        .fixup_and_sanitize_btf(&features)
        .map_err(|error| LoadError::Parse {
            what: "type information",
            detail: error.to_string(),
        })?
    else {
        return Ok(None);
    };
    let bytes = btf.to_bytes();
    match counter.result(Target::Programs, Action::Create, sys::btf_load(&bytes)) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => {
            tracing::warn!(%error, "the kernel refuses the object's type information; going on without it");
            Ok(None)
        }
    }
}

/// A data section as a map of its own, read-only for programs and then for everybody.
fn data_section(
    name: &str,
    map: &aya_obj::maps::Map,
    counter: &WriteCounter,
) -> Result<OwnedFd, LoadError> {
    let failed = |action| pin_error(Path::new(name), action);
    let constant = name.starts_with(".rodata");
    let description = MapDescription {
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: map.map_flags() | if constant { READ_ONLY_PROG } else { 0 },
        name: name.replace('.', "ox_"),
        id: 0,
    };
    let fd = counter
        .result(
            Target::Maps,
            Action::Create,
            sys::map_create(&description, None),
        )
        .map_err(failed("make the map"))?;
    if !map.data().is_empty() {
        let result = sys::map_update(fd.as_fd(), &0_u32.to_ne_bytes(), map.data(), 0);
        counter
            .result(Target::Constants, Action::Update, result)
            .map_err(failed("fill the map"))?;
    }
    if constant {
        counter
            .result(
                Target::Constants,
                Action::Freeze,
                sys::map_freeze(fd.as_fd()),
            )
            .map_err(failed("freeze the map"))?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxilium_e2e::require::{Need, require};

    #[test]
    fn a_program_that_the_verifier_refuses_is_refused_with_its_reasons() {
        if !require(&[Need::Root]) {
            return;
        }
        let request = ProgLoad {
            name: "bad",
            // r0 is never set.
            instructions: &[0x95, 0, 0, 0, 0, 0, 0, 0],
            license: c"GPL",
            types: None,
        };
        let error = verify(&request, &WriteCounter::default()).expect_err("no return value");
        let LoadError::Verifier { log, .. } = &error else {
            unreachable!("{error}")
        };
        assert!(log.contains("R0 !read_ok"), "{log}");
        assert!(error.to_string().contains("R0 !read_ok"), "{error}");
    }
}
