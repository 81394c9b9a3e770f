//! The port: what the agent can ask of a node's kernel. [`crate::KernelNode`] is the real one,
//! [`crate::fake::FakeNode`] the one that can fail.
//!
//! Calls are synchronous: each is one or a few system calls of microseconds, dumps of big tables of
//! milliseconds. One task owns the node and makes all writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use oxilium_abi::{Counter, CtEntry, Direction, DropReason, FlowKind, PolicyCountKey};
use oxilium_model::node_state::{AttachPoint, Hook, ProgramTag};
use oxilium_model::observed::{AttachedProgram, Observed};
use oxilium_model::plan::Write;

use crate::count::WriteCounts;
use crate::error::{ApplyError, NetlinkError, ObserveError};
use crate::events::EventReader;

/// A node's kernel.
pub trait Node: Send {
    /// The loaded programs, by hook: what `NodeConfig::programs` is to be.
    fn programs(&self) -> BTreeMap<Hook, ProgramTag>;

    /// Reads every table that the agent writes.
    ///
    /// # Errors
    /// When something cannot be read whole: a part is never returned as the whole.
    fn observe(&mut self) -> Result<Observed, ObserveError>;

    /// Makes one planned change. What is to be deleted and is not there counts as done; what is to
    /// be inserted must not be there, what is to be replaced must.
    ///
    /// # Errors
    /// Nothing was changed, or (purge) only a part. After an error the node is to be observed anew.
    fn apply(&mut self, write: &Write) -> Result<(), ApplyError>;

    /// Puts the pins in order: removes those that nothing needs (of links whose device is gone, of
    /// programs that no hook runs any more), sets those again that were removed by others (of maps,
    /// of the loaded programs), and stops events that nobody reads. Returns how many changes that
    /// took. To be called with nothing left to apply.
    ///
    /// # Errors
    /// When bpffs cannot be read or written, or another map is pinned where one of ours should be.
    fn tidy(&mut self) -> Result<usize, ApplyError>;

    /// Pins that others had removed and that were set again since this was last asked, and the place of all pins where it
    /// was gone itself.
    fn restored_pins(&mut self) -> Vec<PathBuf>;

    /// All programs on the hooks of these interfaces, those of others as well, in the order in which they run.
    ///
    /// # Errors
    /// When a hook cannot be read. An interface that is gone has no hooks.
    fn hooks(&mut self, interfaces: &BTreeSet<u32>) -> Result<Vec<HookProgram>, ObserveError>;

    /// Our programs on the hooks of these interfaces, each with the endpoint behind it: what
    /// [`Node::observe`] says of them, without all the rest.
    ///
    /// # Errors
    /// When a hook cannot be read. An interface that is gone has no hooks.
    fn attachments(
        &mut self,
        interfaces: &BTreeMap<u32, u16>,
    ) -> Result<BTreeMap<AttachPoint, AttachedProgram>, ObserveError>;

    /// Changes of hooks come as news of netlink's (clsact filters), so that nobody need ask for them. tcx announces
    /// nothing.
    fn announces_hooks(&self) -> bool;

    /// This network namespace's links.
    ///
    /// # Errors
    /// When the kernel does not give a whole answer.
    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError>;

    /// Indices of this network namespace's interfaces that have a clsact qdisc, whoever made it.
    ///
    /// # Errors
    /// When the kernel does not give a whole answer.
    fn clsact(&mut self) -> Result<BTreeSet<u32>, NetlinkError>;

    /// This network namespace's addresses.
    ///
    /// # Errors
    /// When the kernel does not give a whole answer.
    fn addresses(&mut self) -> Result<Vec<AddressInfo>, NetlinkError>;

    /// What netfilter is shown by this network namespace's bridges, and whether kube-proxy's rules are there, for IPv4
    /// and for IPv6.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn bridge_netfilter(&mut self) -> Result<[BridgeNetfilter; 2], NetlinkError>;

    /// The pod's end of an interface, looked at from inside its network namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or has no such interface.
    fn pod_interface(&mut self, netns: &Path, name: &str) -> Result<PodInterface, NetlinkError>;

    /// All conntrack entries, live and expired.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn flows(&mut self) -> Result<Vec<Flow>, ObserveError>;

    /// Deletes conntrack entries, fragments and services' choices whose life has ended, at most `budget` entries of them.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    fn collect_garbage(&mut self, budget: usize) -> Result<GarbageReport, ApplyError>;

    /// How full the tables of flows were after the last round of [`Node::collect_garbage`], by name.
    fn flow_tables(&self) -> BTreeMap<&'static str, Occupancy>;

    /// What the kernel has evicted for want of room since the first round of [`Node::collect_garbage`], as of the last
    /// one.
    fn evicted(&self) -> Evicted;

    /// Packets by direction and reason ([`oxilium_abi::DropReason`] as a number, 0 for forwarded),
    /// added up over all CPUs; zero ones left out.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&mut self) -> Result<BTreeMap<(Direction, u8), Counter>, ObserveError>;

    /// What each entry of each endpoint's policy table has decided: packets for which policy was asked, as far back as
    /// there was room to count.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn policy_counts(&mut self) -> Result<BTreeMap<PolicyCountKey, Counter>, ObserveError>;

    /// How full each map is and what it costs. Counting the entries of a map means reading all of it: `known` has those, by
    /// the map's name, of which the caller need not be told.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn usage(
        &mut self,
        known: &BTreeMap<&'static str, usize>,
    ) -> Result<Vec<MapUsage>, ObserveError>;

    /// Kernel memory of all maps, in bytes, as their fdinfo says.
    ///
    /// # Errors
    /// When it cannot be read.
    fn map_memory(&self) -> Result<u64, ObserveError>;

    /// Opens the stream of events; programs make events while it is open. There is one ring and so
    /// one reader: who wants several fans out.
    ///
    /// # Errors
    /// When there is a reader already, or the ring cannot be mapped.
    fn events(&mut self) -> Result<EventReader, ObserveError>;

    /// Has the programs judge a packet without a trace: a second instance of them, loaded at the first
    /// call, works on the live tables and writes none of them. The reason to drop the packet, none to pass it.
    ///
    /// # Errors
    /// When the instance cannot be loaded, or the kernel does not run it (the interface is gone, or
    /// the frame is none).
    fn try_packet(&mut self, packet: &TryPacket) -> Result<Option<DropReason>, ObserveError>;

    /// System calls that changed something, since this process began.
    fn writes(&self) -> WriteCounts;
}

/// A packet that is not sent, for [`Node::try_packet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TryPacket {
    /// The hook that judges it.
    pub hook: Hook,
    /// The interface that the hook is on.
    pub ifindex: u32,
    /// The interface that it came into the node through; 0 if the node itself sends it.
    pub ingress_ifindex: u32,
    /// The frame, from the Ethernet header on.
    pub frame: Vec<u8>,
}

/// How programs get onto hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6 and later), else clsact.
    #[default]
    Auto,
    /// tcx links.
    Tcx,
    /// bpf filters on a clsact qdisc.
    Tc,
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookProgram {
    /// The interface.
    pub ifindex: u32,
    /// The hook that it is on.
    pub hook: Hook,
    /// Way of attachment.
    pub kind: HookKind,
    /// The kernel's id of the program; 0 for a tc filter that is no bpf filter.
    pub program_id: u32,
    /// The program's name as the kernel has it.
    pub name: String,
    /// It uses our maps: some version of ours made it.
    pub ours: bool,
}

/// How a program is on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// By tcx, with the id of its link, 0 if it was attached without a link.
    Tcx {
        /// Link id.
        link: u32,
    },
    /// By a filter on a clsact qdisc.
    Filter {
        /// Priority; lower ones run first.
        priority: u16,
        /// Handle.
        handle: u32,
    },
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`veth`, `bridge` …); empty for devices without one.
    pub kind: String,
    /// Its MAC address, where it has one of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Index of the device that it is linked to (a veth's other end), valid in `netns_id`'s namespace if that is set.
    pub peer: Option<u32>,
    /// Id, in this namespace, of the namespace that the peer is in; none if it is this one.
    pub netns_id: Option<i32>,
    /// The bridge or other master that it is a port of.
    pub master: Option<u32>,
    /// It is administratively up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Packets that a queue of it may hold (`txqueuelen`).
    pub tx_queue_len: u32,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressInfo {
    /// The device.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// Reach: it is good on the whole network, on the link, or on this host only.
    pub scope: AddressScope,
}

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressScope {
    /// Everywhere, or within a site.
    Global,
    /// On the link.
    Link,
    /// On this host.
    Host,
}

/// What netfilter sees of one family's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeNetfilter {
    /// Bridges show it what they carry (`net.bridge.bridge-nf-call-iptables` or `…-ip6tables`).
    pub calls: bool,
    /// kube-proxy's rules are there.
    pub kube_proxy: bool,
}

/// A pod's end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Its index inside.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Index of the host's end, in the namespace that `link_netns` says.
    pub peer: Option<u32>,
    /// Its addresses other than link-local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Its IPv6 link-local addresses.
    pub link_local: BTreeSet<Ipv6Addr>,
    /// Id that the pod's namespace has in the host's. One is assigned if it had none.
    pub netns_id: i32,
}

/// Which conntrack map a flow is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtTable {
    /// Flows that were answered.
    Answered,
    /// Flows without an answer yet.
    Unanswered,
    /// Flows that turned to denied.
    Denied,
}

impl CtTable {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Unanswered, Self::Denied];
}

/// A conntrack entry of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The map that it is in.
    pub table: CtTable,
    /// The endpoint's address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// The endpoint's port in host order; id of an ICMP echo.
    pub local_port: u16,
    /// The peer's port in host order.
    pub remote_port: u16,
    /// The endpoint.
    pub endpoint: u16,
    /// IP protocol.
    pub protocol: u8,
    /// What tells flows of one tuple apart; none if the entry's byte is no kind.
    pub kind: Option<FlowKind>,
    /// The entry.
    pub entry: CtEntry,
    /// Seconds of life that it has left; negative once it has expired.
    pub remaining: i64,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Entries in it.
    pub entries: usize,
    /// Entries that it can hold.
    pub capacity: usize,
}

/// Entries that the kernel has evicted for want of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Conntrack entries of answered flows.
    pub flows: u64,
    /// Choices of a backend for answered flows.
    pub choices: u64,
    /// Choices of a backend for the latest flows. That of a flow which was answered is kept with the answered ones, too.
    pub latest_choices: u64,
}

/// What a round of garbage collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GarbageReport {
    /// Entries of conntrack that were looked at.
    pub scanned: usize,
    /// Entries of conntrack that were deleted.
    pub deleted: usize,
    /// Entries that had expired and stayed because the budget was used up.
    pub left: usize,
    /// The largest part of a table's room that entries took which had expired, in percent.
    pub ended_percent: u32,
    /// The largest part of a table's room that living ones take, in percent.
    pub fullest_percent: u32,
}

/// A map's size and cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Its name.
    pub name: String,
    /// Entries in it; none for arrays and rings, which are always whole.
    pub entries: Option<usize>,
    /// Entries that it can hold; bytes for a ring.
    pub capacity: u32,
    /// Kernel memory in bytes, as its fdinfo says.
    pub memory: u64,
}
