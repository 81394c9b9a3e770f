//! Programs and their type information.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::attr;
use super::map::{address, address_mut, name_field, name_of, raw};
use super::{Command, bpf, bpf_fd};

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

/// A classifier to be loaded.
pub(crate) struct ProgLoad<'a> {
    pub name: &'a str,
    /// Instructions of 8 bytes.
    pub instructions: &'a [u8],
    pub license: &'a CStr,
    pub types: Option<ProgTypes<'a>>,
}

/// Type information of a program.
pub(crate) struct ProgTypes<'a> {
    pub btf: BorrowedFd<'a>,
    pub func_info: &'a [u8],
    pub func_info_size: u32,
    pub line_info: &'a [u8],
    pub line_info_size: u32,
}

/// Loads a classifier. With an empty log buffer the verifier does not explain itself; one that is too
/// small gives ENOSPC.
pub(crate) fn prog_load(program: &ProgLoad<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let count = |bytes: usize, size: u32| {
        u32::try_from(bytes / (size.max(1) as usize)).map_err(io::Error::other)
    };
    let mut attribute = attr::ProgLoad {
        prog_type: SCHED_CLS,
        insn_cnt: count(program.instructions.len(), 8)?,
        insns: address(program.instructions),
        license: address(program.license.to_bytes_with_nul()),
        prog_name: name_field(program.name),
        ..Default::default()
    };
    if !log.is_empty() {
        attribute.log_level = 1;
        attribute.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attribute.log_buf = address_mut(log);
    }
    if let Some(types) = &program.types {
        attribute.prog_btf_fd = raw(types.btf);
        if types.func_info_size > 0 {
            attribute.func_info = address(types.func_info);
            attribute.func_info_rec_size = types.func_info_size;
            attribute.func_info_cnt = count(types.func_info.len(), types.func_info_size)?;
        }
        if types.line_info_size > 0 {
            attribute.line_info = address(types.line_info);
            attribute.line_info_rec_size = types.line_info_size;
            attribute.line_info_cnt = count(types.line_info.len(), types.line_info_size)?;
        }
    }
    // SAFETY: every address is of a slice that outlives the call, with the length that stands beside
    // it; the license ends with a zero; only the log is written.
    unsafe { bpf_fd(Command::ProgLoad, &mut attribute) }
}

/// Loads type information. The log is as for [`prog_load`].
pub(crate) fn btf_load(btf: &[u8], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attribute = attr::BtfLoad {
        btf: address(btf),
        btf_size: u32::try_from(btf.len()).map_err(io::Error::other)?,
        ..Default::default()
    };
    if !log.is_empty() {
        attribute.btf_log_level = 1;
        attribute.btf_log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attribute.btf_log_buf = address_mut(log);
    }
    // SAFETY: the kernel reads `btf_size` bytes of a slice, and writes a log of the length that stands beside it into
    // another; both outlive the call.
    unsafe { bpf_fd(Command::BtfLoad, &mut attribute) }
}

/// Type information as it was loaded.
pub(crate) fn btf_bytes(btf: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut info = attr::BtfInfo {
            btf: address_mut(bytes.as_mut_slice()),
            btf_size: u32::try_from(bytes.len()).map_err(io::Error::other)?,
            ..Default::default()
        };
        let mut attribute = attr::ObjectInfo {
            bpf_fd: raw(btf),
            info_len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
            info: address_mut(&mut info),
        };
        // SAFETY: `info` outlives the call and is as long as `info_len` says; the kernel writes at most `btf_size` bytes
        // to a buffer of that length.
        unsafe { bpf(Command::ObjInfo, &mut attribute)? };
        let length = info.btf_size as usize;
        if length <= bytes.len() {
            bytes.truncate(length);
            return Ok(bytes);
        }
        // The kernel has said how long it is.
        bytes = vec![0; length];
    }
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgDescription {
    pub id: u32,
    pub prog_type: u32,
    pub tag: [u8; 8],
    pub name: String,
    /// Ids of the maps that it uses.
    pub maps: Vec<u32>,
}

impl ProgDescription {
    /// It is a classifier, as ours are.
    pub(crate) const fn is_classifier(&self) -> bool {
        self.prog_type == SCHED_CLS
    }
}

/// Reads what the kernel says of a program.
pub(crate) fn prog_info(fd: BorrowedFd<'_>) -> io::Result<ProgDescription> {
    let mut maps = vec![0_u32; 64];
    loop {
        let mut info = attr::ProgInfo {
            nr_map_ids: u32::try_from(maps.len()).map_err(io::Error::other)?,
            map_ids: address_mut(maps.as_mut_slice()),
            ..Default::default()
        };
        let mut attribute = attr::ObjectInfo {
            bpf_fd: raw(fd),
            info_len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
            info: address_mut(&mut info),
        };
        // SAFETY: `info` outlives the call and is as long as `info_len` says; of `maps` the kernel
        // writes at most the `nr_map_ids` entries that it has; the other addresses are zero and
        // the lengths beside them too.
        unsafe { bpf(Command::ObjInfo, &mut attribute)? };
        let used = info.nr_map_ids as usize;
        if used > maps.len() {
            maps.resize(used, 0);
            continue;
        }
        maps.truncate(used);
        return Ok(ProgDescription {
            id: info.id,
            prog_type: info.prog_type,
            tag: info.tag,
            name: name_of(&info.name),
            maps,
        });
    }
}

/// Runs a classifier once on a frame that is on the interface `ifindex` of this thread's network
/// namespace, having come in through `ingress_ifindex` (0 for none); gives what the program answers.
pub(crate) fn prog_test_run(
    fd: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    ingress_ifindex: u32,
) -> io::Result<u32> {
    let mut context = attr::SkBuff {
        ingress_ifindex,
        ifindex,
        ..Default::default()
    };
    let mut attribute = attr::ProgTestRun {
        prog_fd: raw(fd),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: address(frame),
        repeat: 1,
        ctx_size_in: u32::try_from(size_of_val(&context)).map_err(io::Error::other)?,
        ctx_in: address_mut(&mut context),
        ..Default::default()
    };
    // SAFETY: frame and context outlive the call and are as long as said; there is no place for output,
    // so nothing is written but the attribute itself.
    unsafe { bpf(Command::ProgTestRun, &mut attribute)? };
    Ok(attribute.retval)
}
