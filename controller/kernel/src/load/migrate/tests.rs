//! Two versions of the agent, as far as one map is concerned.

use std::collections::BTreeMap;

use oxilium_abi::{CtEntry, CtKey4, PolicyKey, PolicyValue};

use super::*;
use crate::common::on_kernel;
use crate::load::record::{Part, Record};
use crate::load::types::Types;
use crate::port::AttachMode;

/// The same fields in the opposite order, behind so many bytes that are new.
fn turned(record: &Record, new: usize) -> Record {
    let (mut parts, mut size) = (Vec::new(), 0);
    let mut add = |name: &str, length: usize| {
        parts.push(Part {
            name: name.to_owned(),
            offset: size,
            size: length,
        });
        size += length;
    };
    if new > 0 {
        add("new", new);
    }
    for part in record.parts.iter().rev() {
        add(&part.name, part.size);
    }
    Record {
        name: "turned".to_owned(),
        size,
        parts,
    }
}

fn described(map_type: u32, records: &Records) -> MapDescription {
    let size = |bytes: usize| u32::try_from(bytes).expect("small");
    MapDescription {
        id: 0,
        map_type,
        key_size: size(records.key.size),
        value_size: size(records.value.size),
        max_entries: 64,
        flags: 0,
        name: "ox_test".to_owned(),
    }
}

/// A version of the agent, as far as it concerns one map.
struct Version {
    records: Records,
    description: MapDescription,
    types: Types,
    counter: Arc<WriteCounter>,
}

impl Version {
    fn new(map_type: u32, records: Records) -> Self {
        let all = BTreeMap::from([("ox_test".to_owned(), records.clone())]);
        Self {
            description: described(map_type, &records),
            types: Types::load(&all, |bytes| sys::btf_load(bytes, &mut [])).expect("valid"),
            records,
            counter: Arc::default(),
        }
    }

    fn make(&self, path: &Path) -> OwnedFd {
        let types = self.types.of("ox_test");
        let map = sys::map_create(&self.description, types.as_ref()).expect("a map");
        sys::obj_pin(map.as_fd(), path).expect("a pin");
        map
    }

    /// Takes over what is pinned.
    fn open(&self, path: &Path) -> OwnedFd {
        let fd = sys::obj_get(path).expect("a pin");
        let found = sys::map_info(fd.as_fd()).expect("a map");
        let wanted = Wanted {
            description: &self.description,
            records: Some(&self.records),
        };
        match fate(&fd, &found, &wanted).expect("readable") {
            Fate::Stays => fd,
            Fate::Moves(way) => {
                let types = self.types.of("ox_test");
                let pinned = Pinned { path, fd, found };
                migrate(&pinned, &wanted, &way, types.as_ref(), &self.counter)
                    .expect("all fits")
                    .0
            }
            Fate::Refused => unreachable!("both say what they are"),
        }
    }

    fn entries(&self, map: &OwnedFd) -> Vec<(Vec<u8>, Vec<u8>)> {
        let info = sys::map_info(map.as_fd()).expect("a map");
        let mut found = Vec::new();
        raw(map, &info, &self.counter)
            .and_then(|table| {
                table.for_each(&mut |key, value| found.push((key.to_vec(), value.to_vec())))
            })
            .expect("readable");
        found.sort();
        found
    }
}

fn there_and_back(map_type: u32, records: &Records) {
    on_kernel(AttachMode::Auto, |bed| {
        let directory = bed.config().bpf_root;
        let path = directory.join("ox_test");
        let ours = Version::new(map_type, records.clone());
        let theirs = Version::new(
            map_type,
            Records {
                key: turned(&records.key, 0),
                value: turned(&records.value, 8),
            },
        );
        let map = ours.make(&path);
        for number in 1..=40_u8 {
            let key: Vec<u8> = (0..records.key.size)
                .map(|at| u8::try_from(at).expect("small") ^ number)
                .collect();
            let value = vec![number; records.value.size];
            sys::map_update(map.as_fd(), &key, &value, 0).expect("room");
        }
        let before = ours.entries(&map);
        assert_eq!(before.len(), 40);

        let turned = theirs.open(&path);
        let found = theirs.entries(&turned);
        assert_eq!(found.len(), 40);
        for (key, value) in &found {
            assert_eq!((key.len(), &value[..8]), (records.key.size, &[0; 8][..]));
        }
        let writes = theirs.counter.snapshot();
        drop(theirs.open(&path));
        assert_eq!(theirs.counter.snapshot(), writes, "it is theirs by now");

        let back = ours.open(&path);
        assert_eq!(ours.entries(&back), before);
    });
}

#[test]
fn entries_of_another_layout_are_read_by_the_names_of_their_fields() {
    there_and_back(HASH, &Records::of::<PolicyKey, PolicyValue>());
    there_and_back(LRU_HASH, &Records::of::<CtKey4, CtEntry>());
}

#[test]
fn keys_that_could_become_one_are_refused() {
    on_kernel(AttachMode::Auto, |bed| {
        let path = bed.config().bpf_root.join("ox_test");
        let records = Records::of::<PolicyKey, PolicyValue>();
        let key = turned(&records.key, 4);
        let value = records.value.clone();
        let theirs = Version::new(HASH, Records { key, value });
        let map = theirs.make(&path);
        let ours = Version::new(HASH, records);
        let wanted = Wanted {
            description: &ours.description,
            records: Some(&ours.records),
        };
        let found = sys::map_info(map.as_fd()).expect("a map");
        let fate = fate(&map, &found, &wanted).expect("readable");
        assert!(matches!(fate, Fate::Refused));
    });
}

#[test]
fn flows_that_were_noted_in_the_former_map_are_carried_over() {
    on_kernel(AttachMode::Auto, |bed| {
        let path = bed.config().bpf_root.join("ox_test");
        let records = Records::of::<CtKey4, CtEntry>();
        let ours = Version::new(LRU_HASH, records.clone());
        let value = turned(&records.value, 8);
        let theirs = Version::new(LRU_HASH, Records { value, ..records });
        let old = ours.make(&path);
        let new = theirs.open(&path);
        let (key, value) = (
            vec![1; ours.records.key.size],
            vec![2; ours.records.value.size],
        );
        sys::map_update(old.as_fd(), &key, &value, 0).expect("room");
        let carry = || carry_flows(&old, &new, Some(&theirs.records), &theirs.counter);
        assert_eq!(carry().expect("readable"), 1);
        assert_eq!(carry().expect("readable"), 0, "it is there by now");
        let [(found, value)] = &theirs.entries(&new)[..] else {
            unreachable!("one entry");
        };
        assert_eq!((found, &value[8..]), (&key, &[2; 64][..]));
    });
}

#[test]
fn a_map_that_does_not_say_what_it_holds_is_taken_as_it_is_or_not_at_all() {
    on_kernel(AttachMode::Auto, |bed| {
        let path = bed.config().bpf_root.join("ox_test");
        let records = Records::of::<CtKey4, CtEntry>();
        let first = described(LRU_HASH, &records);
        let map = sys::map_create(&first, None).expect("a map");
        sys::obj_pin(map.as_fd(), &path).expect("a pin");
        let found = sys::map_info(map.as_fd()).expect("a map");
        let becomes = |records: &Records| {
            let description = &described(LRU_HASH, records);
            let wanted = Wanted {
                description,
                records: Some(records),
            };
            fate(&map, &found, &wanted).expect("readable")
        };
        assert!(matches!(becomes(&records), Fate::Stays));
        let other = Records {
            value: turned(&records.value, 8),
            ..records
        };
        assert!(matches!(becomes(&other), Fate::Refused));
    });
}
