//! Which kind of object a document is, and how it is called.

use oxilium_model::policy::rule::PolicyKind;

use crate::diagnostic::{ObjectId, Problem, nearest};
use crate::tree::Node;

/// Kinds of objects, as far as the agent tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A policy.
    Policy(PolicyKind),
    /// `v1` Pod.
    Pod,
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `cilium.io/v2` CiliumEndpoint.
    CiliumEndpoint,
    /// `cilium.io/v2` CiliumIdentity.
    CiliumIdentity,
    /// `cilium.io/v2` CiliumNode.
    CiliumNode,
    /// `cilium.io/v2` CiliumCIDRGroup.
    CiliumCIDRGroup,
    /// A kind that the agent does not read.
    Unread,
    /// A kind that an API group of policies does not have, or none at all.
    Unknown,
}

struct Known {
    groups: &'static [&'static str],
    kind: &'static str,
    read: Kind,
    namespaced: bool,
}

const CILIUM: &[&str] = &["cilium.io/v2"];
const CORE: &[&str] = &["v1"];

const KNOWN: &[Known] = &[
    Known {
        groups: CILIUM,
        kind: "CiliumNetworkPolicy",
        read: Kind::Policy(PolicyKind::CiliumNetworkPolicy),
        namespaced: true,
    },
    Known {
        groups: CILIUM,
        kind: "CiliumClusterwideNetworkPolicy",
        read: Kind::Policy(PolicyKind::CiliumClusterwideNetworkPolicy),
        namespaced: false,
    },
    Known {
        groups: &["networking.k8s.io/v1"],
        kind: "NetworkPolicy",
        read: Kind::Policy(PolicyKind::NetworkPolicy),
        namespaced: true,
    },
    Known {
        groups: &["policy.networking.k8s.io/v1alpha2"],
        kind: "ClusterNetworkPolicy",
        read: Kind::Policy(PolicyKind::ClusterNetworkPolicy),
        namespaced: false,
    },
    Known {
        groups: CORE,
        kind: "Pod",
        read: Kind::Pod,
        namespaced: true,
    },
    Known {
        groups: CORE,
        kind: "Node",
        read: Kind::Node,
        namespaced: false,
    },
    Known {
        groups: CORE,
        kind: "Namespace",
        read: Kind::Namespace,
        namespaced: false,
    },
    Known {
        groups: CORE,
        kind: "Service",
        read: Kind::Service,
        namespaced: true,
    },
    Known {
        groups: &["discovery.k8s.io/v1"],
        kind: "EndpointSlice",
        read: Kind::EndpointSlice,
        namespaced: true,
    },
    Known {
        groups: CILIUM,
        kind: "CiliumEndpoint",
        read: Kind::CiliumEndpoint,
        namespaced: true,
    },
    Known {
        groups: CILIUM,
        kind: "CiliumIdentity",
        read: Kind::CiliumIdentity,
        namespaced: false,
    },
    Known {
        groups: CILIUM,
        kind: "CiliumNode",
        read: Kind::CiliumNode,
        namespaced: false,
    },
    Known {
        groups: &["cilium.io/v2", "cilium.io/v2alpha1"],
        kind: "CiliumCIDRGroup",
        read: Kind::CiliumCIDRGroup,
        namespaced: false,
    },
];

/// Kinds of the groups of policies that the agent does not read: known, so no misspelling.
const UNREAD: &[&str] = &[
    "CiliumEndpointSlice",
    "CiliumEnvoyConfig",
    "CiliumClusterwideEnvoyConfig",
    "CiliumEgressGatewayPolicy",
    "CiliumLocalRedirectPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumL2AnnouncementPolicy",
    "CiliumPodIPPool",
    "CiliumNodeConfig",
    "CiliumGatewayClassConfig",
    "CiliumBGPAdvertisement",
    "CiliumBGPClusterConfig",
    "CiliumBGPNodeConfig",
    "CiliumBGPNodeConfigOverride",
    "CiliumBGPPeerConfig",
    "CiliumBGPPeeringPolicy",
    "CiliumExternalWorkload",
    "Ingress",
    "IngressClass",
    "IPAddress",
    "ServiceCIDR",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
];

/// What stands at the top of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `apiVersion`; empty when absent.
    pub api_version: String,
    /// The kind, as far as the agent tells kinds apart.
    pub kind: Kind,
    /// How the object is called. An object of a namespaced kind without a namespace is in `default`.
    pub object: ObjectId,
}

impl Header {
    /// Reads it.
    pub fn of(root: &Node) -> Self {
        let text = |name: &str| root.text_of(name).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let metadata = root.get("metadata");
        let of = |name: &str| {
            metadata
                .and_then(|metadata| metadata.text_of(name))
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let known = KNOWN
            .iter()
            .find(|known| known.kind == kind && known.groups.contains(&api_version.as_str()));
        let namespace = match known {
            Some(known) if !known.namespaced => String::new(),
            Some(_) => of("namespace").unwrap_or_else(|| "default".into()),
            None => of("namespace").unwrap_or_default(),
        };
        Self {
            kind: known.map_or_else(|| other(&api_version, &kind), |known| known.read),
            api_version,
            object: ObjectId {
                kind,
                namespace,
                name: of("name").unwrap_or_default(),
            },
        }
    }

    /// The namespace, None for objects of the cluster.
    pub(crate) fn namespace(&self) -> Option<&str> {
        Some(self.object.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }

    /// `metadata.uid`.
    pub(crate) fn uid(root: &Node) -> &str {
        root.get("metadata")
            .and_then(|metadata| metadata.text_of("uid"))
            .unwrap_or_default()
    }

    /// A kind of policies in an API group of policies, whether it is read or not.
    pub(crate) fn is_policy(&self) -> bool {
        self.object.kind.ends_with("Policy") && is_group_of_policies(&self.api_version)
    }

    /// The problem of a kind that is not known.
    pub(crate) fn unknown(&self) -> Problem {
        if self.object.kind.is_empty() {
            return Problem::Missing {
                meaning: "the kind of the object, such as CiliumNetworkPolicy".into(),
            };
        }
        let same = KNOWN.iter().find(|known| known.kind == self.object.kind);
        let meant = match same {
            Some(known) => Some(format!("{} of {:?}", known.kind, known.groups[0])),
            None => {
                nearest(&self.object.kind, KNOWN.iter().map(|known| known.kind)).map(str::to_owned)
            }
        };
        Problem::UnknownKind {
            kind: self.object.kind.clone(),
            api_version: self.api_version.clone(),
            nearest: meant,
            policies: KNOWN
                .iter()
                .filter(|known| matches!(known.read, Kind::Policy(_)))
                .map(|known| format!("{} ({})", known.kind, known.groups[0]))
                .collect(),
        }
    }
}

fn is_group_of_policies(api_version: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    ["cilium.io", "networking.k8s.io", "policy.networking.k8s.io"].contains(&group)
}

/// A kind that is not read: fine, unless it can only be a misspelling or another version of one that is.
fn other(api_version: &str, kind: &str) -> Kind {
    let misspelt = is_group_of_policies(api_version) && !UNREAD.contains(&kind);
    let no_group = kind.is_empty() || api_version.is_empty();
    if misspelt || no_group {
        Kind::Unknown
    } else {
        Kind::Unread
    }
}
