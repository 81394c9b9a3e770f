//! The real object on the running kernel: its maps filled by hand, its programs run by
//! `BPF_PROG_TEST_RUN` on crafted packets.

use std::{collections::HashMap as StdMap, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use oxilium_abi::{
    COUNTER_FORWARDED, Counter, Direction, DropReason, IpcacheKey, counter_index, map, program,
};
use oxilium_datapath::testing::{Frame, Write};

pub mod hooks;
pub mod node;
mod socket;
pub use socket::PacketSocket;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a program answers to pass: `TC_ACT_UNSPEC`, so that the next one on the hook runs.
pub const NEXT: u32 = u32::MAX;
/// What a program answers to drop: `TC_ACT_SHOT`.
pub const SHOT: u32 = 2;
/// What a program answers to send the packet back to the pod: `TC_ACT_REDIRECT`.
pub const REDIRECT: u32 = 7;

/// Constants of the object.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a constant of its own in the object"
)]
pub struct Constants {
    /// Judge, write nothing.
    pub dry_run: bool,
    /// Events a second for each CPU.
    pub event_rate: u64,
    /// Trace passed packets.
    pub trace: bool,
    /// Count packets and bytes in conntrack entries.
    pub accounting: bool,
    /// Ask policy for each packet.
    pub always_ask: bool,
    /// Barriers between loads, as on a CPU that does not keep them in order.
    pub weak_order: bool,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            dry_run: false,
            event_rate: 1_000_000,
            trace: true,
            accounting: false,
            always_ask: false,
            weak_order: false,
        }
    }
}

/// The object, loaded.
pub struct Object {
    /// Its maps and programs.
    pub ebpf: Ebpf,
}

/// What one run of a program gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// The action.
    pub action: u32,
    /// Its drop reason, by the counters.
    pub reason: Option<DropReason>,
    /// Time of one run.
    pub duration: Duration,
    /// The packet as the program left it.
    pub bytes: Vec<u8>,
}

impl Object {
    /// Loads the object into the kernel, its programs too.
    pub fn load(constants: Constants) -> Result<Self> {
        let always_ask = u8::from(constants.always_ask);
        let (dry_run, trace) = (u8::from(constants.dry_run), u8::from(constants.trace));
        let accounting = u8::from(constants.accounting);
        let weak_order = u8::from(constants.weak_order);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("CT_SEED", &0x0123_4567_89AB_CDEF_u64, true)
            .override_global("DRY_RUN", &dry_run, true)
            .override_global("EVENT_RATE", &constants.event_rate, true)
            .override_global("TRACE", &trace, true)
            .override_global("CT_ACCOUNTING", &accounting, true)
            .override_global("ALWAYS_ASK", &always_ask, true)
            .override_global("WEAK_ORDER", &weak_order, true);
        let mut ebpf = loader.load(oxilium_kernel::object::OBJECT)?;
        for name in [program::FROM_CONTAINER, program::TO_CONTAINER] {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no program {name}"))?
                .try_into()?;
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// One of the two programs.
    pub fn program(&mut self, direction: Direction) -> Result<&mut SchedClassifier> {
        let name = match direction {
            Direction::Egress => program::FROM_CONTAINER,
            Direction::Ingress => program::TO_CONTAINER,
        };
        let program = self.ebpf.program_mut(name).context("no program")?;
        Ok(program.try_into()?)
    }

    /// Does one write of a plan.
    pub fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::NodeWord(word, value) => self.set_word(map::NODE_WORDS, *word as u32, *value),
            Write::EndpointWord(index, value) => self.set_word(map::ENDPOINT_WORDS, *index, *value),
            Write::Shapes(index, value) => self.set_word(map::POLICY_SHAPES, *index, *value),
            Write::Interface(ifindex, config) => {
                self.put::<4, 104>(map::INTERFACES, ifindex, config.as_ref())
            }
            Write::Policy(key, value) => self.put::<12, 16>(map::POLICY, key, value.as_ref()),
            Write::Service(key, value) => self.put::<24, 16>(map::SERVICES, key, value.as_ref()),
            Write::Backend(id, value) => self.put::<4, 32>(map::BACKENDS, id, value.as_ref()),
            Write::ReverseNat(id, value) => self.put::<4, 32>(map::REVERSE_NAT, id, value.as_ref()),
            Write::Ipcache(key, value) => {
                let mut trie: LpmTrie<&mut MapData, [u8; 20], [u8; 32]> =
                    LpmTrie::try_from(self.map_mut(map::IPCACHE)?)?;
                let key = lpm_key(key);
                match value {
                    Some(value) => trie.insert(&key, bytes::<32>(value), 0)?,
                    None => trie.remove(&key)?,
                }
                Ok(())
            }
        }
    }

    /// Empties every map that stories fill.
    pub fn forget_all(&mut self) -> Result<()> {
        self.forget::<4, 104>(map::INTERFACES)?;
        self.forget::<12, 16>(map::POLICY)?;
        self.forget::<24, 16>(map::SERVICES)?;
        self.forget::<4, 32>(map::BACKENDS)?;
        self.forget::<4, 32>(map::REVERSE_NAT)?;
        self.set_word(map::NODE_WORDS, oxilium_abi::NodeWord::Services as u32, 0)?;
        self.forget_flows()?;
        self.forget::<16, 16>(map::FRAGMENTS4)?;
        self.forget::<40, 16>(map::FRAGMENTS6)
    }

    /// Empties the conntrack maps.
    pub fn forget_flows(&mut self) -> Result<()> {
        for name in [map::CT4, map::CT4_UNANSWERED, map::CT4_DENIED] {
            self.forget::<16, 64>(name)?;
        }
        for name in [map::CT6, map::CT6_UNANSWERED, map::CT6_DENIED] {
            self.forget::<40, 64>(name)?;
        }
        for name in [map::SERVICE_FLOWS4, map::SERVICE_FLOWS4_NEW] {
            self.forget::<16, 16>(name)?;
        }
        for name in [map::SERVICE_FLOWS6, map::SERVICE_FLOWS6_NEW] {
            self.forget::<40, 16>(name)?;
        }
        self.forget::<4, 16>(map::AFFINITY)
    }

    /// The entries of a hash, as bytes.
    pub fn dump<const K: usize, const V: usize>(
        &mut self,
        name: &str,
    ) -> Result<StdMap<[u8; K], [u8; V]>>
    where
        [u8; K]: Pod,
        [u8; V]: Pod,
    {
        let map: HashMap<&mut MapData, [u8; K], [u8; V]> = HashMap::try_from(self.map_mut(name)?)?;
        map.iter().map(|entry| Ok(entry?)).collect()
    }

    /// Packets and bytes counted for `reason`, on all CPUs.
    pub fn counted(&mut self, reason: u8, direction: Direction) -> Result<Counter> {
        let index = counter_index(reason, direction);
        let counters: PerCpuArray<&mut MapData, [u8; 16]> =
            PerCpuArray::try_from(self.map_mut(map::COUNTERS)?)?;
        let mut sum = Counter::default();
        for bytes in counters.get(&index, 0)?.iter() {
            let Ok(counter) = Counter::read_from_bytes(bytes) else {
                bail!("a counter is not 16 bytes long");
            };
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        Ok(sum)
    }

    /// Runs a program once on a packet; the counters must agree with what it answers.
    pub fn run(&mut self, direction: Direction, frame: &Frame) -> Result<Run> {
        let before = self.reasons(direction)?;
        let (action, duration, bytes) = self.test_run(direction, frame)?;
        let after = self.reasons(direction)?;
        let counted: Vec<_> = after
            .into_iter()
            .zip(before)
            .filter(|((_, after), (_, before))| after != before)
            .map(|((reason, _), _)| reason)
            .collect();
        let reason = match (action, counted.as_slice()) {
            (NEXT | REDIRECT, []) => None,
            (SHOT, [reason]) => Some(*reason),
            _ => bail!("action {action}, but counted as {counted:?}"),
        };
        Ok(Run {
            action,
            reason,
            duration,
            bytes,
        })
    }

    fn test_run(
        &mut self,
        direction: Direction,
        frame: &Frame,
    ) -> Result<(u32, Duration, Vec<u8>)> {
        let mut bytes = vec![0; frame.bytes.len()];
        let context = test_context(frame);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame.bytes);
        options.ctx_in = Some(&context);
        options.data_out = Some(&mut bytes);
        options.repeat = 1;
        let result = self.program(direction)?.test_run(options)?;
        Ok((result.return_value, result.duration, bytes))
    }

    /// Packets counted in `direction`, by reason; None for those passed on.
    pub fn counts(&mut self, direction: Direction) -> Result<Vec<(Option<DropReason>, u64)>> {
        let mut counts = vec![(None, self.counted(COUNTER_FORWARDED, direction)?.packets)];
        for (reason, packets) in self.reasons(direction)? {
            counts.push((Some(reason), packets));
        }
        Ok(counts)
    }

    fn reasons(&mut self, direction: Direction) -> Result<Vec<(DropReason, u64)>> {
        DropReason::ALL
            .iter()
            .map(|reason| Ok((*reason, self.counted(*reason as u8, direction)?.packets)))
            .collect()
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}"))
    }

    fn set_word(&mut self, name: &str, index: u32, value: u64) -> Result<()> {
        let mut array: Array<&mut MapData, u64> = Array::try_from(self.map_mut(name)?)?;
        Ok(array.set(index, value, 0)?)
    }

    fn put<const K: usize, const V: usize>(
        &mut self,
        name: &str,
        key: &(impl IntoBytes + Immutable),
        value: Option<&(impl IntoBytes + Immutable)>,
    ) -> Result<()>
    where
        [u8; K]: Pod,
        [u8; V]: Pod,
    {
        let mut map: HashMap<&mut MapData, [u8; K], [u8; V]> =
            HashMap::try_from(self.map_mut(name)?)?;
        let key = bytes::<K>(key);
        match value {
            Some(value) => map.insert(key, bytes::<V>(value), 0)?,
            None => map.remove(&key)?,
        }
        Ok(())
    }

    fn forget<const K: usize, const V: usize>(&mut self, name: &str) -> Result<()>
    where
        [u8; K]: Pod,
        [u8; V]: Pod,
    {
        let mut map: HashMap<&mut MapData, [u8; K], [u8; V]> =
            HashMap::try_from(self.map_mut(name)?)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        for key in keys {
            map.remove(&key)?;
        }
        Ok(())
    }
}

/// `struct __sk_buff` with the fields that a test run takes from it.
#[must_use]
pub fn test_context(frame: &Frame) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    let mut set = |offset: usize, value: u32| {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    };
    set(INGRESS_IFINDEX, frame.ingress_ifindex);
    set(IFINDEX, frame.ifindex);
    set(GSO_SIZE, if frame.gso { 1400 } else { 0 });
    context
}

fn bytes<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}

fn lpm_key(key: &IpcacheKey) -> lpm_trie::Key<[u8; 20]> {
    let mut data = [0; 20];
    data.copy_from_slice(&key.as_bytes()[4..]);
    lpm_trie::Key::new(key.prefix_len, data)
}

/// Puts this thread into a network namespace of its own, with the interfaces that stories use.
pub fn enter_namespace() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("unshare")?;
    // What the kernel would send by itself is no part of a story.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    ip("link add ox7 index 7 type veth peer name ox8 index 8")?;
    ip("link add ox99 index 99 type veth peer name ox100 index 100")?;
    ip("link set lo up")?;
    ip("link set ox7 up")?;
    ip("link set ox8 up")
}

/// Runs `ip` in this thread's network namespace.
pub fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("ip")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
