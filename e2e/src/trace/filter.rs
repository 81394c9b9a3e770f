//! Which system calls a traced process stops at: those by which it writes or names a descriptor.

use std::{collections::BTreeMap, env::consts::ARCH};

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::bpf::READS;

/// Stops at each of these, whatever its arguments.
const ALWAYS: &[i64] = &[
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_bind,
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchmod,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmodat,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
];

/// Calls without a directory, which newer architectures do not have any more.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_dup2,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// From here on this thread, and what it executes, stops for its tracer at each such call.
///
/// # Errors
/// If the kernel does not take the filter.
pub fn stop_at_writes() -> Result<()> {
    seccompiler::apply_filter(&program()?).context("seccomp")
}

fn program() -> Result<BpfProgram> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = [ALWAYS, OLDER]
        .concat()
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    let is = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let netlink = SeccompRule::new(vec![is(0, libc::AF_NETLINK)?])?;
    calls.insert(libc::SYS_socket, vec![netlink]);
    let copies = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]
        .into_iter()
        .map(|command| Ok(SeccompRule::new(vec![is(1, command)?])?))
        .collect::<Result<_>>()?;
    calls.insert(libc::SYS_fcntl, copies);
    // Of bpf(2) all that is not known to read.
    let others = READS
        .iter()
        .map(|command| {
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *command)
        })
        .collect::<Result<_, _>>()?;
    calls.insert(libc::SYS_bpf, vec![SeccompRule::new(others)?]);
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Trace(0),
        ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_a_filter_of_this_size() {
        // BPF_MAXINSNS
        let length = program().map_or(0, |program| program.len());
        assert!((1..4096).contains(&length), "{length}");
    }
}
