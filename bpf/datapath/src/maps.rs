//! What the datapath asks of the maps, the clock and the sockets.

use core::ops::DerefMut;

use oxilium_abi::{
    Affinity, AffinityKey, CtEntry, Event, FragmentEntry, InterfaceConfig, IpcacheKey, LbAddress,
    NodeWord, PolicyCountKey, PolicyKey, PolicyValue, ServiceFlow, ServiceKey, ServiceValue,
};

use crate::{
    address::Address,
    hook::Hook,
    judge::{Phase, Scratch},
};

/// The most that [`FlowMaps::with_scratch`] is asked for, in bytes.
pub const SCRATCH_SIZE: usize = 1024;
const _: () = assert!(size_of::<Scratch<crate::V6>>() <= SCRATCH_SIZE);

/// The conntrack maps of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CtTable {
    /// Flows that were answered.
    Answered = 0,
    /// Flows that turned to denied.
    Denied = 1,
    /// Flows without an answer yet.
    Unanswered = 2,
}

impl CtTable {
    /// The table of this number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Answered,
            1 => Self::Denied,
            _ => Self::Unanswered,
        }
    }
}

/// The maps of a family in which the choices of backends are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChoiceTable {
    /// Of flows that were answered.
    Answered = 0,
    /// Of the latest flows, answered or not.
    New = 1,
}

/// What a socket lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Socket {
    /// No socket.
    None = 0,
    /// A listener.
    Listener = 1,
    /// A socket of this connection.
    Connected = 2,
}

/// Where a socket is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The network namespace of the hook: the host's.
    Host,
    /// The one with this id there: a pod's.
    Id(u32),
}

/// Maps that do not depend on the address family. Each method is one access, made at once and once.
pub trait Maps: Copy {
    /// A node word; 0 where it is not there.
    fn node_word(self, word: NodeWord) -> u64;

    /// The value at [`oxilium_abi::endpoint_word_index`]; 0 where it is not there.
    fn endpoint_word(self, index: u32) -> u64;

    /// Copies the configuration of an interface, its `ifindex` last; false where there is none.
    fn interface(self, ifindex: u32, into: &mut InterfaceConfig) -> bool;

    /// [`oxilium_abi::IpcacheValue::identities`] of the longest prefix.
    fn ipcache(self, key: &IpcacheKey) -> Option<u64>;

    /// The value at [`oxilium_abi::shape_word_index`]; 0 where it is not there.
    fn shapes(self, index: u32) -> u64;

    /// A policy entry.
    fn policy(self, key: &PolicyKey) -> Option<PolicyValue>;

    /// A frontend's master or slot.
    fn service(self, key: &ServiceKey) -> Option<ServiceValue>;

    /// Copies a backend, by its id; false where there is none.
    fn backend(self, id: u32, into: &mut LbAddress) -> bool;

    /// Copies a frontend's address, by its id; false where there is none.
    fn reverse_nat(self, id: u32, into: &mut LbAddress) -> bool;

    /// What a client of a frontend with affinity was given last.
    fn affinity(self, key: &AffinityKey) -> Option<Affinity>;

    /// Remembers it, if there is room.
    fn affinity_insert(self, key: &AffinityKey, affinity: &Affinity);

    /// A random number.
    fn random(self) -> u32;

    /// Adds one packet to the counter at [`oxilium_abi::counter_index`].
    fn count(self, index: u32, bytes: u32);

    /// Adds a packet to what a policy entry has decided.
    fn count_decision(self, key: &PolicyCountKey, bytes: u32);

    /// Whether somebody reads events.
    fn watched(self) -> bool;

    /// Makes an event if the budget allows.
    fn event(self, time: u64, fill: impl FnOnce(&mut Event));

    /// Whether passed packets are traced.
    fn traces(self) -> bool;

    /// Judge only: conntrack entries stay as they are.
    fn dry_run(self) -> bool;

    /// Whether conntrack entries count their packets and bytes.
    fn accounts(self) -> bool;

    /// Policy is asked for each packet, also where conntrack knows: to measure what conntrack saves.
    fn always_asks(self) -> bool {
        false
    }

    /// What was read before is older than what is read after. Nothing needs be done where the CPU keeps loads
    /// in order by itself.
    fn read_barrier(self) {}

    /// Has [`crate::check_options`] called for the packet that this is about: in the kernel as a function
    /// of its own.
    fn check_options(self, at: u32, end: u32) -> u32;

    /// Nanoseconds of the boot clock, for events.
    fn now(self) -> u64;

    /// Nanoseconds of the monotonic clock as of its last tick, for the lives of flows: each packet asks for it, and
    /// reading the clock itself takes a fifth of what an established packet takes.
    fn now_coarse(self) -> u64;

    /// Seed of the tags in conntrack words.
    fn seed(self) -> u64;

    /// The local cluster's id.
    fn cluster_id(self) -> u32;
}

/// Maps of one address family, and its TCP sockets.
pub trait FlowMaps<A: Address>: Maps {
    /// Lends memory that nobody else uses as long as `run` runs, and that keeps what was written to it as
    /// long as one packet is judged.
    fn with_scratch<R>(self, run: impl FnOnce(&mut Scratch<A>) -> R) -> Option<R>;

    /// The address that stands in for a pod which reaches itself through a service.
    fn loopback(self) -> A;

    /// Has [`crate::run_phase`] called for the packet that this is about: in the kernel as a function of
    /// its own.
    fn phase<H: Hook>(self, phase: Phase, argument: u32) -> u32;

    /// An entry, in place.
    type Entry: DerefMut<Target = CtEntry>;

    /// Finds an entry, in place: it may be given to another flow at any time.
    fn ct(self, table: CtTable, key: &A::CtKey) -> Option<Self::Entry>;

    /// Makes or replaces an entry; false if there is no room.
    fn ct_insert(self, table: CtTable, key: &A::CtKey, entry: &CtEntry) -> bool;

    /// Copies an entry to another table as it is now, then deletes it; false, and nothing deleted,
    /// where it is gone or there is no room.
    fn ct_move(self, from: CtTable, to: CtTable, key: &A::CtKey) -> bool;

    /// Deletes an entry, if it is there.
    fn ct_delete(self, table: CtTable, key: &A::CtKey);

    /// A remembered choice, in place.
    type Flow: DerefMut<Target = ServiceFlow>;

    /// Finds the choice of a flow to a frontend, in place: it may be given to another flow at any time.
    fn service_flow(self, table: ChoiceTable, key: &A::CtKey) -> Option<Self::Flow>;

    /// Remembers a choice; false if there is no room.
    fn service_flow_insert(self, table: ChoiceTable, key: &A::CtKey, flow: &ServiceFlow) -> bool;

    /// Forgets that a flow of this choice was answered, if it is remembered.
    fn service_flow_forget_answered(self, key: &A::CtKey);

    /// What a first fragment left.
    fn fragment(self, key: &A::FragmentKey) -> Option<FragmentEntry>;

    /// Leaves it; false if there is no room.
    fn fragment_insert(self, key: &A::FragmentKey, entry: &FragmentEntry) -> bool;

    /// Finds a TCP socket by its own and its peer's address and port.
    fn socket(
        self,
        namespace: Namespace,
        local: (A, oxilium_abi::Be16),
        remote: (A, oxilium_abi::Be16),
    ) -> Socket;
}
