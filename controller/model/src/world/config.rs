//! What the administrator decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::node_state::{Hook, ProgramTag};
use crate::policy::config::PolicyConfig;
use crate::world::PodRef;

/// Configuration of this node's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name of this node.
    pub node_name: Arc<str>,
    /// UID of the cluster: keys the hash that identity numbers start from. Where the cluster gives the numbers, the UID of
    /// its namespace `kube-system` does.
    pub cluster_uid: Arc<str>,
    /// This boot's id; attachments of another boot do not exist.
    pub boot_id: Arc<str>,
    /// Enforcement mode, allow-localhost, cluster name and id, address families.
    pub policy: PolicyConfig,
    /// Sizes of the kernel's tables.
    pub capacities: Capacities,
    /// Pods that may send from addresses that are not theirs.
    pub allow_spoofing: SpoofingOptOut,
    /// The loaded programs. A hook without one is not attached to.
    pub programs: BTreeMap<Hook, ProgramTag>,
    /// When more hooks than this are without their program at once, they get it staged
    /// ([`crate::plan::Write::Attach`]). None: where attaching takes no time, nothing is staged.
    pub stage_above: Option<usize>,
    /// The programs of a new endpoint are staged, however few they are: somebody waits for it.
    pub stage_new: bool,
    /// Who gives numbers to labels of pods.
    pub identity_allocation: IdentityAllocation,
    /// Seconds before a released number may be given to another owner.
    pub quarantine: u64,
    /// Address of this node towards the others, as the tunnel endpoint of its pods. None without tunnels.
    pub tunnel_address: Option<Ipv4Addr>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node_name: "".into(),
            cluster_uid: "".into(),
            boot_id: "".into(),
            policy: PolicyConfig::default(),
            capacities: Capacities::default(),
            allow_spoofing: SpoofingOptOut::default(),
            programs: BTreeMap::new(),
            stage_above: None,
            stage_new: false,
            identity_allocation: IdentityAllocation::default(),
            quarantine: 300,
            tunnel_address: None,
        }
    }
}

/// Who gives numbers to labels of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityAllocation {
    /// This node by itself; what others published is taken over where it is free.
    #[default]
    Node,
    /// The cluster: a number is used once a CiliumIdentity object says so. Cilium's `identity-allocation-mode: crd`.
    Cluster,
}

/// How much the kernel's tables hold, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// All policy tables together; room to stage the largest one beside the others is part of it.
    pub policy_entries: usize,
    /// One policy table and direction (Cilium's `bpf-policy-map-max`).
    pub table_quota: usize,
    /// Highest policy table id: half the length of the shape words' array, less one.
    pub max_table: u32,
    /// ipcache prefixes, those of [`Self::ipcache_reserve`] included.
    pub ipcache: usize,
    /// Interfaces.
    pub interfaces: usize,
    /// Highest endpoint id: half the length of the endpoint words' array, less one.
    pub max_endpoint: u16,
    /// Frontends of services; at most 32,768. As many ids are kept for those that rest.
    pub frontends: usize,
    /// Backends of all frontends together, at most 2²² (Cilium's `bpf-lb-map-max` is for each of its maps).
    pub backends: usize,
}

impl Capacities {
    /// Of the ipcache's prefixes, those that are kept for what stands in for addresses without room.
    pub const fn ipcache_reserve(&self) -> usize {
        let reserve = self.ipcache / 64;
        if reserve < 12 { 12 } else { reserve }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            policy_entries: 512 * 1024,
            table_quota: 16384,
            max_table: 16383,
            // As many as an agent without a reserve could fill (Cilium's number), and the reserve.
            ipcache: 512_000 + 8_192,
            interfaces: 4096,
            max_endpoint: u16::MAX,
            frontends: 32 * 1024,
            backends: 256 * 1024,
        }
    }
}

/// Whom source checks do not bind. Only the node's configuration says so, never a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoofingOptOut {
    /// All pods of these namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// These pods.
    pub pods: BTreeSet<PodRef>,
}

impl SpoofingOptOut {
    /// The pod is one of them.
    pub fn covers(&self, pod: &PodRef) -> bool {
        self.namespaces.contains(&pod.namespace) || self.pods.contains(pod)
    }
}
