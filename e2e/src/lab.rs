//! Two nodes and the wire between them.

use std::{
    cell::Cell,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cni::{self, Chain},
    manifest::{ManifestDir, node_yaml},
    netns::{self, Netns},
    pod::PodBuilder,
    process::built_binary,
    wait,
};

/// A lab's directory lies here: in memory, and short enough for a socket's path.
const RUN: &str = "/run/oxilium-e2e";
const BPFFS: &str = "/sys/fs/bpf";

/// A node: a network namespace with an address on the wire and a range for its pods.
#[derive(Clone, Debug)]
pub struct Node {
    /// As the Node object is called.
    pub name: String,
    /// Where its host processes run.
    pub netns: Netns,
    /// Its address on the wire.
    pub ipv4: Ipv4Addr,
    /// Its address on the wire.
    pub ipv6: Ipv6Addr,
    /// Where its pods' addresses come from: one range for each family.
    pub pod_cidrs: [String; 2],
}

impl Node {
    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

/// Two nodes, `master` and `worker`, and what is shared by what runs on them. Dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: PathBuf,
    /// The node without an agent.
    pub master: Node,
    /// The node that the agent runs on.
    pub worker: Node,
    /// What the agent is told.
    pub manifests: ManifestDir,
    judged: bool,
    pods_made: Cell<u32>,
}

impl Lab {
    /// A lab whose pods go through the whole chain, ours included: an agent must run before a pod is made.
    ///
    /// # Errors
    /// If a part cannot be made; what was made is removed.
    pub fn new() -> Result<Self> {
        Self::build(true)
    }

    /// A lab whose chain ends before our plugin: what the network does without us.
    ///
    /// # Errors
    /// If a part cannot be made; what was made is removed.
    pub fn without_oxilium() -> Result<Self> {
        Self::build(false)
    }

    fn build(judged: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep_abandoned()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = prefix_of(process::id(), number);
        let directory = Path::new(RUN).join(prefix.trim_end_matches('-'));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let manifests = ManifestDir::create(&directory)?;
        let node = |name: &str, number: u8| -> Node {
            Node {
                name: name.to_owned(),
                netns: Netns::named(&format!("{prefix}{name}")),
                ipv4: Ipv4Addr::new(192, 168, 1, 200 + number),
                ipv6: Ipv6Addr::new(0xfd00, 0x192, 0x168, 1, 0, 0, 0, 0x200 + u16::from(number)),
                pod_cidrs: [
                    format!("10.244.{number}.0/24"),
                    format!("fd00:10:244:{number}::/64"),
                ],
            }
        };
        // From here on a failure drops the lab, which removes what is there by then.
        let lab = Self {
            master: node("master", 0),
            worker: node("worker", 1),
            prefix,
            directory,
            manifests,
            judged,
            pods_made: Cell::new(0),
        };
        lab.mark_owner()?;
        lab.install_plugins()?;
        lab.wire()?;
        for node in [&lab.master, &lab.worker] {
            let addresses = node.addresses().map(|address| address.to_string());
            lab.manifests.put(
                &format!("node-{}.yaml", node.name),
                &node_yaml(&node.name, &addresses, &node.pod_cidrs),
            )?;
        }
        Ok(lab)
    }

    /// What every name begins with that this lab makes.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's own directory: logs, sockets, state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The lab's own place on the BPF file system. The agent makes it, the lab removes it.
    pub fn bpf_root(&self) -> PathBuf {
        Path::new(BPFFS).join(self.prefix.trim_end_matches('-'))
    }

    /// The unix socket of the worker's agent.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// Where our plugin leaves word for an agent that is down.
    pub fn tombstones(&self) -> PathBuf {
        self.directory.join("deleted")
    }

    /// A pod on the worker, in namespace `default`, to be started.
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(self, name)
    }

    /// The chain that makes pods on `node`: the worker's ends with our plugin.
    pub fn chain(&self, node: &Node) -> Chain {
        let judged = self.judged && node.name == self.worker.name;
        let mut conflist = cni::generic_veth(
            &node.pod_cidrs,
            &self.directory.join("ipam").join(&node.name),
            judged,
        );
        if let Some(plugin) = conflist["plugins"].get_mut(1) {
            plugin["socket"] = self.socket().display().to_string().into();
            plugin["tombstones"] = self.tombstones().display().to_string().into();
            plugin["enable-debug"] = true.into();
            let log = self.directory.join("cni.log");
            plugin["log-file"] = log.display().to_string().into();
        }
        Chain {
            conflist,
            path: vec![self.plugin_directory()],
            node: node.netns.clone(),
        }
    }

    /// A number for the next pod: container ids and UIDs are made of it.
    pub(crate) fn next_pod(&self) -> u32 {
        self.pods_made.set(self.pods_made.get() + 1);
        self.pods_made.get()
    }

    fn plugin_directory(&self) -> PathBuf {
        self.directory.join("cni-bin")
    }

    /// The plugins by the names that the conflist uses: ours under the name that users have there today.
    fn install_plugins(&self) -> Result<()> {
        let directory = self.plugin_directory();
        fs::create_dir_all(&directory)?;
        for name in ["bridge", "host-local"] {
            let plugin = cni::find_plugin(name)
                .with_context(|| format!("no CNI plugin {name}: `make setup` installs it"))?;
            symlink(plugin, directory.join(name))?;
        }
        let ours = built_binary("oxilium-cni")?;
        for name in ["oxilium-cni", "cilium-cni"] {
            symlink(&ours, directory.join(name))?;
        }
        Ok(())
    }

    fn wire(&self) -> Result<()> {
        let (master, worker) = (&self.master, &self.worker);
        for node in [master, worker] {
            Netns::create(node.netns.name())?;
            // Duplicate address detection would keep every address tentative for a second.
            node.netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
            node.netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
            node.netns.sysctl("net.ipv4.ip_forward", "1")?;
            node.netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        master.netns.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            worker.netns.name()
        ))?;
        for node in [master, worker] {
            let netns = &node.netns;
            netns.ip(&format!("addr add {}/24 dev eth0", node.ipv4))?;
            netns.ip(&format!("addr add {}/64 dev eth0", node.ipv6))?;
            netns.ip("link set eth0 up")?;
        }
        for node in [master, worker] {
            node.netns.until_ipv6("eth0")?;
        }
        for (here, there) in [(master, worker), (worker, master)] {
            let [v4, v6] = &there.pod_cidrs;
            here.netns
                .ip(&format!("route add {v4} via {}", there.ipv4))?;
            here.netns
                .ip(&format!("-6 route add {v6} via {}", there.ipv6))?;
        }
        Ok(())
    }

    /// Says whose lab this is, so that another run can tell an abandoned one.
    fn mark_owner(&self) -> Result<()> {
        let id = process::id();
        let text = format!("{id} {}", start_time(id)?);
        fs::write(self.directory.join("owner"), text)?;
        Ok(())
    }

    /// Removes everything. [`Drop`] does it too; here an error is seen.
    ///
    /// # Errors
    /// If something of the lab cannot be removed.
    pub fn remove(&self) -> Result<()> {
        remove(&self.prefix)
    }
}

impl Drop for Lab {
    #[expect(
        clippy::print_stderr,
        reason = "what could not be removed must be seen, and drop has nobody to tell"
    )]
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{} is not wholly removed: {error:#}", self.prefix);
        }
    }
}

/// The prefix of the `number`th lab that the process `id` makes, counted from 0.
pub fn prefix_of(id: u32, number: u32) -> String {
    format!("ox{id}-{number}-")
}

/// Removes the lab with this prefix: its processes, namespaces, pins and files. What is gone already is fine.
///
/// # Errors
/// The first thing that could not be removed, after all others were tried.
pub fn remove(prefix: &str) -> Result<()> {
    if prefix.trim_end_matches('-').is_empty() {
        bail!("no prefix: that would be everybody's");
    }
    let mut first = Ok(());
    for name in netns::names_with(prefix)? {
        let done = end_processes(&name).and_then(|()| Netns::named(&name).delete());
        first = first.and(done);
    }
    let stem = prefix.trim_end_matches('-');
    for directory in [Path::new(BPFFS).join(stem), Path::new(RUN).join(stem)] {
        let done = match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", directory.display()))
            }
            _ => Ok(()),
        };
        first = first.and(done);
    }
    first
}

/// Kills what lives in the lab's namespace `name` and waits until it is gone.
fn end_processes(name: &str) -> Result<()> {
    let own = i32::try_from(process::id())?;
    wait::until(
        &format!("the processes in {name} end"),
        Duration::from_secs(5),
        || {
            let mut alive = false;
            for id in netns::processes_in(name)? {
                if id != own {
                    alive = true;
                    // It may have ended by itself since the list was made.
                    match kill(Pid::from_raw(id), Signal::SIGKILL) {
                        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                        Err(error) => return Err(error).context("kill"),
                    }
                }
            }
            Ok((!alive).then_some(()))
        },
    )
}

/// Removes labs whose maker was killed before it could.
fn sweep_abandoned() -> Result<()> {
    let entries = match Path::new(RUN).read_dir() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(RUN)?,
    };
    for entry in entries {
        let entry = entry?;
        // No owner file: a lab that is just being made, or just being removed.
        let Ok(text) = fs::read_to_string(entry.path().join("owner")) else {
            continue;
        };
        let mut words = text.split_whitespace();
        let (Some(id), Some(start)) = (words.next(), words.next()) else {
            continue;
        };
        let alive = start_time(id.parse()?).is_ok_and(|now| now == start);
        if !alive {
            remove(&format!("{}-", entry.file_name().to_string_lossy()))?;
        }
    }
    Ok(())
}

/// When the process started, in clock ticks since boot: with its id, a name that is not used twice.
fn start_time(id: u32) -> Result<String> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The command is in brackets and may hold anything; the start time is the 20th word after it.
    text.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .map(str::to_owned)
        .context(path)
}
