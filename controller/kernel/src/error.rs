//! Errors of the kernel edge, and what whoever meets one should do.

use std::io;
use std::path::PathBuf;

use oxilium_model::plan::Table;
use thiserror::Error;

/// When a failed operation is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At once, from what is there now: the kernel was not as it was thought to be.
    Now,
    /// Later, and ever later: the cause may go by itself.
    Backoff,
    /// When the input has changed: with this one it cannot succeed.
    AfterChange,
    /// Not while this process runs: somebody has to act.
    Never,
}

/// A planned change that was not made.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// A table has no room. The plan's quotas should have kept this from happening.
    #[error("the {table} table is full; raise its size or let fewer pods or policies need entries")]
    Full {
        /// Which table.
        table: Table,
    },
    /// The device is not there any more.
    #[error("interface {ifindex} is gone; its attachment will be dropped")]
    Gone {
        /// Its index.
        ifindex: u32,
    },
    /// What was to be replaced is not there, or what was to be made is there already: the node
    /// changed since it was observed.
    #[error("{what} is not as it was observed: {source}")]
    Stale {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no memory for it (maps are charged to the agent's memory cgroup).
    #[error("no memory for {what}: raise the memory limit of the agent's cgroup ({source})")]
    Memory {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel was busy with something else, or a signal came.
    #[error("{what} could not be changed just now: {source}")]
    Busy {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A capability or a security module stands in the way.
    #[error(
        "not permitted to change {what}: CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN are needed ({source})"
    )]
    Permission {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pin of ours that is in the way belongs to another interface that lives.
    #[error(
        "pin {path} belongs to our program on interface {other}, which lives; it must be detached there first"
    )]
    PinInTheWay {
        /// The pin.
        path: PathBuf,
        /// Whose it is.
        other: u32,
    },
    /// The plan names a program that this process has not loaded.
    #[error("program {tag} for {hook} is not loaded; loaded is {loaded}")]
    UnknownProgram {
        /// The hook.
        hook: oxilium_model::node_state::Hook,
        /// What the plan says.
        tag: oxilium_model::node_state::ProgramTag,
        /// What there is.
        loaded: oxilium_model::node_state::ProgramTag,
    },
    /// The kernel refuses it for a reason that does not go away.
    #[error("the kernel refuses {what}: {source}")]
    Refused {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The change takes a look at the kernel first, and that failed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

impl ApplyError {
    /// When to try again. Whichever it is, the node must be observed anew first.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Stale { .. } | Self::Gone { .. } => Retry::Now,
            Self::Memory { .. }
            | Self::Busy { .. }
            | Self::PinInTheWay { .. }
            | Self::Refused { .. } => Retry::Backoff,
            Self::Full { .. } => Retry::AfterChange,
            Self::Permission { .. } | Self::UnknownProgram { .. } => Retry::Never,
            Self::Observe(error) => error.retry(),
        }
    }

    /// Sorts the kernel's answer to a change of `table`.
    pub(crate) fn of(table: Table, what: impl FnOnce() -> String, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => Self::Full { table },
            Some(libc::ENOENT | libc::EEXIST | libc::ESTALE) => Self::Stale {
                what: what(),
                source,
            },
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::Memory {
                what: what(),
                source,
            },
            Some(libc::EBUSY | libc::EAGAIN | libc::EINTR) => Self::Busy {
                what: what(),
                source,
            },
            Some(libc::EPERM | libc::EACCES) => Self::Permission {
                what: what(),
                source,
            },
            _ => Self::Refused {
                what: what(),
                source,
            },
        }
    }
}

/// Something of the kernel that could not be read.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// A map.
    #[error("map {map} cannot be read: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map's pin is gone or leads to another map: what is pinned is not what the programs use.
    #[error(
        "pin {path} does not lead to the map that the programs use; restart the agent, which pins it anew"
    )]
    PinLost {
        /// The pin.
        path: PathBuf,
    },
    /// Programs, links or hooks.
    #[error("{what} cannot be read: {source}")]
    Programs {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A packet could not be tried.
    #[error("{hook} cannot be tried on a packet at interface {ifindex}: {source}")]
    TryPacket {
        /// The program.
        hook: oxilium_model::node_state::Hook,
        /// Where it should have run.
        ifindex: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// rtnetlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl ObserveError {
    /// When to try again.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::PinLost { .. } => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

/// rtnetlink did not give an answer that can be used.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket.
    #[error("netlink socket ({action}): {source}")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel answers with an error.
    #[error("netlink {request}: {source}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Bytes that are no netlink message, or not the kind that was asked for.
    #[error("netlink {request}: the kernel's answer cannot be understood: {detail}")]
    Malformed {
        /// What was asked.
        request: &'static str,
        /// Where it went wrong.
        detail: String,
    },
    /// What was dumped kept changing. Such a dump may lack entries and is never used.
    #[error(
        "netlink {request}: {tries} dumps were interrupted by changes; it will be read again later"
    )]
    Interrupted {
        /// What was asked.
        request: &'static str,
        /// How often.
        tries: u32,
    },
    /// A network namespace could not be entered.
    #[error("network namespace {path}: {source}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. }
            | Self::Refused { source, .. }
            | Self::Namespace { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } | Self::Interrupted { .. } => None,
        }
    }
}
