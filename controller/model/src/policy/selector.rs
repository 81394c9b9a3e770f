//! Selectors of endpoints and of nodes.
//!
//! A [`LabelSelector`] is what a person wrote. It selects nothing by itself: a [`Scope`] (the namespace and
//! cluster of the policy object) turns it into an [`EndpointSelector`] or a [`NodeSelector`]. The namespace
//! is a field of the result that is tested beside the requirements, so no requirement can widen it; and
//! what selects nodes is another type than what selects endpoints, so that neither reaches the other's
//! domain because labels happen to be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::identity::IdentityLabels;
use crate::label::{self, Label, LabelSource};

/// Key of a requirement: a label key and, unless any source will do, the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorKey {
    /// `None`: labels of any source.
    pub source: Option<LabelSource>,
    /// The key without the source.
    pub key: Arc<str>,
}

impl SelectorKey {
    /// Reads a key of a Cilium selector: `app`, `any:app`, `k8s:app`, `reserved:host`…
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            None => Self::any(text),
            Some(("any", key)) => Self::any(key),
            Some((source, key)) => Self {
                source: Some(LabelSource::from_name(source)),
                key: key.into(),
            },
        }
    }

    /// The key in labels of any source.
    pub fn any(key: &str) -> Self {
        Self {
            source: None,
            key: key.into(),
        }
    }

    /// The key in labels of Kubernetes: keys of NetworkPolicy and ClusterNetworkPolicy, which know no sources.
    pub fn k8s(key: &str) -> Self {
        Self {
            source: Some(LabelSource::K8s),
            key: key.into(),
        }
    }

    /// A key of a namespace's labels, on the pods in it.
    pub fn namespace_label(key: &str) -> Self {
        Self::k8s(&format!("{}{key}", label::NAMESPACE_LABELS))
    }

    /// The key in labels of remote nodes: `nodes` of a ClusterNetworkPolicy.
    pub fn node(key: &str) -> Self {
        Self {
            source: Some(LabelSource::Node),
            key: key.into(),
        }
    }

    /// A built-in label.
    pub fn reserved(name: &str) -> Self {
        Self {
            source: Some(LabelSource::Reserved),
            key: name.into(),
        }
    }

    /// It can be a key of Kubernetes labels.
    fn is_k8s(&self) -> bool {
        matches!(self.source, None | Some(LabelSource::K8s))
    }

    /// The label that answers for this key: the first by source when several do.
    ///
    /// A `cidr:` key is answered by every `cidr:` label whose prefix lies within it.
    pub fn find<'a>(&self, labels: &'a IdentityLabels) -> Option<&'a Label> {
        if self.source == Some(LabelSource::Cidr) {
            let wide = label::parse_cidr_key(&self.key)?;
            return labels
                .iter()
                .find(|label| label.prefix().is_some_and(|narrow| wide.contains(&narrow)));
        }
        match &self.source {
            None => labels.with_key(&self.key).first(),
            Some(source) => labels.find(source, &self.key),
        }
    }
}

impl fmt::Display for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => f.write_str(&self.key),
            Some(source) => write!(f, "{}:{}", source.name(), self.key),
        }
    }
}

/// Values of a requirement: sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Values(Box<[Arc<str>]>);

impl Values {
    /// `value` is one of them.
    pub fn contains(&self, value: &str) -> bool {
        self.0.binary_search_by(|own| (**own).cmp(value)).is_ok()
    }

    /// All, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<str>> {
        self.0.iter()
    }
}

impl From<BTreeSet<Arc<str>>> for Values {
    fn from(values: BTreeSet<Arc<str>>) -> Self {
        Self(values.into_iter().collect())
    }
}

impl FromIterator<Arc<str>> for Values {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(values: I) -> Self {
        values.into_iter().collect::<BTreeSet<_>>().into()
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a Arc<str>;
    type IntoIter = std::slice::Iter<'a, Arc<str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// What a requirement asks of the label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// It is there, with one of these values.
    In(Values),
    /// It is absent, or has none of these values.
    NotIn(Values),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

/// One condition on an identity's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Which label.
    pub key: SelectorKey,
    /// What of it.
    pub operator: Operator,
}

impl Requirement {
    /// `key` has `value`.
    pub fn is(key: SelectorKey, value: &str) -> Self {
        Self {
            key,
            operator: Operator::In(Values(Box::new([Arc::from(value)]))),
        }
    }

    /// `key` is there.
    pub fn exists(key: SelectorKey) -> Self {
        Self {
            key,
            operator: Operator::Exists,
        }
    }

    /// Holds for these labels.
    pub fn matches(&self, labels: &IdentityLabels) -> bool {
        let found = self.key.find(labels);
        match &self.operator {
            Operator::In(values) => found.is_some_and(|label| values.contains(label.value())),
            Operator::NotIn(values) => !found.is_some_and(|label| values.contains(label.value())),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
        }
    }
}

/// A label selector as written: `matchLabels` and `matchExpressions`. Empty selects all that its scope holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// `matchLabels`.
    pub labels: BTreeMap<SelectorKey, Arc<str>>,
    /// `matchExpressions`.
    pub expressions: Vec<Requirement>,
}

impl LabelSelector {
    fn keys(&self) -> impl Iterator<Item = &SelectorKey> {
        self.labels
            .keys()
            .chain(self.expressions.iter().map(|requirement| &requirement.key))
    }

    fn has_key(&self, key: &str) -> bool {
        self.keys().any(|k| k.is_k8s() && &*k.key == key)
    }

    fn has_namespace_label(&self) -> bool {
        self.keys()
            .any(|k| k.is_k8s() && k.key.starts_with(label::NAMESPACE_LABELS))
    }

    fn has_reserved(&self) -> bool {
        self.keys().any(|k| k.source == Some(LabelSource::Reserved))
    }

    /// Mentions `reserved:init`.
    fn is_about_init(&self) -> bool {
        self.keys().any(|k| *k == SelectorKey::reserved("init"))
    }

    /// All requirements, sorted.
    fn requirements(&self) -> BTreeSet<Requirement> {
        self.labels
            .iter()
            .map(|(key, value)| Requirement::is(key.clone(), value))
            .chain(self.expressions.iter().cloned())
            .collect()
    }
}

/// In which namespaces an endpoint selector looks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    /// Not restricted: the selector speaks of namespaces or of reserved labels itself.
    Unrestricted,
    /// Any, but the endpoint must be in one: pods only.
    Pods,
    /// This one.
    Namespace(Arc<str>),
}

impl NamespaceScope {
    fn matches(&self, labels: &IdentityLabels) -> bool {
        let found = || labels.find(&LabelSource::K8s, label::POD_NAMESPACE);
        match self {
            Self::Unrestricted => true,
            Self::Pods => found().is_some(),
            Self::Namespace(name) => found().is_some_and(|label| label.value() == &**name),
        }
    }
}

/// Selects identities by their labels, within namespaces and a cluster.
///
/// Made by a [`Scope`] or [`PeerScope`] only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointSelector {
    namespace: NamespaceScope,
    cluster: Option<Arc<str>>,
    requirements: Arc<[Requirement]>,
}

impl EndpointSelector {
    /// Selects an identity with these labels.
    pub fn matches(&self, labels: &IdentityLabels) -> bool {
        self.namespace.matches(labels)
            && self
                .cluster
                .as_ref()
                .is_none_or(|name| in_cluster(labels, name))
            && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Where it looks.
    pub fn namespace(&self) -> &NamespaceScope {
        &self.namespace
    }

    /// The cluster that it is restricted to.
    pub fn cluster(&self) -> Option<&Arc<str>> {
        self.cluster.as_ref()
    }

    /// What it asks beyond namespace and cluster.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

fn in_cluster(labels: &IdentityLabels, name: &str) -> bool {
    labels
        .find(&LabelSource::K8s, label::POLICY_CLUSTER)
        .is_some_and(|label| label.value() == name)
}

/// Which nodes a [`NodeSelector`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeDomain {
    /// The local node, as the subject of a host policy.
    Local,
    /// The others, as peers.
    Remote,
}

impl NodeDomain {
    fn matches(self, labels: &IdentityLabels) -> bool {
        match self {
            Self::Local => labels.has_reserved("host"),
            Self::Remote => labels.has_reserved("remote-node"),
        }
    }
}

/// Selects nodes by their labels. Never matches a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSelector {
    domain: NodeDomain,
    cluster: Option<Arc<str>>,
    requirements: Arc<[Requirement]>,
}

impl NodeSelector {
    /// Selects a node whose identity has these labels; an identity that is no node's is never selected.
    pub fn matches(&self, labels: &IdentityLabels) -> bool {
        self.domain.matches(labels)
            && self
                .cluster
                .as_ref()
                .is_none_or(|name| in_cluster(labels, name))
            && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Which nodes it looks at.
    pub fn domain(&self) -> NodeDomain {
        self.domain
    }

    /// The cluster that it is restricted to.
    pub fn cluster(&self) -> Option<&Arc<str>> {
        self.cluster.as_ref()
    }

    /// What it asks beyond the cluster.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

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
