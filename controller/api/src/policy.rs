//! Policies in force.

use serde::{Deserialize, Serialize};

/// All policies in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// Revision of the inputs that they are of.
    pub revision: u64,
    /// Each of them.
    pub policies: Vec<PolicyObject>,
}

/// A policy object and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyObject {
    /// Kind.
    pub kind: String,
    /// Namespace; absent for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// File and line that it was read from, where it came from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Whether it is in force.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Rules made of it.
    pub rules: usize,
    /// Endpoints of this node that it selects.
    pub endpoints: usize,
    /// Conditions, the bad ones included.
    pub conditions: Vec<Condition>,
    /// Of a staged policy, once flows were compared: what it would change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedReport>,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyMode {
    /// It is.
    #[default]
    Enforce,
    /// It is staged: computed beside the others, changes no verdict.
    Audit,
}

impl PolicyMode {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Audit => "Audit",
        }
    }
}

/// What a staged policy would change if it were enforced beside the others. A flow counts once at each
/// endpoint that the policy selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedReport {
    /// When counting began: the policy was staged or changed, or the agent started. RFC 3339 in UTC.
    pub since: String,
    /// Flows that pass and would be dropped.
    pub newly_denied: u64,
    /// Flows that are dropped and would pass.
    pub newly_allowed: u64,
    /// Times that a flow was not counted because too many are known.
    pub not_counted: u64,
    /// Events of the node that were lost since then: flows that are dropped may be missing.
    pub events_lost: u64,
    /// The last ones that differ in more than the port of whoever began them, the latest first.
    pub examples: Vec<StagedExample>,
    /// What could not be done as asked if the policy were enforced.
    pub conditions: Vec<Condition>,
}

/// What a staged policy would change for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StagedChange {
    /// It passes and would be dropped.
    NewlyDenied,
    /// It is dropped and would pass.
    NewlyAllowed,
}

impl StagedChange {
    /// The words for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewlyDenied => "newly denied",
            Self::NewlyAllowed => "newly allowed",
        }
    }
}

/// A flow that a staged policy would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedExample {
    /// When it was seen first, RFC 3339 in UTC.
    pub time: String,
    /// What would change.
    pub change: StagedChange,
    /// `ingress` or `egress`, seen from the endpoint.
    pub direction: String,
    /// The endpoint that the policy selects.
    pub endpoint: u16,
    /// Source, `address` or `address:port`.
    pub source: String,
    /// Its identity, 0 where none was found.
    pub source_identity: u32,
    /// Its pod or the reserved name of its identity, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// Destination, `address` or `address:port`.
    pub destination: String,
    /// Its identity, 0 where none was found.
    pub destination_identity: u32,
    /// Its pod or the reserved name of its identity, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_name: Option<String>,
    /// Destination port; for ICMP the type.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

/// A condition as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// Name of the condition.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// What a person reads.
    pub message: String,
}
