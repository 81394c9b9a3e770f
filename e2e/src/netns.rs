//! Network namespaces, by name, as `ip netns` keeps them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{process, wait};

/// Where named namespaces are bound.
const DIRECTORY: &str = "/run/netns";

/// A named network namespace. It outlives this value; a lab removes its namespaces by their prefix.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with `lo` up.
    ///
    /// # Errors
    /// If `ip` fails, as when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        process::run(process::command("ip").args(["netns", "add", name]))?;
        let netns = Self::named(name);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of that name, whether it is there or not.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as CNI wants it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in it, processes started there live in it.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            scope
                .spawn(move || -> Result<T> {
                    let file =
                        File::open(&path).with_context(|| format!("open {}", path.display()))?;
                    setns(file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("setns {}", path.display()))?;
                    Ok(work())
                })
                .join()
        })
        .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
    }

    /// Runs a command inside to its end.
    ///
    /// # Errors
    /// If it cannot be started or fails; the text has its stderr.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        self.enter(|| process::run(command))?
            .with_context(|| format!("in {}", self.name))
    }

    /// Runs a command inside to its end, whatever its status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.enter(|| process::output(command))?
    }

    /// `ip ARGS` inside, arguments separated by blanks.
    ///
    /// # Errors
    /// As [`Netns::run`].
    pub fn ip(&self, args: &str) -> Result<String> {
        self.run(process::command("ip").args(args.split_whitespace()))
    }

    /// Sets a sysctl of the namespace (`net.ipv4.ip_forward`).
    ///
    /// # Errors
    /// If the kernel has no such setting for the namespace or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // An interface name may hold a dot; none of the lab's does.
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("{key}={value} in {}", self.name))
    }

    /// Waits until `interface` speaks IPv6: the kernel looks at a carrier up to a second after it came.
    ///
    /// # Errors
    /// If it does not within [`wait::LONG`].
    pub fn until_ipv6(&self, interface: &str) -> Result<()> {
        let question = format!("-6 route show table local dev {interface}");
        let what = format!("IPv6 on {interface} in {}", self.name);
        wait::until(&what, wait::LONG, || {
            let routes = self.ip(&question)?;
            Ok(routes.contains("ff00::/8").then_some(()))
        })
    }

    /// Deletes the name; the namespace goes with its last process. One that is gone is fine: two test runs may remove
    /// what a third one left.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn delete(&self) -> Result<()> {
        let deleted = process::run(process::command("ip").args(["netns", "del", &self.name]));
        if deleted.is_err() && !Path::new(DIRECTORY).join(&self.name).exists() {
            return Ok(());
        }
        deleted.map(drop)
    }
}

/// The names of all namespaces that begin with `prefix`.
///
/// # Errors
/// If the directory cannot be read.
pub fn names_with(prefix: &str) -> Result<Vec<String>> {
    let entries = match Path::new(DIRECTORY).read_dir() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(DIRECTORY)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The processes that live in the namespace `name`.
///
/// # Errors
/// If `ip` fails.
pub fn processes_in(name: &str) -> Result<Vec<i32>> {
    let text = process::run(process::command("ip").args(["netns", "pids", name]))?;
    text.split_whitespace()
        .map(|word| word.parse().context("a process id"))
        .collect()
}
