//! What the kernel edge is told.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use oxilium_abi::{SERVICE_LOOPBACK4, SERVICE_LOOPBACK6, map};
use oxilium_model::plan::RESTING_BACKENDS;
use oxilium_model::world::Capacities;

use crate::port::AttachMode;

/// Configuration of the kernel edge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct KernelConfig {
    /// A bpffs, or a directory in one. Pins go below it, into `oxilium/v<schema version>`.
    pub bpf_root: PathBuf,
    /// Work on a bpffs that only this mount namespace has, and that goes with it. For trials only:
    /// programs then do not outlive the agent's container.
    pub accept_private_bpffs: bool,
    /// Nobody else may open the node as long as this one is open.
    pub exclusive: bool,
    /// How programs get onto hooks.
    pub attach_mode: AttachMode,
    /// Sizes of maps. A pinned map of another size is replaced by one with the same entries, if they fit.
    pub sizes: MapSizes,
    /// Events that programs may make, per second and CPU.
    pub event_rate: u64,
    /// Programs make trace events too, not only drops and verdicts.
    pub trace: bool,
    /// Conntrack entries count their packets and bytes: a write to the entry for each packet.
    pub conntrack_accounting: bool,
    /// When policy is asked.
    pub policy_asked: PolicyAsked,
    /// The cluster's id: which identities are of this cluster.
    pub cluster_id: u32,
    /// Stands in for a pod that reaches itself through a service, as source of what it gets.
    pub loopback: (Ipv4Addr, Ipv6Addr),
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            bpf_root: PathBuf::from("/sys/fs/bpf"),
            accept_private_bpffs: false,
            exclusive: true,
            attach_mode: AttachMode::Auto,
            sizes: MapSizes::default(),
            event_rate: 1000,
            trace: true,
            conntrack_accounting: false,
            policy_asked: PolicyAsked::default(),
            cluster_id: 0,
            loopback: (SERVICE_LOOPBACK4.into(), SERVICE_LOOPBACK6.into()),
        }
    }
}

/// When programs ask policy about a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyAsked {
    /// Where conntrack has no current verdict.
    #[default]
    WithoutVerdict,
    /// Always. For measurements only: what conntrack saves.
    EachPacket,
}

/// Sizes of maps, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Of the tables that the agent fills.
    pub tables: Capacities,
    /// Conntrack entries of answered flows, for each family.
    pub conntrack: u32,
    /// Conntrack entries of flows without an answer yet, for each family.
    pub conntrack_unanswered: u32,
    /// Conntrack entries of flows that turned to denied, for each family.
    pub conntrack_denied: u32,
    /// Datagrams in fragments, for each family.
    pub fragments: u32,
    /// Answered flows to frontends of services, for each family.
    pub service_flows: u32,
    /// The latest flows to frontends of services, answered or not, for each family.
    pub service_flows_new: u32,
    /// Clients of frontends with affinity (Cilium's `bpf-lb-affinity-map-max`).
    pub affinity: u32,
    /// Entries of policy tables whose decisions are counted; those that decided last.
    pub policy_counts: u32,
    /// Bytes of the event ring: a power of two, at least a page.
    pub event_ring: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            tables: Capacities::default(),
            conntrack: 128 * 1024,
            conntrack_unanswered: 32 * 1024,
            conntrack_denied: 16 * 1024,
            fragments: 8 * 1024,
            service_flows: 64 * 1024,
            service_flows_new: 16 * 1024,
            affinity: 64 * 1024,
            policy_counts: 16 * 1024,
            event_ring: 1024 * 1024,
        }
    }
}

impl MapSizes {
    /// Entries that the map of this name is to have; none where the object says it.
    pub fn of(&self, name: &str) -> Option<u32> {
        let clamp = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        Some(match name {
            map::POLICY => clamp(self.tables.policy_entries),
            map::POLICY_SHAPES => self.tables.max_table.saturating_add(1).saturating_mul(2),
            map::IPCACHE => clamp(self.tables.ipcache),
            map::INTERFACES => clamp(self.tables.interfaces),
            map::ENDPOINT_WORDS => (u32::from(self.tables.max_endpoint) + 1) * 2,
            map::CT4 | map::CT6 => self.conntrack,
            map::CT4_UNANSWERED | map::CT6_UNANSWERED => self.conntrack_unanswered,
            map::CT4_DENIED | map::CT6_DENIED => self.conntrack_denied,
            map::FRAGMENTS4 | map::FRAGMENTS6 => self.fragments,
            // Room for what is there and what takes its place, and for what rests.
            map::SERVICES => clamp(self.tables.frontends + self.tables.backends).saturating_mul(2),
            map::BACKENDS => clamp(self.tables.backends)
                .saturating_mul(2)
                .saturating_add(clamp(RESTING_BACKENDS)),
            map::REVERSE_NAT => 1 << 16,
            map::SERVICE_FLOWS4 | map::SERVICE_FLOWS6 => self.service_flows,
            map::SERVICE_FLOWS4_NEW | map::SERVICE_FLOWS6_NEW => self.service_flows_new,
            map::AFFINITY => self.affinity,
            map::POLICY_COUNTS => self.policy_counts,
            map::EVENTS => self.event_ring,
            _ => return None,
        })
    }
}
