//! Maps in memory.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::BTreeMap,
};

use oxilium_abi::{
    Affinity, AffinityKey, Be16, Counter, CtEntry, CtKey4, CtKey6, DropReason, Event, Family,
    FragmentEntry, FragmentKey4, FragmentKey6, IPCACHE_PREFIX_BASE, InterfaceConfig, IpcacheKey,
    IpcacheValue, LbAddress, NodeWord, PolicyCountKey, PolicyKey, PolicyValue, SERVICE_LOOPBACK4,
    SERVICE_LOOPBACK6, ServiceFlow, ServiceKey, ServiceValue, counter_index,
};

use super::{Changing, Frame};
use crate::{
    ChoiceTable, CtTable, Direction, FlowMaps, FromContainer, Hook, Maps, Namespace, Phase,
    Scratch, Socket, ToContainer, V4, V6, check_options, judge, run_phase,
};

/// One write of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A node word.
    NodeWord(NodeWord, u64),
    /// A word at [`oxilium_abi::endpoint_word_index`].
    EndpointWord(u32, u64),
    /// An interface, or its end.
    Interface(u32, Option<InterfaceConfig>),
    /// A prefix, or its end.
    Ipcache(IpcacheKey, Option<IpcacheValue>),
    /// A policy entry, or its end.
    Policy(PolicyKey, Option<PolicyValue>),
    /// A word at [`oxilium_abi::shape_word_index`].
    Shapes(u32, u64),
    /// A frontend's master or slot, or its end.
    Service(ServiceKey, Option<ServiceValue>),
    /// A backend, or its end.
    Backend(u32, Option<LbAddress>),
    /// A frontend's address, or its end.
    ReverseNat(u32, Option<LbAddress>),
}

/// What is about to be read or written when the hook of [`MemoryMaps::before_each_access`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A node word.
    NodeWord(NodeWord),
    /// An endpoint's word.
    EndpointWord,
    /// An interface.
    Interface,
    /// The ipcache.
    Ipcache,
    /// A shape word.
    Shapes,
    /// A policy entry.
    Policy,
    /// A conntrack entry.
    Ct(CtTable),
    /// A conntrack entry is made or deleted.
    CtWrite(CtTable),
    /// A fragment entry.
    Fragment,
    /// A socket.
    Socket,
    /// A frontend's master or slot.
    Service,
    /// A backend.
    Backend,
    /// A frontend's address.
    ReverseNat,
    /// What a flow or a client remembers of a service.
    Choice,
    /// A flow's choice is kept or forgotten.
    ChoiceWrite(ChoiceTable),
}

/// A TCP socket that lookups find; a listener where the remote port is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    /// Its namespace.
    pub namespace: Option<u32>,
    /// Its address; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// Its port in host order.
    pub local_port: u16,
    /// Its peer; none for a listener.
    pub remote: Option<([u8; 16], u16)>,
}

type Before<'a> = Box<dyn FnMut(&MemoryMaps<'a>, Access) + 'a>;

/// All maps of a node, its clock and its sockets.
#[derive(Default)]
pub struct MemoryMaps<'a> {
    node_words: RefCell<BTreeMap<NodeWord, u64>>,
    endpoint_words: RefCell<BTreeMap<u32, u64>>,
    interfaces: RefCell<BTreeMap<u32, InterfaceConfig>>,
    ipcache: RefCell<BTreeMap<IpcacheKey, IpcacheValue>>,
    policy: RefCell<BTreeMap<PolicyKey, PolicyValue>>,
    shapes: RefCell<BTreeMap<u32, u64>>,
    ct4: RefCell<BTreeMap<(u8, CtKey4), CtEntry>>,
    ct6: RefCell<BTreeMap<(u8, CtKey6), CtEntry>>,
    fragments4: RefCell<BTreeMap<FragmentKey4, FragmentEntry>>,
    fragments6: RefCell<BTreeMap<FragmentKey6, FragmentEntry>>,
    services: RefCell<BTreeMap<ServiceKey, ServiceValue>>,
    backends: RefCell<BTreeMap<u32, LbAddress>>,
    reverse_nat: RefCell<BTreeMap<u32, LbAddress>>,
    service_flows4: RefCell<BTreeMap<(ChoiceTable, CtKey4), ServiceFlow>>,
    service_flows6: RefCell<BTreeMap<(ChoiceTable, CtKey6), ServiceFlow>>,
    affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// What the next choices among backends depend on; the last one stays.
    pub random: Cell<u32>,
    counters: RefCell<BTreeMap<u32, Counter>>,
    decisions: RefCell<BTreeMap<PolicyCountKey, Counter>>,
    events: RefCell<Vec<Event>>,
    sockets: RefCell<Vec<SocketRecord>>,
    /// Nanoseconds of both clocks.
    pub clock: Cell<u64>,
    /// Judge only.
    pub dry_run: Cell<bool>,
    /// Entries count packets and bytes.
    pub accounts: Cell<bool>,
    /// Conntrack maps take no new entry.
    pub full: Cell<bool>,
    /// Of the writes to each packet, from 0 on, the one of this number fails.
    pub refused_write: Cell<Option<u32>>,
    /// Policy values read next, in place of the true ones: an element given to another key.
    pub moved_policy: RefCell<Vec<PolicyValue>>,
    /// Interfaces read next, in place of the true ones.
    pub moved_interfaces: RefCell<Vec<InterfaceConfig>>,
    before: RefCell<Option<Before<'a>>>,
}

impl<'a> MemoryMaps<'a> {
    /// Does one write of a plan.
    pub fn write(&self, write: &Write) {
        fn put<K: Ord + Copy, V: Copy>(map: &RefCell<BTreeMap<K, V>>, key: K, value: Option<V>) {
            match value {
                Some(value) => map.borrow_mut().insert(key, value),
                None => map.borrow_mut().remove(&key),
            };
        }
        match *write {
            Write::NodeWord(word, value) => put(&self.node_words, word, Some(value)),
            Write::EndpointWord(index, value) => put(&self.endpoint_words, index, Some(value)),
            Write::Interface(ifindex, config) => put(&self.interfaces, ifindex, config),
            Write::Ipcache(key, value) => put(&self.ipcache, key, value),
            Write::Policy(key, value) => put(&self.policy, key, value),
            Write::Shapes(index, value) => put(&self.shapes, index, Some(value)),
            Write::Service(key, value) => put(&self.services, key, value),
            Write::Backend(id, value) => put(&self.backends, id, value),
            Write::ReverseNat(id, value) => put(&self.reverse_nat, id, value),
        }
    }

    /// Does writes in order.
    pub fn write_all(&self, writes: &[Write]) {
        for write in writes {
            self.write(write);
        }
    }

    /// Has `hook` called before each access of a packet that is being judged; it may write.
    pub fn before_each_access(&self, hook: impl FnMut(&MemoryMaps<'a>, Access) + 'a) {
        self.before.replace(Some(Box::new(hook)));
    }

    /// Adds a socket.
    pub fn add_socket(&self, socket: SocketRecord) {
        self.sockets.borrow_mut().push(socket);
    }

    /// Judges a packet that the pod sends, and returns it as it goes on.
    ///
    /// # Errors
    ///
    /// The reason to drop it.
    pub fn sent(&self, frame: &Frame) -> Result<Frame, DropReason> {
        self.judge::<FromContainer>(frame)
    }

    /// Judges a packet that the pod is to receive, and returns it as the pod receives it.
    ///
    /// # Errors
    ///
    /// The reason to drop it.
    pub fn received(&self, frame: &Frame) -> Result<Frame, DropReason> {
        self.judge::<ToContainer>(frame)
    }

    /// Chooses a backend, as the programs do for a first packet.
    pub fn choose(&self, key: &ServiceKey) -> crate::Choice {
        let (frame, scratch) = (Changing::default(), Scratches::default());
        let run = Run {
            maps: self,
            frame: &frame,
            scratch: &scratch,
        };
        crate::choose(run, key, self.random.get(), &mut LbAddress::default())
    }

    /// Judges a packet that the pod sends.
    ///
    /// # Errors
    ///
    /// The reason to drop it.
    pub fn from_container(&self, frame: &Frame) -> Result<(), DropReason> {
        self.sent(frame).map(drop)
    }

    /// Judges a packet that the pod is to receive.
    ///
    /// # Errors
    ///
    /// The reason to drop it.
    pub fn to_container(&self, frame: &Frame) -> Result<(), DropReason> {
        self.received(frame).map(drop)
    }

    /// Asks a policy table, as the programs do.
    pub fn lookup(&self, query: crate::Query) -> crate::Answer {
        let (frame, scratch) = (Changing::default(), Scratches::default());
        let run = Run {
            maps: self,
            frame: &frame,
            scratch: &scratch,
        };
        crate::lookup(run, query)
    }

    /// Packets counted for `reason` (0 and the other numbers of [`oxilium_abi`] too).
    pub fn counted(&self, reason: u8, direction: Direction) -> u64 {
        self.counters
            .borrow()
            .get(&counter_index(reason, direction))
            .map_or(0, |counter| counter.packets)
    }

    /// What each policy entry has decided.
    pub fn decisions(&self) -> BTreeMap<PolicyCountKey, Counter> {
        self.decisions.borrow().clone()
    }

    /// The events so far; they are forgotten.
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// All IPv4 flows with their tables.
    pub fn flows4(&self) -> Vec<(CtTable, CtKey4, CtEntry)> {
        let entries = self.ct4.borrow();
        entries
            .iter()
            .map(|((table, key), entry)| (CtTable::from_number(*table), *key, *entry))
            .collect()
    }

    /// All IPv6 flows with their tables.
    pub fn flows6(&self) -> Vec<(CtTable, CtKey6, CtEntry)> {
        let entries = self.ct6.borrow();
        entries
            .iter()
            .map(|((table, key), entry)| (CtTable::from_number(*table), *key, *entry))
            .collect()
    }

    /// Forgets all flows, as an agent that purges them.
    pub fn forget_flows(&self) {
        self.ct4.take();
        self.ct6.take();
        self.service_flows4.take();
        self.service_flows6.take();
        self.affinity.take();
    }

    /// The tables of the choices that are kept for flows, those of IPv4 first.
    pub fn choices(&self) -> Vec<ChoiceTable> {
        let (four, six) = (self.service_flows4.borrow(), self.service_flows6.borrow());
        let four = four.keys().map(|(table, _)| *table);
        four.chain(six.keys().map(|(table, _)| *table)).collect()
    }

    /// Forgets all choices in a table, as an LRU that is flooded.
    pub fn forget_choices(&self, of: ChoiceTable) {
        let mut four = self.service_flows4.borrow_mut();
        four.retain(|(table, _), _| *table != of);
        let mut six = self.service_flows6.borrow_mut();
        six.retain(|(table, _), _| *table != of);
    }

    /// Puts an entry of one flow under the key of another, as an LRU that gives an element away.
    pub fn alias_flow4(&self, table: CtTable, key: CtKey4, entry: CtEntry) {
        self.ct4.borrow_mut().insert((table as u8, key), entry);
    }

    fn judge<H: Hook>(&self, frame: &Frame) -> Result<Frame, DropReason> {
        let frame = Changing::new(frame, self.refused_write.get());
        let run = Run {
            maps: self,
            frame: &frame,
            scratch: &Scratches::default(),
        };
        judge::<H, _, _>(&frame, run)?;
        Ok(frame.into_frame())
    }

    fn at(&self, access: Access) {
        // Taken out, so that what it writes does not call it again.
        let hook = self.before.take();
        if let Some(mut hook) = hook {
            hook(self, access);
            self.before.replace(Some(hook));
        }
    }
}

/// A CPU's working memory.
#[derive(Default)]
struct Scratches {
    v4: RefCell<Scratch<V4>>,
    v6: RefCell<Scratch<V6>>,
}

/// One packet being judged over the maps, on a CPU of its own.
#[derive(Clone, Copy)]
struct Run<'m, 'a> {
    maps: &'m MemoryMaps<'a>,
    frame: &'m Changing,
    scratch: &'m Scratches,
}

impl Maps for Run<'_, '_> {
    fn node_word(self, word: NodeWord) -> u64 {
        self.maps.at(Access::NodeWord(word));
        self.maps
            .node_words
            .borrow()
            .get(&word)
            .copied()
            .unwrap_or(0)
    }

    fn endpoint_word(self, index: u32) -> u64 {
        self.maps.at(Access::EndpointWord);
        self.maps
            .endpoint_words
            .borrow()
            .get(&index)
            .copied()
            .unwrap_or(0)
    }

    fn interface(self, ifindex: u32, into: &mut InterfaceConfig) -> bool {
        self.maps.at(Access::Interface);
        if let Some(moved) = self.maps.moved_interfaces.borrow_mut().pop() {
            *into = moved;
            return true;
        }
        let found = self.maps.interfaces.borrow().get(&ifindex).copied();
        found.map(|config| *into = config).is_some()
    }

    fn ipcache(self, key: &IpcacheKey) -> Option<u64> {
        self.maps.at(Access::Ipcache);
        let bits: u8 = if key.family == Family::V4 as u8 {
            32
        } else {
            128
        };
        let ipcache = self.maps.ipcache.borrow();
        (0..=bits).rev().find_map(|length| {
            let shift = 128 - u32::from(length);
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            let mut prefix = *key;
            prefix.prefix_len = IPCACHE_PREFIX_BASE + u32::from(length);
            prefix.address = (u128::from_be_bytes(key.address) & mask).to_be_bytes();
            ipcache.get(&prefix).map(|value| value.identities)
        })
    }

    fn shapes(self, index: u32) -> u64 {
        self.maps.at(Access::Shapes);
        self.maps.shapes.borrow().get(&index).copied().unwrap_or(0)
    }

    fn policy(self, key: &PolicyKey) -> Option<PolicyValue> {
        self.maps.at(Access::Policy);
        if let Some(moved) = self.maps.moved_policy.borrow_mut().pop() {
            return Some(moved);
        }
        self.maps.policy.borrow().get(key).copied()
    }

    fn service(self, key: &ServiceKey) -> Option<ServiceValue> {
        self.maps.at(Access::Service);
        self.maps.services.borrow().get(key).copied()
    }

    fn backend(self, id: u32, into: &mut LbAddress) -> bool {
        self.maps.at(Access::Backend);
        let found = self.maps.backends.borrow().get(&id).copied();
        found.map(|backend| *into = backend).is_some()
    }

    fn reverse_nat(self, id: u32, into: &mut LbAddress) -> bool {
        self.maps.at(Access::ReverseNat);
        let found = self.maps.reverse_nat.borrow().get(&id).copied();
        found.map(|address| *into = address).is_some()
    }

    fn affinity(self, key: &AffinityKey) -> Option<Affinity> {
        self.maps.at(Access::Choice);
        self.maps.affinity.borrow().get(key).copied()
    }

    fn affinity_insert(self, key: &AffinityKey, affinity: &Affinity) {
        self.maps.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn random(self) -> u32 {
        self.maps.random.get()
    }

    fn count(self, index: u32, bytes: u32) {
        if self.maps.dry_run.get() {
            return;
        }
        let mut counters = self.maps.counters.borrow_mut();
        let counter = counters.entry(index).or_default();
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }

    fn count_decision(self, key: &PolicyCountKey, bytes: u32) {
        let mut decisions = self.maps.decisions.borrow_mut();
        let counter = decisions.entry(*key).or_default();
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }

    fn watched(self) -> bool {
        !self.maps.dry_run.get() && self.node_word(NodeWord::EventReaders) != 0
    }

    fn event(self, _time: u64, fill: impl FnOnce(&mut Event)) {
        let mut event = Event::default();
        fill(&mut event);
        self.maps.events.borrow_mut().push(event);
    }

    fn traces(self) -> bool {
        true
    }

    fn dry_run(self) -> bool {
        self.maps.dry_run.get()
    }

    fn accounts(self) -> bool {
        self.maps.accounts.get()
    }

    fn check_options(self, at: u32, end: u32) -> u32 {
        check_options(self.frame, at, end)
    }

    fn now(self) -> u64 {
        self.maps.clock.get()
    }

    fn now_coarse(self) -> u64 {
        self.maps.clock.get()
    }

    fn seed(self) -> u64 {
        0x0123_4567_89AB_CDEF
    }

    fn cluster_id(self) -> u32 {
        0
    }
}

macro_rules! flow_maps {
    ($family:ty, $ct:ident, $ct_key:ty, $fragments:ident, $fragment_key:ty, $scratch:ident, $flows:ident, $loopback:ident) => {
        impl<'m> FlowMaps<$family> for Run<'m, '_> {
            fn with_scratch<R>(self, run: impl FnOnce(&mut Scratch<$family>) -> R) -> Option<R> {
                Some(run(&mut self.scratch.$scratch.borrow_mut()))
            }

            fn loopback(self) -> $family {
                <$family>::from_bytes($loopback)
            }

            fn phase<H: Hook>(self, phase: Phase, argument: u32) -> u32 {
                run_phase::<$family, H, _, _>(self.frame, self, phase, argument)
            }

            type Entry = RefMut<'m, CtEntry>;

            fn ct(self, table: CtTable, key: &$ct_key) -> Option<RefMut<'m, CtEntry>> {
                self.maps.at(Access::Ct(table));
                let entries = self.maps.$ct.borrow_mut();
                RefMut::filter_map(entries, |entries| entries.get_mut(&(table as u8, *key))).ok()
            }

            fn ct_insert(self, table: CtTable, key: &$ct_key, entry: &CtEntry) -> bool {
                self.maps.at(Access::CtWrite(table));
                if self.maps.full.get() {
                    return false;
                }
                let mut entries = self.maps.$ct.borrow_mut();
                entries.insert((table as u8, *key), *entry);
                true
            }

            fn ct_move(self, from: CtTable, to: CtTable, key: &$ct_key) -> bool {
                let entry = FlowMaps::<$family>::ct(self, from, key).map(|entry| *entry);
                let moved = entry
                    .is_some_and(|entry| FlowMaps::<$family>::ct_insert(self, to, key, &entry));
                if moved {
                    FlowMaps::<$family>::ct_delete(self, from, key);
                }
                moved
            }

            fn ct_delete(self, table: CtTable, key: &$ct_key) {
                self.maps.at(Access::CtWrite(table));
                self.maps.$ct.borrow_mut().remove(&(table as u8, *key));
            }

            type Flow = RefMut<'m, ServiceFlow>;

            fn service_flow(
                self,
                table: ChoiceTable,
                key: &$ct_key,
            ) -> Option<RefMut<'m, ServiceFlow>> {
                self.maps.at(Access::Choice);
                let flows = self.maps.$flows.borrow_mut();
                RefMut::filter_map(flows, |flows| flows.get_mut(&(table, *key))).ok()
            }

            fn service_flow_insert(
                self,
                table: ChoiceTable,
                key: &$ct_key,
                flow: &ServiceFlow,
            ) -> bool {
                self.maps.at(Access::ChoiceWrite(table));
                if self.maps.full.get() {
                    return false;
                }
                self.maps.$flows.borrow_mut().insert((table, *key), *flow);
                true
            }

            fn service_flow_forget_answered(self, key: &$ct_key) {
                let table = ChoiceTable::Answered;
                self.maps.at(Access::ChoiceWrite(table));
                self.maps.$flows.borrow_mut().remove(&(table, *key));
            }

            fn fragment(self, key: &$fragment_key) -> Option<FragmentEntry> {
                self.maps.at(Access::Fragment);
                self.maps.$fragments.borrow().get(key).copied()
            }

            fn fragment_insert(self, key: &$fragment_key, entry: &FragmentEntry) -> bool {
                if self.maps.full.get() {
                    return false;
                }
                self.maps.$fragments.borrow_mut().insert(*key, *entry);
                true
            }

            fn socket(
                self,
                namespace: Namespace,
                local: ($family, Be16),
                remote: ($family, Be16),
            ) -> Socket {
                use crate::Address;
                self.maps.at(Access::Socket);
                let namespace = match namespace {
                    Namespace::Host => None,
                    Namespace::Id(id) => Some(id),
                };
                let local = (local.0.wide(), local.1.get());
                let remote = (remote.0.wide(), remote.1.get());
                let sockets = self.maps.sockets.borrow();
                let mut here = sockets.iter().filter(|socket| {
                    socket.namespace == namespace && (socket.local, socket.local_port) == local
                });
                let listener = here.clone().any(|socket| socket.remote.is_none());
                if here.any(|socket| socket.remote == Some(remote)) {
                    Socket::Connected
                } else if listener {
                    Socket::Listener
                } else {
                    Socket::None
                }
            }
        }
    };
}

flow_maps!(
    V4,
    ct4,
    CtKey4,
    fragments4,
    FragmentKey4,
    v4,
    service_flows4,
    SERVICE_LOOPBACK4
);
flow_maps!(
    V6,
    ct6,
    CtKey6,
    fragments6,
    FragmentKey6,
    v6,
    service_flows6,
    SERVICE_LOOPBACK6
);
