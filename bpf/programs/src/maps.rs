//! Kernel maps, clock and sockets as the datapath asks for them.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf, lpm_trie::Key,
    },
};
use oxilium_abi::{
    Affinity, AffinityKey, Be16, COUNTER_CHOICE_ANSWERED, COUNTER_CHOICE_LATEST,
    COUNTER_CT_ANSWERED, COUNTER_EVENT_LOST, COUNTERS, Counter, CtEntry, CtKey4, CtKey6, Direction,
    Event, FragmentEntry, FragmentKey4, FragmentKey6, InterfaceConfig, IpcacheKey, IpcacheValue,
    LbAddress, NODE_WORDS, NodeWord, PolicyCountKey, PolicyKey, PolicyValue, ServiceFlow,
    ServiceKey, ServiceValue, counter_index,
};
use oxilium_datapath::{
    ChoiceTable, CtTable, FlowMaps, Hook, Maps, Namespace, Phase, SCRATCH_SIZE, Scratch, Socket,
    V4, V6,
};

use crate::{
    budget::take_token,
    phases::{options, v4, v6},
    skb::Skb,
    sockets::{SocketTuple, find_socket},
};

/// Seed of the tags in conntrack words; the loader sets it.
#[unsafe(no_mangle)]
static CT_SEED: u64 = 0;
/// Not 0: judge, write nothing, make no event.
#[unsafe(no_mangle)]
static DRY_RUN: u8 = 0;
/// Not 0: what passes is shown to no program behind this one on the hook. While one of ours is moved, two are there.
#[unsafe(no_mangle)]
static LAST_WORD: u8 = 0;
/// Not 0: passed packets are traced.
#[unsafe(no_mangle)]
static TRACE: u8 = 0;
/// Not 0: conntrack entries count packets and bytes.
#[unsafe(no_mangle)]
static CT_ACCOUNTING: u8 = 0;
/// Not 0: policy is asked for each packet. For measurements only.
#[unsafe(no_mangle)]
static ALWAYS_ASK: u8 = 0;
/// The local cluster's id.
#[unsafe(no_mangle)]
static CLUSTER_ID: u32 = 0;
/// What stands in for a pod that reaches itself through a service, in network order.
#[unsafe(no_mangle)]
static LOOPBACK4: [u8; 4] = oxilium_abi::SERVICE_LOOPBACK4;
#[unsafe(no_mangle)]
static LOOPBACK6: [u8; 16] = oxilium_abi::SERVICE_LOOPBACK6;

/// Not 0: this CPU may read later words before earlier ones, as arm64 does and x86-64 does not.
#[unsafe(no_mangle)]
static WEAK_ORDER: u8 = 0;

// Sizes are what an object loaded by itself gets; the loader sets those of the node.
#[map(name = "ox_interfaces")]
static INTERFACES: HashMap<u32, InterfaceConfig> = HashMap::with_max_entries(4096, 0);
#[map(name = "ox_ep_words")]
static ENDPOINT_WORDS: Array<u64> = Array::with_max_entries(1 << 17, 0);
#[map(name = "ox_node_words")]
static NODE: Array<u64> = Array::with_max_entries(NODE_WORDS, 0);
#[map(name = "ox_ipcache")]
static IPCACHE: LpmTrie<[u8; 20], IpcacheValue> = LpmTrie::with_max_entries(512_000, 0);
#[map(name = "ox_policy")]
static POLICY: HashMap<PolicyKey, PolicyValue> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map(name = "ox_pol_shapes")]
static POLICY_SHAPES: Array<u64> = Array::with_max_entries(1 << 15, 0);
#[map(name = "ox_pol_counts")]
static POLICY_COUNTS: LruPerCpuHashMap<PolicyCountKey, Counter> =
    LruPerCpuHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_ct4")]
static CT4: LruHashMap<CtKey4, CtEntry> = LruHashMap::with_max_entries(1 << 17, 0);
#[map(name = "ox_ct6")]
static CT6: LruHashMap<CtKey6, CtEntry> = LruHashMap::with_max_entries(1 << 16, 0);
#[map(name = "ox_ct4_new")]
static CT4_UNANSWERED: LruHashMap<CtKey4, CtEntry> = LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_ct6_new")]
static CT6_UNANSWERED: LruHashMap<CtKey6, CtEntry> = LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_ct4_denied")]
static CT4_DENIED: LruHashMap<CtKey4, CtEntry> = LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_ct6_denied")]
static CT6_DENIED: LruHashMap<CtKey6, CtEntry> = LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_frag4")]
static FRAGMENTS4: LruHashMap<FragmentKey4, FragmentEntry> =
    LruHashMap::with_max_entries(1 << 13, 0);
#[map(name = "ox_frag6")]
static FRAGMENTS6: LruHashMap<FragmentKey6, FragmentEntry> =
    LruHashMap::with_max_entries(1 << 13, 0);
#[map(name = "ox_services")]
static SERVICES: HashMap<ServiceKey, ServiceValue> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map(name = "ox_backends")]
static BACKENDS: HashMap<u32, LbAddress> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map(name = "ox_reverse_nat")]
static REVERSE_NAT: HashMap<u32, LbAddress> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map(name = "ox_svc_flows4")]
static SERVICE_FLOWS4: LruHashMap<CtKey4, ServiceFlow> = LruHashMap::with_max_entries(1 << 16, 0);
#[map(name = "ox_svc_flows6")]
static SERVICE_FLOWS6: LruHashMap<CtKey6, ServiceFlow> = LruHashMap::with_max_entries(1 << 16, 0);
#[map(name = "ox_svc_new4")]
static SERVICE_FLOWS4_NEW: LruHashMap<CtKey4, ServiceFlow> =
    LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_svc_new6")]
static SERVICE_FLOWS6_NEW: LruHashMap<CtKey6, ServiceFlow> =
    LruHashMap::with_max_entries(1 << 14, 0);
#[map(name = "ox_affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(1 << 16, 0);
#[map(name = "ox_counters")]
static COUNTER: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map(name = "ox_events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Where a packet is judged: the stack is too small.
#[map(name = "ox_scratch")]
static SCRATCH: PerCpuArray<[u64; SCRATCH_SIZE / 8]> = PerCpuArray::with_max_entries(1, 0);

/// The maps of the object, the clock, and the sockets that the hook sees.
#[derive(Clone, Copy)]
pub(crate) struct KernelMaps(pub(crate) Skb);

/// Reads a constant that the loader has set; the verifier knows its value.
#[inline(always)]
pub(crate) fn constant<T: Copy>(of: &'static T) -> T {
    // SAFETY: a reference is valid; volatile, because the value here is not the one in the kernel.
    unsafe { ptr::from_ref(of).read_volatile() }
}

#[inline(always)]
fn word(map: &Array<u64>, index: u32) -> u64 {
    map.get_ptr(index).map_or(0, |word| {
        // SAFETY: the map gave it; array elements live as long as the map, and 8 bytes are not torn.
        unsafe { word.read_volatile() }
    })
}

impl KernelMaps {
    /// Inserts or replaces; what is new is counted as having come to a table of which evictions are told.
    #[inline(always)]
    fn insert<K, V>(self, map: &LruHashMap<K, V>, key: &K, value: &V, counter: u8) -> bool {
        if map.insert(key, value, u64::from(BPF_NOEXIST)).is_ok() {
            self.count(counter_index(counter, Direction::Ingress), 0);
            return true;
        }
        map.insert(key, value, 0).is_ok()
    }

    /// Removes; what was there is counted as having been taken out of such a table.
    #[inline(always)]
    fn remove<K, V>(self, map: &LruHashMap<K, V>, key: &K, counter: u8) {
        // Gone already is as good.
        if map.remove(key).is_ok() {
            self.count(counter_index(counter, Direction::Egress), 0);
        }
    }

    #[inline(always)]
    pub(crate) fn has_last_word(self) -> bool {
        constant(&LAST_WORD) != 0
    }
}

impl Maps for KernelMaps {
    #[inline(always)]
    fn node_word(self, index: NodeWord) -> u64 {
        word(&NODE, index as u32)
    }

    #[inline(always)]
    fn endpoint_word(self, index: u32) -> u64 {
        word(&ENDPOINT_WORDS, index)
    }

    #[inline(always)]
    fn interface(self, ifindex: u32, into: &mut InterfaceConfig) -> bool {
        let Some(from) = INTERFACES.get_ptr(ifindex) else {
            return false;
        };
        let from = from.cast::<u64>();
        let into = ptr::from_mut(into).cast::<u64>();
        // In order, so that ifindex is read last. Not a loop, which the compiler leaves one: each packet is here.
        macro_rules! words {
            ($($index:literal)+, last $last:literal) => {
                const { assert!(($last + 1) * 8 == size_of::<InterfaceConfig>()) };
                // SAFETY: within both values, which are 8-aligned; every value of the bytes is valid.
                unsafe {
                    $(into.add($index).write(from.add($index).read_volatile());)+
                    self.read_barrier();
                    into.add($last).write(from.add($last).read_volatile());
                }
            };
        }
        words!(0 1 2 3 4 5 6 7 8 9 10 11, last 12);
        true
    }

    #[inline(always)]
    fn ipcache(self, key: &IpcacheKey) -> Option<u64> {
        // SAFETY: both are a prefix length and 20 bytes, without padding.
        let key = unsafe { &*ptr::from_ref(key).cast::<Key<[u8; 20]>>() };
        let value = IPCACHE.get(key)?;
        // SAFETY: a reference is valid; the agent may write the word meanwhile.
        Some(unsafe { ptr::from_ref(&value.identities).read_volatile() })
    }

    #[inline(always)]
    fn shapes(self, index: u32) -> u64 {
        word(&POLICY_SHAPES, index)
    }

    #[inline(always)]
    fn policy(self, key: &PolicyKey) -> Option<PolicyValue> {
        let value = POLICY.get_ptr(key)?;
        // SAFETY: the map gave it; it may be given to another key meanwhile, which `check` shows.
        unsafe {
            Some(PolicyValue {
                word: (&raw const (*value).word).read_volatile(),
                check: (&raw const (*value).check).read_volatile(),
            })
        }
    }

    #[inline(always)]
    fn service(self, key: &ServiceKey) -> Option<ServiceValue> {
        let value = SERVICES.get_ptr(key)?;
        // SAFETY: the map gave it; it may be given to another key meanwhile, which `check` shows.
        unsafe {
            Some(ServiceValue {
                word: (&raw const (*value).word).read_volatile(),
                check: (&raw const (*value).check).read_volatile(),
            })
        }
    }

    #[inline(always)]
    fn backend(self, id: u32, into: &mut LbAddress) -> bool {
        BACKENDS.get_ptr(id).is_some_and(|value| copy(value, into))
    }

    #[inline(always)]
    fn reverse_nat(self, id: u32, into: &mut LbAddress) -> bool {
        REVERSE_NAT
            .get_ptr(id)
            .is_some_and(|value| copy(value, into))
    }

    #[inline(always)]
    fn affinity(self, key: &AffinityKey) -> Option<Affinity> {
        let value = AFFINITY.get_ptr(key)?;
        // SAFETY: the map gave it; whose choice it is, the word itself shows.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn affinity_insert(self, key: &AffinityKey, affinity: &Affinity) {
        // Without room the client is not remembered, and chooses again.
        AFFINITY.insert(key, affinity, 0).unwrap_or(());
    }

    #[inline(always)]
    fn random(self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(self, index: u32, bytes: u32) {
        if self.dry_run() {
            return;
        }
        if let Some(counter) = COUNTER.get_ptr_mut(index) {
            // SAFETY: this CPU's own, and programs of a CPU do not interrupt each other here.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += u64::from(bytes);
            }
        }
    }

    #[inline(always)]
    fn count_decision(self, key: &PolicyCountKey, bytes: u32) {
        let bytes = u64::from(bytes);
        if let Some(counter) = POLICY_COUNTS.get_ptr_mut(key) {
            // SAFETY: as for a counter above; an element that is evicted meanwhile stays memory.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += bytes;
            }
            return;
        }
        let first = Counter { packets: 1, bytes };
        // Without room it is not counted.
        POLICY_COUNTS.insert(key, first, 0).unwrap_or(());
    }

    #[inline(always)]
    fn watched(self) -> bool {
        !self.dry_run() && self.node_word(NodeWord::EventReaders) != 0
    }

    #[inline(always)]
    fn event(self, time: u64, fill: impl FnOnce(&mut Event)) {
        if take_token(time)
            && let Some(mut slot) = EVENTS.reserve::<Event>(0)
        {
            // SAFETY: every value of the bytes is an Event, and `fill` writes all of them.
            fill(unsafe { slot.assume_init_mut() });
            slot.submit(0);
            return;
        }
        // Per CPU: BPF of this compiler has no atomic addition.
        self.count(counter_index(COUNTER_EVENT_LOST, Direction::Ingress), 0);
    }

    #[inline(always)]
    fn traces(self) -> bool {
        constant(&TRACE) != 0
    }

    #[inline(always)]
    fn dry_run(self) -> bool {
        constant(&DRY_RUN) != 0
    }

    #[inline(always)]
    fn accounts(self) -> bool {
        constant(&CT_ACCOUNTING) != 0
    }

    #[inline(always)]
    fn always_asks(self) -> bool {
        constant(&ALWAYS_ASK) != 0
    }

    #[inline(always)]
    fn read_barrier(self) {
        if constant(&WEAK_ORDER) == 0 {
            return;
        }
        // BPF has no fence, and loads that acquire only since Linux 6.15. An atomic that returns the old
        // value is fully ordered (Documentation/bpf/standardization/instruction-set.rst and LKMM).
        let mut word = 0_u64;
        // SAFETY: adds nothing to a word of the stack; the verifier checks the access.
        unsafe {
            asm!(
                "{zero} = atomic_fetch_add((u64 *)({word} + 0), {zero})",
                zero = inout(reg) 0_u64 => _,
                word = in(reg) &raw mut word,
            );
        }
    }

    #[inline(always)]
    fn check_options(self, at: u32, end: u32) -> u32 {
        options(self.0, at, end)
    }

    #[inline(always)]
    fn now(self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn now_coarse(self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn seed(self) -> u64 {
        constant(&CT_SEED)
    }

    #[inline(always)]
    fn cluster_id(self) -> u32 {
        constant(&CLUSTER_ID)
    }
}

/// Copies what a map gave; it may be given to another id meanwhile, which its check shows.
#[inline(always)]
fn copy(from: *const LbAddress, into: &mut LbAddress) -> bool {
    let (from, into) = (from.cast::<u32>(), ptr::from_mut(into).cast::<u32>());
    for index in 0..size_of::<LbAddress>() / 4 {
        // SAFETY: within both values, which are 4-aligned; every value of the bytes is valid.
        unsafe { into.add(index).write(from.add(index).read_volatile()) };
    }
    true
}

macro_rules! flow_maps {
    ($family:ty, $key:ty, $fragment_key:ty, $answered:ident, $denied:ident, $unanswered:ident, $fragments:ident, $service_flows:ident, $new_service_flows:ident, $loopback:ident, $phases:ident) => {
        impl FlowMaps<$family> for KernelMaps {
            #[inline(always)]
            fn with_scratch<R>(self, run: impl FnOnce(&mut Scratch<$family>) -> R) -> Option<R> {
                const { assert!(align_of::<Scratch<$family>>() <= 8) };
                let memory = SCRATCH.get_ptr_mut(0)?.cast::<Scratch<$family>>();
                // SAFETY: large and aligned enough, and all zeros, which it is at first, is valid. This
                // CPU's own, and nobody else runs here meanwhile: softirqs are off.
                Some(run(unsafe { &mut *memory }))
            }

            #[inline(always)]
            fn loopback(self) -> $family {
                <$family>::from_bytes(constant(&$loopback))
            }

            #[inline(always)]
            fn phase<H: Hook>(self, phase: Phase, argument: u32) -> u32 {
                $phases::run::<H>(self.0.as_ptr(), phase, argument)
            }

            type Entry = &'static mut CtEntry;

            #[inline(always)]
            fn ct(self, table: CtTable, key: &$key) -> Option<&'static mut CtEntry> {
                let entry = match table {
                    CtTable::Answered => $answered.get_ptr_mut(key),
                    CtTable::Denied => $denied.get_ptr_mut(key),
                    CtTable::Unanswered => $unanswered.get_ptr_mut(key),
                }?;
                // SAFETY: the map gave it, and it is memory as long as the program runs. Other CPUs write
                // it too; what counts is one word, which is read and written whole.
                Some(unsafe { &mut *entry })
            }

            #[inline(always)]
            fn ct_insert(self, table: CtTable, key: &$key, entry: &CtEntry) -> bool {
                match table {
                    CtTable::Answered => self.insert(&$answered, key, entry, COUNTER_CT_ANSWERED),
                    CtTable::Denied => $denied.insert(key, entry, 0).is_ok(),
                    CtTable::Unanswered => $unanswered.insert(key, entry, 0).is_ok(),
                }
            }

            #[inline(always)]
            fn ct_move(self, from: CtTable, to: CtTable, key: &$key) -> bool {
                let Some(entry) = <Self as FlowMaps<$family>>::ct(self, from, key) else {
                    return false;
                };
                let moved = <Self as FlowMaps<$family>>::ct_insert(self, to, key, entry);
                if moved {
                    <Self as FlowMaps<$family>>::ct_delete(self, from, key);
                }
                moved
            }

            #[inline(always)]
            fn ct_delete(self, table: CtTable, key: &$key) {
                // Gone already is as good.
                match table {
                    CtTable::Answered => self.remove(&$answered, key, COUNTER_CT_ANSWERED),
                    CtTable::Denied => $denied.remove(key).unwrap_or(()),
                    CtTable::Unanswered => $unanswered.remove(key).unwrap_or(()),
                }
            }

            type Flow = &'static mut ServiceFlow;

            #[inline(always)]
            fn service_flow(
                self,
                table: ChoiceTable,
                key: &$key,
            ) -> Option<&'static mut ServiceFlow> {
                let flow = match table {
                    ChoiceTable::Answered => $service_flows.get_ptr_mut(key),
                    ChoiceTable::New => $new_service_flows.get_ptr_mut(key),
                }?;
                // SAFETY: as for an entry of conntrack.
                Some(unsafe { &mut *flow })
            }

            #[inline(always)]
            fn service_flow_insert(
                self,
                table: ChoiceTable,
                key: &$key,
                flow: &ServiceFlow,
            ) -> bool {
                match table {
                    ChoiceTable::Answered => {
                        self.insert(&$service_flows, key, flow, COUNTER_CHOICE_ANSWERED)
                    }
                    ChoiceTable::New => {
                        self.insert(&$new_service_flows, key, flow, COUNTER_CHOICE_LATEST)
                    }
                }
            }

            #[inline(always)]
            fn service_flow_forget_answered(self, key: &$key) {
                self.remove(&$service_flows, key, COUNTER_CHOICE_ANSWERED);
            }

            #[inline(always)]
            fn fragment(self, key: &$fragment_key) -> Option<FragmentEntry> {
                let entry = $fragments.get_ptr(key)?;
                // SAFETY: the map gave it; the word's tag shows whether it is this key's.
                Some(unsafe { entry.read_volatile() })
            }

            #[inline(always)]
            fn fragment_insert(self, key: &$fragment_key, entry: &FragmentEntry) -> bool {
                $fragments.insert(key, entry, 0).is_ok()
            }

            #[inline(always)]
            fn socket(
                self,
                namespace: Namespace,
                local: ($family, Be16),
                remote: ($family, Be16),
            ) -> Socket {
                find_socket(self.0, SocketTuple::new(remote, local), namespace)
            }
        }
    };
}

flow_maps!(
    V4,
    CtKey4,
    FragmentKey4,
    CT4,
    CT4_DENIED,
    CT4_UNANSWERED,
    FRAGMENTS4,
    SERVICE_FLOWS4,
    SERVICE_FLOWS4_NEW,
    LOOPBACK4,
    v4
);
flow_maps!(
    V6,
    CtKey6,
    FragmentKey6,
    CT6,
    CT6_DENIED,
    CT6_UNANSWERED,
    FRAGMENTS6,
    SERVICE_FLOWS6,
    SERVICE_FLOWS6_NEW,
    LOOPBACK6,
    v6
);
