//! Loading: the maps and programs of the embedded object, once for all pods.
//!
//! What is pinned from an earlier run and is what this one needs is taken over as it is: a restart
//! with the same binary and configuration changes nothing in the kernel.

mod elf;
mod layout;
mod maps;
mod migrate;
mod programs;
mod record;
mod types;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use maps::Maps;
pub(crate) use programs::{
    Constants, LoadedProgram, Source, load_copy, load_programs, make_directory, program_directories,
};

use crate::bpffs::BpffsError;
use crate::error::NetlinkError;
use crate::table::OpenError;

/// Why the programs are not loaded. The last applied state stays in force.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No place for pins.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// Another agent has the place.
    #[error(
        "another agent runs on this node already (it holds {path}): two would write against each other; stop it first"
    )]
    Held {
        /// The locked directory.
        path: PathBuf,
    },
    /// A pinned map is not what this version needs.
    #[error(
        "the map pinned at {path} has {field} {found}, this agent needs {expected}; it was made by another version, and \
         does not say what its entries mean: remove the pin while no pod needs it"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What the kernel says.
        found: u32,
        /// What it should be.
        expected: u32,
    },
    /// What a pinned map holds does not fit into one of the size that is asked for.
    #[error(
        "the map pinned at {path} was made for {found} entries and cannot be made for {wanted}: what it holds needs room \
         for {needed}; set at least that size, or the old one"
    )]
    TooSmall {
        /// The pin.
        path: PathBuf,
        /// Entries that there must be room for.
        needed: u32,
        /// Entries that it has room for.
        found: u32,
        /// Entries that it is to have room for.
        wanted: u32,
    },
    /// The object defines a map otherwise than this agent.
    #[error(
        "the embedded object's map {name} has {field} {found}, this agent needs {expected}: they were built from different sources"
    )]
    Object {
        /// The map.
        name: String,
        /// What differs.
        field: &'static str,
        /// What the object says.
        found: u32,
        /// What it should be.
        expected: u32,
    },
    /// The object cannot be read.
    #[error("the embedded BPF object cannot be used ({what}): {detail}")]
    Parse {
        /// What went wrong.
        what: &'static str,
        /// How.
        detail: String,
    },
    /// A program that a hook needs is not in the object.
    #[error("the embedded BPF object has no program {name}")]
    MissingProgram {
        /// Its name.
        name: &'static str,
    },
    /// The verifier, or the kernel before it, refuses a program.
    #[error("the kernel refuses program {name}: {source}\n{}", tail(log))]
    Verifier {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
        /// The verifier's whole log.
        log: String,
    },
    /// The kernel refuses the object's type information.
    #[error(
        "the kernel refuses the programs' type information (BTF): {source}\n{}",
        tail(log)
    )]
    Types {
        /// What the kernel said.
        source: io::Error,
        /// Its whole log.
        log: String,
    },
    /// A map or pin.
    #[error("{path} ({action}): {source}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map that was opened is not what it should be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// tcx was asked for.
    #[error("this kernel has no tcx (it came with Linux 6.6); set the attach mode to auto or tc")]
    NoTcx,
    /// No netlink socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No randomness for the seed of conntrack tags.
    #[error("no random number for the conntrack seed: {0}")]
    Random(io::Error),
}

/// The last lines of a verifier log: where it says what is wrong.
fn tail(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

pub(crate) fn pin_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Pin {
        path: path.to_owned(),
        action,
        source,
    }
}
