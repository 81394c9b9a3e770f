//! The rules of legacy iptables, which no netlink tells of.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`: `struct ipt_getinfo`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`: `struct ipt_get_entries`.
const GET_ENTRIES: libc::c_int = 65;
/// Length of `struct ipt_getinfo`: the table's name (32), valid hooks, five entries, five underflows, entries, size.
const INFO: usize = 32 + 4 + 20 + 20 + 4 + 4;
/// Where its `size` is.
const SIZE_AT: usize = INFO - 4;
/// Length of `struct ipt_get_entries` before the entries: name, size, padding to eight.
const ENTRIES_HEADER: usize = 40;
/// While rules change the size may be another one in between.
const TRIES: u32 = 3;

/// Does the nat table of a family (`AF_INET`, `AF_INET6`) have a chain of this name, its final zero included? A table
/// that nobody has made is not made by asking.
pub(crate) fn nat_has_chain(family: u8, chain: &[u8]) -> io::Result<bool> {
    let (names, domain, level) = if i32::from(family) == libc::AF_INET {
        (
            "/proc/net/ip_tables_names",
            AddressFamily::Inet,
            libc::IPPROTO_IP,
        )
    } else {
        (
            "/proc/net/ip6_tables_names",
            AddressFamily::Inet6,
            libc::IPPROTO_IPV6,
        )
    };
    match fs::read_to_string(names) {
        Ok(text) if text.lines().any(|name| name == "nat") => {}
        Ok(_) => return Ok(false),
        // The kernel has no legacy iptables.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let any = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    for _ in 0..TRIES {
        let mut info = [0; INFO];
        info[..3].copy_from_slice(b"nat");
        get(&any, level, GET_INFO, &mut info)?;
        let size: [u8; 4] = info[SIZE_AT..]
            .try_into()
            .map_err(|_| io::Error::other("no size of the nat table"))?;
        let mut entries = vec![0; ENTRIES_HEADER + u32::from_ne_bytes(size) as usize];
        entries[..3].copy_from_slice(b"nat");
        entries[32..36].copy_from_slice(&size);
        match get(&any, level, GET_ENTRIES, &mut entries) {
            // Every chain begins with an entry that has its name.
            Ok(()) => return Ok(entries.windows(chain.len()).any(|window| window == chain)),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the nat table changed while it was read"))
}

fn get(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes `length` bytes of `value` at most, which has as many, and `length` itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
