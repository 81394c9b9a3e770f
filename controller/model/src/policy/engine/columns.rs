//! A direction's table by columns: one for each identity, and most identities share theirs with others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::{NumericIdentity, Protocol};
use crate::policy::port::PortPrefix;
use crate::policy::table::{DirectionTable, Entry, EntryKey, Packet, lineage, rank};

/// The entries of one identity, sorted by protocol and port.
pub(super) type Column = Arc<[(Protocol, PortPrefix, Entry)]>;

/// A direction of a subject's policy, as the engine keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnTable {
    /// What nothing allows is dropped.
    pub enforced: bool,
    columns: BTreeMap<NumericIdentity, Column>,
    len: usize,
}

impl ColumnTable {
    pub(super) fn new(enforced: bool) -> Self {
        Self {
            enforced,
            ..Self::default()
        }
    }

    /// Of columns, sorted by identity. Empty ones are left out.
    pub(super) fn of(enforced: bool, columns: Vec<(NumericIdentity, Column)>) -> Self {
        let len = columns.iter().map(|(_, column)| column.len()).sum();
        let columns = columns
            .into_iter()
            .filter(|(_, column)| !column.is_empty())
            .collect();
        Self {
            enforced,
            columns,
            len,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Has no entry: allows nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, sorted by key.
    pub fn entries(&self) -> impl Iterator<Item = (EntryKey, &Entry)> {
        self.columns.iter().flat_map(|(identity, column)| {
            column.iter().map(move |(protocol, port, entry)| {
                let key = EntryKey {
                    identity: *identity,
                    protocol: *protocol,
                    port: *port,
                };
                (key, entry)
            })
        })
    }

    /// The same as one list.
    pub fn to_table(&self) -> DirectionTable {
        let entries = self
            .entries()
            .map(|(key, entry)| (key, entry.clone()))
            .collect();
        DirectionTable::from_sorted(self.enforced, entries)
    }

    /// Gives an identity another column; tells how many entries came or went.
    pub(super) fn set(&mut self, identity: NumericIdentity, column: Option<Column>) -> usize {
        let new = column.as_ref().map_or(0, |column| column.len());
        let old = match column.filter(|column| !column.is_empty()) {
            Some(column) => self.columns.insert(identity, column),
            None => self.columns.remove(&identity),
        };
        let old = old.map_or(0, |column| column.len());
        self.len = self.len + new - old;
        new + old
    }

    /// How many identities have a column.
    pub(super) fn columns(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn column(&self, identity: NumericIdentity) -> Option<&Column> {
        self.columns.get(&identity)
    }

    /// The entry that decides a packet; none: it is dropped.
    pub fn lookup(&self, packet: Packet, local_cluster: u8) -> Option<(EntryKey, &Entry)> {
        lineage(packet.identity, local_cluster)
            .into_iter()
            .filter_map(|identity| Some((identity, self.columns.get(&identity)?)))
            .flat_map(|(identity, column)| {
                column.iter().map(move |(protocol, port, entry)| {
                    let key = EntryKey {
                        identity,
                        protocol: *protocol,
                        port: *port,
                    };
                    (key, entry)
                })
            })
            .filter(|(key, _)| key.matches(packet, local_cluster))
            .max_by_key(|(key, entry)| rank(key, entry.precedence))
    }
}
