//! tcx links and queries of tcx hooks.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::attr;
use super::map::{address_mut, raw};
use super::{Command, bpf, bpf_fd};

/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_F_REPLACE`.
const REPLACE: u32 = 1 << 2;
/// `BPF_F_BEFORE`.
const BEFORE: u32 = 1 << 3;

/// A tcx hook, as `enum bpf_attach_type` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum TcxHook {
    Ingress = 46,
    Egress = 47,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkDescription {
    pub id: u32,
    pub prog_id: u32,
    pub is_tcx: bool,
    /// The interface; 0 once it is gone or the link was detached.
    pub ifindex: u32,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// Attaches a program before all others of a tcx hook. The link goes with its last reference.
pub(crate) fn link_create_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: TcxHook,
) -> io::Result<OwnedFd> {
    let mut attribute = attr::LinkCreateTcx {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type: hook as u32,
        flags: BEFORE,
        ..Default::default()
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::LinkCreate, &mut attribute) }
}

/// Puts another program behind a link, atomically; EPERM if it does not hold `old` (any more).
pub(crate) fn link_update(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attribute = attr::LinkUpdate {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: if old.is_some() { REPLACE } else { 0 },
        old_prog_fd: old.map_or(0, raw),
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf(Command::LinkUpdate, &mut attribute)? };
    Ok(())
}

/// Takes a link's program off its hook.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = attr::LinkDetach { link_fd: raw(link) };
    // SAFETY: the attribute holds no address.
    unsafe { bpf(Command::LinkDetach, &mut attribute)? };
    Ok(())
}

/// Takes a program off a tcx hook that was put there without a link.
pub(crate) fn prog_detach_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: TcxHook,
) -> io::Result<()> {
    let mut attribute = attr::ProgDetach {
        target_ifindex: ifindex,
        attach_bpf_fd: raw(program),
        attach_type: hook as u32,
        ..Default::default()
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf(Command::ProgDetach, &mut attribute)? };
    Ok(())
}

/// Reads what the kernel says of a link.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkDescription> {
    let mut info = attr::LinkInfo::default();
    let mut attribute = attr::ObjectInfo {
        bpf_fd: raw(link),
        info_len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: address_mut(&mut info),
    };
    // SAFETY: `info` outlives the call and is as long as `info_len` says. For kinds of links that
    // take an address inside it, all addresses and their lengths are zero.
    unsafe { bpf(Command::ObjInfo, &mut attribute)? };
    let is_tcx = info.link_type == LINK_TYPE_TCX;
    Ok(LinkDescription {
        id: info.id,
        prog_id: info.prog_id,
        is_tcx,
        ifindex: if is_tcx { info.ifindex } else { 0 },
        attach_type: if is_tcx { info.attach_type } else { 0 },
    })
}

/// The programs on a tcx hook in their order, as (program id, link id or 0).
pub(crate) fn prog_query_tcx(ifindex: u32, hook: TcxHook) -> io::Result<Vec<(u32, u32)>> {
    // The kernel allows 64 programs on a hook (BPF_MPROG_MAX).
    let mut programs = [0_u32; 64];
    let mut links = [0_u32; 64];
    let mut attribute = attr::ProgQuery {
        target_ifindex: ifindex,
        attach_type: hook as u32,
        prog_ids: address_mut(&mut programs),
        count: 64,
        link_ids: address_mut(&mut links),
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `count` entries of both arrays, which have that many.
    unsafe { bpf(Command::ProgQuery, &mut attribute)? };
    let count = attribute.count as usize;
    Ok(programs.into_iter().zip(links).take(count).collect())
}
