//! `v1`: Pod, Node, Namespace, Service.

pub use namespace::Namespace;
pub use node::{Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{Container, ContainerPort, Pod, PodIp, PodSpec, PodStatus};
pub use service::{ClientIpConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};

mod pod {
    use serde::{Deserialize, Serialize};

    use crate::meta::null_is_default;

    crate::object! {
        /// `v1` Pod.
        Pod, "v1", true {
            /// What it is.
            #[serde(default)]
            spec: PodSpec,
            /// What the kubelet says of it.
            #[serde(default)]
            status: PodStatus,
        }
    }

    /// `spec` of a Pod.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct PodSpec {
        /// The node that it runs on.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub node_name: Option<String>,
        /// It has no network of its own.
        #[serde(deserialize_with = "null_is_default")]
        pub host_network: bool,
        /// Its service account.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub service_account_name: Option<String>,
        /// Its containers.
        #[serde(deserialize_with = "null_is_default")]
        pub containers: Vec<Container>,
    }

    /// A container.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Container {
        /// Its name.
        pub name: String,
        /// Its ports.
        #[serde(deserialize_with = "null_is_default")]
        pub ports: Vec<ContainerPort>,
    }

    /// A port of a container.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ContainerPort {
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// The number.
        pub container_port: i64,
        /// `TCP` (when absent), `UDP` or `SCTP`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub protocol: Option<String>,
    }

    /// `status` of a Pod.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct PodStatus {
        /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub phase: Option<String>,
        /// Its first address.
        #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
        pub pod_ip: Option<String>,
        /// Its addresses.
        #[serde(rename = "podIPs", deserialize_with = "null_is_default")]
        pub pod_ips: Vec<PodIp>,
    }

    /// An address of a pod.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct PodIp {
        /// The address.
        pub ip: String,
    }
}

mod node {
    use serde::{Deserialize, Serialize};

    use crate::meta::null_is_default;

    crate::object! {
        /// `v1` Node.
        Node, "v1", false {
            /// What it is.
            #[serde(default)]
            spec: NodeSpec,
            /// What the kubelet says of it.
            #[serde(default)]
            status: NodeStatus,
        }
    }

    /// `spec` of a Node.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct NodeSpec {
        /// The prefix of its pods.
        #[serde(rename = "podCIDR", skip_serializing_if = "Option::is_none")]
        pub pod_cidr: Option<String>,
        /// The prefixes of its pods, one of each family.
        #[serde(rename = "podCIDRs", deserialize_with = "null_is_default")]
        pub pod_cidrs: Vec<String>,
    }

    /// `status` of a Node.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct NodeStatus {
        /// Its addresses.
        #[serde(deserialize_with = "null_is_default")]
        pub addresses: Vec<NodeAddress>,
    }

    /// An address of a Node.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, `Hostname`…
        #[serde(rename = "type")]
        pub kind: String,
        /// The address or name.
        pub address: String,
    }
}

mod namespace {
    crate::object! {
        /// `v1` Namespace: only its labels count.
        Namespace, "v1", false {}
    }
}

mod service {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use crate::meta::{IntOrString, null_is_default};

    crate::object! {
        /// `v1` Service.
        Service, "v1", true {
            /// What it is.
            #[serde(default)]
            spec: ServiceSpec,
        }
    }

    /// `spec` of a Service.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ServiceSpec {
        /// Labels of its pods; empty: somebody else lists its backends.
        #[serde(
            deserialize_with = "null_is_default",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        pub selector: BTreeMap<String, String>,
        /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        pub kind: Option<String>,
        /// Its first address, as people write it; an API server fills `clusterIPs` from it.
        #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
        pub cluster_ip: Option<String>,
        /// Its addresses; `None` as a text for a headless one.
        #[serde(rename = "clusterIPs", deserialize_with = "null_is_default")]
        pub cluster_ips: Vec<String>,
        /// Its ports.
        #[serde(deserialize_with = "null_is_default")]
        pub ports: Vec<ServicePort>,
        /// `None` (when absent) or `ClientIP`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub session_affinity: Option<String>,
        /// How long, for `ClientIP`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub session_affinity_config: Option<SessionAffinityConfig>,
        /// `Cluster` (when absent) or `Local`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub internal_traffic_policy: Option<String>,
    }

    /// `sessionAffinityConfig` of a Service.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct SessionAffinityConfig {
        /// For affinity by the client's address.
        #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
        pub client_ip: Option<ClientIpConfig>,
    }

    /// `sessionAffinityConfig.clientIP`.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ClientIpConfig {
        /// Seconds, at most a day.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub timeout_seconds: Option<i64>,
    }

    /// A port of a Service.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ServicePort {
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// `TCP` (when absent), `UDP` or `SCTP`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub protocol: Option<String>,
        /// The number.
        pub port: i64,
        /// The pods' port: a number or a name; the same number when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub target_port: Option<IntOrString>,
        /// The port on every node, for that type of service.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub node_port: Option<i64>,
    }
}
