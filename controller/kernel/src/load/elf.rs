//! The object made ready for the kernel: constants set, maps put in, sections as maps; and its programs loaded.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use aya_obj::btf::BtfFeatures;
use aya_obj::{Function, Object};

use super::programs::Source;
use super::{LoadError, pin_error};
use crate::count::{Action, Target, WriteCounter};
use crate::sys::{self, MapDescription, ProgLoad, ProgTypes};

/// `BPF_F_RDONLY_PROG`.
const READ_ONLY_PROG: u32 = 1 << 7;

/// The object with its constants set and its maps put in.
pub(super) struct Prepared {
    object: Object,
    btf: OwnedFd,
    /// Held until the programs are loaded and hold them themselves.
    _constants: Vec<OwnedFd>,
}

impl Prepared {
    pub(super) fn new(source: &Source<'_>) -> Result<Self, LoadError> {
        let parse = |what: &'static str| {
            move |error: &dyn std::fmt::Display| LoadError::Parse {
                what,
                detail: error.to_string(),
            }
        };
        let mut object = Object::parse(source.object).map_err(|e| parse("parse")(&e))?;
        let globals: HashMap<&str, (&[u8], bool)> = source
            .constants
            .iter()
            .map(|(name, value)| (*name, (value.as_slice(), true)))
            .collect();
        object
            .patch_map_data(globals)
            .map_err(|e| parse("constants")(&e))?;
        let btf = load_btf(&mut object, source.counter)?;
        let mut constants = Vec::new();
        let mut descriptors = Vec::new();
        for (name, map) in &object.maps {
            let own = source.own_maps.contains(&name.as_str());
            let fd = if own || name.starts_with('.') {
                let fd = own_map(name, map, source.counter)?;
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

    pub(super) fn load(
        &self,
        name: &'static str,
        counter: &WriteCounter,
    ) -> Result<OwnedFd, LoadError> {
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
            types: Some(ProgTypes {
                btf: self.btf.as_fd(),
                func_info: &func_info,
                func_info_size: size(function.func_info_rec_size),
                line_info: &line_info,
                line_info_size: size(function.line_info_rec_size),
            }),
        };
        verify(&request, counter)
    }
}

fn verify(request: &ProgLoad<'_>, counter: &WriteCounter) -> Result<OwnedFd, LoadError> {
    explained(counter, |log| sys::prog_load(request, log)).map_err(|(source, log)| {
        LoadError::Verifier {
            name: request.name.to_owned(),
            source,
            log,
        }
    })
}

/// Loads; on a refusal once more with a log, which grows until it holds everything.
fn explained(
    counter: &WriteCounter,
    mut load: impl FnMut(&mut [u8]) -> io::Result<OwnedFd>,
) -> Result<OwnedFd, (io::Error, String)> {
    const LARGEST_LOG: usize = 64 << 20;
    // A signal that arrives while the verifier works makes it give up with EAGAIN.
    let mut patience = 5;
    let mut log = Vec::new();
    loop {
        let result = counter.result(Target::Programs, Action::Create, load(&mut log));
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
                return Err((error, String::from_utf8_lossy(&log[..end]).into_owned()));
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

/// Type information says which functions the verifier proves by themselves. Without it each is walked again for each
/// call, and no program loads within the verifier's limits.
fn load_btf(object: &mut Object, counter: &WriteCounter) -> Result<OwnedFd, LoadError> {
    // All of these came before Linux 6.1, the oldest kernel that is served.
    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let failed = |detail| LoadError::Parse {
        what: "type information",
        detail,
    };
    let bytes = object
        .fixup_and_sanitize_btf(&features)
        .map_err(|error| failed(error.to_string()))?
        .ok_or_else(|| failed("it has none".to_owned()))?
        .to_bytes();
    load_types(&bytes, counter)
}

/// Hands type information to the kernel.
pub(super) fn load_types(bytes: &[u8], counter: &WriteCounter) -> Result<OwnedFd, LoadError> {
    explained(counter, |log| sys::btf_load(bytes, log))
        .map_err(|(source, log)| LoadError::Types { source, log })
}

/// A map of this load's own. A data section is filled, constants are read-only for programs and then
/// for everybody.
fn own_map(
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
    #[test]
    fn type_information_that_the_kernel_refuses_is_an_error_with_its_reasons() {
        if !require(&[Need::Root]) {
            return;
        }
        let error = explained(&WriteCounter::default(), |log| sys::btf_load(&[0; 64], log))
            .map_err(|(source, log)| LoadError::Types { source, log })
            .expect_err("zeros are no BTF");
        assert!(error.to_string().contains("Invalid magic"), "{error}");
    }

    #[test]
    fn the_kernel_takes_the_type_information_as_it_is() {
        if !require(&[Need::Root]) {
            return;
        }
        let mut object = Object::parse(crate::object::OBJECT).expect("the embedded object");
        load_btf(&mut object, &WriteCounter::default()).expect("the embedded object's types");
    }
}
