//! Counting of writes: each system call that changes the kernel, by what it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! named {
    ($(#[$doc:meta])+ $name:ident { $($(#[$vdoc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])+ $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// What a write changes.
    Target {
        /// Policy entries.
        Policy = "policy",
        /// Shape words.
        Shapes = "policy_shapes",
        /// Prefixes.
        Ipcache = "ipcache",
        /// Interface configurations.
        Interfaces = "interfaces",
        /// Endpoint words.
        EndpointWords = "endpoint_words",
        /// Node words.
        NodeWords = "node_words",
        /// Services, backends, reverse NAT.
        Services = "services",
        /// Conntrack, fragments, and which backends were chosen.
        Conntrack = "conntrack",
        /// What policy entries have decided.
        PolicyCounts = "policy_counts",
        /// Read-only data of programs.
        Constants = "constants",
        /// Maps themselves.
        Maps = "maps",
        /// Programs and their type information.
        Programs = "programs",
        /// tcx links.
        Links = "links",
        /// clsact qdiscs and filters.
        Filters = "filters",
        /// Network devices.
        Devices = "devices",
        /// Ids of network namespaces.
        Namespaces = "namespaces",
    }
}

named! {
    /// What a write does.
    Action {
        /// `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_UPDATE_BATCH`.
        Update = "update",
        /// `BPF_MAP_DELETE_ELEM`, `BPF_MAP_DELETE_BATCH`.
        Delete = "delete",
        /// `BPF_MAP_CREATE`, `BPF_PROG_LOAD`, `BPF_BTF_LOAD`, `BPF_LINK_CREATE`, a netlink request that makes something.
        Create = "create",
        /// `BPF_MAP_FREEZE`.
        Freeze = "freeze",
        /// `BPF_LINK_UPDATE`, a netlink request that replaces something.
        Replace = "replace",
        /// `BPF_LINK_DETACH`, a netlink request that deletes something.
        Remove = "remove",
        /// `BPF_OBJ_PIN`.
        Pin = "pin",
        /// A directory, a rename or an unlink in bpffs.
        File = "file",
    }
}

const TARGETS: usize = Target::ALL.len();
const ACTIONS: usize = Action::ALL.len();

#[derive(Debug, Default)]
struct Cell {
    calls: AtomicU64,
    failed: AtomicU64,
    entries: AtomicU64,
}

/// The counters of this process. Shared by every part of the kernel edge.
#[derive(Debug, Default)]
pub struct WriteCounter {
    cells: [[Cell; ACTIONS]; TARGETS],
}

/// Writes of one target and action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCount {
    /// System calls made, failed ones too: what a tracer counts.
    pub calls: u64,
    /// Those of them that the kernel refused.
    pub failed: u64,
    /// Entries that changed: differs from `calls` for batches and failures.
    pub entries: u64,
}

/// A snapshot of all counters that are not zero.
pub type WriteCounts = BTreeMap<(Target, Action), WriteCount>;

impl WriteCounter {
    /// Counts one system call and the entries that it changed.
    pub(crate) fn add(&self, target: Target, action: Action, entries: u64, ok: bool) {
        let cell = &self.cells[target as usize][action as usize];
        cell.calls.fetch_add(1, Ordering::Relaxed);
        cell.entries.fetch_add(entries, Ordering::Relaxed);
        if !ok {
            cell.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a system call by its result, as a change of one entry if it succeeded.
    pub(crate) fn result<T, E>(
        &self,
        target: Target,
        action: Action,
        result: Result<T, E>,
    ) -> Result<T, E> {
        self.add(target, action, u64::from(result.is_ok()), result.is_ok());
        result
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> WriteCounts {
        let mut counts = WriteCounts::new();
        for &target in Target::ALL {
            for &action in Action::ALL {
                let cell = &self.cells[target as usize][action as usize];
                let count = WriteCount {
                    calls: cell.calls.load(Ordering::Relaxed),
                    failed: cell.failed.load(Ordering::Relaxed),
                    entries: cell.entries.load(Ordering::Relaxed),
                };
                if count.calls > 0 {
                    counts.insert((target, action), count);
                }
            }
        }
        counts
    }
}
