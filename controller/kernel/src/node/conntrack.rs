//! Conntrack, which the programs own: read, expired, purged, never written.

use std::io;
use std::net::IpAddr;

use nix::time::{ClockId, clock_gettime};
use oxilium_abi::{
    CtEntry, CtKey4, CtKey6, FlowKind, FragmentEntry, FragmentKey4, FragmentKey6, map,
};

use super::KernelNode;
use super::apply::CONNTRACK;
use super::evictions::Doors;
use crate::error::{ApplyError, ObserveError};
use crate::port::{CtTable, Flow, GarbageReport};
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

/// A value that says when its life ends.
pub(super) trait Mortal: Plain {
    fn expires(&self) -> u32;
}

macro_rules! owned {
    ($($key:ty),+) => { $(impl Owned for $key {
        fn endpoint(&self) -> u16 {
            self.endpoint
        }
    })+ };
}

macro_rules! mortal {
    ($($value:ty),+) => { $(impl Mortal for $value {
        fn expires(&self) -> u32 {
            self.expires
        }
    })+ };
}

owned!(CtKey4, CtKey6, FragmentKey4, FragmentKey6);
mortal!(CtEntry, FragmentEntry);

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

    pub(super) fn garbage(&mut self, budget: usize) -> Result<GarbageReport, ApplyError> {
        let now = now().map_err(|source| ObserveError::Map {
            map: map::CT4,
            source,
        })?;
        let mut report = GarbageReport::default();
        let before = Doors::of(&self.read_counters()?);
        let ([answered4, others4 @ ..], [answered6, others6 @ ..]) =
            (&self.tables.ct4, &self.tables.ct6);
        let expired = expire(answered4, now, budget, &mut report)
            .and_then(|()| expire(answered6, now, budget, &mut report));
        let (living, taken) = (report.scanned, report.deleted);
        if expired.is_ok() {
            let after = Doors::of(&self.read_counters()?);
            self.evictions.round(before, living, after);
        }
        self.evictions.took(taken);
        expired?;
        for table in others4 {
            expire(table, now, budget, &mut report)?;
        }
        for table in others6 {
            expire(table, now, budget, &mut report)?;
        }
        expire(&self.tables.fragments4, now, budget, &mut report)?;
        expire(&self.tables.fragments6, now, budget, &mut report)?;
        Ok(report)
    }

    pub(super) fn purge(&mut self, endpoint: u16) -> Result<(), ApplyError> {
        let ([answered4, others4 @ ..], [answered6, others6 @ ..]) =
            (&self.tables.ct4, &self.tables.ct6);
        self.evictions.took(purge(answered4, endpoint)?);
        self.evictions.took(purge(answered6, endpoint)?);
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

fn each<K: Plain, V: Plain>(
    table: &Table<K, V>,
    see: impl FnMut(K, V),
) -> Result<(), ObserveError> {
    table.for_each(see).map_err(|source| ObserveError::Map {
        map: table.name(),
        source,
    })
}

/// Deletes one by one, each after another look: a packet may have renewed the entry since it was
/// listed, and the moment left in which it could be lost is that between two system calls.
fn expire<K: Plain, V: Mortal>(
    table: &Table<K, V>,
    now: u32,
    budget: usize,
    report: &mut GarbageReport,
) -> Result<(), ApplyError> {
    let mut expired = Vec::new();
    let mut living = 0;
    each(table, |key, value: V| {
        report.scanned += 1;
        if value.expires() < now {
            expired.push(key);
        } else {
            living += 1;
        }
    })?;
    let room = table.capacity() as usize;
    report.ended_percent = report.ended_percent.max(percent(expired.len(), room));
    report.fullest_percent = report.fullest_percent.max(percent(living, room));
    let failed = |error| ApplyError::of(CONNTRACK, || table.name().to_owned(), error);
    for key in expired {
        if report.deleted >= budget {
            report.left += 1;
            continue;
        }
        if table
            .get(&key)
            .map_err(failed)?
            .is_some_and(|value| value.expires() < now)
            && table.remove(&key).map_err(failed)?
        {
            report.deleted += 1;
        }
    }
    Ok(())
}

fn percent(part: usize, of: usize) -> u32 {
    u32::try_from(part * 100 / of.max(1)).unwrap_or(100)
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
