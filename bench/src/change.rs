//! A policy file changes: how long until the kernel enforces it, and what it takes.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use oxilium_abi::{NodeWord, SCHEMA_VERSION, map};
use oxilium_e2e::{agent::Agent, lab::Lab, pod::Pod, process, wait};
use serde_json::Value;

use crate::{
    figures::Samples,
    report::{Goal, Line, Unit},
};

/// Endpoints that the policy selects.
const ENDPOINTS: usize = 100;

/// Changes a policy over a hundred endpoints again and again, `rounds` times ten.
///
/// # Errors
/// If the lab, the agent or a pod fails.
pub fn run(rounds: usize) -> Result<Vec<Line>> {
    let lab = Lab::new()?;
    let mut agent = Agent::start(&lab)?;
    let _pods: Vec<Pod> = (0..ENDPOINTS)
        .map(|number| {
            lab.pod(&format!("bench-{number}"))
                .label("app", "bench")
                .start()
        })
        .collect::<Result<_>>()?;
    agent.until_applied()?;
    let published = Published::open(&lab.bpf_root())?;

    let (mut times, mut writes) = (Vec::new(), Vec::new());
    for number in 0..rounds * 10 {
        let writes_before = kernel_writes(&agent)?;
        let before = published.get()?;
        let began = Instant::now();
        lab.manifests.put("change.yaml", &policy(number))?;
        wait_published(&published, before)?;
        times.push(began.elapsed().as_secs_f64());
        agent.until_applied()?;
        writes.push(kernel_writes(&agent)? - writes_before);
    }
    let times = Samples::new(times).context("nothing was changed")?;
    let writes = Samples::new(writes).context("nothing was changed")?;
    let resident = resident(agent.process().pid())?;
    let maps = map_memory(&lab.bpf_root())?;
    Ok(vec![
        Line::absolute(
            "file renamed → published to the programs",
            times.median(),
            Unit::Seconds,
            &format!(
                "P99 {}; {ENDPOINTS} endpoints, seen from outside",
                Unit::Seconds.show(times.percentile(99))
            ),
            Some(Goal::AtMost(0.010)),
        ),
        Line::absolute(
            "kernel writes for one port more and one less",
            writes.median(),
            Unit::Count,
            &format!("at most {}", writes.most()),
            None,
        ),
        Line::absolute(
            "agent, resident",
            resident,
            Unit::Bytes,
            &format!("{ENDPOINTS} endpoints"),
            Some(Goal::AtMost(30e6)),
        ),
        Line::absolute(
            "kernel memory of all maps",
            maps,
            Unit::Bytes,
            "bytes_memlock of every pin, as bpftool shows it",
            None,
        ),
    ])
}

/// A policy over all pods; each number another port.
fn policy(number: usize) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: bench\n  namespace: default\nspec:\n  \
         endpointSelector:\n    matchLabels:\n      app: bench\n  ingress:\n    - fromEndpoints:\n        - matchLabels:\n            \
         app: bench\n      toPorts:\n        - ports:\n            - port: \"{}\"\n              protocol: TCP\n",
        1000 + number
    )
}

/// G, read where the programs read it.
pub(crate) struct Published(Array<MapData, u64>);

impl Published {
    pub(crate) fn open(bpf_root: &Path) -> Result<Self> {
        let pin = pins(bpf_root).join(map::NODE_WORDS);
        let data = MapData::from_pin(&pin).with_context(|| pin.display().to_string())?;
        Ok(Self(Array::try_from(Map::Array(data))?))
    }

    pub(crate) fn get(&self) -> Result<u64> {
        Ok(self.0.get(&(NodeWord::Published as u32), 0)?)
    }
}

/// Where the agent pins what it loads.
fn pins(bpf_root: &Path) -> std::path::PathBuf {
    bpf_root.join("oxilium").join(format!("v{SCHEMA_VERSION}"))
}

/// Asks without a pause: a pause would be part of the figure.
fn wait_published(published: &Published, before: u64) -> Result<()> {
    let deadline = Instant::now() + wait::LONG;
    while published.get()? <= before {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the change was not published within {:?}",
            wait::LONG
        );
        std::thread::yield_now();
    }
    Ok(())
}

fn kernel_writes(agent: &Agent) -> Result<f64> {
    let status = agent.cli().status()?;
    status["kernel-writes"]["total"]
        .as_f64()
        .with_context(|| format!("no kernel-writes in {status}"))
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    resident_of(&text).with_context(|| format!("no VmRSS in {path}"))
}

fn resident_of(status: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Kernel memory of every pinned map.
fn map_memory(bpf_root: &Path) -> Result<f64> {
    let directory = pins(bpf_root);
    let mut sum = 0.0;
    for entry in directory
        .read_dir()
        .with_context(|| directory.display().to_string())?
    {
        let path = entry?.path();
        // Programs and links are pinned beside the maps, in directories of their own.
        if path.is_dir()
            || !path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("ox_"))
        {
            continue;
        }
        let text = process::run(
            process::command("bpftool")
                .args(["--json", "map", "show", "pinned"])
                .arg(&path),
        )?;
        let shown: Value = serde_json::from_str(&text)?;
        sum += shown["bytes_memlock"]
            .as_f64()
            .with_context(|| format!("no bytes_memlock in {text}"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_in_kibibytes() {
        let status = "Name:\tagent\nVmPeak:\t  9 kB\nVmRSS:\t    2048 kB\nThreads:\t4\n";
        assert_eq!(resident_of(status), Some(2_097_152.0));
        assert_eq!(resident_of("Name:\tagent\n"), None);
    }
}
