//! What a program takes for one packet, net of what an empty program takes.
//!
//! The programs are loaded and their maps filled by the agent's own kernel edge; packets go through BPF_PROG_TEST_RUN,
//! which gives the mean of its repetitions. What a lookup per packet would take is measured on a second node of the same
//! size, whose programs ask policy for each packet, also where conntrack knows.

mod services;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun, TestRunAttrs, TestRunOptions},
};
use ipnet::IpNet;
use oxilium_abi::{
    AuthRequirement, Be16, Direction, EndpointWord, Epoch, InterfaceConfig, IpcacheValue,
    IpcacheWord, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord, program,
};
use oxilium_e2e::{
    packet::{self, tcp_flag},
    wire::Mac,
};
use oxilium_kernel::{KernelConfig, KernelNode, Node, PolicyAsked};
use oxilium_model::plan::{Write, ipcache_key};

use crate::{
    empty,
    figures::{Pairs, Samples},
    report::{Goal, Line, Unit},
};

/// What TEST_RUN gives a packet as its interface: the loopback device.
const IFINDEX: u32 = 1;
const ENDPOINT: u16 = 7;
const TABLE: u32 = 3;
const PEER: u32 = 300;
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NODE_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OPEN: u16 = 80;
const CLOSED: u16 = 81;
/// The size of a node that has something to do.
const PREFIXES: u32 = 10_000;
const ENTRIES: u32 = 50_000;
/// Repetitions of one measurement.
const REPEAT: u32 = 300_000;
/// Flows of one measurement of new flows: fewer than the table of unanswered flows holds.
const FLOWS: u16 = 4_000;
/// What TC_ACT_UNSPEC and TC_ACT_SHOT are as TEST_RUN's result.
const PASSED: u32 = u32::MAX;
const DROPPED: u32 = 2;

/// Each program on established, new and dropped flows of both families, `rounds` times.
///
/// # Errors
/// If the programs do not load, or a packet is not judged as it should be.
pub fn run(rounds: usize) -> Result<Vec<Line>> {
    let mut bed = Bed::new("flows", PolicyAsked::WithoutVerdict)?;
    let mut asking = Bed::new("asking", PolicyAsked::EachPacket)?;
    let mut lines = Vec::new();
    for family in [Family::V4, Family::V6] {
        for hook in [Hook::From, Hook::To] {
            lines.extend(bed.measure(&mut asking, family, hook, rounds)?);
        }
    }
    lines.extend(services::run(rounds)?);
    Ok(lines)
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn pod(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 0, 7).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7).into(),
        }
    }

    fn peer(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 1, 9).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9).into(),
        }
    }
}

/// Which program, and so who opens the flow: the pod at `from_container`, the peer at `to_container`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    From,
    To,
}

impl Hook {
    fn program(self) -> &'static str {
        match self {
            Self::From => program::FROM_CONTAINER,
            Self::To => program::TO_CONTAINER,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::From => Self::To,
            Self::To => Self::From,
        }
    }

    /// A packet that meets this hook, of a flow from `client` to `server`, one of which is the pod's port.
    fn packet(self, family: Family, pod_port: u16, peer_port: u16, flags: u8) -> Vec<u8> {
        let (pod, peer) = ((family.pod(), pod_port), (family.peer(), peer_port));
        let payload: &[u8] = if flags == tcp_flag::ACK {
            &[0; 64]
        } else {
            &[]
        };
        match self {
            Self::From => packet::tcp(pod, peer, flags, (1, 1), payload).frame(NODE_MAC, POD_MAC),
            Self::To => packet::tcp(peer, pod, flags, (1, 1), payload).frame(POD_MAC, NODE_MAC),
        }
    }

    /// A packet in the direction of a flow that this hook's sender opens towards `port`.
    fn forward(self, family: Family, port: u16, client: u16, flags: u8) -> Vec<u8> {
        match self {
            Self::From => self.packet(family, client, port, flags),
            Self::To => self.packet(family, port, client, flags),
        }
    }

    /// The answer, which the other hook sees.
    fn answer(self, family: Family, port: u16, client: u16, flags: u8) -> Vec<u8> {
        match self {
            Self::From => self.other().packet(family, client, port, flags),
            Self::To => self.other().packet(family, port, client, flags),
        }
    }
}

/// The loaded programs, their maps, and the empty program beside them.
struct Bed {
    root: PathBuf,
    node: KernelNode,
    from: SchedClassifier,
    to: SchedClassifier,
    empty: Ebpf,
    epoch: Epoch,
    client: u16,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Only pins of this run are there; whoever finds one left may remove it.
        fs::remove_dir_all(&self.root).ok();
    }
}

impl Bed {
    /// `name` tells it from others of this run.
    fn new(name: &str, policy_asked: PolicyAsked) -> Result<Self> {
        let root = format!("oxilium-bench-{}-{name}", process::id());
        let root = Path::new("/sys/fs/bpf").join(root);
        fs::create_dir(&root).with_context(|| root.display().to_string())?;
        let config = KernelConfig {
            bpf_root: root.clone(),
            policy_asked,
            ..KernelConfig::default()
        };
        let opened = KernelNode::open(&config).map_err(anyhow::Error::from);
        let node = opened.inspect_err(|_| drop(fs::remove_dir_all(&root)))?;
        let pinned = |name: &str| -> Result<SchedClassifier> {
            let path = find(&root, name)?.with_context(|| format!("no pin of {name}"))?;
            Ok(SchedClassifier::from_pin(path)?)
        };
        let (from, to) = (
            pinned(program::FROM_CONTAINER)?,
            pinned(program::TO_CONTAINER)?,
        );
        let mut bed = Self {
            root,
            node,
            from,
            to,
            empty: empty::load()?,
            epoch: Epoch::new(1),
            client: 1024,
        };
        bed.fill()?;
        Ok(bed)
    }

    fn write(&mut self, write: Write) -> Result<()> {
        self.node
            .apply(&write)
            .with_context(|| format!("filling the maps: {write}"))
    }

    fn fill(&mut self) -> Result<()> {
        self.write(Write::HighWater(self.epoch))?;
        // Tables of others: a lookup pays for a big map.
        for number in 0..ENTRIES {
            self.entry(1000 + number / 100, 256 + number % 100, Direction::Ingress)?;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            self.entry(TABLE, PEER, direction)?;
            let exact = ShapeMask(1 << ShapeMask::shape(Some(16)));
            let word = ShapeWord::new(exact, ShapeMask::default(), ShapeMask::default());
            self.write(Write::ShapeWord {
                table: TABLE,
                direction,
                word,
            })?;
        }
        let neighbours = (0..PREFIXES).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            IpNet::from(IpAddr::from([100, 64, high, low]))
        });
        for (prefix, identity) in neighbours
            .map(|prefix| (prefix, 2_000))
            .chain([Family::V4, Family::V6].map(|family| (family.peer().into(), PEER)))
        {
            self.write(Write::IpcacheUpsert {
                key: ipcache_key(prefix),
                value: IpcacheValue::level(identity),
            })?;
        }
        for bank in [0, 1] {
            self.write(Write::EndpointWord {
                endpoint: ENDPOINT,
                bank,
                word: EndpointWord::new(TABLE, self.epoch),
            })?;
        }
        self.write(Write::IpcacheWord(IpcacheWord::new(0, self.epoch)))?;
        let mut interface = InterfaceConfig {
            birth: self.epoch.get(),
            mac: POD_MAC.0,
            endpoint: ENDPOINT,
            netns_id: oxilium_abi::NETNS_UNKNOWN,
            identity: 256,
            ifindex: IFINDEX,
            ..InterfaceConfig::default()
        };
        if let (IpAddr::V4(v4), IpAddr::V6(v6)) = (Family::V4.pod(), Family::V6.pod()) {
            interface.ipv4[0] = v4.octets();
            interface.ipv6[0] = v6.octets();
        }
        self.write(Write::InterfaceInsert {
            ifindex: IFINDEX,
            config: interface,
        })?;
        self.write(Write::Publish(self.epoch))
    }

    /// An entry that allows one TCP port.
    fn entry(&mut self, table: u32, identity: u32, direction: Direction) -> Result<()> {
        let key = PolicyKey {
            table,
            identity,
            port: Be16::new(
                OPEN + u16::try_from(identity % 7).unwrap_or_default() * u16::from(table != TABLE),
            ),
            protocol: packet::protocol::TCP,
            direction_shape: PolicyKey::pack(direction, ShapeMask::shape(Some(16))),
        };
        let allow = Precedence((0x00FF_FFFF << 8) | u32::from(oxilium_abi::POLICY_CLASS_ALLOW));
        let value = PolicyValue::new(&key, allow, 0, AuthRequirement::default());
        self.write(Write::PolicyInsert { key, value })
    }

    fn measure(
        &mut self,
        asking: &mut Self,
        family: Family,
        hook: Hook,
        rounds: usize,
    ) -> Result<[Line; 3]> {
        let client = self.establish(family, hook)?;
        let asked = asking.establish(family, hook)?;
        let asked = hook.forward(family, OPEN, asked, tcp_flag::ACK);
        let data = hook.forward(family, OPEN, client, tcp_flag::ACK);
        let refused = hook.forward(family, CLOSED, client, tcp_flag::SYN);
        let (mut established, mut dropped, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let nothing = self.nothing(&data)?;
            let recorded = self.judged(hook, &data, PASSED)? - nothing;
            let looked_up = asking.judged(hook, &asked, PASSED)? - nothing;
            established.push((recorded, looked_up));
            dropped.push(self.judged(hook, &refused, DROPPED)? - nothing);
            fresh.push(self.new_flows(family, hook)?);
        }
        let name = |what: &str| format!("{} {}, {what}", hook.program(), family.name());
        let established = Pairs::new(&established).context("nothing measured")?;
        let plain = |what: &str, samples: Vec<f64>| -> Result<Line> {
            let samples = Samples::new(samples).context("nothing measured")?;
            Ok(Line::absolute(
                &name(what),
                samples.median(),
                Unit::Seconds,
                "",
                None,
            ))
        };
        Ok([
            Line::ratio(
                &name("established: recorded to looked up"),
                &established,
                Unit::Seconds,
                Some(Goal::AtMost(0.5)),
            ),
            plain("new and refused", dropped)?,
            plain("new and allowed, caches cold", fresh)?,
        ])
    }

    /// A flow that both sides have spoken on; the client's port.
    fn establish(&mut self, family: Family, hook: Hook) -> Result<u16> {
        let client = self.next_client();
        let (syn, ack) = (tcp_flag::SYN, tcp_flag::ACK);
        for (at, frame) in [
            (hook, hook.forward(family, OPEN, client, syn)),
            (hook.other(), hook.answer(family, OPEN, client, syn | ack)),
            (hook, hook.forward(family, OPEN, client, ack)),
        ] {
            self.once(at, &frame, PASSED)?;
        }
        Ok(client)
    }

    fn next_client(&mut self) -> u16 {
        self.client = self.client.checked_add(1).unwrap_or(1024);
        self.client
    }

    /// Seconds that the first packet of a flow takes, net of an empty program's: the mean over many flows.
    fn new_flows(&mut self, family: Family, hook: Hook) -> Result<f64> {
        let mut sum = 0.0;
        for _ in 0..FLOWS {
            let client = self.next_client();
            let frame = hook.forward(family, OPEN, client, tcp_flag::SYN);
            let nothing = test(empty::program(&mut self.empty)?, &frame, 1)?.1;
            sum += self.once(hook, &frame, PASSED)? - nothing;
        }
        Ok(sum / f64::from(FLOWS))
    }

    fn nothing(&mut self, frame: &[u8]) -> Result<f64> {
        Ok(test(empty::program(&mut self.empty)?, frame, REPEAT)?.1)
    }

    fn judged(&mut self, hook: Hook, frame: &[u8], expected: u32) -> Result<f64> {
        self.run(hook, frame, REPEAT, expected)
    }

    fn once(&mut self, hook: Hook, frame: &[u8], expected: u32) -> Result<f64> {
        self.run(hook, frame, 1, expected)
    }

    fn run(&mut self, hook: Hook, frame: &[u8], repeat: u32, expected: u32) -> Result<f64> {
        let program = match hook {
            Hook::From => &self.from,
            Hook::To => &self.to,
        };
        let (verdict, seconds) = test(program, frame, repeat)?;
        ensure!(
            verdict == expected,
            "{} says {verdict:#x} instead of {expected:#x}",
            hook.program()
        );
        Ok(seconds)
    }
}

/// The program's result for a frame and the mean of its seconds.
fn test(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: None,
        ctx_in: None,
        ctx_out: None,
        repeat,
        attrs: TestRunAttrs::default(),
    })?;
    Ok((result.return_value, result.duration.as_secs_f64()))
}

/// The first file of that name below `directory`.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in directory.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
