//! The World: one immutable snapshot of every input.
//!
//! Sources write into an index of their own and hand out a `World`; nothing in here is ever changed
//! in place. What is big is shared ([`Arc`]), so that a snapshot costs little and the incremental
//! engine sees by pointer what did not change.
//!
//! Numbers that were given out are inputs too: [`Claims`]. What a source has not told yet is not
//! known to be absent: [`Synced`].

mod attachment;
mod claims;
mod cluster;
mod config;
mod service;
mod synced;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use attachment::{Attachment, AttachmentId, Device, Lifecycle};
pub use claims::{
    Claims, ClaimsError, EndpointClaim, IdentityClaim, Quarantine, Timestamp, ValidClaims,
};
pub use cluster::{
    CidrGroup, ClusterIdentity, Namespace, Node, NodeOrigin, Pod, PodRef, RemoteEndpoint,
};
pub use config::{Capacities, IdentityAllocation, NodeConfig, SpoofingOptOut};
pub use service::{BackendAddress, BackendCondition, Service, ServicePort, ServiceRef, Services};
pub use synced::{Complete, Source, Synced, Waiting};
pub use table::Table;

use crate::identity::NumericIdentity;
use crate::policy::rule::{Policy, PolicyRef};

/// One snapshot of all inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The node's configuration.
    pub config: Arc<NodeConfig>,
    /// When the snapshot was made: for the ends of quarantines only.
    pub now: Timestamp,
    /// Which sources have told all that they know.
    pub synced: Synced,
    /// The numbers given out so far.
    pub claims: Claims,
    /// All nodes by name, this one included.
    pub nodes: Table<Arc<str>, Arc<Node>>,
    /// Addresses of this node's own devices, as the kernel has them.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Addresses of the API server's backends.
    pub api_servers: BTreeSet<IpAddr>,
    /// Namespaces by name.
    pub namespaces: Table<Arc<str>, Arc<Namespace>>,
    /// Pods of this node.
    pub pods: Table<PodRef, Arc<Pod>>,
    /// CiliumEndpoints: the pods of other nodes, and of this one, which are ignored.
    pub remote_endpoints: Table<PodRef, Arc<RemoteEndpoint>>,
    /// CiliumIdentity objects: numbers that the cluster agreed on.
    pub cluster_identities: Table<NumericIdentity, ClusterIdentity>,
    /// Policy objects that passed validation.
    pub policies: Table<Arc<PolicyRef>, Arc<Policy>>,
    /// CiliumCIDRGroups by name.
    pub cidr_groups: Table<Arc<str>, Arc<CidrGroup>>,
    /// Services with ClusterIPs, joined with their backends.
    pub services: Services,
    /// Interfaces that were attached by CNI requests.
    pub attachments: Table<AttachmentId, Arc<Attachment>>,
}
