//! All of a host that an agent could have changed: taken before the first one and after the last, it is the same.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    agent::{Cli, agent_command},
    lab::Lab,
    netns::Netns,
    pod::Pod,
    process::command,
    wait,
};

/// What only tests write to.
const NOT_THE_AGENTS: [&str; 7] = [
    "agent.log",
    "cni.log",
    "cni-bin",
    "ipam",
    "manifests",
    "owner",
    "staging",
];

/// A host before its first agent, and a pod on it that nobody judges: so the bridge is there, and stays as it is.
#[derive(Debug)]
pub struct Untouched {
    before: Vec<String>,
    _witness: Pod,
}

impl Untouched {
    /// To be made before an agent, and before other pods.
    ///
    /// # Errors
    /// If the pod cannot be made, or the host changes by itself.
    pub fn new(lab: &Lab) -> Result<Self> {
        let mut prepared = lab.pod("witness").label("app", "witness").prepare()?;
        if let Some(plugins) = prepared.chain.conflist["plugins"].as_array_mut() {
            plugins.truncate(1);
        }
        let witness = prepared.add()?;
        // A bridge has the lowest address of its ports, unless it was given one.
        lab.worker
            .netns
            .ip("link set dev cni0 address 02:00:00:00:00:01")?;
        // The lab's own place on the BPF file system is there before the agent.
        agent_command(lab)?;
        // What reading changes is changed before.
        fingerprint(lab)?;
        Ok(Self {
            before: fingerprint(lab)?,
            _witness: witness,
        })
    }

    /// Uninstalls what the last agent left, once all other pods are gone: the host is as it was.
    ///
    /// # Errors
    /// If something cannot be removed, or differs.
    pub fn is_back(&self, lab: &Lab) -> Result<()> {
        let output = uninstall(lab)?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{told}");
        wait::until("the host is as it was", wait::LONG, || {
            let after = fingerprint(lab)?;
            let mut both = self.before.iter().zip(&after);
            if let Some((before, after)) = both.find(|(before, after)| before != after) {
                bail!("before:\n{before}\nafter:\n{after}\n{told}");
            }
            ensure!(self.before.len() == after.len(), "{after:#?}");
            Ok(Some(()))
        })
    }
}

/// The worker's interfaces, addresses, routes, rules, qdiscs, programs, settings, rule sets and the lab's files, one part
/// after the other.
///
/// # Errors
/// If a part cannot be read.
pub fn fingerprint(lab: &Lab) -> Result<Vec<String>> {
    let worker = &lab.worker.netns;
    let mut found = vec![sysctls(worker)?];
    for (program, args) in [
        ("ip", "link show"),
        ("ip", "addr show"),
        ("ip", "route show table all"),
        ("ip", "-6 route show table all"),
        ("ip", "rule show"),
        ("ip", "-6 rule show"),
        ("tc", "qdisc show"),
        ("bpftool", "net show"),
        ("nft", "list ruleset"),
        ("iptables-save", ""),
        ("ip6tables-save", ""),
    ] {
        found.push(lines(worker, program, args)?);
    }
    files(lab.directory(), &mut found)?;
    files(&lab.bpf_root(), &mut found)?;
    Ok(found)
}

/// Runs `oxilium uninstall` for the lab's agent.
///
/// # Errors
/// If it cannot be started.
pub fn uninstall(lab: &Lab) -> Result<Output> {
    lab.worker.netns.output(&mut uninstall_command(lab)?)
}

/// `oxilium uninstall` for the lab's agent, not started.
///
/// # Errors
/// If the binary's place is not known.
pub fn uninstall_command(lab: &Lab) -> Result<Command> {
    let mut command = Cli::new(lab)?.command(&["uninstall", "--state-dir"]);
    command
        .arg(lab.directory().join("state"))
        .arg("--bpf-root")
        .arg(lab.bpf_root())
        .arg("--tombstones")
        .arg(lab.tombstones())
        .arg("--cni-bin-dir")
        .arg(lab.directory().join("opt-cni-bin"))
        .arg("--cni-conf-dir")
        .arg(lab.directory().join("etc-cni"));
    Ok(command)
}

fn lines(netns: &Netns, program: &str, args: &str) -> Result<String> {
    let output = netns.output(command(program).args(args.split_whitespace()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("{program} {args}\n{text}"))
}

/// Each file below `directory` with its owner, mode and content.
fn files(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if NOT_THE_AGENTS.contains(&name.as_ref()) || name.starts_with("pod-") {
            continue;
        }
        let metadata = fs::symlink_metadata(&path)?;
        // A pin is a name and nothing that can be read.
        let content = if metadata.is_file() && !path.starts_with("/sys/fs/bpf") {
            fs::read(&path)?
        } else {
            Vec::new()
        };
        let (mode, owner) = (metadata.mode(), metadata.uid());
        found.push(format!("{} {mode:o} {owner} {content:?}", path.display()));
        if metadata.is_dir() {
            files(&path, found)?;
        }
    }
    Ok(())
}

/// The settings of the namespace that an agent could have reached for. Counters and random secrets are none.
fn sysctls(netns: &Netns) -> Result<String> {
    let read = || -> Result<String> {
        let mut found = Vec::new();
        for family in ["ipv4", "ipv6", "core"] {
            settings(&Path::new("/proc/sys/net").join(family), &mut found)?;
        }
        found.sort();
        Ok(found.join("\n"))
    };
    netns.enter(read)?
}

fn settings(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            settings(&path, found)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.push(format!("{} {value}", path.display()));
        }
    }
    Ok(())
}
