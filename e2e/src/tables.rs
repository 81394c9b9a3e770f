//! The node's BPF tables, read and changed with bpftool: what is told of them is not the product's word, and who changes
//! them is somebody else.

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

use anyhow::{Context, Result, bail};
use oxilium_abi::{InterfaceConfig, SCHEMA_VERSION, map};
use serde_json::Value;
use tempfile::NamedTempFile;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    lab::Lab,
    pod::Pod,
    process::{command, run},
};

/// The pinned maps of a lab's worker.
#[derive(Clone, Debug)]
pub struct Tables {
    directory: PathBuf,
}

/// One entry of a table, to be changed.
#[derive(Clone, Debug)]
pub struct Change {
    table: &'static str,
    key: Vec<u8>,
    /// None: the entry goes.
    value: Option<Vec<u8>>,
}

impl Change {
    /// The entry gets this value, whether it is there or not.
    pub fn set<K, V>(table: &'static str, key: &K, value: &V) -> Self
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        Self {
            table,
            key: key.as_bytes().to_vec(),
            value: Some(value.as_bytes().to_vec()),
        }
    }

    /// The entry goes.
    pub fn delete<K: IntoBytes + Immutable>(table: &'static str, key: &K) -> Self {
        Self {
            table,
            key: key.as_bytes().to_vec(),
            value: None,
        }
    }
}

impl Tables {
    /// Those of the agent on the lab's worker.
    pub fn new(lab: &Lab) -> Self {
        Self {
            directory: lab.bpf_root().join(format!("oxilium/v{SCHEMA_VERSION}")),
        }
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// The id of a pod's endpoint.
    ///
    /// # Errors
    /// If none of the interfaces is the pod's.
    pub fn endpoint(&self, pod: &Pod) -> Result<u16> {
        let entries: Vec<(u32, InterfaceConfig)> = self.dump(map::INTERFACES)?;
        let of_pod = |(_, config): &&(u32, InterfaceConfig)| config.ipv4[0] == pod.ipv4.octets();
        let found = entries.iter().find(of_pod);
        let (_, config) = found.with_context(|| format!("no interface of {}", pod.name()))?;
        Ok(config.endpoint)
    }

    fn bpftool(&self, verb: &str, name: &str, rest: &[String]) -> Result<Value> {
        let mut bpftool = command("bpftool");
        bpftool
            .args(["-j", "map", verb, "pinned"])
            .arg(self.directory.join(name))
            .args(rest);
        Ok(serde_json::from_str(&run(&mut bpftool)?)?)
    }

    /// All entries of a table.
    ///
    /// # Errors
    /// If bpftool cannot read it, or its entries are not of these types.
    pub fn dump<K: FromBytes, V: FromBytes>(&self, name: &str) -> Result<Vec<(K, V)>> {
        let dump = self.bpftool("dump", name, &[])?;
        let entries = dump.as_array().with_context(|| format!("{name}: {dump}"))?;
        entries
            .iter()
            .map(|entry| Ok((typed(&entry["key"])?, typed(&entry["value"])?)))
            .collect()
    }

    /// One value of an array.
    ///
    /// # Errors
    /// As [`Tables::dump`].
    pub fn lookup<V: FromBytes>(&self, name: &str, index: u32) -> Result<V> {
        let rest = [
            vec!["key".to_owned(), "hex".to_owned()],
            hexadecimal(&index.to_ne_bytes()),
        ];
        typed(&self.bpftool("lookup", name, &rest.concat())?["value"])
    }

    /// Makes these changes, in their order and as close to each other as one process can.
    ///
    /// # Errors
    /// If the kernel refuses one: those before it are made.
    pub fn change(&self, changes: &[Change]) -> Result<()> {
        let mut text = String::new();
        for change in changes {
            let path = self.directory.join(change.table);
            let (path, key) = (path.display(), hexadecimal(&change.key).join(" "));
            match &change.value {
                Some(value) => writeln!(
                    text,
                    "map update pinned {path} key hex {key} value hex {}",
                    hexadecimal(value).join(" ")
                )?,
                None => writeln!(text, "map delete pinned {path} key hex {key}")?,
            }
        }
        let mut batch = NamedTempFile::new().context("a file for bpftool")?;
        batch.write_all(text.as_bytes())?;
        run(command("bpftool").args(["batch", "file"]).arg(batch.path()))?;
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn typed<T: FromBytes>(bytes: &Value) -> Result<T> {
    let bytes: Vec<u8> = bytes
        .as_array()
        .into_iter()
        .flatten()
        .map(|byte| {
            let text = byte.as_str().unwrap_or_default();
            u8::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| text.to_owned())
        })
        .collect::<Result<_>>()?;
    match T::read_from_bytes(&bytes) {
        Ok(value) => Ok(value),
        Err(_) => bail!("{} bytes are not a value of this map", bytes.len()),
    }
}
