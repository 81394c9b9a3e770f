//! The port, answered by the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use aya::maps::MapData;
use oxilium_abi::{
    Counter, Direction, DropReason, EndpointWord, InterfaceConfig, PolicyCountKey, ShapeWord, map,
};
use oxilium_model::node_state::{AttachPoint, Hook, ProgramTag};
use oxilium_model::observed::{AttachedProgram, Observed};
use oxilium_model::plan::Write;

use super::KernelNode;
use crate::count::WriteCounts;
use crate::error::{ApplyError, NetlinkError, ObserveError};
use crate::events::EventReader;
use crate::port::{
    AddressInfo, BridgeNetfilter, Evicted, Flow, GarbageReport, HookProgram, LinkInfo, MapUsage,
    Node, Occupancy, PodInterface, TryPacket,
};
use crate::table::{Plain, Table};

impl Node for KernelNode {
    fn programs(&self) -> BTreeMap<Hook, ProgramTag> {
        self.programs
            .iter()
            .map(|(hook, program)| (*hook, program.tag))
            .collect()
    }

    fn observe(&mut self) -> Result<Observed, ObserveError> {
        let tables = &self.tables;
        let interfaces: BTreeMap<u32, InterfaceConfig> = all(&tables.interfaces)?;
        let mut observed = Observed {
            policy: all(&tables.policy)?,
            ipcache: all(&tables.ipcache)?,
            services: all(&tables.services)?,
            backends: all(&tables.backends)?,
            reverse_nat: all(&tables.reverse_nat)?,
            ..Observed::default()
        };
        each(&tables.shapes, |index: u32, word: u64| {
            if word != 0 {
                observed
                    .shapes
                    .insert((index >> 1, direction(index)), ShapeWord(word));
            }
        })?;
        each(&tables.endpoint_words, |index: u32, word: u64| {
            if let (true, Ok(endpoint)) = (word != 0, u16::try_from(index >> 1)) {
                observed.endpoint_words.entry(endpoint).or_default()[index as usize & 1] =
                    EndpointWord(word);
            }
        })?;
        each(&*tables.node_words, |index: u32, word: u64| {
            if Observed::NODE_WORDS
                .map(|word| word as u32)
                .contains(&index)
            {
                observed.node_words[index as usize] = word;
            }
        })?;
        let links: Vec<u32> = self
            .netlink
            .links()?
            .iter()
            .map(|link| link.ifindex)
            .collect();
        observed.attachments =
            self.attacher
                .observe(&mut self.netlink, links.into_iter(), |ifindex| {
                    interfaces.get(&ifindex).map(|config| config.endpoint)
                })?;
        observed.interfaces = interfaces;
        Ok(observed)
    }

    fn apply(&mut self, write: &Write) -> Result<(), ApplyError> {
        // A write of a plan is seen before those after it. A system call is no barrier by itself.
        fence(Ordering::SeqCst);
        self.write(write)
    }

    fn tidy(&mut self) -> Result<usize, ApplyError> {
        self.put_pins_in_order()
    }

    fn restored_pins(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.restored)
    }

    fn hooks(&mut self, interfaces: &BTreeSet<u32>) -> Result<Vec<HookProgram>, ObserveError> {
        let clsact = self.netlink.clsact_interfaces()?;
        let mut programs = Vec::new();
        for &ifindex in interfaces {
            for hook in Hook::ALL {
                let point = AttachPoint { ifindex, hook };
                programs.extend(self.attacher.hook(
                    &mut self.netlink,
                    point,
                    clsact.contains(&ifindex),
                )?);
            }
        }
        Ok(programs)
    }

    fn attachments(
        &mut self,
        interfaces: &BTreeMap<u32, u16>,
    ) -> Result<BTreeMap<AttachPoint, AttachedProgram>, ObserveError> {
        self.attacher
            .observe(&mut self.netlink, interfaces.keys().copied(), |ifindex| {
                interfaces.get(&ifindex).copied()
            })
    }

    fn announces_hooks(&self) -> bool {
        !self.uses_tcx()
    }

    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        self.netlink.links()
    }

    fn clsact(&mut self) -> Result<BTreeSet<u32>, NetlinkError> {
        Ok(self.netlink.clsact_interfaces()?.into_iter().collect())
    }

    fn addresses(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        self.netlink.addresses()
    }

    fn bridge_netfilter(&mut self) -> Result<[BridgeNetfilter; 2], NetlinkError> {
        crate::netlink::bridge_netfilter()
    }

    fn pod_interface(&mut self, netns: &Path, name: &str) -> Result<PodInterface, NetlinkError> {
        self.netlink.pod_interface(netns, name, &self.counter)
    }

    fn flows(&mut self) -> Result<Vec<Flow>, ObserveError> {
        self.read_flows()
    }

    fn collect_garbage(&mut self, budget: usize) -> Result<GarbageReport, ApplyError> {
        self.garbage(budget)
    }

    fn evicted(&self) -> Evicted {
        Evicted {
            flows: self.evictions.flows.count(),
            choices: self.evictions.choices.count(),
            latest_choices: self.evictions.latest_choices.count(),
        }
    }

    fn flow_tables(&self) -> BTreeMap<&'static str, Occupancy> {
        self.flow_tables.clone()
    }

    fn counters(&mut self) -> Result<BTreeMap<(Direction, u8), Counter>, ObserveError> {
        self.read_counters()
    }

    fn policy_counts(&mut self) -> Result<BTreeMap<PolicyCountKey, Counter>, ObserveError> {
        self.read_policy_counts()
    }

    fn usage(
        &mut self,
        known: &BTreeMap<&'static str, usize>,
    ) -> Result<Vec<MapUsage>, ObserveError> {
        self.read_usage(known)
    }

    fn map_memory(&self) -> Result<u64, ObserveError> {
        self.read_memory()
    }

    fn events(&mut self) -> Result<EventReader, ObserveError> {
        let failed = |source| ObserveError::Map {
            map: map::EVENTS,
            source,
        };
        let fd = self
            .maps
            .duplicate(map::EVENTS)
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let ring = MapData::from_fd(fd).map_err(|error| failed(std::io::Error::other(error)))?;
        EventReader::open(
            ring,
            Arc::clone(&self.tables.node_words),
            Arc::clone(&self.events_taken),
        )
    }

    fn try_packet(&mut self, packet: &TryPacket) -> Result<Option<DropReason>, ObserveError> {
        self.run_dry(packet)
    }

    fn writes(&self) -> WriteCounts {
        self.counter.snapshot()
    }
}

const fn direction(index: u32) -> Direction {
    if index & 1 == 0 {
        Direction::Ingress
    } else {
        Direction::Egress
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

fn all<K: Plain + Ord, V: Plain>(table: &Table<K, V>) -> Result<BTreeMap<K, V>, ObserveError> {
    let mut entries = Vec::new();
    each(table, |key, value| entries.push((key, value)))?;
    // Collected at once, the nodes of the tree are full.
    Ok(entries.into_iter().collect())
}
