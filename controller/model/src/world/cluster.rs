//! What Kubernetes objects say, reduced to the fields that are used.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::identity::{IdentityLabels, NamedPorts, NumericIdentity};

/// Names a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl PodRef {
    /// The pod of that name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where the knowledge of a node comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeOrigin {
    /// A Node: its addresses are the kubelet's; the first two of each pod CIDR count as its own as well.
    Node,
    /// A CiliumNode: its agent publishes every address.
    CiliumNode,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Which object this is from.
    pub origin: NodeOrigin,
    /// Its addresses as published.
    pub addresses: BTreeSet<IpAddr>,
    /// The prefixes of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Its labels, of source `k8s` on this node ([`crate::label::Label::of_local_node`]), else `node`.
    pub labels: IdentityLabels,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its UID; empty where no API server made it. That of `kube-system` is the cluster's.
    pub uid: Arc<str>,
    /// What its pods inherit ([`crate::label::Label::of_namespace`]).
    pub labels: IdentityLabels,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub reference: PodRef,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its own security-relevant labels ([`crate::label::Label::of_pod`]). Those of its namespace,
    /// cluster and service account are put in by `desired`.
    pub labels: IdentityLabels,
    /// Its service account.
    pub service_account: Option<Arc<str>>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Named ports of its containers.
    pub named_ports: NamedPorts,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// It runs in the host's network: its identity is the host's.
    pub host_network: bool,
}

/// A pod as its node's agent publishes it (CiliumEndpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// The pod's name.
    pub reference: PodRef,
    /// `status.networking.addressing`.
    pub addresses: Vec<IpAddr>,
    /// `status.identity.id`.
    pub identity: NumericIdentity,
    /// `status.identity.labels`.
    pub labels: IdentityLabels,
    /// `status.named-ports`.
    pub named_ports: NamedPorts,
    /// `status.networking.node`: the address of its node.
    pub node_address: Option<Ipv4Addr>,
}

/// A CiliumIdentity: a number that the cluster gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// What the number stands for. None where the object's labels cannot be read: the number is taken all the same.
    pub labels: Option<IdentityLabels>,
    /// The operator found nobody who uses it, and deletes it after a while unless somebody takes the mark away.
    pub marked: bool,
}

impl From<IdentityLabels> for ClusterIdentity {
    fn from(labels: IdentityLabels) -> Self {
        Self {
            labels: Some(labels),
            marked: false,
        }
    }
}

/// A CiliumCIDRGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrGroup {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels ([`crate::label::Label::of_cidr_group`]).
    pub labels: IdentityLabels,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
}
