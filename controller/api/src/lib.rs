//! What the agent, the command and the CNI plugin say to each other.
//!
//! The transport is a unix stream socket that only root may open (mode 0600). A client writes one
//! [`Envelope`] of a [`Request`] as one line of JSON and reads one line back: an [`Answer`]. A
//! [`Request::Monitor`] is answered by any number of lines until one side closes. A connection may
//! carry several requests, one after the other.
//!
//! This crate is what the CNI plugin links, which a burst of pods starts a hundred times: it depends
//! on nothing but serde, and its [`Client`] is synchronous.

mod bpf;
mod client;
mod endpoint;
mod error;
mod explain;
mod monitor;
pub mod paths;
mod plan;
mod policy;
mod request;
mod service;
mod status;
mod time;
mod wire;

pub use bpf::{
    BpfEndpoint, BpfMetric, BpfPolicyTable, ConntrackFlow, ConntrackTalker, IpcacheEntry,
    PolicyEntry, PolicyEntryType,
};
pub use client::{Client, ClientError, Stream};
pub use endpoint::{
    Addressing, ApiIdentity, DirectionStatus, Endpoint, EndpointHealth, EndpointPolicy,
    EndpointState, EndpointStatus, ExternalIdentifiers, HealthState, Networking, PolicyEnabled,
    RealizedPolicy, StatusLogEntry,
};
pub use error::{ApiError, ErrorCode};
pub use explain::{
    Alternative, ExplainBackend, ExplainReport, ExplainService, ExplainSide, Explained,
    ProgramVerdict,
};
pub use monitor::{MonitorEvent, MonitorFilter, MonitorKind, MonitorVerdict};
pub use plan::{ManifestFile, PlanReport, PlannedWrite};
pub use policy::{
    Condition, Policies, PolicyMode, PolicyObject, StagedChange, StagedExample, StagedReport,
};
pub use request::{
    Attach, Attached, AttachmentKey, Check, CollectGarbage, ContainerInterface, Detach, Done,
    ExplainQuery, HostInterface, Pod, Ready, Request, call,
};
pub use service::{LbBackend, LbFrontend, LbService, LoadBalancing};
pub use status::{
    ComponentState, ComponentStatus, ConfigurationStatus, FailingObject, KernelWrites, MapStatus,
    ReconcileStatus, SourceStatus, StatusReport, UnsupportedKey,
};
pub use time::rfc3339;
pub use wire::{Answer, Call, Envelope, MAX_LINE, VERSION, read_line};
