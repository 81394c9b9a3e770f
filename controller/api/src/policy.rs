//! Policies in force.

use serde::{Deserialize, Serialize};

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
    /// Rules made of it.
    pub rules: usize,
    /// Endpoints of this node that it selects.
    pub endpoints: usize,
    /// Conditions, the bad ones included.
    pub conditions: Vec<Condition>,
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
