//! A node in memory that can fail: the same port, the same rules, no kernel.
//!
//! A [`FakeKernel`] outlives the [`FakeNode`]s that work on it, as the kernel outlives the agent:
//! dropping a node and taking a new one is a restart.

mod faults;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oxilium_abi::{Counter, Direction, DropReason, Event, PolicyCountKey};
use oxilium_model::node_state::{AttachPoint, Hook, ProgramTag};
use oxilium_model::observed::{AttachedProgram, Observed, Place};
use oxilium_model::plan::Write;
use oxilium_model::world::Capacities;

pub use faults::{Fault, Faults};
use state::State;

use crate::count::WriteCounts;
use crate::error::{ApplyError, NetlinkError, ObserveError};
use crate::events::EventReader;
use crate::port::{
    AddressInfo, BridgeNetfilter, Evicted, Flow, GarbageReport, HookKind, HookProgram, LinkInfo,
    MapUsage, Node, Occupancy, PodInterface, TryPacket,
};

/// A kernel in memory. Clones are the same kernel.
#[derive(Clone, Debug)]
pub struct FakeKernel(Arc<Mutex<State>>);

impl FakeKernel {
    /// An empty kernel with tables of these sizes.
    pub fn new(capacities: Capacities) -> Self {
        Self(Arc::new(Mutex::new(State::new(capacities))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the state has failed already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that works on this kernel with the programs of these tags. What an earlier one left stays.
    pub fn node(&self, programs: BTreeMap<Hook, ProgramTag>) -> FakeNode {
        self.state().start();
        FakeNode {
            kernel: self.clone(),
            programs,
        }
    }

    /// A link appears, or changes.
    pub fn set_link(&self, link: LinkInfo) {
        self.state().links.insert(link.ifindex, link);
    }

    /// A link goes, and with it the programs on its hooks, its addresses and the pod's end.
    pub fn remove_link(&self, ifindex: u32) {
        self.state().remove_link(ifindex);
    }

    /// What netfilter sees of IPv4 and of IPv6.
    pub fn set_bridge_netfilter(&self, seen: [BridgeNetfilter; 2]) {
        self.state().bridge_netfilter = seen;
    }

    /// An address appears.
    pub fn add_address(&self, address: AddressInfo) {
        self.state().addresses.insert(address);
    }

    /// What is found inside a pod's network namespace.
    pub fn set_pod_interface(&self, netns: &Path, name: &str, interface: PodInterface) {
        self.state()
            .pods
            .insert((netns.to_owned(), name.to_owned()), interface);
    }

    /// A pod's network namespace cannot be entered, with this errno; it can again with none.
    pub fn bar_netns(&self, netns: &Path, errno: Option<i32>) {
        let mut state = self.state();
        match errno {
            Some(errno) => state.barred.insert(netns.to_owned(), errno),
            None => state.barred.remove(netns),
        };
    }

    /// A pod's network namespace goes.
    pub fn remove_netns(&self, netns: &Path) {
        self.state().pods.retain(|(path, _), _| path != netns);
    }

    /// Changes tables behind the agent's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.state().tables);
    }

    /// Removes a pin behind the agent's back.
    pub fn remove_pin(&self, path: &Path) {
        self.state().lost.push(path.to_owned());
    }

    /// What the tables hold.
    pub fn tables(&self) -> Observed {
        self.state().tables.clone()
    }

    /// Another party's program on a hook.
    pub fn add_foreign(&self, program: HookProgram) {
        self.state().foreign.push(program);
    }

    /// Conntrack entries, as programs would make them.
    pub fn set_flows(&self, flows: Vec<Flow>) {
        self.state().flows = flows;
    }

    /// Counts packets, as programs would.
    pub fn count(&self, direction: Direction, reason: u8, counter: Counter) {
        let mut state = self.state();
        let total = state.counters.entry((direction, reason)).or_default();
        total.packets += counter.packets;
        total.bytes += counter.bytes;
    }

    /// Makes an event, as programs would; false when nobody reads.
    pub fn emit(&self, event: Event) -> bool {
        self.state().emit(event)
    }

    /// What the programs say of every packet that is tried at a hook.
    pub fn set_verdict(&self, hook: Hook, verdict: Option<DropReason>) {
        self.state().verdicts.insert(hook, verdict);
    }

    /// Packets that were tried, in their order.
    pub fn tried(&self) -> Vec<TryPacket> {
        self.state().tried.clone()
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// All changes made so far, in their order, with failed ones left out.
    pub fn history(&self) -> Vec<Write> {
        self.state().history.clone()
    }

    /// Forgets the history.
    pub fn clear_history(&self) {
        self.state().history.clear();
    }
}

/// A process at work on a [`FakeKernel`].
#[derive(Debug)]
pub struct FakeNode {
    kernel: FakeKernel,
    programs: BTreeMap<Hook, ProgramTag>,
}

impl Node for FakeNode {
    fn programs(&self) -> BTreeMap<Hook, ProgramTag> {
        self.programs.clone()
    }

    fn observe(&mut self) -> Result<Observed, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.tables.clone())
    }

    fn apply(&mut self, write: &Write) -> Result<(), ApplyError> {
        if let Write::Attach { point, program, .. } | Write::Replace { point, program, .. } = write
        {
            self.known(*point, *program)?;
        }
        self.kernel.state().apply(write)
    }

    fn tidy(&mut self) -> Result<usize, ApplyError> {
        Ok(self.kernel.state().tidy())
    }

    fn restored_pins(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.kernel.state().restored)
    }

    fn hooks(&mut self, interfaces: &BTreeSet<u32>) -> Result<Vec<HookProgram>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.hooks(interfaces))
    }

    fn attachments(
        &mut self,
        interfaces: &BTreeMap<u32, u16>,
    ) -> Result<BTreeMap<AttachPoint, AttachedProgram>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        let mut attachments = state.tables.attachments.clone();
        attachments.retain(|point, _| interfaces.contains_key(&point.ifindex));
        for (point, program) in &mut attachments {
            let pinned = state.pins.get(&(interfaces[&point.ifindex], point.hook));
            if program.place == Place::Settled && pinned != Some(&point.ifindex) {
                program.place = Place::Misplaced;
            }
        }
        Ok(attachments)
    }

    fn announces_hooks(&self) -> bool {
        false
    }

    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        let mut state = self.kernel.state();
        state.faults.dump("links")?;
        Ok(state.links.values().cloned().collect())
    }

    fn clsact(&mut self) -> Result<BTreeSet<u32>, NetlinkError> {
        let mut state = self.kernel.state();
        state.faults.dump("qdiscs")?;
        // Foreign filters have one; ours are told apart from links by their place alone.
        let foreign = state.foreign.iter();
        Ok(foreign
            .filter(|program| matches!(program.kind, HookKind::Filter { .. }))
            .map(|program| program.ifindex)
            .collect())
    }

    fn addresses(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        let mut state = self.kernel.state();
        state.faults.dump("addresses")?;
        Ok(state.addresses.iter().cloned().collect())
    }

    fn bridge_netfilter(&mut self) -> Result<[BridgeNetfilter; 2], NetlinkError> {
        let mut state = self.kernel.state();
        state.faults.dump("bridge_netfilter")?;
        Ok(state.bridge_netfilter)
    }

    fn pod_interface(&mut self, netns: &Path, name: &str) -> Result<PodInterface, NetlinkError> {
        let key: (PathBuf, String) = (netns.to_owned(), name.to_owned());
        let state = self.kernel.state();
        let barred = state.barred.get(netns).copied();
        let found = state.pods.get(&key).filter(|_| barred.is_none());
        found.cloned().ok_or_else(|| NetlinkError::Namespace {
            path: key.0,
            source: std::io::Error::from_raw_os_error(barred.unwrap_or(libc::ENOENT)),
        })
    }

    fn flows(&mut self) -> Result<Vec<Flow>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.flows.clone())
    }

    fn collect_garbage(&mut self, budget: usize) -> Result<GarbageReport, ApplyError> {
        Ok(self.kernel.state().collect_garbage(budget))
    }

    fn evicted(&self) -> Evicted {
        // Its tables of flows are never full.
        Evicted::default()
    }

    fn flow_tables(&self) -> BTreeMap<&'static str, Occupancy> {
        self.kernel.state().flow_tables.clone()
    }

    fn counters(&mut self) -> Result<BTreeMap<(Direction, u8), Counter>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.counters.clone())
    }

    fn policy_counts(&mut self) -> Result<BTreeMap<PolicyCountKey, Counter>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.policy_counts.clone())
    }

    fn usage(
        &mut self,
        known: &BTreeMap<&'static str, usize>,
    ) -> Result<Vec<MapUsage>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state.usage(known))
    }

    fn map_memory(&self) -> Result<u64, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        Ok(state
            .usage(&BTreeMap::new())
            .iter()
            .map(|map| map.memory)
            .sum())
    }

    fn events(&mut self) -> Result<EventReader, ObserveError> {
        self.kernel.state().events()
    }

    fn try_packet(&mut self, packet: &TryPacket) -> Result<Option<DropReason>, ObserveError> {
        let mut state = self.kernel.state();
        state.faults.read()?;
        state.tried.push(packet.clone());
        let verdict = state.verdicts.get(&packet.hook).copied();
        verdict.ok_or_else(|| ObserveError::TryPacket {
            hook: packet.hook,
            ifindex: packet.ifindex,
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })
    }

    fn writes(&self) -> WriteCounts {
        self.kernel.state().writes.snapshot()
    }
}

impl FakeNode {
    fn known(&self, point: AttachPoint, tag: ProgramTag) -> Result<(), ApplyError> {
        let loaded = self.programs.get(&point.hook).copied().unwrap_or_default();
        if loaded == tag {
            return Ok(());
        }
        Err(ApplyError::UnknownProgram {
            hook: point.hook,
            tag,
            loaded,
        })
    }
}
