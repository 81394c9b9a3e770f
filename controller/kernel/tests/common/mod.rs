//! Test beds: the same port over a fake kernel and over this machine's, each in a network namespace
//! and a pin directory of its own.
#![allow(dead_code, reason = "each test binary uses a part of what they share")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::fake::FakeKernel;
use oxilium_kernel::port::LinkInfo;
use oxilium_kernel::{AttachMode, KernelConfig, KernelNode, MapSizes, Node};
use oxilium_model::node_state::{Hook, ProgramTag};
use oxilium_model::world::Capacities;

/// Small tables: full ones are quickly full, and dumps quickly read.
pub(crate) fn sizes() -> MapSizes {
    MapSizes {
        tables: Capacities {
            policy_entries: 64,
            max_table: 15,
            ipcache: 32,
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
        policy_counts: 64,
        event_ring: 4096,
    }
}

/// A node and the devices that its programs are attached to.
pub(crate) trait Bed {
    /// A process that works on this bed's kernel; a second call is a restart.
    fn start(&self) -> Box<dyn Node>;
    /// Makes a device; gives its index.
    fn add_device(&self) -> u32;
    /// Removes a device.
    fn remove_device(&self, ifindex: u32);
}

pub(crate) struct FakeBed {
    pub(crate) kernel: FakeKernel,
    next: Cell<u32>,
}

impl FakeBed {
    pub(crate) fn new() -> Self {
        Self {
            kernel: FakeKernel::new(sizes().tables),
            next: Cell::new(2),
        }
    }
}

impl Bed for FakeBed {
    fn start(&self) -> Box<dyn Node> {
        let programs: BTreeMap<Hook, ProgramTag> = Hook::ALL
            .into_iter()
            .map(|hook| (hook, ProgramTag([1 + hook as u8; 8])))
            .collect();
        Box::new(self.kernel.node(programs))
    }

    fn add_device(&self) -> u32 {
        let ifindex = self.next.get();
        self.next.set(ifindex + 1);
        self.kernel.set_link(LinkInfo {
            ifindex,
            name: format!("lxc{ifindex}"),
            kind: "veth".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            peer: None,
            netns_id: None,
            master: None,
            up: true,
            mtu: 1500,
            tx_queue_len: 1000,
        });
        ifindex
    }

    fn remove_device(&self, ifindex: u32) {
        self.kernel.remove_link(ifindex);
    }
}

/// This machine's kernel. Lives in the network namespace of the thread that made it.
pub(crate) struct KernelBed {
    pub(crate) root: PathBuf,
    pub(crate) mode: AttachMode,
    next: Cell<u32>,
}

impl KernelBed {
    pub(crate) fn config(&self) -> KernelConfig {
        KernelConfig {
            bpf_root: self.root.clone(),
            // Two builds of the agent are played in one process.
            exclusive: false,
            attach_mode: self.mode,
            sizes: sizes(),
            ..KernelConfig::default()
        }
    }

    pub(crate) fn open(&self) -> KernelNode {
        KernelNode::open(&self.config()).expect("the node opens")
    }

    /// Where the pins are.
    pub(crate) fn pins(&self) -> PathBuf {
        self.root
            .join(format!("oxilium/v{}", oxilium_abi::SCHEMA_VERSION))
    }
}

impl Bed for KernelBed {
    fn start(&self) -> Box<dyn Node> {
        Box::new(self.open())
    }

    fn add_device(&self) -> u32 {
        let number = self.next.get();
        self.next.set(number + 1);
        let name = format!("lxc{number}");
        run(
            "ip",
            &[
                "link",
                "add",
                &name,
                "type",
                "veth",
                "peer",
                "name",
                &format!("pod{number}"),
            ],
        );
        ifindex(&name)
    }

    fn remove_device(&self, ifindex: u32) {
        run("ip", &["link", "delete", &name_of(ifindex)]);
    }
}

impl Drop for KernelBed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            assert!(
                thread::panicking(),
                "{} stays behind: {error}",
                self.root.display()
            );
        }
    }
}

/// Runs `test` on this machine's kernel, in a network namespace that goes with its thread. False if
/// the machine cannot.
pub(crate) fn on_kernel(mode: AttachMode, test: impl FnOnce(&KernelBed) + Send) -> bool {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let tcx = (mode == AttachMode::Tcx).then_some(Need::Tcx);
    let needs: Vec<Need> = [Need::Root, Need::Bpf].into_iter().chain(tcx).collect();
    if !require(&needs) {
        return false;
    }
    if mode == AttachMode::Tcx && !has_tcx() {
        return false;
    }
    let root = Path::new("/sys/fs/bpf").join(format!(
        "ox-test-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    ));
    thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
                run("ip", &["link", "set", "lo", "up"]);
                fs::create_dir(&root).expect("a directory in bpffs");
                let bed = KernelBed {
                    root,
                    mode,
                    next: Cell::new(0),
                };
                test(&bed);
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    true
}

/// This kernel has tcx; if not, says so, which `OXILIUM_REQUIRE=tcx` makes a failure.
pub(crate) fn has_tcx() -> bool {
    if oxilium_kernel::kernel_has_tcx().expect("the kernel answers") {
        return true;
    }
    let required = std::env::var("OXILIUM_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|need| need == "tcx"),
        "this test needs tcx, which OXILIUM_REQUIRE demands: the kernel is older than 6.6"
    );
    let said = writeln!(
        std::io::stderr(),
        "skipped: this kernel has no tcx (it came with 6.6)"
    );
    said.expect("somebody hears it");
    false
}

/// Runs `test` on the fake, and on the kernel by tcx and by clsact.
pub(crate) fn on_every_bed(test: impl Fn(&dyn Bed) + Sync) {
    test(&FakeBed::new());
    for mode in [AttachMode::Auto, AttachMode::Tc] {
        on_kernel(mode, |bed| test(bed));
    }
}

/// Runs a command in this thread's network namespace; its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| unreachable!("{program} is installed: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As [`run`], for the JSON that `ip -j`, `tc -j` and `bpftool -j` print.
pub(crate) fn json(program: &str, arguments: &[&str]) -> serde_json::Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

fn links() -> Vec<serde_json::Value> {
    match json("ip", &["-j", "link", "show"]) {
        serde_json::Value::Array(links) => links,
        other => unreachable!("{other}"),
    }
}

pub(crate) fn ifindex(name: &str) -> u32 {
    links()
        .iter()
        .find(|link| link["ifname"] == name)
        .and_then(|link| link["ifindex"].as_u64())
        .and_then(|index| u32::try_from(index).ok())
        .expect("the link is there")
}

pub(crate) fn name_of(ifindex: u32) -> String {
    links()
        .iter()
        .find(|link| link["ifindex"] == ifindex)
        .and_then(|link| link["ifname"].as_str().map(str::to_owned))
        .expect("the link is there")
}
