//! What each map that the agent uses must be like.

use std::collections::BTreeMap;

use oxilium_abi::{
    Affinity, AffinityKey, COUNTERS, Counter, CtEntry, CtKey4, CtKey6, EndpointWord, FragmentEntry,
    FragmentKey4, FragmentKey6, InterfaceConfig, IpcacheKey, IpcacheValue, LbAddress, NODE_WORDS,
    PolicyCountKey, PolicyKey, PolicyValue, ServiceFlow, ServiceKey, ServiceValue, ShapeWord, map,
};

use super::record::Records;
use crate::config::MapSizes;
use crate::sys::MapDescription;

/// `enum bpf_map_type`.
pub(crate) mod map_type {
    pub(crate) const HASH: u32 = 1;
    pub(crate) const ARRAY: u32 = 2;
    pub(crate) const PERCPU_ARRAY: u32 = 6;
    pub(crate) const LRU_HASH: u32 = 9;
    pub(crate) const LRU_PERCPU_HASH: u32 = 10;
    pub(crate) const LPM_TRIE: u32 = 11;
    pub(crate) const RINGBUF: u32 = 27;
}

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// Name, type, sizes of keys and values, flags.
type Row = (&'static str, u32, usize, usize, u32);

/// The maps of services.
fn service_maps() -> [Row; 8] {
    use map_type::{HASH, LRU_HASH};
    let index = size_of::<u32>();
    let address = size_of::<LbAddress>();
    let flow = size_of::<ServiceFlow>();
    let (key, value) = (size_of::<ServiceKey>(), size_of::<ServiceValue>());
    let (client, affinity) = (size_of::<AffinityKey>(), size_of::<Affinity>());
    let (ct4, ct6) = (size_of::<CtKey4>(), size_of::<CtKey6>());
    [
        (map::SERVICES, HASH, key, value, NO_PREALLOC),
        (map::BACKENDS, HASH, index, address, NO_PREALLOC),
        (map::REVERSE_NAT, HASH, index, address, NO_PREALLOC),
        (map::SERVICE_FLOWS4, LRU_HASH, ct4, flow, 0),
        (map::SERVICE_FLOWS6, LRU_HASH, ct6, flow, 0),
        (map::SERVICE_FLOWS4_NEW, LRU_HASH, ct4, flow, 0),
        (map::SERVICE_FLOWS6_NEW, LRU_HASH, ct6, flow, 0),
        (map::AFFINITY, LRU_HASH, client, affinity, 0),
    ]
}

/// The maps that the agent uses, in the order in which they are made.
pub(crate) fn maps(sizes: &MapSizes) -> Vec<(&'static str, MapDescription)> {
    use map_type::{ARRAY, HASH, LPM_TRIE, LRU_HASH, LRU_PERCPU_HASH, PERCPU_ARRAY, RINGBUF};
    let word = size_of::<u64>();
    let index = size_of::<u32>();
    let ct = size_of::<CtEntry>();
    let (ct4, ct6) = (size_of::<CtKey4>(), size_of::<CtKey6>());
    let fragment = size_of::<FragmentEntry>();
    [
        (map::NODE_WORDS, ARRAY, index, word, 0),
        (
            map::ENDPOINT_WORDS,
            ARRAY,
            index,
            size_of::<EndpointWord>(),
            0,
        ),
        (
            map::INTERFACES,
            HASH,
            index,
            size_of::<InterfaceConfig>(),
            0,
        ),
        (
            map::IPCACHE,
            LPM_TRIE,
            size_of::<IpcacheKey>(),
            size_of::<IpcacheValue>(),
            NO_PREALLOC,
        ),
        (
            map::POLICY,
            HASH,
            size_of::<PolicyKey>(),
            size_of::<PolicyValue>(),
            NO_PREALLOC,
        ),
        (map::POLICY_SHAPES, ARRAY, index, size_of::<ShapeWord>(), 0),
        (map::CT4, LRU_HASH, ct4, ct, 0),
        (map::CT6, LRU_HASH, ct6, ct, 0),
        (map::CT4_UNANSWERED, LRU_HASH, ct4, ct, 0),
        (map::CT6_UNANSWERED, LRU_HASH, ct6, ct, 0),
        (map::CT4_DENIED, LRU_HASH, ct4, ct, 0),
        (map::CT6_DENIED, LRU_HASH, ct6, ct, 0),
        (
            map::FRAGMENTS4,
            LRU_HASH,
            size_of::<FragmentKey4>(),
            fragment,
            0,
        ),
        (
            map::FRAGMENTS6,
            LRU_HASH,
            size_of::<FragmentKey6>(),
            fragment,
            0,
        ),
        (map::COUNTERS, PERCPU_ARRAY, index, size_of::<Counter>(), 0),
        (
            map::POLICY_COUNTS,
            LRU_PERCPU_HASH,
            size_of::<PolicyCountKey>(),
            size_of::<Counter>(),
            0,
        ),
        (map::EVENTS, RINGBUF, 0, 0, 0),
    ]
    .into_iter()
    .chain(service_maps())
    .map(|(name, map_type, key, value, flags)| {
        let fixed = match name {
            map::NODE_WORDS => NODE_WORDS,
            map::COUNTERS => COUNTERS,
            _ => 0,
        };
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let description = MapDescription {
            id: 0,
            map_type,
            key_size: size(key),
            value_size: size(value),
            max_entries: sizes.of(name).unwrap_or(fixed),
            flags,
            name: name.to_owned(),
        };
        (name, description)
    })
    .collect()
}

/// The fields of keys and values, of the maps whose entries outlive a version. Rings and counters begin anew.
pub(super) fn records() -> BTreeMap<String, Records> {
    [
        (map::NODE_WORDS, Records::of::<u32, u64>()),
        (map::ENDPOINT_WORDS, Records::of::<u32, u64>()),
        (map::POLICY_SHAPES, Records::of::<u32, u64>()),
        (map::INTERFACES, Records::of::<u32, InterfaceConfig>()),
        (map::IPCACHE, Records::of::<IpcacheKey, IpcacheValue>()),
        (map::POLICY, Records::of::<PolicyKey, PolicyValue>()),
        (map::CT4, Records::of::<CtKey4, CtEntry>()),
        (map::CT6, Records::of::<CtKey6, CtEntry>()),
        (map::CT4_UNANSWERED, Records::of::<CtKey4, CtEntry>()),
        (map::CT6_UNANSWERED, Records::of::<CtKey6, CtEntry>()),
        (map::CT4_DENIED, Records::of::<CtKey4, CtEntry>()),
        (map::CT6_DENIED, Records::of::<CtKey6, CtEntry>()),
        (
            map::FRAGMENTS4,
            Records::of::<FragmentKey4, FragmentEntry>(),
        ),
        (
            map::FRAGMENTS6,
            Records::of::<FragmentKey6, FragmentEntry>(),
        ),
        (map::SERVICES, Records::of::<ServiceKey, ServiceValue>()),
        (map::BACKENDS, Records::of::<u32, LbAddress>()),
        (map::REVERSE_NAT, Records::of::<u32, LbAddress>()),
        (map::SERVICE_FLOWS4, Records::of::<CtKey4, ServiceFlow>()),
        (map::SERVICE_FLOWS6, Records::of::<CtKey6, ServiceFlow>()),
        (
            map::SERVICE_FLOWS4_NEW,
            Records::of::<CtKey4, ServiceFlow>(),
        ),
        (
            map::SERVICE_FLOWS6_NEW,
            Records::of::<CtKey6, ServiceFlow>(),
        ),
        (map::AFFINITY, Records::of::<AffinityKey, Affinity>()),
    ]
    .into_iter()
    .map(|(name, records)| (name.to_owned(), records))
    .collect()
}
