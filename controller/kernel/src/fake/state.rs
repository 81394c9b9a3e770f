//! The tables of a fake kernel and the rules of changing them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use oxilium_abi::{Counter, Direction, DropReason, Event, NodeWord, PolicyCountKey, map};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::observed::{AttachedProgram, Observed, Place};
use oxilium_model::plan::{Operation, Table, Write};
use oxilium_model::world::Capacities;
use tokio::sync::mpsc;

use super::faults::{Fault, Faults};
use crate::count::{Action, Target, WriteCounter};
use crate::error::{ApplyError, ObserveError};
use crate::events::EventReader;
use crate::port::{
    AddressInfo, BridgeNetfilter, Flow, GarbageReport, HookKind, HookProgram, LinkInfo, MapUsage,
    Occupancy, PodInterface, TryPacket,
};

/// Flows that there is room for.
const FLOWS: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct State {
    capacities: Capacities,
    pub(super) tables: Observed,
    pub(super) foreign: Vec<HookProgram>,
    /// Pins of links, by endpoint and hook.
    pub(super) pins: BTreeMap<(u16, Hook), u32>,
    /// Other pins that somebody removed, and those that were set again.
    pub(super) lost: Vec<PathBuf>,
    pub(super) restored: Vec<PathBuf>,
    /// Network namespaces that cannot be entered, and why.
    pub(super) barred: BTreeMap<PathBuf, i32>,
    pub(super) links: BTreeMap<u32, LinkInfo>,
    pub(super) bridge_netfilter: [BridgeNetfilter; 2],
    pub(super) addresses: BTreeSet<AddressInfo>,
    pub(super) pods: BTreeMap<(PathBuf, String), PodInterface>,
    pub(super) flows: Vec<Flow>,
    /// As of the last collection.
    pub(super) flow_tables: BTreeMap<&'static str, Occupancy>,
    pub(super) counters: BTreeMap<(Direction, u8), Counter>,
    pub(super) policy_counts: BTreeMap<PolicyCountKey, Counter>,
    /// What the programs say of packets that are tried.
    pub(super) verdicts: BTreeMap<Hook, Option<DropReason>>,
    pub(super) tried: Vec<TryPacket>,
    reader: Option<mpsc::UnboundedSender<Event>>,
    pub(super) faults: Faults,
    pub(super) history: Vec<Write>,
    pub(super) writes: Arc<WriteCounter>,
}

impl State {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            tables: Observed::default(),
            foreign: Vec::new(),
            pins: BTreeMap::new(),
            lost: Vec::new(),
            restored: Vec::new(),
            barred: BTreeMap::new(),
            links: BTreeMap::new(),
            bridge_netfilter: <[BridgeNetfilter; 2]>::default(),
            addresses: BTreeSet::new(),
            pods: BTreeMap::new(),
            flows: Vec::new(),
            flow_tables: BTreeMap::new(),
            counters: BTreeMap::new(),
            policy_counts: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            tried: Vec::new(),
            reader: None,
            faults: Faults::default(),
            history: Vec::new(),
            writes: Arc::default(),
        }
    }

    /// A new process: it counts from zero, and is not dead.
    pub(super) fn start(&mut self) {
        self.writes = Arc::default();
        self.reader = None;
        self.faults.crash_after = None;
    }

    pub(super) fn remove_link(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.tables
            .attachments
            .retain(|point, _| point.ifindex != ifindex);
        self.foreign.retain(|program| program.ifindex != ifindex);
        self.addresses.retain(|address| address.ifindex != ifindex);
        self.pods.retain(|_, pod| pod.peer != Some(ifindex));
    }

    pub(super) fn apply(&mut self, write: &Write) -> Result<(), ApplyError> {
        let Some((table, operation)) = write.target() else {
            return if self.faults.dead() {
                Err(Fault::Refused.error(Table::NodeWords))
            } else {
                self.history.push(*write);
                Ok(())
            };
        };
        let fault = self.faults.write();
        let result = match fault {
            Some(Fault::Partial) => {
                self.partly(write);
                Err(Fault::Partial.error(table))
            }
            Some(fault) => Err(fault.error(table)),
            None => self.change(write),
        };
        let action = match operation {
            Operation::Insert | Operation::Update => Action::Update,
            Operation::Delete => Action::Delete,
        };
        self.writes.result(target_of(table), action, result)?;
        self.history.push(*write);
        Ok(())
    }

    /// The first half of a change of many entries.
    fn partly(&mut self, write: &Write) {
        if let Write::PurgeConntrack { endpoint } = write {
            let theirs = self
                .flows
                .iter()
                .filter(|f| f.endpoint == *endpoint)
                .count();
            let mut left = theirs / 2;
            self.flows.retain(|flow| {
                let goes = flow.endpoint == *endpoint && left > 0;
                left -= usize::from(goes);
                !goes
            });
        }
    }

    fn change(&mut self, write: &Write) -> Result<(), ApplyError> {
        let capacities = self.capacities;
        let tables = &mut self.tables;
        match *write {
            Write::HighWater(epoch) => {
                tables.node_words[NodeWord::HighWater as usize] = epoch.get();
            }
            Write::Publish(epoch) => {
                tables.node_words[NodeWord::Published as usize] = epoch.get();
            }
            Write::IpcacheWord(word) => {
                tables.node_words[NodeWord::Ipcache as usize] = word.0;
            }
            Write::PolicyInsert { key, value } => {
                insert(
                    Table::Policy,
                    &mut tables.policy,
                    key,
                    value,
                    capacities.policy_entries,
                )?;
            }
            Write::PolicyReplace { key, value } => {
                replace(Table::Policy, &mut tables.policy, &key, value)?;
            }
            Write::PolicyDelete { key } => {
                tables.policy.remove(&key);
            }
            Write::ShapeWord {
                table,
                direction,
                word,
            } => {
                bounded(Table::Shapes, table as usize, capacities.max_table as usize)?;
                if word.0 == 0 {
                    tables.shapes.remove(&(table, direction));
                } else {
                    tables.shapes.insert((table, direction), word);
                }
            }
            Write::IpcacheUpsert { key, value } => {
                if tables.ipcache.len() >= capacities.ipcache && !tables.ipcache.contains_key(&key)
                {
                    return Err(Fault::Full.error(Table::Ipcache));
                }
                tables.ipcache.insert(key, value);
            }
            Write::IpcacheDelete { key } => {
                tables.ipcache.remove(&key);
            }
            Write::InterfaceInsert { ifindex, config } => {
                insert(
                    Table::Interfaces,
                    &mut tables.interfaces,
                    ifindex,
                    config,
                    capacities.interfaces,
                )?;
            }
            Write::InterfaceReplace { ifindex, config } => {
                replace(Table::Interfaces, &mut tables.interfaces, &ifindex, config)?;
            }
            Write::InterfaceDelete { ifindex } => {
                tables.interfaces.remove(&ifindex);
            }
            Write::EndpointWord {
                endpoint,
                bank,
                word,
            } => {
                bounded(
                    Table::EndpointWords,
                    endpoint as usize,
                    capacities.max_endpoint as usize,
                )?;
                let words = tables.endpoint_words.entry(endpoint).or_default();
                words[bank as usize & 1] = word;
                if words.iter().all(|word| word.0 == 0) {
                    tables.endpoint_words.remove(&endpoint);
                }
            }
            Write::Service { .. }
            | Write::ServiceDelete { .. }
            | Write::Backend { .. }
            | Write::BackendDelete { .. }
            | Write::ReverseNat { .. }
            | Write::ReverseNatDelete { .. }
            | Write::ServicesInUse(_) => self.change_service(write),
            Write::Attach { .. } | Write::Replace { .. } | Write::Detach { .. } => {
                return self.change_hook(write);
            }
            Write::PurgeConntrack { endpoint } => {
                self.flows.retain(|f| f.endpoint != endpoint);
                self.policy_counts.retain(|key, _| key.endpoint != endpoint);
            }
            Write::Barrier => {}
        }
        Ok(())
    }

    fn change_service(&mut self, write: &Write) {
        let tables = &mut self.tables;
        match *write {
            Write::Service { key, value } => {
                tables.services.insert(key, value);
            }
            Write::ServiceDelete { key } => {
                tables.services.remove(&key);
            }
            Write::Backend { id, value } => {
                tables.backends.insert(id, value);
            }
            Write::BackendDelete { id } => {
                tables.backends.remove(&id);
            }
            Write::ReverseNat { id, value } => {
                tables.reverse_nat.insert(id, value);
            }
            Write::ReverseNatDelete { id } => {
                tables.reverse_nat.remove(&id);
            }
            Write::ServicesInUse(used) => {
                tables.node_words[NodeWord::Services as usize] = u64::from(used);
            }
            _ => {}
        }
    }

    fn change_hook(&mut self, write: &Write) -> Result<(), ApplyError> {
        match *write {
            Write::Attach {
                point,
                endpoint,
                program,
                staged,
            } => {
                self.exists(point)?;
                if self.tables.attachments.contains_key(&point) {
                    return Err(stale(Table::Attachments, libc::EEXIST));
                }
                if staged {
                    let place = Place::Staged;
                    let staged = AttachedProgram {
                        tag: program,
                        place,
                    };
                    self.tables.attachments.insert(point, staged);
                } else {
                    self.put(point, endpoint, program)?;
                }
            }
            Write::Replace {
                point,
                endpoint,
                program,
            } => {
                self.exists(point)?;
                if !self.tables.attachments.contains_key(&point) {
                    return Err(stale(Table::Attachments, libc::ENOENT));
                }
                self.put(point, endpoint, program)?;
            }
            Write::Detach { point } => {
                self.tables.attachments.remove(&point);
                self.pins
                    .retain(|(_, hook), ifindex| (*ifindex, *hook) != (point.ifindex, point.hook));
            }
            _ => {}
        }
        Ok(())
    }

    fn exists(&self, point: AttachPoint) -> Result<(), ApplyError> {
        if self.links.contains_key(&point.ifindex) {
            return Ok(());
        }
        Err(ApplyError::Gone {
            ifindex: point.ifindex,
        })
    }

    fn put(
        &mut self,
        point: AttachPoint,
        endpoint: u16,
        tag: oxilium_model::node_state::ProgramTag,
    ) -> Result<(), ApplyError> {
        if let Some(&other) = self.pins.get(&(endpoint, point.hook))
            && other != point.ifindex
            && self.links.contains_key(&other)
        {
            return Err(ApplyError::PinInTheWay {
                path: PathBuf::from(format!("links/{endpoint}/{}", point.hook)),
                other,
            });
        }
        self.pins
            .retain(|(_, hook), ifindex| (*ifindex, *hook) != (point.ifindex, point.hook));
        self.pins.insert((endpoint, point.hook), point.ifindex);
        self.tables.attachments.insert(
            point,
            AttachedProgram {
                tag,
                place: Place::Settled,
            },
        );
        Ok(())
    }

    pub(super) fn tidy(&mut self) -> usize {
        let before = self.pins.len();
        let links = &self.links;
        self.pins.retain(|_, ifindex| links.contains_key(ifindex));
        let removed = before - self.pins.len();
        let set_again = self.lost.len();
        self.restored.append(&mut self.lost);
        removed + set_again
    }

    pub(super) fn hooks(&self, interfaces: &BTreeSet<u32>) -> Vec<HookProgram> {
        let ours = self.tables.attachments.keys().map(|point| HookProgram {
            ifindex: point.ifindex,
            hook: point.hook,
            kind: HookKind::Tcx { link: 1 },
            program_id: 1 + point.hook as u32,
            name: point.hook.program().to_owned(),
            ours: true,
        });
        self.foreign
            .iter()
            .cloned()
            .chain(ours)
            .filter(|program| interfaces.contains(&program.ifindex))
            .collect()
    }

    /// All flows are in one table.
    pub(super) fn collect_garbage(&mut self, budget: usize) -> GarbageReport {
        let mut report = GarbageReport {
            scanned: self.flows.len(),
            ..GarbageReport::default()
        };
        self.flows.retain(|flow| {
            let expired = flow.remaining < 0;
            let goes = expired && report.deleted < budget;
            report.deleted += usize::from(goes);
            report.left += usize::from(expired && !goes);
            !goes
        });
        let left = Occupancy {
            entries: self.flows.len(),
            capacity: FLOWS,
        };
        self.flow_tables.insert(map::CT4, left);
        let deleted = report.deleted as u64;
        if deleted > 0 {
            self.writes
                .add(Target::Conntrack, Action::Delete, deleted, true);
        }
        report
    }

    pub(super) fn usage(&self, known: &BTreeMap<&'static str, usize>) -> Vec<MapUsage> {
        let tables = &self.tables;
        let usage = |name: &str, entries, capacity: usize| MapUsage {
            name: name.to_owned(),
            entries: Some(known.get(name).copied().unwrap_or(entries)),
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
            memory: 0,
        };
        vec![
            usage(
                map::POLICY,
                tables.policy.len(),
                self.capacities.policy_entries,
            ),
            usage(map::IPCACHE, tables.ipcache.len(), self.capacities.ipcache),
            usage(
                map::INTERFACES,
                tables.interfaces.len(),
                self.capacities.interfaces,
            ),
        ]
    }

    pub(super) fn events(&mut self) -> Result<EventReader, ObserveError> {
        if self
            .reader
            .as_ref()
            .is_some_and(|reader| !reader.is_closed())
        {
            return Err(ObserveError::Map {
                map: map::EVENTS,
                source: io::Error::from_raw_os_error(libc::EBUSY),
            });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reader = Some(sender);
        Ok(EventReader::fake(receiver))
    }

    pub(super) fn emit(&mut self, event: Event) -> bool {
        self.reader
            .as_ref()
            .is_some_and(|reader| reader.send(event).is_ok())
    }
}

/// What writes of a table count as.
fn target_of(table: Table) -> Target {
    match table {
        Table::Policy => Target::Policy,
        Table::Shapes => Target::Shapes,
        Table::Ipcache => Target::Ipcache,
        Table::Interfaces => Target::Interfaces,
        Table::Services | Table::Backends | Table::ReverseNat => Target::Services,
        Table::EndpointWords => Target::EndpointWords,
        Table::NodeWords => Target::NodeWords,
        Table::Attachments => Target::Links,
        Table::Conntrack => Target::Conntrack,
    }
}

fn stale(table: Table, errno: i32) -> ApplyError {
    ApplyError::of(
        table,
        || format!("an entry of the {table} table"),
        io::Error::from_raw_os_error(errno),
    )
}

fn bounded(table: Table, index: usize, last: usize) -> Result<(), ApplyError> {
    if index <= last {
        return Ok(());
    }
    Err(Fault::Full.error(table))
}

fn insert<K: Ord, V>(
    table: Table,
    entries: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    capacity: usize,
) -> Result<(), ApplyError> {
    if entries.contains_key(&key) {
        return Err(stale(table, libc::EEXIST));
    }
    if entries.len() >= capacity {
        return Err(Fault::Full.error(table));
    }
    entries.insert(key, value);
    Ok(())
}

fn replace<K: Ord, V>(
    table: Table,
    entries: &mut BTreeMap<K, V>,
    key: &K,
    value: V,
) -> Result<(), ApplyError> {
    match entries.get_mut(key) {
        Some(entry) => {
            *entry = value;
            Ok(())
        }
        None => Err(stale(table, libc::ENOENT)),
    }
}
