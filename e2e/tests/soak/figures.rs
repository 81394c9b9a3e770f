//! What is counted of a node at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use oxilium_e2e::process::{command, run};
use serde_json::Value;

use crate::{stage::Stage, tamper::files};

/// Maps whose entries the agent alone makes. Those of flows come and go with traffic.
const TABLES: [&str; 7] = [
    "ox_interfaces",
    "ox_ipcache",
    "ox_policy",
    "ox_services",
    "ox_backends",
    "ox_reverse_nat",
    "ox_affinity",
];
const FLOWS: [&str; 6] = [
    "ox_ct4",
    "ox_ct6",
    "ox_ct4_new",
    "ox_ct6_new",
    "ox_ct4_denied",
    "ox_ct6_denied",
];
/// Of each of the two hooks the program, and once an agent has moved one from a filter to a link, the copy that it needs
/// for that: it keeps it.
const PROGRAMS: usize = 4;
/// Maps that each program has for itself: its constants.
const OWN_MAPS: usize = 2;
/// Descriptors of a moment: a request that is being answered, a file that is being read.
const OPEN_FOR_A_MOMENT: usize = 6;
/// Bytes that an agent may have more in its last round than in its second, when all tables were filled once.
const GROWTH: u64 = 8 << 20;

/// What a node has.
#[derive(Debug)]
pub(crate) struct Figures {
    entries: BTreeMap<&'static str, usize>,
    flows: usize,
    pins: Vec<String>,
    /// Programs in the kernel that use the pinned maps, those maps, and the links of those programs.
    programs: usize,
    maps: usize,
    links: usize,
    devices: usize,
    namespaces: usize,
    files: Vec<String>,
    descriptors: usize,
    threads: usize,
    /// Resident bytes of the agent.
    pub(crate) memory: u64,
}

fn shown(args: &[&str]) -> Result<Vec<Value>> {
    let text = run(command("bpftool").arg("-j").args(args))?;
    let shown: Value = serde_json::from_str(&text)?;
    Ok(shown.as_array().cloned().unwrap_or_default())
}

fn names_in(directory: &Path) -> Vec<String> {
    let paths = files(directory);
    let name = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    paths.iter().map(name).collect()
}

impl Figures {
    pub(crate) fn take(stage: &mut Stage) -> Result<Self> {
        let root = stage.lab.bpf_root();
        let directory = root.join(format!("oxilium/v{}", oxilium_abi::SCHEMA_VERSION));
        let count = |name: &str| -> Result<usize> {
            let pin = directory.join(name).display().to_string();
            Ok(shown(&["map", "dump", "pinned", &pin])?.len())
        };
        let mut entries = BTreeMap::new();
        for table in TABLES {
            entries.insert(table, count(table)?);
        }
        let mut flows = 0;
        for table in FLOWS {
            flows += count(table)?;
        }
        let pins = names_in(&root);
        let (programs, maps, links) = in_kernel(&directory)?;
        let process = Path::new("/proc").join(stage.agent()?.process().pid().to_string());
        let status = fs::read_to_string(process.join("status"))?;
        let number = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|rest| rest.split_whitespace().next());
            word.with_context(|| format!("{name} in {status}"))?
                .parse()
                .context("a number")
        };
        Ok(Self {
            entries,
            flows,
            pins,
            programs,
            maps,
            links,
            devices: stage.lab.worker.netns.ip("-o link show")?.lines().count(),
            namespaces: oxilium_e2e::netns::names_with(stage.lab.prefix())?.len(),
            files: names_in(&stage.lab.directory().join("state")),
            descriptors: fs::read_dir(process.join("fd"))?.count(),
            threads: usize::try_from(number("Threads:")?)?,
            memory: number("VmRSS:")? * 1024,
        })
    }

    /// Nothing was left.
    pub(crate) fn is_like(&self, first: &Self) -> Result<()> {
        ensure!(
            self.entries == first.entries,
            "entries: {:?}, and {:?} at the beginning",
            self.entries,
            first.entries
        );
        ensure!(
            self.pins == first.pins,
            "pins: {:#?}, and {:#?} at the beginning",
            self.pins,
            first.pins
        );
        let counts = |of: &Self| [of.links, of.devices, of.namespaces, of.threads];
        ensure!(
            counts(self) == counts(first),
            "links, devices, namespaces, threads: {:?}, and {:?} at the beginning",
            counts(self),
            counts(first)
        );
        let shared = |of: &Self| of.maps - OWN_MAPS * of.programs;
        ensure!(
            self.programs <= PROGRAMS && shared(self) == shared(first),
            "{} programs and {} maps, and {} and {} at the beginning",
            self.programs,
            self.maps,
            first.programs,
            first.maps
        );
        ensure!(
            self.files == first.files,
            "files: {:#?}, and {:#?} at the beginning",
            self.files,
            first.files
        );
        ensure!(
            self.descriptors <= first.descriptors + OPEN_FOR_A_MOMENT,
            "{} open files, and {} at the beginning",
            self.descriptors,
            first.descriptors
        );
        Ok(())
    }
}

/// Programs, maps and links that hang together with the maps pinned in `directory`, whoever holds them.
fn in_kernel(directory: &Path) -> Result<(usize, usize, usize)> {
    let pinned = |kind: &str, path: &Path| -> Result<Value> {
        let path = path.display().to_string();
        let text = run(command("bpftool").args(["-j", kind, "show", "pinned", &path]))?;
        Ok(serde_json::from_str(&text)?)
    };
    let number = |of: &Value, field: &str| of[field].as_u64();
    let policy = number(&pinned("map", &directory.join("ox_policy"))?, "id");
    let programs: Vec<Value> = shown(&["prog", "show"])?
        .into_iter()
        .filter(|program| {
            let maps = program["map_ids"].as_array();
            maps.is_some_and(|maps| maps.iter().any(|id| id.as_u64() == policy))
        })
        .collect();
    let maps: BTreeSet<u64> = programs
        .iter()
        .flat_map(|program| program["map_ids"].as_array().into_iter().flatten())
        .filter_map(Value::as_u64)
        .collect();
    let ids: BTreeSet<u64> = programs.iter().filter_map(|p| number(p, "id")).collect();
    let links = shown(&["link", "show"])?
        .iter()
        .filter_map(|link| number(link, "prog_id"))
        .filter(|program| ids.contains(program))
        .count();
    Ok((programs.len(), maps.len(), links))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: usize = self.entries.values().sum();
        write!(
            f,
            "{entries} entries, {} flows, {} pins, {} programs, {} maps, {} links, {} open files, {} threads, {:.1} MiB",
            self.flows,
            self.pins.len(),
            self.programs,
            self.maps,
            self.links,
            self.descriptors,
            self.threads,
            mebibytes(self.memory)
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The memory of each agent, round by round.
#[derive(Debug, Default)]
pub(crate) struct Lives(BTreeMap<u32, Vec<u64>>);

impl Lives {
    pub(crate) fn note(&mut self, life: u32, memory: u64) {
        self.0.entry(life).or_default().push(memory);
    }

    /// What agents had in their second round, and in their last.
    fn grown(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        self.0.iter().filter_map(|(life, rounds)| {
            let [_, second, .., last] = rounds[..] else {
                return None;
            };
            Some((*life, second, last))
        })
    }

    pub(crate) fn have_no_leak(&self) -> Result<()> {
        for (life, second, last) in self.grown() {
            ensure!(
                last <= second + GROWTH,
                "agent {life} grew from {:.1} to {:.1} MiB: {:?}",
                mebibytes(second),
                mebibytes(last),
                self.0[&life]
            );
        }
        Ok(())
    }
}

impl fmt::Display for Lives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (life, second, last) in self.grown() {
            writeln!(
                f,
                "agent {life}, {} rounds: {:.1} MiB after the second, {:.1} MiB after the last",
                self.0[&life].len(),
                mebibytes(second),
                mebibytes(last)
            )?;
        }
        Ok(())
    }
}
