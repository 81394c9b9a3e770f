//! Conntrack, which the programs own: read, purged, never written.

use std::io;
use std::net::IpAddr;

use nix::time::{ClockId, clock_gettime};
use oxilium_abi::{CtEntry, CtKey4, CtKey6, FlowKind, FragmentKey4, FragmentKey6, map};

use super::KernelNode;
use super::apply::CONNTRACK;
use crate::error::{ApplyError, ObserveError};
use crate::port::{CtTable, Flow};
use crate::table::{Plain, Table};

/// Seconds of the monotonic clock, in which programs write the end of an entry's life.
pub(super) fn now() -> io::Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    u32::try_from(now.tv_sec()).map_err(io::Error::other)
}

/// A key that says whose flow it is.
pub(super) trait Owned: Plain {
    fn endpoint(&self) -> u16;
}

macro_rules! owned {
    ($($key:ty),+) => { $(impl Owned for $key {
        fn endpoint(&self) -> u16 {
            self.endpoint
        }
    })+ };
}

owned!(CtKey4, CtKey6, FragmentKey4, FragmentKey6);

impl KernelNode {
    pub(super) fn read_flows(&self) -> Result<Vec<Flow>, ObserveError> {
        let now = now().map_err(|source| ObserveError::Map {
            map: map::CT4,
            source,
        })?;
        let mut flows = Vec::new();
        for ((table4, table6), kind) in self
            .tables
            .ct4
            .iter()
            .zip(&self.tables.ct6)
            .zip(CtTable::ALL)
        {
            each(table4, |key: CtKey4, entry| {
                flows.push(flow4(kind, &key, entry, now));
            })?;
            each(table6, |key: CtKey6, entry| {
                flows.push(flow6(kind, &key, entry, now));
            })?;
        }
        Ok(flows)
    }

    pub(super) fn purge(&mut self, endpoint: u16) -> Result<(), ApplyError> {
        let ([answered4, others4 @ ..], [answered6, others6 @ ..]) =
            (&self.tables.ct4, &self.tables.ct6);
        self.evictions.flows.took(purge(answered4, endpoint)?);
        self.evictions.flows.took(purge(answered6, endpoint)?);
        for table in others4 {
            purge(table, endpoint)?;
        }
        for table in others6 {
            purge(table, endpoint)?;
        }
        purge(&self.tables.fragments4, endpoint)?;
        purge(&self.tables.fragments6, endpoint)?;
        self.forget_decisions(endpoint)
    }

    /// What the policy of an endpoint has decided: the next of its number has decided nothing.
    fn forget_decisions(&self, endpoint: u16) -> Result<(), ApplyError> {
        let table = &self.tables.policy_counts;
        let mut theirs = Vec::new();
        let seen = table.for_each(|key, _| {
            if key.endpoint == endpoint {
                theirs.push(key);
            }
        });
        seen.and_then(|()| {
            if theirs.is_empty() {
                Ok(0)
            } else {
                table.remove_all(&theirs)
            }
        })
        .map(drop)
        .map_err(|error| ApplyError::of(CONNTRACK, || table.name().to_owned(), error))
    }
}

pub(super) fn each<K: Plain, V: Plain>(
    table: &Table<K, V>,
    see: impl FnMut(K, V),
) -> Result<(), ObserveError> {
    table.for_each(see).map_err(|source| ObserveError::Map {
        map: table.name(),
        source,
    })
}

/// Deletes all of one endpoint; how many there were.
fn purge<K: Owned, V: Plain>(table: &Table<K, V>, endpoint: u16) -> Result<usize, ApplyError> {
    let mut theirs = Vec::new();
    each(table, |key: K, _| {
        if key.endpoint() == endpoint {
            theirs.push(key);
        }
    })?;
    if theirs.is_empty() {
        return Ok(0);
    }
    table
        .remove_all(&theirs)
        .map_err(|error| ApplyError::of(CONNTRACK, || table.name().to_owned(), error.source))
}

fn kind_of(byte: u8) -> Option<FlowKind> {
    [
        FlowKind::Plain,
        FlowKind::EchoByLocal,
        FlowKind::EchoByRemote,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == byte)
}

macro_rules! flow_of {
    ($name:ident, $key:ty) => {
        fn $name(table: CtTable, key: &$key, entry: CtEntry, now: u32) -> Flow {
            Flow {
                table,
                local: IpAddr::from(key.local),
                remote: IpAddr::from(key.remote),
                local_port: key.local_port.get(),
                remote_port: key.remote_port.get(),
                endpoint: key.endpoint,
                protocol: key.protocol,
                kind: kind_of(key.kind),
                entry,
                remaining: i64::from(entry.expires) - i64::from(now),
            }
        }
    };
}

flow_of!(flow4, CtKey4);
flow_of!(flow6, CtKey6);
