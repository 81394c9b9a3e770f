//! What can go wrong on a fake node.

use std::collections::VecDeque;
use std::io;

use oxilium_model::plan::Table;

use crate::error::{ApplyError, NetlinkError, ObserveError};

/// A failure of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The table is full.
    Full,
    /// No memory.
    Memory,
    /// Busy.
    Busy,
    /// Not permitted.
    Permission,
    /// Any other refusal (EIO).
    Refused,
    /// A change of many entries stops half way (a purge), any other one fails whole.
    Partial,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Full,
        Self::Memory,
        Self::Busy,
        Self::Permission,
        Self::Refused,
        Self::Partial,
    ];

    pub(super) fn error(self, table: Table) -> ApplyError {
        let errno = match self {
            Self::Full => libc::E2BIG,
            Self::Memory => libc::ENOMEM,
            Self::Busy => libc::EBUSY,
            Self::Permission => libc::EPERM,
            Self::Refused | Self::Partial => libc::EIO,
        };
        ApplyError::of(
            table,
            || format!("the {table} table"),
            io::Error::from_raw_os_error(errno),
        )
    }
}

/// What goes wrong, and when. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The next writes fail so, one each; `None` lets one pass.
    pub next: VecDeque<Option<Fault>>,
    /// Of a thousand writes, so many fail, each kind of fault alike.
    pub writes_per_mille: u32,
    /// Of a thousand reads, so many fail.
    pub reads_per_mille: u32,
    /// After so many more writes the process is dead: nothing is written any more, every call fails,
    /// until [`super::FakeKernel::node`] starts another.
    pub crash_after: Option<usize>,
    /// Seed of the dice; equal seeds fail alike.
    pub seed: u64,
}

impl Faults {
    /// A random number; the sequence is `SplitMix64`'s.
    fn dice(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn hits(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.dice() % 1000 < u64::from(per_mille)
    }

    /// The process died.
    pub(super) fn dead(&self) -> bool {
        self.crash_after == Some(0)
    }

    /// What happens to the next write.
    pub(super) fn write(&mut self) -> Option<Fault> {
        if let Some(left) = &mut self.crash_after {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Some(Fault::Refused),
            }
        }
        if let Some(scripted) = self.next.pop_front() {
            return scripted;
        }
        if self.hits(self.writes_per_mille) {
            let kind = self.dice() % Fault::ALL.len() as u64;
            return Fault::ALL.get(usize::try_from(kind).unwrap_or(0)).copied();
        }
        None
    }

    pub(super) fn read(&mut self) -> Result<(), ObserveError> {
        if self.dead() || self.hits(self.reads_per_mille) {
            return Err(ObserveError::Map {
                map: oxilium_abi::map::POLICY,
                source: io::Error::from_raw_os_error(libc::EIO),
            });
        }
        Ok(())
    }

    pub(super) fn dump(&mut self, request: &'static str) -> Result<(), NetlinkError> {
        if self.dead() || self.hits(self.reads_per_mille) {
            return Err(NetlinkError::Interrupted { request, tries: 5 });
        }
        Ok(())
    }
}
