//! What would be written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A file of a manifest directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Name inside the directory.
    pub name: String,
    /// What is in it.
    pub content: String,
}

/// One kernel write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWrite {
    /// Table that it goes to.
    pub table: String,
    /// What it does, as a person reads it.
    pub write: String,
    /// Why.
    pub reason: String,
}

/// Kernel writes in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// The writes.
    pub writes: Vec<PlannedWrite>,
    /// How many a table gets.
    pub totals: BTreeMap<String, usize>,
    /// Documents that would be refused, each with its reasons.
    pub refused: Vec<String>,
    /// The plan as a person reads it, table by table.
    pub text: String,
}
