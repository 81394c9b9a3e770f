//! Pins, and objects by id.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::attr;
use super::map::{address, raw};
use super::{Command, bpf, bpf_fd};

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens a pinned object.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attribute = attr::Object {
        pathname: address(path.as_bytes_with_nul()),
        ..Default::default()
    };
    // SAFETY: the path is a string that ends with a zero and outlives the call.
    unsafe { bpf_fd(Command::ObjGet, &mut attribute) }
}

/// Pins an object. EEXIST if the path is taken.
pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attribute = attr::Object {
        pathname: address(path.as_bytes_with_nul()),
        bpf_fd: raw(fd),
        ..Default::default()
    };
    // SAFETY: as for `obj_get`.
    unsafe { bpf(Command::ObjPin, &mut attribute)? };
    Ok(())
}

/// Kind of an object that has an id.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Program,
    Map,
    Link,
    Btf,
}

/// Opens the object of an id; ENOENT if it is gone.
pub(crate) fn fd_by_id(kind: Kind, id: u32) -> io::Result<OwnedFd> {
    let command = match kind {
        Kind::Program => Command::ProgFdById,
        Kind::Map => Command::MapFdById,
        Kind::Link => Command::LinkFdById,
        Kind::Btf => Command::BtfFdById,
    };
    let mut attribute = attr::ById {
        id,
        ..Default::default()
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(command, &mut attribute) }
}
