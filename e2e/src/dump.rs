//! What a node's kernel holds, read with bpftool and by no code of the product's: in words that are the same on two nodes that enforce the same, whatever
//! numbers they gave to endpoints, tables and epochs.

mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::IpAddr,
};

use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};
use oxilium_abi::{
    Direction, EndpointWord, Family, IPCACHE_PREFIX_BASE, InterfaceConfig, IpcacheKey,
    IpcacheValue, IpcacheWord, NodeWord, PolicyKey, PolicyValue, endpoint_word_index, map,
    shape_word_index,
};
use serde_json::Value;
use zerocopy::IntoBytes;

use crate::{
    lab::Lab,
    pod::{Pod, host_interface},
    process::command,
    require::Need,
    tables::Tables,
    wait,
};

/// Numbers from here on are given to prefixes by each node for itself.
const LOCAL_IDENTITY: u32 = 1 << 24;

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
        let address = address(key.family, key.address);
        match self.addresses.get(&address) {
            Some(pod) if [32, 128].contains(&length) => pod.clone(),
            _ => format!("{address}/{length}"),
        }
    }

    fn address(&self, address: IpAddr) -> String {
        let pod = self.addresses.get(&address);
        pod.cloned().unwrap_or_else(|| address.to_string())
    }
}

/// As tables of both families have it: IPv4 in the first four bytes.
fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if family == Family::V4 as u8 {
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(bytes)
    }
}

/// Programs get links for good: the kernel has them, and the agent's environment, which is this one, does not say that
/// filters are wanted.
pub fn has_links() -> bool {
    let by_filters = env::var("OXILIUM_ATTACH_MODE").is_ok_and(|mode| mode == "tc");
    Need::Tcx.is_met() && !by_filters
}

/// [`enforced`], once no program is on its hook for the time being only: where many are attached at once they begin as
/// filters, which enforce, and get their links a moment later. A last write of that may still come: where writes are
/// counted, [`crate::agent::Agent::until_linked`] says when it is over.
///
/// # Errors
/// As [`enforced`]; or if some have none after [`wait::LONG`].
pub fn settled(lab: &Lab, pods: &[&Pod]) -> Result<Vec<String>> {
    let has_links = has_links();
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
    let tables = Tables::new(lab);
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
    ipcache(&tables, &mut names, &mut lines)?;
    let users = interfaces(&tables, &names, pods, &mut lines)?;
    policy(&tables, &names, &users, &mut lines)?;
    services::told(&tables, &names, &mut lines)?;
    hooks(lab, pods, &mut lines)?;
    lines.sort();
    Ok(lines)
}

fn ipcache(tables: &Tables, names: &mut Names, lines: &mut Vec<String>) -> Result<()> {
    let node_word = |word: NodeWord| tables.lookup::<u64>(map::NODE_WORDS, word as u32);
    let published = node_word(NodeWord::Published)?;
    if published != node_word(NodeWord::HighWater)? {
        bail!("a plan is not finished: {published} is published");
    }
    let bank = IpcacheWord(node_word(NodeWord::Ipcache)?).bank();
    let entries: Vec<(IpcacheKey, IpcacheValue)> = tables.dump(map::IPCACHE)?;
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
    tables: &Tables,
    names: &Names,
    pods: &[&Pod],
    lines: &mut Vec<String>,
) -> Result<BTreeMap<u32, BTreeSet<String>>> {
    let mut users: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let entries: Vec<(u32, InterfaceConfig)> = tables.dump(map::INTERFACES)?;
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
            let word = tables.lookup(map::ENDPOINT_WORDS, index)?;
            Ok(EndpointWord(word).table())
        };
        let table = word(0)?;
        if table != word(1)? {
            bail!("the banks of {} differ", pod.name());
        }
        users
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
    Ok(users)
}

fn policy(
    tables: &Tables,
    names: &Names,
    users: &BTreeMap<u32, BTreeSet<String>>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let entries: Vec<(PolicyKey, PolicyValue)> = tables.dump(map::POLICY)?;
    for (key, value) in entries {
        let pods = users
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
    for (table, pods) in users {
        for direction in [Direction::Ingress, Direction::Egress] {
            let index = shape_word_index(*table, direction);
            let word: u64 = tables.lookup(map::POLICY_SHAPES, index)?;
            lines.push(format!(
                "shapes {pods:?} {direction:?} {:02x?}",
                word.as_bytes()
            ));
        }
    }
    Ok(())
}

/// Every hook with our programs in the worker's namespace: filters as bpftool tells them, links as the kernel does, which
/// older ones of bpftool do not ask.
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
        let kind = hook["kind"].as_str().unwrap_or_default();
        if kind.starts_with("tcx") {
            continue;
        }
        let index = hook["ifindex"].as_u64().unwrap_or_default();
        let device = devices
            .get(&index)
            .with_context(|| format!("{hook} is on no pod's interface"))?;
        // Filters are called by the object's section and program.
        lines.push(format!("hook {device} {kind} {}", hook["name"]));
    }
    if !Need::Tcx.is_met() {
        return Ok(());
    }
    for pod in pods {
        let device = host_interface(&pod.result)?;
        for (side, name) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let query = || SchedClassifier::query_tcx(&device, side);
            let (_, programs) = lab.worker.netns.enter(query)??;
            let names: Vec<&str> = programs
                .iter()
                .map(|program| program.name_as_str().unwrap_or_default())
                .collect();
            lines.push(format!("hook {} tcx/{name} {names:?}", pod.name()));
        }
    }
    Ok(())
}
