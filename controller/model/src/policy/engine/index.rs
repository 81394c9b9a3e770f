//! Finding what a set of labels can match without asking everything.
//!
//! Whatever matches a selector bears one of a few labels: its *anchors*. Selectors are filed under theirs and
//! identities under their labels, so that each finds the other's candidates with a few hash lookups.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::identity::IdentityLabels;
use crate::label::{self, LabelSource};
use crate::policy::config::PolicyConfig;
use crate::policy::peer::{CidrGroupPeer, Entity, Peer};
use crate::policy::rule::Subject;
use crate::policy::selector::{
    EndpointSelector, NamespaceScope, NodeDomain, NodeSelector, Operator, Requirement,
};

/// Something that labels have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Anchor {
    /// A label of this key and value, of any source.
    Pair(Arc<str>, Arc<str>),
    /// A label of this key, of any source.
    Key(Arc<str>),
    /// A prefix.
    Prefix,
    /// Nothing: all have it.
    Nothing,
}

/// One of these is had by whatever matches.
pub(super) type Anchors = Vec<Anchor>;

/// Things filed under anchors; each list is sorted.
#[derive(Debug)]
pub(super) struct AnchorIndex<T> {
    keys: HashMap<Arc<str>, Bucket<T>>,
    prefixes: Vec<T>,
    rest: Vec<T>,
}

#[derive(Debug)]
struct Bucket<T> {
    all: Vec<T>,
    values: HashMap<Arc<str>, Vec<T>>,
}

impl<T> Default for AnchorIndex<T> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            prefixes: Vec::new(),
            rest: Vec::new(),
        }
    }
}

fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(place) = list.binary_search(&item) {
        list.insert(place, item);
    }
}

fn remove<T: Ord>(list: &mut Vec<T>, item: &T) {
    if let Ok(place) = list.binary_search(item) {
        list.remove(place);
    }
}

impl<T: Copy + Ord> AnchorIndex<T> {
    /// Files under the anchors of a selector.
    pub(super) fn insert(&mut self, anchors: &[Anchor], item: T) {
        for anchor in anchors {
            match anchor {
                Anchor::Pair(key, value) => {
                    let bucket = self.bucket(key);
                    insert(bucket.values.entry(value.clone()).or_default(), item);
                }
                Anchor::Key(key) => insert(&mut self.bucket(key).all, item),
                Anchor::Prefix => insert(&mut self.prefixes, item),
                Anchor::Nothing => insert(&mut self.rest, item),
            }
        }
    }

    fn bucket(&mut self, key: &Arc<str>) -> &mut Bucket<T> {
        self.keys.entry(key.clone()).or_insert_with(|| Bucket {
            all: Vec::new(),
            values: HashMap::new(),
        })
    }

    /// Takes out what was filed under the anchors of a selector.
    pub(super) fn remove(&mut self, anchors: &[Anchor], item: T) {
        for anchor in anchors {
            match anchor {
                Anchor::Prefix => remove(&mut self.prefixes, &item),
                Anchor::Nothing => remove(&mut self.rest, &item),
                Anchor::Pair(key, _) | Anchor::Key(key) => {
                    let Entry::Occupied(mut place) = self.keys.entry(key.clone()) else {
                        continue;
                    };
                    let bucket = place.get_mut();
                    if let Anchor::Pair(_, value) = anchor {
                        if let Some(list) = bucket.values.get_mut(value) {
                            remove(list, &item);
                            if list.is_empty() {
                                bucket.values.remove(value);
                            }
                        }
                    } else {
                        remove(&mut bucket.all, &item);
                    }
                    if bucket.all.is_empty() && bucket.values.is_empty() {
                        place.remove();
                    }
                }
            }
        }
    }

    /// Things filed under an anchor.
    fn list(&self, anchor: &Anchor) -> &[T] {
        let bucket = |key: &Arc<str>| self.keys.get(key);
        let list = match anchor {
            Anchor::Pair(key, value) => bucket(key).and_then(|bucket| bucket.values.get(value)),
            Anchor::Key(key) => bucket(key).map(|bucket| &bucket.all),
            Anchor::Prefix => Some(&self.prefixes),
            Anchor::Nothing => Some(&self.rest),
        };
        list.map_or(&[], Vec::as_slice)
    }

    /// How many things are filed under these anchors.
    pub(super) fn count(&self, anchors: &[Anchor]) -> usize {
        anchors.iter().map(|anchor| self.list(anchor).len()).sum()
    }

    /// Keeps those of `items` that are filed under one of these anchors.
    pub(super) fn keep(&self, items: &mut Vec<T>, anchors: &[Anchor]) {
        let lists: Vec<&[T]> = anchors.iter().map(|anchor| self.list(anchor)).collect();
        items.retain(|item| lists.iter().any(|list| list.binary_search(item).is_ok()));
    }

    /// Things filed under these anchors, sorted.
    pub(super) fn under(&self, anchors: &[Anchor]) -> Vec<T> {
        let mut found: Vec<T> = anchors
            .iter()
            .flat_map(|anchor| self.list(anchor))
            .copied()
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Selectors that could match these labels. May repeat.
    pub(super) fn candidates<'a>(
        &'a self,
        labels: &'a IdentityLabels,
    ) -> impl Iterator<Item = T> + 'a {
        let by_label = labels.iter().flat_map(|label| {
            let bucket = self.keys.get(label.key());
            let all = bucket.map_or(&[][..], |bucket| bucket.all.as_slice());
            let value = bucket.and_then(|bucket| bucket.values.get(label.value()));
            let prefixes = if *label.source() == LabelSource::Cidr {
                self.prefixes.as_slice()
            } else {
                &[]
            };
            all.iter()
                .chain(value.map_or(&[][..], Vec::as_slice))
                .chain(prefixes)
        });
        by_label.chain(&self.rest).copied()
    }
}

/// The anchors under which labels are filed: everything that a selector's anchor may be.
pub(super) fn of_labels(labels: &IdentityLabels) -> Anchors {
    let mut anchors = vec![Anchor::Nothing];
    for label in labels {
        anchors.push(Anchor::Key(label.shared_key().clone()));
        anchors.push(Anchor::Pair(
            label.shared_key().clone(),
            label.shared_value().clone(),
        ));
        if *label.source() == LabelSource::Cidr {
            anchors.push(Anchor::Prefix);
        }
    }
    anchors
}

/// The choices of anchors that a peer has: any one of them will do.
pub(super) fn of_peer(peer: &Peer, config: &PolicyConfig) -> Vec<Anchors> {
    let choices = match peer {
        Peer::Endpoints(selector) => of_endpoints(selector),
        Peer::Nodes(selector) => of_nodes(selector),
        Peer::Entity(entity) => vec![of_entity(*entity, config)],
        Peer::Cidr(peer) if peer.cidr().prefix_len() == 0 => {
            vec![keys(&["world", "world-ipv4", "world-ipv6"])]
        }
        Peer::Cidr(_) => vec![vec![Anchor::Prefix]],
        Peer::CidrGroup(CidrGroupPeer { requirements, .. }) => of_requirements(requirements),
        Peer::Fqdn(peer) => vec![vec![Anchor::Key(peer.0.clone())]],
    };
    or_nothing(choices)
}

/// The choices of anchors that a subject has.
pub(super) fn of_subject(subject: &Subject) -> Vec<Anchors> {
    or_nothing(match subject {
        Subject::Endpoints(selector) => of_endpoints(selector),
        Subject::Nodes(selector) => of_nodes(selector),
    })
}

fn or_nothing(choices: Vec<Anchors>) -> Vec<Anchors> {
    if choices.is_empty() {
        return vec![vec![Anchor::Nothing]];
    }
    choices
}

fn keys(names: &[&str]) -> Anchors {
    names
        .iter()
        .map(|name| Anchor::Key(Arc::from(*name)))
        .collect()
}

fn of_requirements<'a>(requirements: impl IntoIterator<Item = &'a Requirement>) -> Vec<Anchors> {
    requirements
        .into_iter()
        .filter(|requirement| requirement.key.source != Some(LabelSource::Cidr))
        .filter_map(|Requirement { key, operator }| match operator {
            Operator::In(values) => Some(
                values
                    .iter()
                    .map(|value| Anchor::Pair(key.key.clone(), value.clone()))
                    .collect(),
            ),
            Operator::Exists => Some(vec![Anchor::Key(key.key.clone())]),
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        })
        .collect()
}

fn of_endpoints(selector: &EndpointSelector) -> Vec<Anchors> {
    let mut choices = of_requirements(selector.requirements());
    match selector.namespace() {
        NamespaceScope::Unrestricted => {}
        NamespaceScope::Pods => choices.push(keys(&[label::POD_NAMESPACE])),
        NamespaceScope::Namespace(name) => choices.push(vec![Anchor::Pair(
            label::POD_NAMESPACE.into(),
            name.clone(),
        )]),
    }
    choices.extend(selector.cluster().map(of_cluster));
    choices
}

fn of_cluster(name: &Arc<str>) -> Anchors {
    vec![Anchor::Pair(label::POLICY_CLUSTER.into(), name.clone())]
}

fn of_nodes(selector: &NodeSelector) -> Vec<Anchors> {
    let mut choices = of_requirements(selector.requirements());
    choices.push(match selector.domain() {
        NodeDomain::Local => keys(&["host"]),
        NodeDomain::Remote => keys(&["remote-node"]),
    });
    choices.extend(selector.cluster().map(of_cluster));
    choices
}

fn of_entity(entity: Entity, config: &PolicyConfig) -> Anchors {
    let mut anchors = keys(entity.labels());
    match entity {
        Entity::All => anchors.push(Anchor::Nothing),
        Entity::Cluster => anchors.extend(of_cluster(&config.cluster_name)),
        Entity::ClusterMesh => anchors.extend(keys(&[label::POLICY_CLUSTER])),
        _ => {}
    }
    anchors
}
