//! `discovery.k8s.io/v1`: EndpointSlice.

use serde::{Deserialize, Serialize};

use crate::meta::null_is_default;

/// Label with the name of the service that a slice is of.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

crate::object! {
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice, "discovery.k8s.io/v1", true {
        /// `IPv4`, `IPv6` or `FQDN`.
        #[serde(default)]
        address_type: String,
        /// The backends.
        #[serde(default, deserialize_with = "null_is_default")]
        endpoints: Vec<Endpoint>,
        /// The ports that each of them has.
        #[serde(default, deserialize_with = "null_is_default")]
        ports: Vec<EndpointPort>,
    }
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses, which are one and the same backend.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<String>,
    /// Whether it is ready.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: EndpointConditions,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// Whether a backend is ready. Absent is as true for `ready` and `serving`, as false for `terminating`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// It takes new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is going away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// A port of all backends of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The name of the service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number; absent: all ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// `TCP` (when absent), `UDP` or `SCTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}
