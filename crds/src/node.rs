//! CiliumNode: what an agent publishes of its node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::endpoint::AddressPair;
use crate::meta::null_is_default;
use crate::schema::{self, form, rules};

crate::object! {
    /// `cilium.io/v2` CiliumNode: named as the node.
    #[derive(JsonSchema)]
    #[schemars(transform = rules::with_spec)]
    CiliumNode, "cilium.io/v2", false {
        /// What it is.
        #[serde(default)]
        spec: CiliumNodeSpec,
        /// What operators say of the node's addresses, of which nothing is read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<form::Anything>")]
        status: Option<serde_json::Value>,
    }
}

/// `spec` of a CiliumNode.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
#[schemars(transform = schema::keep_unknown)]
pub struct CiliumNodeSpec {
    /// The boot of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootid: Option<String>,
    /// All its addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<CiliumNodeAddress>,
    /// Addresses of its health endpoint.
    #[serde(deserialize_with = "null_is_default")]
    pub health: AddressPair,
    /// Addresses of its ingress proxy.
    #[serde(deserialize_with = "null_is_default")]
    pub ingress: AddressPair,
    /// Its encryption key.
    #[serde(deserialize_with = "null_is_default")]
    pub encryption: Encryption,
    /// The addresses of its pods.
    #[serde(deserialize_with = "null_is_default")]
    pub ipam: Ipam,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeAddress {
    /// `InternalIP`, `ExternalIP`, `CiliumInternalIP`…
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The address.
    pub ip: String,
}

/// The encryption key of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct Encryption {
    /// Its index; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<i64>,
}

/// The addresses of a node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipam {
    /// Their prefixes.
    #[serde(
        rename = "podCIDRs",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub pod_cidrs: Vec<String>,
}
