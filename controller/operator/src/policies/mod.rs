//! Conditions of CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies, and events on policies of these kinds,
//! NetworkPolicies and ClusterNetworkPolicies that do not do what they say.
//!
//! One writer for the cluster: what is said of a policy follows from the object alone, and a thousand agents that each
//! said it would write it a thousand times. Agents decide for themselves, by the same code; what goes wrong on one
//! node only is told by that node (`oxilium status`, its metrics). A policy is written to only when what is said of it
//! changes, by server-side apply under a name of its own, in the version that was looked at: whoever changes
//! the policy meanwhile has it looked at again.

mod follow;
mod judge;
mod say;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};

pub use follow::Follower;
pub use judge::{FIELDS_PRUNED, NOT_ENFORCED, VALID, changes, conditions, events};

/// Who writes: `metadata.managedFields` name it.
pub const FIELD_MANAGER: &str = "oxilium-operator";

/// A kind of policies.
#[derive(Clone, Copy, Debug)]
pub struct PolicyKind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Its objects have conditions. Of the others events tell alone.
    has_conditions: bool,
    /// Not every cluster has it.
    optional: bool,
}

/// Those that are looked at.
pub const KINDS: [PolicyKind; 4] = [
    PolicyKind {
        group: "cilium.io",
        version: "v2",
        kind: "CiliumNetworkPolicy",
        plural: "ciliumnetworkpolicies",
        namespaced: true,
        has_conditions: true,
        optional: false,
    },
    PolicyKind {
        group: "cilium.io",
        version: "v2",
        kind: "CiliumClusterwideNetworkPolicy",
        plural: "ciliumclusterwidenetworkpolicies",
        namespaced: false,
        has_conditions: true,
        optional: false,
    },
    PolicyKind {
        group: "networking.k8s.io",
        version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        namespaced: true,
        has_conditions: false,
        optional: false,
    },
    PolicyKind {
        group: "policy.networking.k8s.io",
        version: "v1alpha2",
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        namespaced: false,
        // Its conditions are defined by whoever defines the kind.
        has_conditions: false,
        optional: true,
    },
];

impl PolicyKind {
    /// Whether a cluster may be without it.
    pub fn is_optional(self) -> bool {
        self.optional
    }

    fn api_version(self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    fn all(self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource())
    }

    fn api_of(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) if self.namespaced => {
                Api::namespaced_with(client.clone(), namespace, &self.resource())
            }
            _ => self.all(client),
        }
    }
}
