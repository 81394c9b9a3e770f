//! The agent's kernel edge on this machine, with pins of its own, filled like the stories' node.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use oxilium_abi::{Direction, EndpointWord, Epoch, IpcacheWord, NodeWord, ShapeWord, map};
use oxilium_datapath::testing::Write;
use oxilium_kernel::{KernelConfig, KernelNode, MapSizes, Node as _};
use oxilium_model::{plan, world::Capacities};

/// A node whose pins go when it is dropped.
pub struct PinnedNode {
    /// The kernel edge.
    pub node: KernelNode,
    root: PathBuf,
}

impl PinnedNode {
    /// Opens it in this thread's network namespace.
    pub fn open() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = Path::new("/sys/fs/bpf").join(format!("ox-run-{}-{number}", process::id()));
        fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
        let config = KernelConfig {
            bpf_root: root.clone(),
            sizes: MapSizes {
                tables: Capacities {
                    policy_entries: 65_536,
                    max_table: 4095,
                    ipcache: 1024,
                    interfaces: 8,
                    max_endpoint: 63,
                    ..Capacities::default()
                },
                conntrack: 1024,
                conntrack_unanswered: 1024,
                conntrack_denied: 1024,
                fragments: 64,
                service_flows: 1024,
                service_flows_new: 1024,
                affinity: 64,
                policy_counts: 1024,
                event_ring: 4096,
            },
            ..KernelConfig::default()
        };
        match KernelNode::open(&config) {
            Ok(node) => Ok(Self { node, root }),
            Err(error) => {
                fs::remove_dir_all(&root)?;
                Err(error.into())
            }
        }
    }

    /// Does what a story's world writes, as a plan would.
    pub fn write(&mut self, write: &Write) -> Result<()> {
        Ok(self.node.apply(&planned(write)?)?)
    }

    /// Where a map is pinned.
    pub fn pin(&self, map: &str) -> PathBuf {
        self.node.directory().join(map)
    }

    /// Where a loaded program is pinned.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let programs = self.node.directory().join("programs");
        let entry = programs
            .read_dir()?
            .next()
            .context("no program is pinned")??;
        Ok(entry.path().join(name))
    }

    /// What bpftool reads in every pinned map; a ring has no content that can be read.
    pub fn dump(&self) -> Result<BTreeMap<String, String>> {
        let mut dumps = BTreeMap::new();
        for entry in self.node.directory().read_dir()? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == map::EVENTS || entry.path().is_dir() {
                continue;
            }
            let text = bpftool(&["map", "dump", "pinned"], &entry.path(), &[])?;
            dumps.insert(name, text);
        }
        ensure!(dumps.len() > 10, "only {:?} are pinned", dumps.keys());
        Ok(dumps)
    }
}

impl Drop for PinnedNode {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.root);
        assert!(
            removed.is_ok() || std::thread::panicking(),
            "{} stays behind: {removed:?}",
            self.root.display()
        );
    }
}

/// Runs `bpftool -j` on a pin.
pub fn bpftool(before: &[&str], pin: &Path, after: &[&str]) -> Result<String> {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(before)
        .arg(pin)
        .args(after)
        .output()
        .context("bpftool")?;
    ensure!(
        output.status.success(),
        "bpftool {before:?} {}: {}{}",
        pin.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn planned(write: &Write) -> Result<plan::Write> {
    let direction = |index: u32| {
        if index & 1 == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    };
    Ok(match *write {
        Write::Interface(ifindex, Some(config)) => plan::Write::InterfaceInsert { ifindex, config },
        Write::Policy(key, Some(value)) => plan::Write::PolicyInsert { key, value },
        Write::Ipcache(key, Some(value)) => plan::Write::IpcacheUpsert { key, value },
        Write::Shapes(index, word) => plan::Write::ShapeWord {
            table: index >> 1,
            direction: direction(index),
            word: ShapeWord(word),
        },
        Write::EndpointWord(index, word) => plan::Write::EndpointWord {
            endpoint: u16::try_from(index >> 1)?,
            bank: index & 1,
            word: EndpointWord(word),
        },
        Write::Service(key, Some(value)) => plan::Write::Service { key, value },
        Write::Backend(id, Some(value)) => plan::Write::Backend { id, value },
        Write::ReverseNat(id, Some(value)) => plan::Write::ReverseNat { id, value },
        Write::NodeWord(NodeWord::Services, word) => plan::Write::ServicesInUse(word != 0),
        Write::NodeWord(NodeWord::Ipcache, word) => plan::Write::IpcacheWord(IpcacheWord(word)),
        Write::NodeWord(NodeWord::HighWater, number) => plan::Write::HighWater(Epoch::new(number)),
        Write::NodeWord(NodeWord::Published, number) => plan::Write::Publish(Epoch::new(number)),
        _ => bail!("{write:?} is no write of a node that is being filled"),
    })
}
