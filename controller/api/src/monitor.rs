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
        let (local, peer) = (Some(event.endpoint), event.peer_endpoint);
        let (from, to) = if event.direction == "ingress" {
            (peer, local)
        } else {
            (local, peer)
        };
        let related = any(&self.related_to, local) || any(&self.related_to, peer);
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && related
            && any(&self.from, from)
            && any(&self.to, to)
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
    /// The endpoint on the other side, where that is one of this node too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_endpoint: Option<u16>,
    /// `namespace/pod` of the local endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Interface that the program ran on.
    pub ifindex: u32,
    /// Identity of the sender; 0 where none was found.
    pub source_identity: u32,
    /// Identity of the receiver; 0 where none was found.
    pub destination_identity: u32,
    /// `namespace/pod`, or else the reserved name or the labels of the sender's identity, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// `namespace/pod`, or else the reserved name or the labels of the receiver's identity, where known.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(direction: &str, endpoint: u16, peer_endpoint: Option<u16>) -> MonitorEvent {
        MonitorEvent {
            time: String::new(),
            kind: MonitorKind::Drop,
            reason: None,
            reason_desc: None,
            verdict: None,
            matched: None,
            state: None,
            direction: direction.to_owned(),
            endpoint,
            peer_endpoint,
            pod: None,
            ifindex: 0,
            source_identity: 0,
            destination_identity: 0,
            source_name: None,
            destination_name: None,
            source: String::new(),
            destination: String::new(),
            frontend: None,
            backend: None,
            service: None,
            destination_port: 0,
            protocol: 0,
            summary: String::new(),
            length: 0,
        }
    }

    /// Of endpoint 1's packets to endpoint 2, at either end, and of one to elsewhere.
    fn wanted(filter: &MonitorFilter) -> [bool; 3] {
        [
            event("egress", 1, Some(2)),
            event("ingress", 2, Some(1)),
            event("egress", 1, None),
        ]
        .map(|event| filter.wants(&event))
    }

    #[test]
    fn who_sends_and_who_receives_is_known_at_both_ends() {
        let all = MonitorFilter::default();
        assert_eq!(wanted(&all), [true, true, true]);
        let from = |id| MonitorFilter {
            from: vec![id],
            ..MonitorFilter::default()
        };
        assert_eq!(wanted(&from(1)), [true, true, true]);
        assert_eq!(wanted(&from(2)), [false, false, false]);
        let to = |id| MonitorFilter {
            to: vec![id],
            ..MonitorFilter::default()
        };
        assert_eq!(wanted(&to(2)), [true, true, false]);
        assert_eq!(wanted(&to(1)), [false, false, false]);
        let related = |id| MonitorFilter {
            related_to: vec![id],
            ..MonitorFilter::default()
        };
        assert_eq!(wanted(&related(2)), [true, true, false]);
        assert_eq!(wanted(&related(3)), [false, false, false]);
    }
}
