//! What the kernel holds, as it was read there.

use serde::{Deserialize, Serialize};

/// Policy table of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfPolicyTable {
    /// Endpoint id.
    pub endpoint: u16,
    /// Table id; endpoints with equal policy share one.
    pub table: u32,
    /// Entries, ingress first.
    pub entries: Vec<PolicyEntry>,
}

/// Verdict of a policy entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyEntryType {
    /// The packet passes (or goes to the proxy, or needs authentication, where the entry says so).
    Allow,
    /// The packet is dropped.
    Deny,
}

/// A policy entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyEntry {
    /// Verdict.
    #[serde(rename = "type")]
    pub kind: PolicyEntryType,
    /// `Ingress` or `Egress`.
    pub direction: String,
    /// Remote identity; 0 for any.
    pub identity: u32,
    /// Labels of the remote identity, where the agent knows it.
    pub labels: Vec<String>,
    /// Lowest destination port; 0 where the entry is for any.
    pub port: u16,
    /// Bits of the port that count.
    pub port_prefix: u8,
    /// IP protocol; 0 for any.
    pub protocol: u8,
    /// Port of the proxy; 0 for none.
    pub proxy_port: u16,
    /// Authentication type; 0 for none.
    pub auth: u8,
    /// Precedence as in the kernel; higher wins.
    pub precedence: u32,
    /// Packets that it decided: those for which policy was asked, most often the first of each flow.
    #[serde(default)]
    pub packets: u64,
    /// Bytes of these.
    #[serde(default)]
    pub bytes: u64,
    /// Policies that the entry is made from.
    pub origins: Vec<String>,
}

/// A prefix of the ipcache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcacheEntry {
    /// Prefix.
    pub cidr: String,
    /// Identity in use.
    pub identity: u32,
    /// Labels of the identity, where the agent knows it.
    pub labels: Vec<String>,
    /// Node that the prefix is behind; `0.0.0.0` or `::` for none.
    pub tunnelendpoint: String,
}

/// A flow in the conntrack maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConntrackFlow {
    /// Endpoint that the entry belongs to.
    pub endpoint: u16,
    /// IP protocol.
    pub protocol: u8,
    /// `IN` or `OUT`, seen from the endpoint: the direction of the flow's first packet.
    pub direction: String,
    /// Endpoint's address and port.
    pub local: String,
    /// Peer's address and port.
    pub remote: String,
    /// `allowed` or `denied`.
    pub verdict: String,
    /// Epoch that the verdict was found under.
    pub stamp: u64,
    /// End of life in seconds of the monotonic clock.
    pub expires: u32,
    /// Seconds until then; negative when it is past.
    pub remaining: i64,
    /// Packets to the endpoint.
    pub rx_packets: u64,
    /// Bytes to the endpoint.
    pub rx_bytes: u64,
    /// Packets from the endpoint.
    pub tx_packets: u64,
    /// Bytes from the endpoint.
    pub tx_bytes: u64,
    /// TCP flags seen in packets to the endpoint.
    pub rx_flags_seen: u8,
    /// TCP flags seen in packets from the endpoint.
    pub tx_flags_seen: u8,
    /// Last report of a packet to the endpoint.
    pub last_rx_report: u32,
    /// Last report of a packet from the endpoint.
    pub last_tx_report: u32,
    /// Flag bits as in the kernel.
    pub flags: u16,
    /// Identity of the peer when the verdict was found.
    pub remote_identity: u32,
    /// Id of the frontend that the flow was sent to; 0 where it goes to no service.
    #[serde(default)]
    pub rev_nat: u16,
    /// Id of the backend that it goes to in the frontend's place; 0 for none, or where that is no backend any more.
    #[serde(default)]
    pub backend_id: u32,
}

/// Packets that had one fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BpfMetric {
    /// Why they were dropped; `Success` of those that were let through.
    pub reason: String,
    /// `ingress` or `egress`, seen from the endpoint.
    pub direction: String,
    /// How many, of all CPUs.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The flows that an endpoint has with peers of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConntrackTalker {
    /// Endpoint that the entries belong to.
    pub endpoint: u16,
    /// Its pod, `namespace/name`, where the agent knows it.
    pub pod: Option<String>,
    /// Identity of the peers when the verdicts were found.
    pub identity: u32,
    /// Labels of that identity, where the agent knows it.
    pub labels: Vec<String>,
    /// Flows that were answered.
    pub answered: usize,
    /// Flows without an answer yet.
    pub unanswered: usize,
    /// Flows that turned to denied.
    pub denied: usize,
    /// Packets of all of them, both ways.
    pub packets: u64,
    /// Bytes of all of them, both ways.
    pub bytes: u64,
}

impl ConntrackTalker {
    /// Entries in all tables.
    pub const fn flows(&self) -> usize {
        self.answered + self.unanswered + self.denied
    }
}

/// An endpoint's interface as the programs know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BpfEndpoint {
    /// Addresses of the pod.
    pub addresses: Vec<String>,
    /// Endpoint id.
    pub id: u16,
    /// Index of the node's end of the veth.
    pub ifindex: u32,
    /// Identity when the endpoint was made.
    pub identity: u32,
    /// MAC address of the pod's end.
    pub mac: String,
    /// Policy table in use.
    pub table: u32,
    /// Epoch of the endpoint's word.
    pub epoch: u64,
    /// Epoch that the endpoint was born in.
    pub birth: u64,
}
