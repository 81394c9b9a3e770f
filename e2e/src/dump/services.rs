//! The tables of services. What rests there is a node's own past: no fresh one has it, and no new flow goes there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result, bail, ensure};
use oxilium_abi::{LbAddress, LbState, NodeWord, ServiceKey, ServiceValue, ServiceWord, map};

use super::{Names, address};
use crate::tables::Tables;

/// Addresses by id, of backends or of frontends.
struct Addresses {
    table: &'static str,
    entries: BTreeMap<u32, LbAddress>,
    used: BTreeSet<u32>,
}

impl Addresses {
    fn read(tables: &Tables, table: &'static str) -> Result<Self> {
        let entries = tables.dump(table)?.into_iter().collect();
        Ok(Self {
            table,
            entries,
            used: BTreeSet::new(),
        })
    }

    /// What a frontend refers to by `id`: there, in use, and the frontend's.
    fn of_frontend(&mut self, id: u32, frontend: u16) -> Result<LbAddress> {
        let table = self.table;
        let value = self.entries.get(&id).copied();
        let value = value.with_context(|| format!("{table} has no {id}"))?;
        if !value.is_of(id) || !value.is_active() || value.frontend != frontend {
            bail!("{table} {id} is not of frontend {frontend}, or not in use: {value:?}");
        }
        self.used.insert(id);
        Ok(value)
    }

    /// All others rest.
    fn others_rest(&self) -> Result<()> {
        for (id, value) in &self.entries {
            let rests = value.is_of(*id) && value.state() == Some(LbState::Resting);
            let (table, used) = (self.table, self.used.contains(id));
            ensure!(used || rests, "{table} {id} is nobody's: {value:?}");
        }
        Ok(())
    }
}

fn socket(value: &LbAddress) -> SocketAddr {
    SocketAddr::from((address(value.family, value.address), value.port.get()))
}

/// A line for each frontend, with the set of its backends: which slot which has is left to the node.
pub(super) fn told(tables: &Tables, names: &Names, lines: &mut Vec<String>) -> Result<()> {
    let entries: BTreeMap<ServiceKey, ServiceValue> =
        tables.dump(map::SERVICES)?.into_iter().collect();
    let mut backends = Addresses::read(tables, map::BACKENDS)?;
    let mut frontends = Addresses::read(tables, map::REVERSE_NAT)?;
    let mut slots = 0;
    let word = |key: &ServiceKey| -> Result<u64> {
        let value = entries.get(key);
        let value = value.with_context(|| format!("no slot {} of {key:?}", key.slot))?;
        value
            .of(key)
            .with_context(|| format!("{key:?} has another key's value"))
    };
    let masters: Vec<&ServiceKey> = entries.keys().filter(|key| key.slot == 0).collect();
    for key in &masters {
        let master = ServiceWord(word(key)?);
        let there = frontends.of_frontend(u32::from(master.id()), master.id())?;
        let frontend = SocketAddr::from((address(key.family, key.address), key.port.get()));
        ensure!(
            socket(&there) == frontend && there.protocol == key.protocol,
            "frontend {frontend} has the way back of {there:?}"
        );
        let mut to = BTreeSet::new();
        for slot in 1..=master.slots() {
            let id = u32::try_from(word(&key.slot(slot))?)?;
            let backend = socket(&backends.of_frontend(id, master.id())?);
            let name = names.address(backend.ip());
            ensure!(
                to.insert(format!("{name} port {}", backend.port())),
                "{frontend} has {name} twice"
            );
            slots += 1;
        }
        lines.push(format!(
            "service {frontend} protocol {} affinity {} to {to:?}",
            key.protocol,
            master.affinity()
        ));
    }
    ensure!(
        entries.len() == masters.len() + slots,
        "slots that no master counts: {entries:?}"
    );
    backends.others_rest()?;
    frontends.others_rest()?;
    let used: u64 = tables.lookup(map::NODE_WORDS, NodeWord::Services as u32)?;
    // Where some rest, it is in use still.
    ensure!(
        used <= 1 && (used == 1 || frontends.entries.is_empty() && backends.entries.is_empty()),
        "services are in use ({used}), and there are {} frontends",
        frontends.entries.len()
    );
    Ok(())
}
