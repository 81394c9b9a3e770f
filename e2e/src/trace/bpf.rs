//! The commands of bpf(2): which of them write, and to which map or pin.

use std::{io, path::Path};

use oxilium_abi::{NodeWord, map};

use super::{
    Domain,
    call::{Meaning, Named, Process, descriptor, word},
    site::object_of,
};

/// Lookups, ids, information, runs of programs, queries, iterators.
pub(super) const READS: &[u64] = &[
    1, 4, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 23, 24, 30, 31, 33,
];

/// Each is a thing of its own.
const NODE_WORDS: [NodeWord; 6] = [
    NodeWord::Published,
    NodeWord::Ipcache,
    NodeWord::HighWater,
    NodeWord::CtSeed,
    NodeWord::EventReaders,
    NodeWord::Services,
];

impl Process {
    /// A map, and of node words which.
    fn entry(&mut self, map: String, key: u64) -> io::Result<String> {
        if map != map::NODE_WORDS {
            return Ok(map);
        }
        let key = self.bytes(key, 4)?;
        let named = |word: &NodeWord| (*word as u32).to_ne_bytes()[..] == key[..];
        let found = NODE_WORDS.into_iter().find(named);
        Ok(found.map_or_else(|| map.clone(), |word| format!("{map} {word:?}")))
    }

    pub(super) fn bpf(&mut self, command: u64, attribute: u64) -> io::Result<Meaning> {
        let attribute = self.bytes(attribute, 128)?;
        let of_map = |process: &Self, fd: u64| match process.descriptors.get(&descriptor(fd)) {
            Some(Named::Map(name)) => name.clone(),
            _ => "a map".to_owned(),
        };
        let first = word(&attribute, 0) & 0xFFFF_FFFF;
        let write = |call: &str, object: String| Meaning::writes(Domain::Bpf, call, object);
        Ok(match command {
            // The map's name stands after seven numbers, the program's after the log's and the kernel version.
            0 => {
                let name = c_text(&attribute, 28);
                let mut meaning = write("MAP_CREATE", name.clone());
                meaning.names = Some(Named::Map(name));
                meaning
            }
            2 => {
                let map = of_map(self, first);
                let object = self.entry(map, word(&attribute, 8))?;
                write(update(word(&attribute, 24)), object)
            }
            3 => write("MAP_DELETE_ELEM", of_map(self, first)),
            5 => write("PROG_LOAD", c_text(&attribute, 48)),
            6 => {
                let path = self.text(word(&attribute, 0))?;
                write("OBJ_PIN", object_of(Path::new(&path)))
            }
            7 => {
                let path = self.text(word(&attribute, 0))?;
                Meaning::names(Named::Map(object_of(Path::new(&path))))
            }
            18 => write("BTF_LOAD", String::new()),
            22 => write("MAP_FREEZE", of_map(self, first)),
            // Batches have their map behind four addresses and a count.
            25 => write(
                "MAP_LOOKUP_AND_DELETE_BATCH",
                of_map(self, word(&attribute, 36) & 0xFFFF_FFFF),
            ),
            26 => write(
                "MAP_UPDATE_BATCH",
                of_map(self, word(&attribute, 36) & 0xFFFF_FFFF),
            ),
            27 => write(
                "MAP_DELETE_BATCH",
                of_map(self, word(&attribute, 36) & 0xFFFF_FFFF),
            ),
            28 => write("LINK_CREATE", String::new()),
            29 => write("LINK_UPDATE", String::new()),
            34 => write("LINK_DETACH", String::new()),
            read if READS.contains(&read) => Meaning::default(),
            // What is not known to read, writes.
            other => write(&format!("command {other}"), String::new()),
        })
    }
}

/// By its flags: whether the entry must be new, must be there, or may be either.
fn update(flags: u64) -> &'static str {
    match flags & 3 {
        1 => "MAP_UPDATE_ELEM NOEXIST",
        2 => "MAP_UPDATE_ELEM EXIST",
        _ => "MAP_UPDATE_ELEM",
    }
}

fn c_text(bytes: &[u8], at: usize) -> String {
    let text = bytes.get(at..at + 16).unwrap_or_default();
    let end = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}
