//! Drops and verdicts as they happen.

use serde::{Deserialize, Serialize};

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitorKind {
    /// A packet was dropped.
    Drop,
    /// Policy was evaluated for a packet.
    PolicyVerdict,
    /// A packet was passed on.
    Trace,
}

/// Which events a client wants; an empty list is all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorFilter {
    /// Kinds.
    #[serde(default)]
    pub kinds: Vec<MonitorKind>,
    /// Sent by these endpoints.
    #[serde(default)]
    pub from: Vec<u16>,
    /// Sent to these endpoints.
    #[serde(default)]
    pub to: Vec<u16>,
    /// Concerning these endpoints.
    #[serde(default)]
    pub related_to: Vec<u16>,
}

impl MonitorFilter {
    /// Does the client want `event`?
    pub fn wants(&self, event: &MonitorEvent) -> bool {
        let any = |list: &[u16], id: Option<u16>| {
            list.is_empty() || id.is_some_and(|id| list.contains(&id))
        };
        let ingress = event.direction == "ingress";
        let local = Some(event.endpoint);
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && any(&self.related_to, local)
            && any(&self.from, if ingress { None } else { local })
            && any(&self.to, if ingress { local } else { None })
    }
}

/// What a policy evaluation said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitorVerdict {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MonitorEvent {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What.
    #[serde(rename = "type")]
    pub kind: MonitorKind,
    /// Packets dropped: the reason's number, Cilium's where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
    /// Packets dropped: the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_desc: Option<String>,
    /// Policy evaluations: what they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<MonitorVerdict>,
    /// What kind of policy entry decided: `none`, `L3-Only`, `L4-Only`, `L3-L4`, `all`.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<String>,
    /// Packets passed on: `new`, `established`, `reply`, `related`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `ingress` or `egress`, seen from the endpoint.
    pub direction: String,
    /// Local endpoint; 0 where none was found.
    pub endpoint: u16,
    /// `namespace/pod` of the local endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Interface that the program ran on.
    pub ifindex: u32,
    /// Identity of the sender; 0 where none was found.
    pub source_identity: u32,
    /// Identity of the receiver; 0 where none was found.
    pub destination_identity: u32,
    /// `namespace/pod` or the reserved name of the sender's identity, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// `namespace/pod` or the reserved name of the receiver's identity, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_name: Option<String>,
    /// Source, `address` or `address:port`.
    pub source: String,
    /// Destination, `address` or `address:port`.
    pub destination: String,
    /// The frontend, where the packet's flow goes to a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// The backend that the flow goes to in the frontend's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `namespace/name` of the service, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Destination port; for ICMP the type.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// What the packet is: `tcp SYN`, `udp`, `icmp EchoRequest`, …
    pub summary: String,
    /// Length in bytes, from the link-layer header on.
    pub length: u32,
}
