//! Selectors of endpoints and of nodes.
//!
//! A [`LabelSelector`] is what a person wrote. It selects nothing by itself: a [`Scope`] (the namespace and
//! cluster of the policy object) turns it into an [`EndpointSelector`] or a [`NodeSelector`]. The namespace
//! is a field of the result that is tested beside the requirements, so no requirement can widen it; and
//! what selects nodes is another type than what selects endpoints, so that neither reaches the other's
//! domain because labels happen to be the same.

mod scope;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::identity::IdentityLabels;
use crate::label::{self, Label, LabelSource};

pub use scope::{PeerScope, Scope};

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
