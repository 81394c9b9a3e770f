//! Layouts that both sides of the kernel boundary share: map keys and values, events, reasons.
//!
//! Everything here is `#[repr(C)]`, free of padding (`zerocopy` proves it when it compiles) and of
//! fixed size (asserted beside each type). Multi-byte integers are in the CPU's byte order, except
//! where a field's type is [`Be16`] or its documentation says network order.
//!
//! Each map carries the names, places and sizes of its fields ([`Layout`]): an agent that finds another layout than its own
//! takes the fields over by their names. So a field that moves, widens or is new needs no other step; one that gets another
//! *meaning* gets another name. [`SCHEMA_VERSION`] is in the path of every pin, and grows where that cannot express a change.
#![no_std]

mod conntrack;
mod counter;
mod epoch;
mod event;
mod fragment;
mod hash;
mod interface;
mod ipcache;
mod layout;
mod net;
mod policy;
mod reason;
mod service;

pub use conntrack::{
    CT_CLOSE_TIMEOUT, CT_NON_TCP_LIFETIME, CT_REPORT_INTERVAL, CT_SYN_TIMEOUT, CT_TCP_LIFETIME,
    CtEntry, CtFlags, CtKey4, CtKey6, CtWord, FlowKind,
};
pub use counter::{
    COUNTER_CHOICE_ANSWERED, COUNTER_CHOICE_LATEST, COUNTER_CT_ANSWERED, COUNTER_EVENT_LOST,
    COUNTER_FORWARDED, COUNTER_LOCAL_SOURCE_NOT_HOST, COUNTERS, Counter, counter_index,
};
pub use epoch::{
    EPOCH_BITS, EPOCH_MAX, EndpointWord, Epoch, IpcacheWord, NODE_WORDS, NodeWord,
    endpoint_word_index,
};
pub use event::{Event, EventKind, EventTranslation, TraceState};
pub use fragment::{FRAGMENT_LIFETIME, FragmentEntry, FragmentKey4, FragmentKey6};
pub use hash::mix;
pub use interface::{ADDRESSES_PER_FAMILY, InterfaceConfig, InterfaceFlags, NETNS_UNKNOWN};
pub use ipcache::{IDENTITY_UNRESOLVED, IPCACHE_PREFIX_BASE, IpcacheKey, IpcacheValue};
pub use layout::{Field, Layout};
pub use net::{Be16, Direction, Family};
pub use policy::{
    AuthRequirement, POLICY_CLASS_ALLOW, POLICY_CLASS_DENY, PolicyCountKey, PolicyKey, PolicyValue,
    Precedence, ShapeMask, ShapeWord, shape_word_index,
};
pub use reason::DropReason;
pub use service::{
    AFFINITY_TIMEOUT_MAX, Affinity, AffinityKey, BACKEND_ID_MAX, ChoiceWord, LbAddress, LbState,
    NatWord, SERVICE_LOOPBACK4, SERVICE_LOOPBACK6, ServiceFlow, ServiceKey, ServiceValue,
    ServiceWord, bind,
};

/// Version of what the maps are and mean together; part of the pin path.
pub const SCHEMA_VERSION: u32 = 1;

/// Names of the maps, as pinned and as shown by bpftool (at most 15 bytes).
pub mod map {
    /// ifindex → [`crate::InterfaceConfig`]; hash.
    pub const INTERFACES: &str = "ox_interfaces";
    /// [`crate::endpoint_word_index`] → [`crate::EndpointWord`]; array.
    pub const ENDPOINT_WORDS: &str = "ox_ep_words";
    /// [`crate::NodeWord`] → u64; array.
    pub const NODE_WORDS: &str = "ox_node_words";
    /// [`crate::IpcacheKey`] → [`crate::IpcacheValue`]; LPM trie.
    pub const IPCACHE: &str = "ox_ipcache";
    /// [`crate::PolicyKey`] → [`crate::PolicyValue`]; hash, not preallocated.
    pub const POLICY: &str = "ox_policy";
    /// [`crate::shape_word_index`] → [`crate::ShapeWord`]; array.
    pub const POLICY_SHAPES: &str = "ox_pol_shapes";
    /// [`crate::PolicyCountKey`] → [`crate::Counter`]; per-CPU LRU hash.
    pub const POLICY_COUNTS: &str = "ox_pol_counts";
    /// [`crate::CtKey4`] → [`crate::CtEntry`], flows that were answered; LRU hash.
    pub const CT4: &str = "ox_ct4";
    /// [`crate::CtKey6`] → [`crate::CtEntry`], flows that were answered; LRU hash.
    pub const CT6: &str = "ox_ct6";
    /// [`crate::CtKey4`] → [`crate::CtEntry`], flows without an answer yet; LRU hash.
    pub const CT4_UNANSWERED: &str = "ox_ct4_new";
    /// [`crate::CtKey6`] → [`crate::CtEntry`], flows without an answer yet; LRU hash.
    pub const CT6_UNANSWERED: &str = "ox_ct6_new";
    /// [`crate::CtKey4`] → [`crate::CtEntry`], flows that turned to denied; LRU hash.
    pub const CT4_DENIED: &str = "ox_ct4_denied";
    /// [`crate::CtKey6`] → [`crate::CtEntry`], flows that turned to denied; LRU hash.
    pub const CT6_DENIED: &str = "ox_ct6_denied";
    /// [`crate::FragmentKey4`] → [`crate::FragmentEntry`]; LRU hash.
    pub const FRAGMENTS4: &str = "ox_frag4";
    /// [`crate::FragmentKey6`] → [`crate::FragmentEntry`]; LRU hash.
    pub const FRAGMENTS6: &str = "ox_frag6";
    /// [`crate::ServiceKey`] → [`crate::ServiceValue`]; hash, not preallocated.
    pub const SERVICES: &str = "ox_services";
    /// Backend id → [`crate::LbAddress`]; hash, not preallocated.
    pub const BACKENDS: &str = "ox_backends";
    /// Frontend id → [`crate::LbAddress`]; hash, not preallocated.
    pub const REVERSE_NAT: &str = "ox_reverse_nat";
    /// [`crate::CtKey4`] → [`crate::ServiceFlow`], flows that were answered; LRU hash.
    pub const SERVICE_FLOWS4: &str = "ox_svc_flows4";
    /// [`crate::CtKey6`] → [`crate::ServiceFlow`], flows that were answered; LRU hash.
    pub const SERVICE_FLOWS6: &str = "ox_svc_flows6";
    /// [`crate::CtKey4`] → [`crate::ServiceFlow`], the latest flows, answered or not; LRU hash.
    pub const SERVICE_FLOWS4_NEW: &str = "ox_svc_new4";
    /// [`crate::CtKey6`] → [`crate::ServiceFlow`], the latest flows, answered or not; LRU hash.
    pub const SERVICE_FLOWS6_NEW: &str = "ox_svc_new6";
    /// [`crate::AffinityKey`] → [`crate::Affinity`]; LRU hash.
    pub const AFFINITY: &str = "ox_affinity";
    /// [`crate::counter_index`] → [`crate::Counter`]; per-CPU array.
    pub const COUNTERS: &str = "ox_counters";
    /// [`crate::Event`] records; ring buffer.
    pub const EVENTS: &str = "ox_events";
    /// Token bucket before the ring buffer; per-CPU array of one private record.
    pub const EVENT_BUDGET: &str = "ox_event_budget";
    /// Working memory of the programs; per-CPU array of one private record.
    pub const SCRATCH: &str = "ox_scratch";
}

/// Names of the programs in the object.
pub mod program {
    /// Ingress hook of a pod's host veth: what the pod sends.
    pub const FROM_CONTAINER: &str = "from_container";
    /// Egress hook of a pod's host veth: what the pod receives.
    pub const TO_CONTAINER: &str = "to_container";
}
