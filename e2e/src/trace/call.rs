//! Which system calls write, and to what.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, libc, sys::ptrace, unistd::Pid};

use super::{Domain, Site, netlink::Netlink, site::object_of};

/// A system call as it stands in the registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub number: i64,
    pub args: [u64; 6],
}

/// The call that a thread is about to make, in the stop that the filter made.
#[cfg(target_arch = "x86_64")]
pub(super) fn entered(thread: Pid) -> nix::Result<Call> {
    let regs = ptrace::getregs(thread)?;
    Ok(Call {
        number: regs.orig_rax.cast_signed(),
        args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
    })
}

/// Has the call that a thread is about to make not happen, and return this error.
#[cfg(target_arch = "x86_64")]
pub(super) fn refuse(thread: Pid, errno: Errno) -> nix::Result<()> {
    let mut regs = ptrace::getregs(thread)?;
    regs.orig_rax = u64::MAX;
    regs.rax = (-i64::from(errno as i32)).cast_unsigned();
    ptrace::setregs(thread, regs)
}

#[cfg(target_arch = "x86_64")]
pub(super) fn returned(thread: Pid) -> nix::Result<i64> {
    Ok(ptrace::getregs(thread)?.rax.cast_signed())
}

/// The call that a thread is about to make, in the stop that the filter made.
#[cfg(target_arch = "aarch64")]
pub(super) fn entered(thread: Pid) -> nix::Result<Call> {
    let regs = ptrace::getregs(thread)?.regs;
    Ok(Call {
        number: regs[8].cast_signed(),
        args: [regs[0], regs[1], regs[2], regs[3], regs[4], regs[5]],
    })
}

/// The number of a call is in a register set that is not reached from here.
#[cfg(target_arch = "aarch64")]
pub(super) fn refuse(_thread: Pid, _errno: Errno) -> nix::Result<()> {
    Err(Errno::EOPNOTSUPP)
}

#[cfg(target_arch = "aarch64")]
pub(super) fn returned(thread: Pid) -> nix::Result<i64> {
    Ok(ptrace::getregs(thread)?.regs[0].cast_signed())
}

/// What a descriptor of the process stands for.
#[derive(Clone, Debug)]
pub(super) enum Named {
    Map(String),
    Netlink(Netlink),
    File(PathBuf),
}

/// What a call is to the trace.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    /// It writes.
    pub site: Option<Site>,
    /// The descriptor that it returns stands for this.
    pub names: Option<Named>,
}

impl Meaning {
    pub(super) fn writes(domain: Domain, call: &str, object: String) -> Self {
        Self {
            site: Some(Site {
                domain,
                call: call.to_owned(),
                object,
            }),
            names: None,
        }
    }

    pub(super) fn names(named: Named) -> Self {
        Self {
            site: None,
            names: Some(named),
        }
    }
}

/// The memory and the descriptors of a process, as far as its calls told of them.
#[derive(Debug)]
pub(super) struct Process {
    id: Pid,
    memory: Option<File>,
    pub(super) descriptors: HashMap<i64, Named>,
}

impl Process {
    pub(super) fn new(id: Pid) -> Self {
        Self {
            id,
            memory: None,
            descriptors: HashMap::new(),
        }
    }

    /// Its memory is another one now.
    pub(super) fn executed(&mut self) {
        self.memory = None;
    }

    pub(super) fn name(&mut self, descriptor: i64, named: Named) {
        self.descriptors.insert(descriptor, named);
    }

    pub(super) fn bytes(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(File::open(format!("/proc/{}/mem", self.id))?),
        };
        let mut bytes = vec![0; length];
        // What is asked for may reach beyond the last page.
        let count = memory.read_at(&mut bytes, address)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// A C string.
    pub(super) fn text(&mut self, address: u64) -> io::Result<String> {
        let mut bytes = self.bytes(address, 4096)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.unwrap_or(bytes.len()));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn path(&mut self, directory: u64, address: u64) -> io::Result<PathBuf> {
        let path = PathBuf::from(self.text(address)?);
        match self.descriptors.get(&descriptor(directory)) {
            Some(Named::File(base)) if path.is_relative() => Ok(base.join(path)),
            _ => Ok(path),
        }
    }

    /// What `call` is, as it begins.
    pub(super) fn meaning(&mut self, call: &Call) -> io::Result<Meaning> {
        let [a, b, c, d, ..] = call.args;
        Ok(match call.number {
            libc::SYS_bpf => self.bpf(a, b)?,
            libc::SYS_socket if descriptor(a) == i64::from(libc::AF_NETLINK) => {
                Meaning::names(Named::Netlink(Netlink::speaking(c)))
            }
            libc::SYS_sendto => match self.netlink(a) {
                Some(netlink) => self.request(netlink, b)?,
                None => Meaning::default(),
            },
            libc::SYS_sendmsg => match self.netlink(a) {
                // struct msghdr: the iovec's address stands at 16; its base is its first word.
                Some(netlink) => {
                    let vector = word(&self.bytes(b, 24)?, 16);
                    let base = word(&self.bytes(vector, 8)?, 0);
                    self.request(netlink, base)?
                }
                None => Meaning::default(),
            },
            libc::SYS_bind => self.bind(b)?,
            libc::SYS_openat => {
                let path = self.path(a, b)?;
                Self::open(path, c)
            }
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_ftruncate => {
                self.to_descriptor(a, "write")
            }
            libc::SYS_fsync | libc::SYS_fdatasync => self.to_descriptor(a, "fsync"),
            libc::SYS_fchmod => self.to_descriptor(a, "fchmod"),
            libc::SYS_mkdirat => file("mkdir", &self.path(a, b)?),
            libc::SYS_unlinkat => file("unlink", &self.path(a, b)?),
            libc::SYS_renameat2 | libc::SYS_renameat => file("rename", &self.path(c, d)?),
            libc::SYS_linkat => file("link", &self.path(c, d)?),
            libc::SYS_symlinkat => file("symlink", &self.path(b, c)?),
            libc::SYS_fchmodat => file("chmod", &self.path(a, b)?),
            libc::SYS_mount => file("mount", Path::new(&self.text(b)?)),
            libc::SYS_umount2 => file("umount", Path::new(&self.text(a)?)),
            libc::SYS_close => {
                self.descriptors.remove(&descriptor(a));
                Meaning::default()
            }
            libc::SYS_dup | libc::SYS_dup3 => self.copy(a),
            libc::SYS_fcntl
                if [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]
                    .map(i64::from)
                    .contains(&descriptor(b)) =>
            {
                self.copy(a)
            }
            number => self.older(number, call)?,
        })
    }

    /// Calls without a directory, which newer architectures do not have any more.
    #[cfg(target_arch = "x86_64")]
    fn older(&mut self, number: i64, call: &Call) -> io::Result<Meaning> {
        let [a, b, ..] = call.args;
        Ok(match number {
            libc::SYS_open => {
                let path = PathBuf::from(self.text(a)?);
                Self::open(path, b)
            }
            libc::SYS_dup2 => self.copy(a),
            libc::SYS_mkdir => file("mkdir", Path::new(&self.text(a)?)),
            libc::SYS_unlink | libc::SYS_rmdir => file("unlink", Path::new(&self.text(a)?)),
            libc::SYS_rename => file("rename", Path::new(&self.text(b)?)),
            libc::SYS_link => file("link", Path::new(&self.text(b)?)),
            libc::SYS_symlink => file("symlink", Path::new(&self.text(b)?)),
            libc::SYS_chmod => file("chmod", Path::new(&self.text(a)?)),
            _ => Meaning::default(),
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as where there are such calls"
    )]
    fn older(&mut self, _number: i64, _call: &Call) -> io::Result<Meaning> {
        Ok(Meaning::default())
    }

    fn copy(&self, of: u64) -> Meaning {
        Meaning {
            site: None,
            names: self.descriptors.get(&descriptor(of)).cloned(),
        }
    }

    fn open(path: PathBuf, flags: u64) -> Meaning {
        let makes = descriptor(flags) & i64::from(libc::O_CREAT | libc::O_TRUNC) != 0;
        let mut meaning = if makes {
            file("open", &path)
        } else {
            Meaning::default()
        };
        meaning.names = Some(Named::File(path));
        meaning
    }

    fn to_descriptor(&self, number: u64, call: &str) -> Meaning {
        match self.descriptors.get(&descriptor(number)) {
            Some(Named::File(path)) => file(call, path),
            _ => Meaning::default(),
        }
    }

    /// A socket's file.
    fn bind(&mut self, address: u64) -> io::Result<Meaning> {
        let bytes = self.bytes(address, 110)?;
        let family = bytes
            .get(..2)
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
        if family.map(i32::from) != Some(libc::AF_UNIX)
            || bytes.get(2).is_none_or(|byte| *byte == 0)
        {
            return Ok(Meaning::default());
        }
        let path = self.text(address + 2)?;
        Ok(file("bind", Path::new(&path)))
    }

    fn netlink(&self, socket: u64) -> Option<Netlink> {
        match self.descriptors.get(&descriptor(socket)) {
            Some(Named::Netlink(netlink)) => Some(*netlink),
            _ => None,
        }
    }
}

/// A number that the kernel takes as an int.
pub(super) fn descriptor(register: u64) -> i64 {
    // Only the low half of the register counts.
    i64::from(
        u32::try_from(register & 0xFFFF_FFFF)
            .unwrap_or(0)
            .cast_signed(),
    )
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8);
    part.and_then(|part| part.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

fn file(call: &str, path: &Path) -> Meaning {
    let domain = if path.starts_with("/sys/fs/bpf") {
        Domain::BpfFs
    } else if path.starts_with("/proc") || path.starts_with("/sys") {
        Domain::Sysctl
    } else if path.starts_with("/dev") {
        return Meaning::default();
    } else {
        Domain::Disk
    };
    Meaning::writes(domain, call, object_of(path))
}
