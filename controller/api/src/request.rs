//! Requests, and the answers that are not reports.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    BpfEndpoint, BpfMetric, BpfPolicyTable, Call, ConntrackFlow, ConntrackTalker, Endpoint,
    ExplainReport, IpcacheEntry, LoadBalancing, ManifestFile, MonitorFilter, PlanReport, Policies,
    StatusReport, endpoint::ApiIdentity,
};

/// Everything that a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "kebab-case")]
pub enum Request {
    /// An interface belongs to a pod; answered when its policy is enforced.
    Attach(Box<Attach>),
    /// A container goes away.
    Detach(Detach),
    /// Is the attachment known and enforced?
    Check(Check),
    /// Only these attachments are still wanted.
    CollectGarbage(CollectGarbage),
    /// May pods be added now?
    Ready,
    /// How the agent does.
    Status,
    /// All endpoints.
    EndpointList,
    /// One endpoint, by id or `namespace/pod`.
    EndpointGet(String),
    /// All identities in use.
    IdentityList,
    /// One identity by number.
    IdentityGet(u32),
    /// Policies in force and what became of them.
    PolicyGet,
    /// Policy tables as the kernel holds them; of one endpoint, or of all.
    BpfPolicy(Option<u16>),
    /// The ipcache as the kernel holds it.
    BpfIpcache,
    /// Flows as the kernel holds them; of one endpoint, or of all.
    BpfConntrack(Option<u16>),
    /// Who fills the conntrack tables.
    BpfConntrackTop,
    /// Packets by their fate.
    BpfMetrics,
    /// Endpoints and interfaces as the kernel holds them.
    BpfEndpoints,
    /// Services as the kernel holds them.
    BpfServices,
    /// What would be written for these manifests in place of the present ones.
    Plan(Vec<ManifestFile>),
    /// What becomes of a packet, and which rules decide it.
    Explain(ExplainQuery),
    /// As [`Self::Explain`], and what the programs do with such a packet.
    ExplainPacket(ExplainQuery),
    /// Drops and verdicts as they happen.
    Monitor(MonitorFilter),
}

/// The pod that an attachment is for, as the container runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`, where the runtime tells it: a later pod of the same name is another pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The node's end of a pod's veth, as the plugin found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInterface {
    /// Interface index in the agent's network namespace.
    pub ifindex: u32,
    /// Name, for people only.
    pub name: String,
    /// MAC address, as `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
}

/// The pod's end of its veth, as the plugin found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInterface {
    /// Interface index in the pod's network namespace.
    pub ifindex: u32,
    /// MAC address, as `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Addresses, link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// Length of the subnet of its IPv6 addresses, the shortest if they differ; none where nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix_length: Option<u8>,
}

/// An interface belongs to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which attachment.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// The pod.
    pub pod: Pod,
    /// The node's end.
    pub host: HostInterface,
    /// The pod's end.
    pub container: ContainerInterface,
    /// How long the client waits, in milliseconds. The agent answers within that time.
    pub wait_millis: u64,
}

/// Answer to [`Attach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Endpoint id.
    pub endpoint: u16,
    /// Security identity.
    pub identity: u32,
    /// Revision of the inputs that was applied with this attachment in it.
    pub revision: u64,
}

/// What an attachment is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// The runtime's container (sandbox) id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name inside the container.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// A container goes away. What is not known is gone already: no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detach {
    /// Which attachment.
    #[serde(flatten)]
    pub key: AttachmentKey,
}

/// Is the attachment known, with this interface, and enforced?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which attachment.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// Interface index of the node's end as it is now.
    pub host_ifindex: u32,
}

/// Only these attachments are still wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectGarbage {
    /// The ones to keep.
    pub valid: Vec<AttachmentKey>,
}

/// Answer of requests that have nothing to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The agent takes pods; otherwise it answers [`crate::ErrorCode::NotReady`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready;

/// What becomes of a packet?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// Who sends: `namespace/pod`, an IP address, an endpoint id, an identity as `identity:N`, or a reserved name.
    pub from: String,
    /// Who receives, as `from`, or `service:namespace/name`.
    pub to: String,
    /// `PORT/PROTO`; for ICMP the type.
    pub port: String,
}

macro_rules! calls {
    ($($request:ty => $reply:ty, $value:ident => $into:expr;)+) => {
        $(impl Call for $request {
            type Reply = $reply;

            fn into_request(self) -> Request {
                let $value = self;
                $into
            }
        })+
    };
}

/// Calls without parameters, and those whose parameter is no type of its own.
pub mod call {
    use super::{
        ApiIdentity, BpfEndpoint, BpfMetric, BpfPolicyTable, Call, ConntrackFlow, ConntrackTalker,
        Endpoint, ExplainQuery, ExplainReport, IpcacheEntry, LoadBalancing, ManifestFile,
        PlanReport, Policies, Request, StatusReport,
    };

    /// [`Request::Status`].
    pub struct Status;
    /// [`Request::EndpointList`].
    pub struct EndpointList;
    /// [`Request::EndpointGet`].
    pub struct EndpointGet(pub String);
    /// [`Request::IdentityList`].
    pub struct IdentityList;
    /// [`Request::IdentityGet`].
    pub struct IdentityGet(pub u32);
    /// [`Request::PolicyGet`].
    pub struct PolicyGet;
    /// [`Request::BpfPolicy`].
    pub struct BpfPolicy(pub Option<u16>);
    /// [`Request::BpfIpcache`].
    pub struct BpfIpcache;
    /// [`Request::BpfConntrack`].
    pub struct BpfConntrack(pub Option<u16>);
    /// [`Request::BpfConntrackTop`].
    pub struct BpfConntrackTop;
    /// [`Request::BpfMetrics`].
    pub struct BpfMetrics;
    /// [`Request::BpfEndpoints`].
    pub struct BpfEndpoints;
    /// [`Request::BpfServices`].
    pub struct BpfServices;
    /// [`Request::Plan`].
    pub struct Plan(pub Vec<ManifestFile>);
    /// [`Request::ExplainPacket`].
    pub struct ExplainPacket(pub super::ExplainQuery);

    calls! {
        Status => StatusReport, _call => Request::Status;
        EndpointList => Vec<Endpoint>, _call => Request::EndpointList;
        EndpointGet => Endpoint, call => Request::EndpointGet(call.0);
        IdentityList => Vec<ApiIdentity>, _call => Request::IdentityList;
        IdentityGet => ApiIdentity, call => Request::IdentityGet(call.0);
        PolicyGet => Policies, _call => Request::PolicyGet;
        BpfPolicy => Vec<BpfPolicyTable>, call => Request::BpfPolicy(call.0);
        BpfIpcache => Vec<IpcacheEntry>, _call => Request::BpfIpcache;
        BpfConntrack => Vec<ConntrackFlow>, call => Request::BpfConntrack(call.0);
        BpfConntrackTop => Vec<ConntrackTalker>, _call => Request::BpfConntrackTop;
        BpfMetrics => Vec<BpfMetric>, _call => Request::BpfMetrics;
        BpfEndpoints => Vec<BpfEndpoint>, _call => Request::BpfEndpoints;
        BpfServices => LoadBalancing, _call => Request::BpfServices;
        Plan => PlanReport, call => Request::Plan(call.0);
        ExplainPacket => ExplainReport, call => Request::ExplainPacket(call.0);
        ExplainQuery => ExplainReport, call => Request::Explain(call);
    }
}

calls! {
    Attach => Attached, call => Request::Attach(Box::new(call));
    Detach => Done, call => Request::Detach(call);
    Check => Done, call => Request::Check(call);
    CollectGarbage => Done, call => Request::CollectGarbage(call);
    Ready => Done, _call => Request::Ready;
}
