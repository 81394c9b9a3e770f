//! Scopes: what makes a selector of what a person wrote.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{
    EndpointSelector, LabelSelector, NamespaceScope, NodeDomain, NodeSelector, Requirement,
    SelectorKey,
};
use crate::label;

/// Where a policy object stands: what its selectors may reach without saying so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    namespace: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
}

impl Scope {
    /// Of an object in a namespace. `cluster`: the local cluster's name, to which peers are restricted
    /// unless they name a cluster; `None` with `policy-default-local-cluster=false`.
    pub fn namespaced(namespace: &str, cluster: Option<&str>) -> Self {
        Self {
            namespace: Some(namespace.into()),
            cluster: cluster.map(Arc::from),
        }
    }

    /// Of a cluster-scoped object.
    pub fn clusterwide(cluster: Option<&str>) -> Self {
        Self {
            namespace: None,
            cluster: cluster.map(Arc::from),
        }
    }

    /// The subject of the object, `endpointSelector` or `podSelector`, and the scope of its peers.
    ///
    /// In a namespaced object the namespace is the object's. What `matchLabels` says of it is ignored;
    /// what `matchExpressions` says of it can only narrow.
    pub fn endpoints(&self, selector: &LabelSelector) -> (EndpointSelector, PeerScope) {
        let mut own = selector.clone();
        let namespace = match &self.namespace {
            None => NamespaceScope::Unrestricted,
            Some(namespace) => {
                own.labels.remove(&SelectorKey::k8s(label::POD_NAMESPACE));
                NamespaceScope::Namespace(namespace.clone())
            }
        };
        let subject = EndpointSelector {
            namespace,
            cluster: None,
            requirements: own.requirements().into_iter().collect(),
        };
        (subject, self.peers(selector.is_about_init()))
    }

    /// The subject of a ClusterNetworkPolicy: by the labels of the namespace (all pods of these:
    /// an empty `pods`) and of the pod.
    pub fn pods(
        &self,
        namespaces: &LabelSelector,
        pods: &LabelSelector,
    ) -> (EndpointSelector, PeerScope) {
        let subject = EndpointSelector {
            namespace: pods_of(namespaces),
            cluster: None,
            requirements: namespaces_and_pods(namespaces, pods).into_iter().collect(),
        };
        (subject, self.peers(false))
    }

    /// The nodes of `nodeSelector`, as the subject of a host policy, and the scope of its peers.
    pub fn nodes(&self, selector: &LabelSelector) -> (NodeSelector, PeerScope) {
        let subject = NodeSelector {
            domain: NodeDomain::Local,
            cluster: None,
            requirements: selector.requirements().into_iter().collect(),
        };
        (subject, self.peers(false))
    }

    fn peers(&self, subject_is_init: bool) -> PeerScope {
        PeerScope {
            scope: self.clone(),
            subject_is_init,
        }
    }
}

/// An empty namespace selector selects what is in a namespace. Any other stands as written: what has no
/// namespace has no labels of one either, and is selected by `NotIn` and `DoesNotExist` (as in Cilium 1.20).
fn pods_of(namespaces: &LabelSelector) -> NamespaceScope {
    if *namespaces == LabelSelector::default() {
        NamespaceScope::Pods
    } else {
        NamespaceScope::Unrestricted
    }
}

/// Requirements on a pod's namespace labels and its own labels. Keys are taken without a source.
fn namespaces_and_pods(namespaces: &LabelSelector, pods: &LabelSelector) -> BTreeSet<Requirement> {
    let of_namespace = namespaces.requirements().into_iter().map(|r| Requirement {
        key: SelectorKey::namespace_label(&r.key.key),
        operator: r.operator,
    });
    of_namespace.chain(pods.requirements()).collect()
}

/// Makes the peers of a rule whose subject is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerScope {
    scope: Scope,
    subject_is_init: bool,
}

impl PeerScope {
    /// An item of `fromEndpoints` or `toEndpoints`.
    ///
    /// A selector with a `reserved:` key stands as written. Otherwise: without a requirement on the pod
    /// namespace, a namespaced object's peers are in its namespace (unless they select by a namespace's
    /// labels) and a cluster-scoped object's are in some namespace (unless its subject is `reserved:init`);
    /// and without a requirement on the cluster they are in the local one.
    pub fn endpoints(&self, selector: &LabelSelector) -> EndpointSelector {
        let requirements = selector.requirements().into_iter().collect();
        if selector.has_reserved() {
            return EndpointSelector {
                namespace: NamespaceScope::Unrestricted,
                cluster: None,
                requirements,
            };
        }
        let namespace = match &self.scope.namespace {
            _ if selector.has_key(label::POD_NAMESPACE) => NamespaceScope::Unrestricted,
            None if self.subject_is_init => NamespaceScope::Unrestricted,
            None => NamespaceScope::Pods,
            Some(_) if selector.has_namespace_label() => NamespaceScope::Unrestricted,
            Some(namespace) => NamespaceScope::Namespace(namespace.clone()),
        };
        let cluster = self.cluster_unless_named(selector);
        EndpointSelector {
            namespace,
            cluster,
            requirements,
        }
    }

    /// A peer of a NetworkPolicy (`podSelector` with or without `namespaceSelector`) or `pods` of a
    /// ClusterNetworkPolicy. Without `namespaces`, those of the object's own namespace.
    pub fn pods(
        &self,
        namespaces: Option<&LabelSelector>,
        pods: &LabelSelector,
    ) -> EndpointSelector {
        let none = LabelSelector::default();
        let namespace = match (namespaces, &self.scope.namespace) {
            (None, Some(own)) => NamespaceScope::Namespace(own.clone()),
            (None, None) => NamespaceScope::Pods,
            (Some(namespaces), _) => pods_of(namespaces),
        };
        EndpointSelector {
            namespace,
            cluster: self.cluster_unless_named(pods),
            requirements: namespaces_and_pods(namespaces.unwrap_or(&none), pods)
                .into_iter()
                .collect(),
        }
    }

    /// `namespaces` of a ClusterNetworkPolicy: of every cluster, as in Cilium 1.20.
    pub fn namespaces(&self, namespaces: &LabelSelector) -> EndpointSelector {
        EndpointSelector {
            namespace: pods_of(namespaces),
            cluster: None,
            requirements: namespaces_and_pods(namespaces, &LabelSelector::default())
                .into_iter()
                .collect(),
        }
    }

    /// An endpoint selector in no scope at all: as written, of any namespace and cluster. For what an object
    /// means without saying it, like the DNS pods of `domainNames`.
    pub fn unscoped(&self, selector: &LabelSelector) -> EndpointSelector {
        EndpointSelector {
            namespace: NamespaceScope::Unrestricted,
            cluster: None,
            requirements: selector.requirements().into_iter().collect(),
        }
    }

    /// An item of `fromNodes` or `toNodes`, or `nodes` of a ClusterNetworkPolicy (with
    /// [`SelectorKey::node`] keys): other nodes, of the local cluster unless the selector names one.
    pub fn nodes(&self, selector: &LabelSelector) -> NodeSelector {
        NodeSelector {
            domain: NodeDomain::Remote,
            cluster: self.cluster_unless_named(selector),
            requirements: selector.requirements().into_iter().collect(),
        }
    }

    fn cluster_unless_named(&self, selector: &LabelSelector) -> Option<Arc<str>> {
        if selector.has_key(label::POLICY_CLUSTER) {
            return None;
        }
        self.scope.cluster.clone()
    }
}
