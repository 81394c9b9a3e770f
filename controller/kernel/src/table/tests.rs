//! Batches and their traps, on the real kernel, with bpftool as the witness.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{OpenError, Plain, Table};
use crate::common::json;
use crate::count::{Action, Target, WriteCount, WriteCounter};
use crate::sys::{self, MapDescription};
use oxilium_abi::{CtEntry, CtKey4, IpcacheKey, IpcacheValue};
use oxilium_e2e::require::{Need, require};

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;

fn make<K: Plain, V: Plain>(
    map_type: u32,
    max_entries: u32,
) -> (Table<K, V>, u32, Arc<WriteCounter>) {
    let size = |bytes: usize| u32::try_from(bytes).expect("small");
    let fd = sys::map_create(
        &MapDescription {
            map_type,
            key_size: size(size_of::<K>()),
            value_size: size(size_of::<V>()),
            max_entries,
            flags: u32::from(map_type == LPM_TRIE),
            name: "ox_test".to_owned(),
            id: 0,
        },
        None,
    )
    .expect("root may make a map");
    let id = sys::map_info(fd.as_fd()).expect("it is there").id;
    let counter = Arc::new(WriteCounter::default());
    let table =
        Table::open(fd, "ox_test", Target::Policy, Arc::clone(&counter)).expect("sizes agree");
    (table, id, counter)
}

/// What bpftool says is in a map, as bytes.
fn witness(id: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let bytes = |value: &serde_json::Value| -> Vec<u8> {
        value
            .as_array()
            .expect("a list of bytes")
            .iter()
            .map(|byte| {
                let text = byte.as_str().expect("a byte in hex");
                u8::from_str_radix(text.trim_start_matches("0x"), 16).expect("a byte in hex")
            })
            .collect()
    };
    json("bpftool", &["-j", "map", "dump", "id", &id.to_string()])
        .as_array()
        .expect("a list of entries")
        .iter()
        .map(|entry| (bytes(&entry["key"]), bytes(&entry["value"])))
        .collect()
}

fn by_bytes<K: Plain, V: Plain>(entries: &[(K, V)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    entries
        .iter()
        .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

#[test]
fn tables_hold_what_was_written_whatever_the_map_and_the_way() {
    if !require(&[Need::Root, Need::Bpf]) {
        return;
    }
    let entries = proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..300);
    let gone = proptest::collection::vec(any::<prop::sample::Index>(), 0..100);
    let mut runner = TestRunner::new(Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(
            &(entries, gone, any::<bool>()),
            |(entries, gone, batches)| {
                let (mut table, id, counter) = make::<u32, u64>(HASH, 1024);
                if !batches {
                    table = table.without_batches();
                }
                let all: Vec<(u32, u64)> = entries.iter().map(|(k, v)| (*k, *v)).collect();
                table.update_all(&all).expect("room for all");
                prop_assert_eq!(witness(id), by_bytes(&all));
                let read = table.read_all().expect("readable");
                prop_assert_eq!(read.len(), all.len());
                prop_assert_eq!(by_bytes(&read), by_bytes(&all));
                // Some that are there, some that are not, some twice.
                let mut keys: Vec<u32> = gone
                    .iter()
                    .filter(|_| !all.is_empty())
                    .map(|index| all[index.index(all.len())].0)
                    .collect();
                keys.extend([1, 2, 3]);
                let found = table.remove_all(&keys).expect("absent ones are no error");
                let rest: Vec<(u32, u64)> = all
                    .iter()
                    .filter(|(key, _)| !keys.contains(key))
                    .copied()
                    .collect();
                prop_assert_eq!(found, all.len() - rest.len());
                prop_assert_eq!(witness(id), by_bytes(&rest));
                let counts = counter.snapshot();
                let entries_of = |action| {
                    counts
                        .get(&(Target::Policy, action))
                        .map_or(0, |c: &WriteCount| c.entries)
                };
                prop_assert_eq!(entries_of(Action::Update), all.len() as u64);
                prop_assert_eq!(entries_of(Action::Delete), found as u64);
                Ok(())
            },
        )
        .expect("it holds for every content");
}

#[test]
fn every_kind_of_map_is_read_whole() {
    if !require(&[Need::Root, Need::Bpf]) {
        return;
    }
    let (lru, id, _) = make::<CtKey4, CtEntry>(LRU_HASH, 4096);
    let flows: Vec<(CtKey4, CtEntry)> = (0..1500_u16)
        .map(|n| {
            let key = CtKey4 {
                endpoint: n,
                ..CtKey4::default()
            };
            (key, CtEntry::default())
        })
        .collect();
    lru.update_all(&flows).expect("room");
    assert_eq!(witness(id), by_bytes(&lru.read_all().expect("readable")));

    let (trie, id, _) = make::<IpcacheKey, IpcacheValue>(LPM_TRIE, 20_000);
    let prefixes: Vec<(IpcacheKey, IpcacheValue)> = (0..9000_u32)
        .map(|n| {
            let key = IpcacheKey::v4((n << 8).to_be_bytes(), 24);
            (key, IpcacheValue::level(n))
        })
        .collect();
    trie.update_all(&prefixes).expect("room");
    let read = trie.read_all().expect("readable");
    assert_eq!(read.len(), prefixes.len());
    assert_eq!(by_bytes(&read), by_bytes(&prefixes));
    assert_eq!(witness(id), by_bytes(&prefixes));

    let (array, _, _) = make::<u32, u64>(ARRAY, 9001);
    array.update(&9000, &7).expect("in range");
    let read = array.read_all().expect("readable");
    assert_eq!(read.len(), 9001);
    assert_eq!(read.last(), Some(&(9000, 7)));
    assert_eq!(read.iter().filter(|(_, value)| *value != 0).count(), 1);
}

#[test]
fn a_bucket_bigger_than_the_buffer_is_read_with_a_bigger_one() {
    if !require(&[Need::Root, Need::Bpf]) {
        return;
    }
    // Batches begin with room for 4096 entries at most; a map of 5 begins with room for 5 and one of
    // 40000 with room for 4096: neither may lose an entry.
    for max_entries in [1, 5, 40_000] {
        let (table, id, _) = make::<u32, u64>(HASH, max_entries);
        let all: Vec<(u32, u64)> = (0..max_entries).map(|n| (n, u64::from(n))).collect();
        table.update_all(&all).expect("room");
        let read = table.read_all().expect("readable");
        assert_eq!(read.len(), all.len());
        assert_eq!(by_bytes(&read), by_bytes(&all));
        if max_entries < 100 {
            assert_eq!(witness(id), by_bytes(&all));
        }
    }
}

#[test]
fn a_full_map_says_how_far_a_batch_came() {
    if !require(&[Need::Root, Need::Bpf]) {
        return;
    }
    for batches in [true, false] {
        let (mut table, id, counter) = make::<u32, u64>(HASH, 8);
        if !batches {
            table = table.without_batches();
        }
        let all: Vec<(u32, u64)> = (0..200).map(|n| (n, 1)).collect();
        let error = table
            .update_all(&all)
            .expect_err("more than there is room for");
        assert!((8..200).contains(&error.done), "{error}");
        assert_eq!(error.source.raw_os_error(), Some(libc::E2BIG), "{error}");
        assert_eq!(witness(id), by_bytes(&all[..error.done]));
        let count = counter.snapshot()[&(Target::Policy, Action::Update)];
        assert_eq!(count.entries, error.done as u64);
        assert_eq!(count.failed, 1);
    }
}

#[test]
fn a_map_of_other_sizes_is_not_opened() {
    if !require(&[Need::Root, Need::Bpf]) {
        return;
    }
    let (table, id, _) = make::<u32, u64>(HASH, 8);
    let again = || sys::fd_by_id(sys::Kind::Map, id).expect("it is open");
    let keys = Table::<u64, u64>::open(again(), "t", Target::Policy, Arc::default());
    let values = Table::<u32, u32>::open(again(), "t", Target::Policy, Arc::default());
    for (result, what) in [(keys.map(drop), "keys"), (values.map(drop), "values")] {
        let error = result.expect_err("sizes differ");
        assert!(
            matches!(&error, OpenError::Size { what: w, .. } if *w == what),
            "{error}"
        );
    }
    drop(table);
}
