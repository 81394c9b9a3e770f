//! Endpoints and identities, in the shape that users of Cilium's API know.

use serde::{Deserialize, Serialize};

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Endpoint id.
    pub id: u16,
    /// Everything else.
    pub status: EndpointStatus,
}

/// State of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointStatus {
    /// Names that others give it.
    pub external_identifiers: ExternalIdentifiers,
    /// Its identity; absent until the pod's labels are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ApiIdentity>,
    /// Interface and addresses.
    pub networking: Networking,
    /// Policy, as enforced.
    pub policy: EndpointPolicy,
    /// Life cycle.
    pub state: EndpointState,
    /// Whether it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<EndpointHealth>,
    /// What happened to it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<StatusLogEntry>,
}

/// Whether an endpoint works, as `endpoint health` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    /// Its programs and the maps behind them.
    pub bpf: HealthState,
    /// Its policy, as its inputs say.
    pub policy: HealthState,
    /// Its device is there.
    pub connected: bool,
    /// The worst of all.
    pub overall_health: HealthState,
    /// What fails and is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// How a part of an endpoint does, in Cilium's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HealthState {
    /// As it should be.
    #[serde(rename = "OK")]
    Ok,
    /// Not written yet.
    Pending,
    /// The kernel refused something.
    Failure,
}

impl HealthState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Pending => "Pending",
            Self::Failure => "Failure",
        }
    }
}

/// Names that others give an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExternalIdentifiers {
    /// The runtime's sandbox id.
    pub container_id: String,
    /// Interface inside the container.
    pub container_interface_name: String,
    /// Pod namespace.
    pub k8s_namespace: String,
    /// Pod name.
    pub k8s_pod_name: String,
    /// Pod UID, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_pod_uid: Option<String>,
}

/// A security identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiIdentity {
    /// Numeric identity.
    pub id: u32,
    /// Security-relevant labels, as `source:key=value`, sorted.
    pub labels: Vec<String>,
}

/// Interface and addresses of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Networking {
    /// Addresses, one of each family an element.
    pub addressing: Vec<Addressing>,
    /// MAC address of the node's end.
    pub host_mac: String,
    /// Index of the node's end; 0 when the device is gone.
    pub interface_index: u32,
    /// Name of the node's end.
    pub interface_name: String,
    /// MAC address of the pod's end.
    pub mac: String,
}

/// Addresses of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// Policy of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPolicy {
    /// What the kernel enforces.
    pub realized: RealizedPolicy,
}

/// What the kernel enforces for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RealizedPolicy {
    /// Directions that policy is enforced in.
    pub policy_enabled: PolicyEnabled,
    /// Ingress, for `endpoint list`.
    pub ingress: DirectionStatus,
    /// Egress, for `endpoint list`.
    pub egress: DirectionStatus,
    /// Policy table in the kernel.
    pub table: u32,
    /// Entries of that table.
    pub entries: usize,
    /// Revision of the inputs that it was computed from.
    pub policy_revision: u64,
}

/// Directions that policy is enforced in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyEnabled {
    /// Neither.
    None,
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
    /// Both.
    Both,
}

/// One direction's enforcement, in the words of `endpoint list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectionStatus {
    /// Policy is enforced.
    Enabled,
    /// Everything is allowed.
    Disabled,
    /// Not known yet.
    Unknown,
}

impl DirectionStatus {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::Unknown => "Unknown",
        }
    }
}

/// Life cycle of an endpoint, in Cilium's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// The pod's labels are not known yet.
    WaitingForIdentity,
    /// Something that it needs is not written yet.
    Regenerating,
    /// Enforced as its inputs say.
    Ready,
    /// Its container or device is going away.
    Disconnecting,
    /// The kernel refused something; it is tried again.
    NotReady,
}

impl EndpointState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::Regenerating => "regenerating",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::NotReady => "not-ready",
        }
    }
}

/// Something that happened to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusLogEntry {
    /// When, RFC 3339 in UTC.
    pub timestamp: String,
    /// State after it.
    pub state: String,
    /// What.
    pub message: String,
}
