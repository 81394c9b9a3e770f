//! CiliumEndpoint: what an agent publishes of a pod of its node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{Condition, null_is_default};
use crate::schema::{self, form, rules};

crate::object! {
    /// `cilium.io/v2` CiliumEndpoint: named as its pod; there is no `spec`.
    #[derive(JsonSchema)]
    #[schemars(transform = rules::with_metadata)]
    CiliumEndpoint, "cilium.io/v2", true {
        /// What the agent says.
        #[serde(default, deserialize_with = "null_is_default")]
        status: EndpointStatus,
    }
}

/// `status` of a CiliumEndpoint.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(transform = schema::keep_unknown)]
pub struct EndpointStatus {
    /// The endpoint's id on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// How the endpoint is called elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_identifiers: Option<ExternalIdentifiers>,
    /// Whether it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<EndpointHealth>,
    /// Its security identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// The last log entries.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub log: Vec<EndpointLogEntry>,
    /// Its addresses and node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Whether policy is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<EndpointPolicy>,
    /// `creating`, `waiting-for-identity`, `not-ready`, `waiting-to-regenerate`, `regenerating`, `restoring`, `ready`,
    /// `disconnecting`, `disconnected` or `invalid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::EndpointState>")]
    pub state: Option<String>,
    /// Named ports of its containers.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub named_ports: Vec<NamedPort>,
    /// Its service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// What a person should know of it. With Cilium's own definition an API server drops it; ours has it.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[schemars(transform = rules::conditions)]
    pub conditions: Vec<Condition>,
}

/// How an endpoint is called elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ExternalIdentifiers {
    /// Container id and interface, as CNI has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_attachment_id: Option<String>,
    /// Container id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_namespace: Option<String>,
    /// Name of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_pod_name: Option<String>,
    /// Namespace and name of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
}

/// Whether an endpoint works: `OK`, `Warning`, `Failure`, `Pending`, `Disabled`, `Bootstrap` each.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHealth {
    /// Its programs and maps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpf: Option<String>,
    /// It is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// All together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overall_health: Option<String>,
    /// Its policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// The security identity of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIdentity {
    /// The number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The labels, `source:key=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: Vec<String>,
}

/// A log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointLogEntry {
    /// `ok`, `failed` or `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The state that it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

/// Addresses and node of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointNetworking {
    /// Its addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub addressing: Vec<AddressPair>,
    /// The IPv4 address of its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// An address of each family.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPair {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// Whether policy is enforced, per direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPolicy {
    /// Towards the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<EndpointPolicyDirection>,
    /// From the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EndpointPolicyDirection>,
}

/// Whether policy is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPolicyDirection {
    /// It is.
    pub enforcing: bool,
    /// `enforcing`, `non-enforcing` or `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A port with a name.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(default)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}
