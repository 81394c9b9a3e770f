//! The maps as typed tables.

use std::sync::Arc;

use oxilium_abi::{
    Counter, CtEntry, CtKey4, CtKey6, FragmentEntry, FragmentKey4, FragmentKey6, InterfaceConfig,
    IpcacheKey, IpcacheValue, LbAddress, PolicyCountKey, PolicyKey, PolicyValue, ServiceFlow,
    ServiceKey, ServiceValue, map,
};

use crate::count::{Target, WriteCounter};
use crate::load::{LoadError, Maps};
use crate::table::{PerCpuTable, Plain, Table};

/// Words are tables of plain numbers here; what their bits mean is `oxilium_abi`'s.
#[derive(Debug)]
pub(super) struct Tables {
    pub policy: Table<PolicyKey, PolicyValue>,
    pub shapes: Table<u32, u64>,
    pub ipcache: Table<IpcacheKey, IpcacheValue>,
    pub interfaces: Table<u32, InterfaceConfig>,
    pub endpoint_words: Table<u32, u64>,
    pub node_words: Arc<Table<u32, u64>>,
    pub counters: PerCpuTable<u32, Counter>,
    pub policy_counts: PerCpuTable<PolicyCountKey, Counter>,
    /// Answered, unanswered, denied.
    pub ct4: [Table<CtKey4, CtEntry>; 3],
    /// Answered, unanswered, denied.
    pub ct6: [Table<CtKey6, CtEntry>; 3],
    pub fragments4: Table<FragmentKey4, FragmentEntry>,
    pub fragments6: Table<FragmentKey6, FragmentEntry>,
    /// Choices of answered flows, and of the latest.
    pub choices4: [Table<CtKey4, ServiceFlow>; 2],
    /// Choices of answered flows, and of the latest.
    pub choices6: [Table<CtKey6, ServiceFlow>; 2],
    pub services: Table<ServiceKey, ServiceValue>,
    pub backends: Table<u32, LbAddress>,
    pub reverse_nat: Table<u32, LbAddress>,
}

impl Tables {
    pub(super) fn open(maps: &Maps, counter: &Arc<WriteCounter>) -> Result<Self, LoadError> {
        Ok(Self {
            policy: table(maps, map::POLICY, Target::Policy, counter)?,
            shapes: table(maps, map::POLICY_SHAPES, Target::Shapes, counter)?,
            ipcache: table(maps, map::IPCACHE, Target::Ipcache, counter)?,
            interfaces: table(maps, map::INTERFACES, Target::Interfaces, counter)?,
            endpoint_words: table(maps, map::ENDPOINT_WORDS, Target::EndpointWords, counter)?,
            node_words: Arc::new(table(maps, map::NODE_WORDS, Target::NodeWords, counter)?),
            counters: per_cpu(maps, map::COUNTERS, Target::Maps, counter)?,
            policy_counts: per_cpu(maps, map::POLICY_COUNTS, Target::PolicyCounts, counter)?,
            ct4: [
                table(maps, map::CT4, Target::Conntrack, counter)?,
                table(maps, map::CT4_UNANSWERED, Target::Conntrack, counter)?,
                table(maps, map::CT4_DENIED, Target::Conntrack, counter)?,
            ],
            ct6: [
                table(maps, map::CT6, Target::Conntrack, counter)?,
                table(maps, map::CT6_UNANSWERED, Target::Conntrack, counter)?,
                table(maps, map::CT6_DENIED, Target::Conntrack, counter)?,
            ],
            fragments4: table(maps, map::FRAGMENTS4, Target::Conntrack, counter)?,
            fragments6: table(maps, map::FRAGMENTS6, Target::Conntrack, counter)?,
            choices4: [
                table(maps, map::SERVICE_FLOWS4, Target::Conntrack, counter)?,
                table(maps, map::SERVICE_FLOWS4_NEW, Target::Conntrack, counter)?,
            ],
            choices6: [
                table(maps, map::SERVICE_FLOWS6, Target::Conntrack, counter)?,
                table(maps, map::SERVICE_FLOWS6_NEW, Target::Conntrack, counter)?,
            ],
            services: table(maps, map::SERVICES, Target::Services, counter)?,
            backends: table(maps, map::BACKENDS, Target::Services, counter)?,
            reverse_nat: table(maps, map::REVERSE_NAT, Target::Services, counter)?,
        })
    }
}

fn table<K: Plain, V: Plain>(
    maps: &Maps,
    name: &'static str,
    target: Target,
    counter: &Arc<WriteCounter>,
) -> Result<Table<K, V>, LoadError> {
    Ok(Table::open(
        maps.duplicate(name)?,
        name,
        target,
        Arc::clone(counter),
    )?)
}

fn per_cpu<K: Plain, V: Plain>(
    maps: &Maps,
    name: &'static str,
    target: Target,
    counter: &Arc<WriteCounter>,
) -> Result<PerCpuTable<K, V>, LoadError> {
    Ok(PerCpuTable::open(
        maps.duplicate(name)?,
        name,
        target,
        Arc::clone(counter),
    )?)
}
