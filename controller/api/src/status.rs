//! How the agent does: one structure for the command, the probes and the metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// State of a component in Cilium's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ComponentState {
    /// As it should be.
    Ok,
    /// Not in use.
    Disabled,
    /// Works, but something is tried again or not enforced.
    Warning,
    /// Does not work.
    Failure,
}

impl ComponentState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Disabled => "Disabled",
            Self::Warning => "Warning",
            Self::Failure => "Failure",
        }
    }
}

/// State of a component, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// The state.
    pub state: ComponentState,
    /// What a person reads.
    pub msg: String,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatusReport {
    /// The agent as a whole: the worst of what follows.
    pub cilium: ComponentStatus,
    /// Version of the agent.
    pub version: String,
    /// Name of this node.
    pub node: String,
    /// Where objects come from.
    pub sources: Vec<SourceStatus>,
    /// `tcx` or `tc`.
    pub attach_mode: String,
    /// How pods get here: `generic-veth`.
    pub cni_chaining: String,
    /// `default`, `always` or `never`.
    pub policy_enforcement: String,
    /// The reconcile loop.
    pub reconcile: ReconcileStatus,
    /// Endpoints by state.
    pub endpoints: BTreeMap<String, usize>,
    /// Identities in use.
    pub identities: usize,
    /// Policies in force.
    pub policies: usize,
    /// Policies that something of is not enforced, with the reason.
    pub not_enforced: Vec<FailingObject>,
    /// Documents that were refused, and other objects with a bad condition.
    pub refused: Vec<FailingObject>,
    /// Event ring: readers and what was lost.
    pub monitor_readers: u64,
    /// Events that the programs could not deliver.
    pub events_lost: u64,
    /// Answered flows that the kernel evicted for want of room in conntrack, as far as the agent has watched.
    #[serde(default)]
    pub flows_evicted: u64,
    /// Choices of a service's backend for answered flows that the kernel evicted for want of room, as far as the agent
    /// has watched. Such a flow is given a backend anew.
    #[serde(default)]
    pub choices_evicted: u64,
    /// The same for the latest flows, answered or not: how far back choices go is what the room for them allows.
    #[serde(default)]
    pub latest_choices_evicted: u64,
    /// BPF maps.
    pub maps: Vec<MapStatus>,
    /// Kernel writes since the agent's start.
    pub kernel_writes: KernelWrites,
    /// What the configuration asks for and does not get.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
}

/// What the configuration asks for and does not get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Keys whose value says what is not done.
    pub unsupported: Vec<UnsupportedKey>,
    /// Keys of the configuration directory that nobody knows.
    pub unknown: Vec<String>,
}

/// A key whose value says what is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedKey {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Whence: a flag, a variable, a file.
    pub origin: String,
    /// Why it is not done.
    pub reason: String,
}

/// One source of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Which source.
    pub name: String,
    /// Its first full list has been read.
    pub synced: bool,
    /// State and a text for people.
    pub status: ComponentStatus,
}

/// The reconcile loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReconcileStatus {
    /// Revision of the inputs.
    pub input_revision: u64,
    /// Revision that the last plan was made from.
    pub plan_revision: u64,
    /// Revision that the kernel holds.
    pub applied_revision: u64,
    /// Writes of the last plan that did anything.
    pub last_writes: u64,
    /// Seconds since the last full comparison with the kernel.
    pub last_sweep_seconds: u64,
    /// Milliseconds that it took.
    pub last_sweep_millis: u64,
    /// Differences that comparison found that no input explains, since the start.
    pub drift_repaired: u64,
    /// Hooks found other than they were left when hooks alone were asked (each second where they announce nothing),
    /// since the start.
    #[serde(default)]
    pub hooks_drifted: u64,
    /// Pins that others had removed, and that were set again, since the start.
    #[serde(default)]
    pub pins_restored: u64,
    /// Microseconds that asking all hooks took last.
    #[serde(default)]
    pub last_hooks_micros: u64,
    /// Hooks whose programs enforce already, as filters, and get their tcx links when no pods come any more.
    #[serde(default)]
    pub hooks_without_link: u64,
    /// Seconds since the first of them came.
    #[serde(default)]
    pub hooks_without_link_seconds: u64,
    /// What fails and is tried again.
    pub failing: Vec<FailingObject>,
}

/// An object that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FailingObject {
    /// Which object.
    pub object: String,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

/// One BPF map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MapStatus {
    /// Name.
    pub name: String,
    /// Entries that it can hold.
    pub max_entries: u32,
    /// Entries in it, where counted; of tables that the agent writes, those that it left there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
    /// Kernel memory in bytes, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// Kernel writes by table and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelWrites {
    /// All of them.
    pub total: u64,
    /// By `table/operation`.
    pub by_table: BTreeMap<String, u64>,
}
