//! What the maps hold and cost.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use oxilium_abi::{Counter, Direction, PolicyCountKey, map};

use super::KernelNode;
use crate::error::ObserveError;
use crate::port::MapUsage;
use crate::table::{Plain, Table};

impl KernelNode {
    pub(super) fn read_counters(&self) -> Result<BTreeMap<(Direction, u8), Counter>, ObserveError> {
        let mut counters = BTreeMap::new();
        self.tables
            .counters
            .for_each(|index, cpus| {
                let total = sum(cpus);
                // The index as `oxilium_abi::counter_index` makes it.
                let direction = if index & 1 == 0 {
                    Direction::Ingress
                } else {
                    Direction::Egress
                };
                if let (true, Ok(reason)) = (total.packets > 0, u8::try_from(index >> 1)) {
                    counters.insert((direction, reason), total);
                }
            })
            .map_err(|source| ObserveError::Map {
                map: map::COUNTERS,
                source,
            })?;
        Ok(counters)
    }

    pub(super) fn read_policy_counts(
        &self,
    ) -> Result<BTreeMap<PolicyCountKey, Counter>, ObserveError> {
        let mut counts = BTreeMap::new();
        let table = &self.tables.policy_counts;
        table
            .for_each(|key, cpus| {
                counts.insert(key, sum(cpus));
            })
            .map_err(|source| ObserveError::Map {
                map: table.name(),
                source,
            })?;
        Ok(counts)
    }

    pub(super) fn read_usage(
        &self,
        known: &BTreeMap<&'static str, usize>,
    ) -> Result<Vec<MapUsage>, ObserveError> {
        let tables = &self.tables;
        let mut counted = known.clone();
        count(&mut counted, &tables.policy)?;
        count(&mut counted, &tables.ipcache)?;
        count(&mut counted, &tables.interfaces)?;
        count(&mut counted, &tables.services)?;
        count(&mut counted, &tables.backends)?;
        count(&mut counted, &tables.reverse_nat)?;
        for table in &tables.ct4 {
            count(&mut counted, table)?;
        }
        for table in &tables.ct6 {
            count(&mut counted, table)?;
        }
        for table in &tables.choices4 {
            count(&mut counted, table)?;
        }
        for table in &tables.choices6 {
            count(&mut counted, table)?;
        }
        count(&mut counted, &tables.fragments4)?;
        count(&mut counted, &tables.fragments6)?;
        self.maps
            .iter()
            .map(|(name, fd, description)| {
                Ok(MapUsage {
                    name: name.to_owned(),
                    entries: counted.get(name).copied(),
                    capacity: description.max_entries,
                    memory: memory(name, fd)?,
                })
            })
            .collect()
    }

    pub(super) fn read_memory(&self) -> Result<u64, ObserveError> {
        self.maps.iter().map(|(name, fd, _)| memory(name, fd)).sum()
    }
}

fn memory(map: &str, fd: BorrowedFd<'_>) -> Result<u64, ObserveError> {
    KernelNode::fdinfo_memory(fd).map_err(|source| ObserveError::Programs {
        what: format!("the memory of map {map}"),
        source,
    })
}

/// Of all CPUs.
fn sum(cpus: &[Counter]) -> Counter {
    cpus.iter().fold(Counter::default(), |sum, cpu| Counter {
        packets: sum.packets.wrapping_add(cpu.packets),
        bytes: sum.bytes.wrapping_add(cpu.bytes),
    })
}

/// Counts the entries of a table, unless they are counted.
fn count<K: Plain, V: Plain>(
    counted: &mut BTreeMap<&'static str, usize>,
    table: &Table<K, V>,
) -> Result<(), ObserveError> {
    if counted.contains_key(table.name()) {
        return Ok(());
    }
    let mut entries = 0;
    table
        .for_each(|_, _| entries += 1)
        .map_err(|source: io::Error| ObserveError::Map {
            map: table.name(),
            source,
        })?;
    counted.insert(table.name(), entries);
    Ok(())
}
