//! What a node's kernel holds, read with bpftool: in words that are the same on two nodes that enforce the same, whatever
//! numbers they gave to endpoints, tables and epochs.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use oxilium_abi::{
    Direction, EndpointWord, IPCACHE_PREFIX_BASE, InterfaceConfig, IpcacheKey, IpcacheValue,
    IpcacheWord, NodeWord, PolicyKey, PolicyValue, SCHEMA_VERSION, endpoint_word_index, map,
    shape_word_index,
};
use serde_json::Value;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    lab::Lab,
    pod::Pod,
    process::{command, run},
    require::Need,
    wait,
};

/// Numbers from here on are given to prefixes by each node for itself.
const LOCAL_IDENTITY: u32 = 1 << 24;

/// The lab's maps.
struct Maps {
    directory: PathBuf,
}

impl Maps {
    fn bpftool(&self, verb: &str, name: &str, rest: &[String]) -> Result<Value> {
        let mut bpftool = command("bpftool");
        bpftool
            .args(["-j", "map", verb, "pinned"])
            .arg(self.directory.join(name))
            .args(rest);
        Ok(serde_json::from_str(&run(&mut bpftool)?)?)
    }

    fn dump<K: FromBytes, V: FromBytes>(&self, name: &str) -> Result<Vec<(K, V)>> {
        let dump = self.bpftool("dump", name, &[])?;
        let entries = dump.as_array().with_context(|| format!("{name}: {dump}"))?;
        entries
            .iter()
            .map(|entry| Ok((typed(&entry["key"])?, typed(&entry["value"])?)))
            .collect()
    }

    fn lookup<V: FromBytes>(&self, name: &str, index: u32) -> Result<V> {
        let mut rest = vec!["key".to_owned(), "hex".to_owned()];
        rest.extend(index.to_ne_bytes().map(|byte| format!("{byte:02x}")));
        typed(&self.bpftool("lookup", name, &rest)?["value"])
    }
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

/// The words for numbers that nodes choose by themselves.
struct Names {
    addresses: BTreeMap<IpAddr, String>,
    /// By identity: the prefixes that have it.
    prefixes: BTreeMap<u32, BTreeSet<String>>,
}

impl Names {
    fn identity(&self, identity: u32) -> String {
        match self.prefixes.get(&identity) {
            Some(prefixes) if identity >= LOCAL_IDENTITY => format!("{prefixes:?}"),
            _ => identity.to_string(),
        }
    }

    fn prefix(&self, key: &IpcacheKey) -> String {
        let length = key.prefix_len - IPCACHE_PREFIX_BASE;
        let [a, b, c, d, ..] = key.address;
        let address = if key.family == 1 {
            IpAddr::from(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::from(Ipv6Addr::from(key.address))
        };
        match self.addresses.get(&address) {
            Some(pod) if [32, 128].contains(&length) => pod.clone(),
            _ => format!("{address}/{length}"),
        }
    }
}

/// [`enforced`], once no program is on its hook for the time being only: where many are attached at once they begin as
/// filters, which enforce, and get their links a moment later. A last write of that may still come: where writes are
/// counted, [`crate::agent::Agent::until_linked`] says when it is over.
///
/// # Errors
/// As [`enforced`]; or if some have none after [`wait::LONG`].
pub fn settled(lab: &Lab, pods: &[&Pod]) -> Result<Vec<String>> {
    // As the agent is told to by its environment, which is this one.
    let by_filters = env::var("OXILIUM_ATTACH_MODE").is_ok_and(|mode| mode == "tc");
    let has_links = Need::Tcx.is_met() && !by_filters;
    wait::until("programs have their links", wait::LONG, || {
        let held = enforced(lab, pods)?;
        let is_filter = |line: &String| line.contains("clsact/");
        Ok((!has_links || !held.iter().any(is_filter)).then_some(held))
    })
}

/// What the worker's kernel holds of ours, one fact a line, sorted. Pods are called by their names.
///
/// # Errors
/// If bpftool cannot tell, or what it tells cannot be: an entry of a pod that there is not, a value that is not its
/// key's, a plan that is not finished.
pub fn enforced(lab: &Lab, pods: &[&Pod]) -> Result<Vec<String>> {
    let maps = Maps {
        directory: lab.bpf_root().join(format!("oxilium/v{SCHEMA_VERSION}")),
    };
    let mut names = Names {
        addresses: BTreeMap::new(),
        prefixes: BTreeMap::new(),
    };
    for pod in pods {
        for (address, family) in [(IpAddr::from(pod.ipv4), 4), (IpAddr::from(pod.ipv6), 6)] {
            names
                .addresses
                .insert(address, format!("{} (IPv{family})", pod.name()));
        }
    }
    let mut lines = Vec::new();
    ipcache(&maps, &mut names, &mut lines)?;
    let tables = interfaces(&maps, &names, pods, &mut lines)?;
    policy(&maps, &names, &tables, &mut lines)?;
    hooks(lab, pods, &mut lines)?;
    lines.sort();
    Ok(lines)
}

fn ipcache(maps: &Maps, names: &mut Names, lines: &mut Vec<String>) -> Result<()> {
    let node_word = |word: NodeWord| maps.lookup::<u64>(map::NODE_WORDS, word as u32);
    let published = node_word(NodeWord::Published)?;
    if published != node_word(NodeWord::HighWater)? {
        bail!("a plan is not finished: {published} is published");
    }
    let bank = IpcacheWord(node_word(NodeWord::Ipcache)?).bank();
    let entries: Vec<(IpcacheKey, IpcacheValue)> = maps.dump(map::IPCACHE)?;
    for (key, value) in &entries {
        let prefix = names.prefix(key);
        let identity = value.identity(bank);
        names.prefixes.entry(identity).or_default().insert(prefix);
    }
    for (key, value) in &entries {
        let identity = value.identity(bank);
        if value.identity(bank ^ 1) != identity {
            bail!("the banks differ at {}", names.prefix(key));
        }
        lines.push(format!(
            "ipcache {} is {} behind {:?} flags {}",
            names.prefix(key),
            names.identity(identity),
            &value.tunnel_endpoint[..4],
            value.flags
        ));
    }
    Ok(())
}

/// The tables by the pods that they are of.
fn interfaces(
    maps: &Maps,
    names: &Names,
    pods: &[&Pod],
    lines: &mut Vec<String>,
) -> Result<BTreeMap<u32, BTreeSet<String>>> {
    let mut tables: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let entries: Vec<(u32, InterfaceConfig)> = maps.dump(map::INTERFACES)?;
    for (ifindex, config) in entries {
        let pod = pods
            .iter()
            .find(|pod| config.ipv4[0] == pod.ipv4.octets())
            .with_context(|| format!("interface {ifindex} is of no pod: {config:?}"))?;
        if pod.host_ifindex()? != u64::from(ifindex) || config.ifindex != ifindex {
            bail!("{} is not behind interface {ifindex}", pod.name());
        }
        let word = |bank| -> Result<u32> {
            let index = endpoint_word_index(config.endpoint, bank);
            let word = maps.lookup(map::ENDPOINT_WORDS, index)?;
            Ok(EndpointWord(word).table())
        };
        let table = word(0)?;
        if table != word(1)? {
            bail!("the banks of {} differ", pod.name());
        }
        tables
            .entry(table)
            .or_default()
            .insert(pod.name().to_owned());
        let addresses: Vec<_> = config
            .ipv6
            .iter()
            .filter(|address| **address != [0; 16])
            .map(|address| names.addresses.get(&IpAddr::from(*address)))
            .collect();
        // Its identity there is that of its first day, for events alone.
        lines.push(format!(
            "interface {} {addresses:?} link-local {} MAC {} flags {} namespace known {}",
            pod.name(),
            config
                .link_local
                .iter()
                .filter(|address| **address != [0; 16])
                .count(),
            config.mac == pod.mac.0,
            config.flags,
            config.netns_id >= 0,
        ));
    }
    Ok(tables)
}

fn policy(
    maps: &Maps,
    names: &Names,
    tables: &BTreeMap<u32, BTreeSet<String>>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let entries: Vec<(PolicyKey, PolicyValue)> = maps.dump(map::POLICY)?;
    for (key, value) in entries {
        let pods = tables
            .get(&key.table)
            .with_context(|| format!("table {} is nobody's, and has {key:?}", key.table))?;
        if value.check != PolicyValue::seal(&key, value.word) {
            bail!("{key:?} has another key's value");
        }
        lines.push(format!(
            "policy {pods:?} {:?} shape {} from {} protocol {} port {} is {:#x}",
            key.direction(),
            key.direction_shape & 0x1F,
            names.identity(key.identity),
            key.protocol,
            key.port.get(),
            value.word
        ));
    }
    for (table, pods) in tables {
        for direction in [Direction::Ingress, Direction::Egress] {
            let index = shape_word_index(*table, direction);
            let word: u64 = maps.lookup(map::POLICY_SHAPES, index)?;
            lines.push(format!(
                "shapes {pods:?} {direction:?} {:02x?}",
                word.as_bytes()
            ));
        }
    }
    Ok(())
}

/// Every hook with our programs in the worker's namespace.
fn hooks(lab: &Lab, pods: &[&Pod], lines: &mut Vec<String>) -> Result<()> {
    let text = lab
        .worker
        .netns
        .run(command("bpftool").args(["-j", "net", "show"]))?;
    let shown: Value = serde_json::from_str(&text)?;
    let mut devices = BTreeMap::new();
    for pod in pods {
        devices.insert(pod.host_ifindex()?, pod.name());
    }
    for hook in shown[0]["tc"].as_array().into_iter().flatten() {
        let index = hook["ifindex"].as_u64().unwrap_or_default();
        let device = devices
            .get(&index)
            .with_context(|| format!("{hook} is on no pod's interface"))?;
        let program = hook["name"].as_str().unwrap_or_default();
        // Filters are called by the object's section and program, links by the program.
        lines.push(format!("hook {device} {} {program}", hook["kind"]));
    }
    Ok(())
}
