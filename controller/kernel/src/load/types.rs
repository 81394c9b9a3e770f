//! Type information of maps (BTF, Documentation/bpf/btf.rst), written and read: names, places and sizes of fields, and
//! nothing more. `bpftool map dump` shows entries by it; an agent of another version reads them by it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::record::{Part, Record, Records};
use crate::sys::{self, Kind, MapTypes};

/// `BTF_MAGIC` and version 1, as they stand in memory.
const MAGIC: u32 = 0x0001_EB9F;
/// Bytes of `struct btf_header`.
const HEADER: usize = 24;
/// `BTF_KIND_*`.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;

/// Types of all maps, in the kernel.
pub(super) struct Types {
    btf: OwnedFd,
    ids: BTreeMap<String, (u32, u32)>,
}

impl Types {
    /// Writes the types of these maps, and has `load` take them to the kernel.
    pub(super) fn load<E>(
        records: &BTreeMap<String, Records>,
        load: impl FnOnce(&[u8]) -> Result<OwnedFd, E>,
    ) -> Result<Self, E> {
        let mut writer = Writer::default();
        let ids = records
            .iter()
            .map(|(name, records)| {
                let key = writer.record(&records.key);
                (name.clone(), (key, writer.record(&records.value)))
            })
            .collect();
        let btf = load(&writer.finish())?;
        Ok(Self { btf, ids })
    }

    /// Those of one map.
    pub(super) fn of(&self, map: &str) -> Option<MapTypes<'_>> {
        let (key, value) = *self.ids.get(map)?;
        Some(MapTypes {
            btf: self.btf.as_fd(),
            key,
            value,
        })
    }
}

/// What a map that is there says of its keys and values; none where it says nothing, or nothing that is understood.
pub(super) fn records_of(map: BorrowedFd<'_>) -> io::Result<Option<Records>> {
    let Some(ids) = sys::map_type_ids(map)? else {
        return Ok(None);
    };
    let btf = sys::fd_by_id(Kind::Btf, ids.btf)?;
    let bytes = sys::btf_bytes(btf.as_fd())?;
    let reader = Reader::new(&bytes);
    Ok(reader.and_then(|reader| {
        Some(Records {
            key: reader.record(ids.key)?,
            value: reader.record(ids.value)?,
        })
    }))
}

#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    /// Numbers and arrays of bytes by their size.
    known: BTreeMap<(u32, usize), u32>,
}

impl Writer {
    fn string(&mut self, text: &str) -> u32 {
        // The first byte is the empty name.
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        let at = self.strings.len();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        number(at)
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
    }

    /// Adds a type: its name, what `struct btf_type` says of it, and what follows.
    fn add(&mut self, name: u32, [kind, members, size]: [u32; 3], rest: &[u32]) -> u32 {
        self.words(&[name, kind << 24 | members, size]);
        self.words(rest);
        self.count += 1;
        self.count
    }

    fn int(&mut self, size: usize) -> u32 {
        if let Some(id) = self.known.get(&(INT, size)) {
            return *id;
        }
        let name = self.string(&format!("u{}", size * 8));
        let id = self.add(name, [INT, 0, number(size)], &[number(size * 8)]);
        self.known.insert((INT, size), id);
        id
    }

    fn bytes(&mut self, length: usize) -> u32 {
        if let Some(id) = self.known.get(&(ARRAY, length)) {
            return *id;
        }
        let (element, index) = (self.int(1), self.int(4));
        let id = self.add(0, [ARRAY, 0, 0], &[element, index, number(length)]);
        self.known.insert((ARRAY, length), id);
        id
    }

    fn record(&mut self, record: &Record) -> u32 {
        if record.is_number() {
            return self.int(record.size);
        }
        let mut members = Vec::new();
        for part in &record.parts {
            let is_int =
                matches!(part.size, 1 | 2 | 4 | 8) && part.offset.is_multiple_of(part.size);
            let of = if is_int {
                self.int(part.size)
            } else {
                self.bytes(part.size)
            };
            members.extend([self.string(&part.name), of, number(part.offset * 8)]);
        }
        let name = self.string(&record.name);
        let count = number(record.parts.len());
        self.add(name, [STRUCT, count, number(record.size)], &members)
    }

    fn finish(self) -> Vec<u8> {
        let (types, strings) = (number(self.types.len()), number(self.strings.len()));
        let header = [MAGIC, number(HEADER), 0, types, types, strings];
        let mut bytes: Vec<u8> = header
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// Types as they stand in memory: each by its place.
struct Reader<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    places: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// None where there is a kind of type that maps of ours do not have.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let header = |index: usize| word(bytes, index * 4);
        let place = |offset: u32, length: u32| {
            let start = (header(1)? as usize).checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(length as usize)?)
        };
        if header(0)? != MAGIC {
            return None;
        }
        let types = place(header(2)?, header(3)?)?;
        let strings = place(header(4)?, header(5)?)?;
        // Ids begin with 1.
        let (mut places, mut at) = (vec![usize::MAX], 0);
        while at < types.len() {
            places.push(at);
            let info = word(types, at + 4)?;
            at += 12
                + match info >> 24 & 0x1F {
                    INT => 4,
                    ARRAY => 12,
                    STRUCT => 12 * (info & 0xFFFF) as usize,
                    _ => return None,
                };
        }
        Some(Self {
            types,
            strings,
            places,
        })
    }

    /// Words of a type from its name on.
    fn word(&self, id: u32, index: usize) -> Option<u32> {
        word(self.types, self.places.get(id as usize)? + index * 4)
    }

    fn kind(&self, id: u32) -> Option<u32> {
        Some(self.word(id, 1)? >> 24 & 0x1F)
    }

    fn size(&self, id: u32) -> Option<usize> {
        match self.kind(id)? {
            // Of bytes only.
            ARRAY if self.size(self.word(id, 3)?)? == 1 => Some(self.word(id, 5)? as usize),
            INT | STRUCT => Some(self.word(id, 2)? as usize),
            _ => None,
        }
    }

    fn name(&self, offset: u32) -> Option<String> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn record(&self, id: u32) -> Option<Record> {
        let size = self.size(id)?;
        let name = self.name(self.word(id, 0)?)?;
        let parts = match self.kind(id)? {
            INT => vec![Part {
                name: "value".to_owned(),
                offset: 0,
                size,
            }],
            STRUCT => (0..(self.word(id, 1)? & 0xFFFF) as usize)
                .map(|member| {
                    let of = |index: usize| self.word(id, 3 + member * 3 + index);
                    Some(Part {
                        name: self.name(of(0)?)?,
                        offset: of(2)? as usize / 8,
                        size: self.size(of(1)?)?,
                    })
                })
                .collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Record { name, size, parts })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use oxilium_abi::{CtEntry, CtKey6, InterfaceConfig, IpcacheKey};
    use oxilium_e2e::require::{Need, require};

    use super::*;

    fn all() -> Vec<Record> {
        vec![
            Record::of::<u32>(),
            Record::of::<u64>(),
            Record::of::<CtKey6>(),
            Record::of::<CtEntry>(),
            Record::of::<IpcacheKey>(),
            Record::of::<InterfaceConfig>(),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        let ids: Vec<u32> = all().iter().map(|record| writer.record(record)).collect();
        let bytes = writer.finish();
        let reader = Reader::new(&bytes).expect("all kinds are known");
        for (id, record) in ids.into_iter().zip(all()) {
            let read = reader.record(id).expect("it was written");
            assert_eq!((read.size, &read.parts), (record.size, &record.parts));
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_not_understood() {
        let mut writer = Writer::default();
        let id = writer.record(&Record::of::<CtEntry>());
        let bytes = writer.finish();
        for length in 0..bytes.len() {
            let read = Reader::new(&bytes[..length]).and_then(|reader| reader.record(id));
            assert_eq!(read, None, "{length} bytes");
        }
        let mut other = Writer::default();
        other.add(0, [2, 0, 0], &[]);
        assert!(Reader::new(&other.finish()).is_none(), "a pointer");
    }

    #[test]
    fn the_kernel_takes_them() {
        if !require(&[Need::Root]) {
            return;
        }
        let records = BTreeMap::from([("ox_ct6".to_owned(), Records::of::<CtKey6, CtEntry>())]);
        let types = Types::load(&records, |bytes| sys::btf_load(bytes, &mut []));
        assert!(types.expect("valid types").of("ox_ct6").is_some());
    }
}
