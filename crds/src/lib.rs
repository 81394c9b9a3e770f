//! Cilium's custom resources and the Kubernetes objects read beside them, as plain types.
//!
//! Objects of Kubernetes hold only the fields that the agent reads; other fields are dropped when one is read. In
//! policies an absent list is `None` and an empty one `Some(vec![])`: they select different things, so neither may
//! turn into the other on the way through.
//!
//! [`definition`] has what an API server is told of Cilium's kinds, made from the types; `crds/yaml` are the same as files.

pub mod cidr_group;
pub mod cilium_network_policy;
pub mod cluster_network_policy;
pub mod core;
pub mod definition;
pub mod discovery;
pub mod endpoint;
pub mod identity;
pub mod meta;
pub mod network_policy;
pub mod node;
pub mod node_config;
mod schema;

pub use cidr_group::CiliumCIDRGroup;
pub use cilium_network_policy::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy};
pub use cluster_network_policy::ClusterNetworkPolicy;
pub use core::{Namespace, Node, Pod, Service};
pub use discovery::EndpointSlice;
pub use endpoint::CiliumEndpoint;
pub use identity::CiliumIdentity;
pub use meta::{Condition, LabelSelector, ObjectMeta};
pub use network_policy::NetworkPolicy;
pub use node::CiliumNode;
pub use node_config::CiliumNodeConfig;

/// A kind of objects: its group, version and name.
pub trait Resource {
    /// `apiVersion`.
    const API_VERSION: &'static str;
    /// `kind`.
    const KIND: &'static str;
    /// Objects of this kind are in a namespace.
    const NAMESPACED: bool;
}

/// Defines an object: `apiVersion`, `kind` and `metadata`, which all have, and fields of its own.
macro_rules! object {
    (
        $(#[$meta:meta])*
        $name:ident, $version:literal, $namespaced:literal { $($(#[$field_meta:meta])* $field:ident : $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Group and version.
            #[serde(default = "api_version")]
            pub api_version: String,
            /// The kind's name.
            #[serde(default = "kind")]
            pub kind: String,
            /// Name, namespace, labels…
            #[serde(default)]
            pub metadata: $crate::meta::ObjectMeta,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::Resource for $name {
            const API_VERSION: &'static str = $version;
            const KIND: &'static str = stringify!($name);
            const NAMESPACED: bool = $namespaced;
        }

        fn api_version() -> String {
            <$name as $crate::Resource>::API_VERSION.to_owned()
        }

        fn kind() -> String {
            <$name as $crate::Resource>::KIND.to_owned()
        }
    };
}
pub(crate) use object;
