//! What each map that the agent uses must be like.

use oxilium_abi::{
    COUNTERS, Counter, CtEntry, CtKey4, CtKey6, EndpointWord, FragmentEntry, FragmentKey4,
    FragmentKey6, InterfaceConfig, IpcacheKey, IpcacheValue, NODE_WORDS, PolicyKey, PolicyValue,
    ShapeWord, map,
};

use crate::config::MapSizes;
use crate::sys::MapDescription;

/// `enum bpf_map_type`.
pub(crate) mod map_type {
    pub(crate) const HASH: u32 = 1;
    pub(crate) const ARRAY: u32 = 2;
    pub(crate) const PERCPU_ARRAY: u32 = 6;
    pub(crate) const LRU_HASH: u32 = 9;
    pub(crate) const LPM_TRIE: u32 = 11;
    pub(crate) const RINGBUF: u32 = 27;
}

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// The maps that the agent uses, in the order in which they are made.
pub(crate) fn maps(sizes: &MapSizes) -> Vec<(&'static str, MapDescription)> {
    use map_type::{ARRAY, HASH, LPM_TRIE, LRU_HASH, PERCPU_ARRAY, RINGBUF};
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
        (map::EVENTS, RINGBUF, 0, 0, 0),
    ]
    .into_iter()
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
