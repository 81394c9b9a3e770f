//! System calls, thinly wrapped: the only unsafe code of the crate. Nothing here counts, retries or
//! interprets.
#![expect(
    unsafe_code,
    reason = "bpf(2), membarrier(2), options of iptables' and waiting for descriptors have no safe wrapper for what is needed"
)]

mod attr;
mod link;
mod map;
mod object;
mod prog;
mod watch;
pub(crate) mod xtables;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use zerocopy::IntoBytes;

pub(crate) use link::{
    LinkDescription, TcxHook, link_create_tcx, link_detach, link_info, link_update,
    prog_detach_tcx, prog_query_tcx,
};
pub(crate) use map::{
    Batch, BatchRead, MapDescription, MapTypes, map_create, map_delete, map_delete_batch,
    map_freeze, map_info, map_lookup, map_lookup_batch, map_next_key, map_type_ids, map_update,
    map_update_batch,
};
pub(crate) use object::{Kind, fd_by_id, obj_get, obj_pin};
pub(crate) use prog::{
    ProgLoad, ProgTypes, btf_bytes, btf_load, prog_info, prog_load, prog_test_run,
};
pub(crate) use watch::{watch_ring, watch_socket};

/// Commands of bpf(2), as linux/bpf.h numbers them.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgDetach = 9,
    ProgTestRun = 10,
    ProgFdById = 13,
    MapFdById = 14,
    ObjInfo = 15,
    ProgQuery = 16,
    BtfLoad = 18,
    BtfFdById = 19,
    MapFreeze = 22,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkFdById = 30,
    LinkDetach = 34,
}

/// Calls bpf(2). EINTR and EAGAIN of a program load are left to the caller.
///
/// # Safety
/// `T` must be the attribute layout of `command`, and each address in it must be valid for what the
/// kernel reads or writes there.
unsafe fn bpf<T: IntoBytes>(command: Command, attribute: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute is a live, exclusively borrowed object of the size that is passed; the
    // kernel takes a shorter attribute than its own as if the rest were zero. What it points to is
    // the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// As [`bpf`], for commands that give a file descriptor.
///
/// # Safety
/// As for [`bpf`], and the command must be one that returns a new descriptor.
unsafe fn bpf_fd<T: IntoBytes>(command: Command, attribute: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: passed on to the caller.
    let fd = unsafe { bpf(command, attribute)? };
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec); nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until every thread that is running now, kernel code included, has passed through the
/// scheduler: no BPF program that began before the call runs after it.
pub(crate) fn membarrier_global() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes no addresses.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
