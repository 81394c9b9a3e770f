//! The kinds of objects that are watched.

use oxilium_manifest::diagnostic::ObjectId;
use oxilium_model::world::Source;

/// A kind of objects of the API that the agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    /// CiliumNetworkPolicy.
    CiliumNetworkPolicies,
    /// CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicies,
    /// NetworkPolicy.
    NetworkPolicies,
    /// ClusterNetworkPolicy.
    ClusterNetworkPolicies,
    /// CiliumCIDRGroup.
    CiliumCidrGroups,
    /// Namespace.
    Namespaces,
    /// Node.
    Nodes,
    /// CiliumNode.
    CiliumNodes,
    /// CiliumNodeConfig.
    CiliumNodeConfigs,
    /// CiliumIdentity.
    CiliumIdentities,
    /// CiliumEndpoint.
    CiliumEndpoints,
    /// Pod, of this node only.
    Pods,
    /// Service.
    Services,
    /// EndpointSlice.
    EndpointSlices,
}

/// Who defines a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The API server.
    BuiltIn,
    /// A CustomResourceDefinition that the agent cannot do without.
    Required,
    /// A CustomResourceDefinition that a cluster need not have.
    Optional,
}

/// How the API calls a kind.
struct Names {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
}

const fn names(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
) -> Names {
    Names {
        group,
        version,
        plural,
        kind,
    }
}

impl Resource {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::CiliumNetworkPolicies,
        Self::CiliumClusterwideNetworkPolicies,
        Self::NetworkPolicies,
        Self::ClusterNetworkPolicies,
        Self::CiliumCidrGroups,
        Self::Namespaces,
        Self::Nodes,
        Self::CiliumNodes,
        Self::CiliumNodeConfigs,
        Self::CiliumIdentities,
        Self::CiliumEndpoints,
        Self::Pods,
        Self::Services,
        Self::EndpointSlices,
    ];

    const fn names(self) -> Names {
        const CILIUM: &str = "cilium.io";
        match self {
            Self::CiliumNetworkPolicies => {
                names(CILIUM, "v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy")
            }
            Self::CiliumClusterwideNetworkPolicies => names(
                CILIUM,
                "v2",
                "ciliumclusterwidenetworkpolicies",
                "CiliumClusterwideNetworkPolicy",
            ),
            Self::NetworkPolicies => names(
                "networking.k8s.io",
                "v1",
                "networkpolicies",
                "NetworkPolicy",
            ),
            Self::ClusterNetworkPolicies => names(
                "policy.networking.k8s.io",
                "v1alpha2",
                "clusternetworkpolicies",
                "ClusterNetworkPolicy",
            ),
            Self::CiliumCidrGroups => names(CILIUM, "v2", "ciliumcidrgroups", "CiliumCIDRGroup"),
            Self::Namespaces => names("", "v1", "namespaces", "Namespace"),
            Self::Nodes => names("", "v1", "nodes", "Node"),
            Self::CiliumNodes => names(CILIUM, "v2", "ciliumnodes", "CiliumNode"),
            Self::CiliumNodeConfigs => names(CILIUM, "v2", "ciliumnodeconfigs", "CiliumNodeConfig"),
            Self::CiliumIdentities => names(CILIUM, "v2", "ciliumidentities", "CiliumIdentity"),
            Self::CiliumEndpoints => names(CILIUM, "v2", "ciliumendpoints", "CiliumEndpoint"),
            Self::Pods => names("", "v1", "pods", "Pod"),
            Self::Services => names("", "v1", "services", "Service"),
            Self::EndpointSlices => {
                names("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
            }
        }
    }

    /// `kind` of its objects.
    pub(crate) const fn kind(self) -> &'static str {
        self.names().kind
    }

    /// `apiVersion` of its objects.
    pub(crate) fn api_version(self) -> String {
        let Names { group, version, .. } = self.names();
        if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        }
    }

    /// As RBAC and CustomResourceDefinitions name it: `ciliumendpoints.cilium.io`.
    pub(crate) fn qualified(self) -> String {
        let Names { group, plural, .. } = self.names();
        if group.is_empty() {
            plural.to_owned()
        } else {
            format!("{plural}.{group}")
        }
    }

    /// Where the API server has all of them.
    pub(crate) fn path(self) -> String {
        let Names {
            group,
            version,
            plural,
            ..
        } = self.names();
        if group.is_empty() {
            format!("/api/{version}/{plural}")
        } else {
            format!("/apis/{group}/{version}/{plural}")
        }
    }

    /// Who defines it.
    pub(crate) const fn definition(self) -> Definition {
        match self {
            Self::CiliumNetworkPolicies
            | Self::CiliumClusterwideNetworkPolicies
            | Self::CiliumCidrGroups
            | Self::CiliumNodes
            | Self::CiliumIdentities
            | Self::CiliumEndpoints => Definition::Required,
            Self::ClusterNetworkPolicies | Self::CiliumNodeConfigs => Definition::Optional,
            Self::NetworkPolicies
            | Self::Namespaces
            | Self::Nodes
            | Self::Pods
            | Self::Services
            | Self::EndpointSlices => Definition::BuiltIn,
        }
    }

    /// Which of the agent's sources it belongs to; none: nothing is enforced by what it says.
    pub(crate) const fn source(self) -> Option<Source> {
        Some(match self {
            Self::CiliumNetworkPolicies
            | Self::CiliumClusterwideNetworkPolicies
            | Self::NetworkPolicies
            | Self::ClusterNetworkPolicies => Source::Policies,
            Self::CiliumCidrGroups => Source::CidrGroups,
            Self::Namespaces => Source::Namespaces,
            Self::Nodes | Self::CiliumNodes => Source::Nodes,
            Self::CiliumNodeConfigs => return None,
            Self::CiliumIdentities | Self::CiliumEndpoints => Source::Endpoints,
            Self::Pods => Source::Pods,
            Self::Services | Self::EndpointSlices => Source::Services,
        })
    }

    /// Its objects are policies.
    pub(crate) const fn is_policy(self) -> bool {
        matches!(self.source(), Some(Source::Policies))
    }

    /// How an object of this kind is called.
    pub(crate) fn object(self, namespace: &str, name: &str) -> ObjectId {
        ObjectId {
            kind: self.kind().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reconcile::OBJECT_SOURCES;

    #[test]
    fn every_source_of_objects_is_fed() {
        let fed: BTreeSet<Source> = Resource::ALL
            .into_iter()
            .filter_map(Resource::source)
            .collect();
        assert_eq!(fed, OBJECT_SOURCES.into());
    }

    #[test]
    fn names_are_the_api_servers() {
        let pods = Resource::Pods;
        assert_eq!(
            (pods.path(), pods.api_version()),
            ("/api/v1/pods".into(), "v1".into())
        );
        let endpoints = Resource::CiliumEndpoints;
        assert_eq!(endpoints.path(), "/apis/cilium.io/v2/ciliumendpoints");
        assert_eq!(endpoints.qualified(), "ciliumendpoints.cilium.io");
        assert_eq!(endpoints.api_version(), "cilium.io/v2");
    }
}
