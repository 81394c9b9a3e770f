//! The node state that should exist: what [`crate::desired()`] computes from a [`crate::world::World`].
//!
//! It names no policy table id, no bank and no epoch: these belong to the way there, and the planner
//! takes them from what the kernel holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use oxilium_abi::{AuthRequirement, Be16, Direction, PolicyKey, PolicyValue, Precedence};
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::identity::{Identities, IdentityLabels, NamedPorts, NumericIdentity};
use crate::policy::Fitted;
use crate::world::{AttachmentId, BackendAddress, Claims, PodRef, ServiceRef, Table};

/// All that the node should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Endpoints by id.
    pub endpoints: BTreeMap<u16, Arc<Endpoint>>,
    /// What the programs are to know of each interface, by ifindex.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Identity of each prefix, and the node that it is behind.
    pub ipcache: Ipcache,
    /// Frontends of services, each with its backends.
    pub services: Frontends,
    /// Which program is to run where.
    pub attachments: BTreeMap<AttachPoint, ProgramTag>,
    /// All identities that policy was resolved against.
    pub identities: Arc<Identities>,
    /// The numbers that this state uses: to be kept on disk before a plan towards it begins.
    pub claims: Claims,
    /// What the cluster is to be asked for, so that the labels of this node's pods have numbers.
    pub identity_requests: BTreeMap<NumericIdentity, IdentityRequest>,
    /// What could not be done as asked.
    pub conditions: Vec<Condition>,
}

/// What is asked of the cluster for a number. The answer comes with the CiliumIdentity objects of a later World.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityRequest {
    /// An object that gives the number to these labels.
    Create(IdentityLabels),
    /// The object has these labels already and is marked for deletion: the mark is to go.
    Keep(IdentityLabels),
}

/// A pod's interface as a subject of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id, 1…65535.
    pub id: u16,
    /// Which attachment it is.
    pub attachment: AttachmentId,
    /// Its pod.
    pub pod: PodRef,
    /// The pod's UID.
    pub pod_uid: Arc<str>,
    /// The host's device; none once it is gone.
    pub ifindex: Option<u32>,
    /// Name of the host's device; empty once it is gone.
    pub device: Arc<str>,
    /// MAC addresses of the pod's and the host's end; zero once the device is gone.
    pub mac: [u8; 6],
    /// See `mac`.
    pub host_mac: [u8; 6],
    /// Link-local addresses of the pod's end: EUI-64 of its MAC address, and the one observed.
    pub link_local: BTreeSet<Ipv6Addr>,
    /// Length of the subnet of its IPv6 addresses, where it is known: neighbours are in it.
    pub ipv6_prefix_length: Option<u8>,
    /// The veth's link-netnsid.
    pub netns_id: Option<i32>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its identity.
    pub identity: NumericIdentity,
    /// The labels of its identity.
    pub labels: IdentityLabels,
    /// Its named ports.
    pub named_ports: NamedPorts,
    /// How it is doing.
    pub state: EndpointState,
    /// What policy says.
    pub policy: Arc<EndpointPolicy>,
}

/// State of an endpoint, with Cilium's words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Its Pod object is not known, or the cluster has not agreed on a number for its labels: it has the identity
    /// that it had last, or `init`.
    WaitingForIdentity,
    /// Nothing is missing.
    Ready,
    /// DEL was asked; it stays enforced while its device lives.
    Disconnecting,
    /// Its device is gone.
    Disconnected,
    /// Its policy could not be resolved: nothing is allowed.
    Invalid,
}

impl EndpointState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What policy says of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Some policy is enforced on what it receives.
    pub ingress_enforced: bool,
    /// Some policy is enforced on what it sends.
    pub egress_enforced: bool,
    /// The entries of its policy table.
    pub table: Arc<TableContent>,
    /// Where they come from, and what did not fit.
    pub resolved: Arc<Fitted>,
}

/// Content of a policy table. Endpoints of equal content share one table in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableContent(pub BTreeMap<EntryKey, EntryValue>);

/// Key of a policy entry, without the table that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Direction of the flow, seen from the endpoint.
    pub direction: Direction,
    /// Remote identity; 0 any, 11…14 aggregates.
    pub identity: NumericIdentity,
    /// IP protocol; 0 any.
    pub protocol: u8,
    /// Index of the shape ([`oxilium_abi::ShapeMask::shape`]).
    pub shape: u8,
    /// Destination port in host order, bits behind the prefix zero.
    pub port: u16,
}

/// Verdict of a policy entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryValue {
    /// Precedence and class.
    pub precedence: Precedence,
    /// Port of the proxy, 0 for none.
    pub proxy_port: u16,
    /// Authentication asked for.
    pub auth: AuthRequirement,
}

impl EntryKey {
    /// The kernel's key in `table`.
    pub const fn in_table(&self, table: u32) -> PolicyKey {
        PolicyKey {
            table,
            identity: self.identity.0,
            port: Be16::new(self.port),
            protocol: self.protocol,
            direction_shape: PolicyKey::pack(self.direction, self.shape as u32),
        }
    }

    /// Of a kernel's key.
    pub const fn of(key: &PolicyKey) -> Self {
        Self {
            direction: key.direction(),
            identity: NumericIdentity(key.identity),
            protocol: key.protocol,
            shape: key.direction_shape & 0x1F,
            port: key.port.get(),
        }
    }
}

impl EntryValue {
    /// The kernel's value under `key`.
    pub const fn sealed(&self, key: &PolicyKey) -> PolicyValue {
        PolicyValue::new(key, self.precedence, self.proxy_port, self.auth)
    }

    /// Of a kernel's value; none when its check is not that of `key`.
    pub fn of(key: &PolicyKey, value: &PolicyValue) -> Option<Self> {
        let read = Self {
            precedence: value.precedence(),
            proxy_port: value.proxy_port(),
            auth: value.auth(),
        };
        (read.sealed(key) == *value).then_some(read)
    }
}

/// What the programs are to know of an interface: [`oxilium_abi::InterfaceConfig`] without the birth epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The endpoint behind it.
    pub endpoint: u16,
    /// The endpoint's identity, for events.
    pub identity: NumericIdentity,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's addresses, at most two of each family.
    pub addresses: BTreeSet<IpAddr>,
    /// Link-local addresses, at most two: EUI-64 of the MAC and the one observed.
    pub link_local: BTreeSet<Ipv6Addr>,
    /// Length of the subnet of its IPv6 addresses, where it is known: neighbours are in it.
    pub ipv6_prefix_length: Option<u8>,
    /// Source checks do not bind it.
    pub allow_spoofing: bool,
    /// The veth's link-netnsid.
    pub netns_id: Option<i32>,
}

/// Prefixes, the bits after their length zero, each with who has it.
pub type Ipcache = Table<IpNet, IpcacheTarget>;

/// What the ipcache is to say of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpcacheTarget {
    /// Its identity.
    pub identity: NumericIdentity,
    /// The node that it is behind; none without tunnels and for what is local.
    pub tunnel_endpoint: Option<Ipv4Addr>,
}

/// An address, port and protocol that a service is reached at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// A ClusterIP.
    pub address: IpAddr,
    /// The service's port.
    pub port: u16,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = crate::identity::Protocol(self.protocol);
        let socket = std::net::SocketAddr::new(self.address, self.port);
        write!(f, "{socket}/{protocol}")
    }
}

/// Frontends, each with its backends.
pub type Frontends = Table<Frontend, Arc<FrontendState>>;

/// Where flows to a frontend go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendState {
    /// Whose frontend it is.
    pub service: ServiceRef,
    /// Which of its ports, by name; empty for a service's only one.
    pub port_name: Arc<str>,
    /// Seconds that a client stays with its backend.
    pub affinity: Option<u32>,
    /// Where new flows may go; packets are dropped where there is none.
    pub backends: BTreeSet<BackendAddress>,
}

/// A hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// What comes out of the pod: ingress of the host's end, `from_container`.
    FromContainer,
    /// What goes into the pod: egress of the host's end, `to_container`.
    ToContainer,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromContainer, Self::ToContainer];

    /// Name of its program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromContainer => oxilium_abi::program::FROM_CONTAINER,
            Self::ToContainer => oxilium_abi::program::TO_CONTAINER,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachPoint {
    /// The interface.
    pub ifindex: u32,
    /// Its hook.
    pub hook: Hook,
}

/// The kernel's tag of a loaded program: a hash of its instructions, equal for equal programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramTag(pub [u8; 8]);

impl fmt::Display for ProgramTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}
