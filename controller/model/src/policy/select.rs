//! Whom a peer selects.

use std::sync::Arc;

use ipnet::IpNet;

use super::config::{Families, PolicyConfig};
use super::peer::{CidrGroupPeer, CidrPeer, Entity, FqdnPeer, Peer};
use crate::identity::{Identities, IdentityLabels, NumericIdentity};
use crate::label::{self, Label, LabelSource};

/// An identity that a selector may match: those that exist, and the aggregates.
///
/// An aggregate bears one label of its own, `reserved:aggregate-…`, and none of its members', so that a
/// selector by labels finds the members one by one; entities name the aggregates. (`NotIn` and
/// `DoesNotExist` hold for an aggregate where nothing else narrows the selector. So it is in Cilium 1.20.)
pub(crate) fn aggregates() -> impl Iterator<Item = (NumericIdentity, IdentityLabels)> {
    (NumericIdentity::AGGREGATE_CLUSTER.0..=NumericIdentity::AGGREGATE_REMOTE_NODE.0)
        .map(NumericIdentity)
        .filter_map(|id| {
            let label = Label::reserved(id.name()?);
            Some((id, std::iter::once(label).collect()))
        })
}

/// The identities that a peer selects, aggregates included, by number.
pub fn selection(
    peer: &Peer,
    identities: &Identities,
    config: &PolicyConfig,
) -> Vec<NumericIdentity> {
    let mut selected: Vec<NumericIdentity> = identities
        .iter()
        .filter(|(_, identity)| peer.selects(&identity.labels, config))
        .map(|(id, _)| id)
        .chain(
            aggregates()
                .filter(|(_, labels)| peer.selects(labels, config))
                .map(|(id, _)| id),
        )
        .collect();
    selected.sort_unstable();
    selected
}

impl Peer {
    /// Selects an identity with these labels. `Entity::All` selects every identity, also unknown ones.
    pub fn selects(&self, labels: &IdentityLabels, config: &PolicyConfig) -> bool {
        match self {
            Self::Endpoints(selector) => selector.matches(labels),
            Self::Nodes(selector) => selector.matches(labels),
            Self::Entity(entity) => entity.selects(labels, &config.cluster_name),
            Self::Cidr(peer) => peer.selects(labels, config.families),
            Self::CidrGroup(peer) => peer.selects(labels),
            Self::Fqdn(peer) => peer.selects(labels),
        }
    }
}

/// Built-in labels that belong to a cluster's nodes and to what is not a managed pod.
const OF_CLUSTER: [&str; 8] = [
    "host",
    "remote-node",
    "init",
    "ingress",
    "health",
    "unmanaged",
    "kube-apiserver",
    "aggregate-cluster",
];
const OF_CLUSTER_MESH: [&str; 9] = [
    "host",
    "remote-node",
    "init",
    "ingress",
    "health",
    "unmanaged",
    "kube-apiserver",
    "aggregate-cluster",
    "aggregate-cluster-mesh",
];

impl Entity {
    /// The built-in labels of which each is one of its own.
    pub(crate) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::All | Self::None => &[],
            Self::World => &["world", "world-ipv4", "world-ipv6", "aggregate-world"],
            Self::WorldIpv4 => &["world-ipv4"],
            Self::WorldIpv6 => &["world-ipv6"],
            Self::RemoteNode => &["remote-node", "aggregate-remote-node"],
            Self::Cluster => &OF_CLUSTER,
            Self::ClusterMesh => &OF_CLUSTER_MESH,
            Self::Host => &["host"],
            Self::KubeApiserver => &["kube-apiserver"],
            Self::Init => &["init"],
            Self::Health => &["health"],
            Self::Unmanaged => &["unmanaged"],
            Self::Ingress => &["ingress"],
        }
    }

    fn selects(self, labels: &IdentityLabels, cluster_name: &str) -> bool {
        let cluster = || labels.find(&LabelSource::K8s, label::POLICY_CLUSTER);
        let by_cluster = || match self {
            Self::All => true,
            Self::Cluster => cluster().is_some_and(|label| label.value() == cluster_name),
            Self::ClusterMesh => cluster().is_some(),
            _ => false,
        };
        self.labels().iter().any(|name| labels.has_reserved(name)) || by_cluster()
    }
}

impl CidrPeer {
    fn selects(&self, labels: &IdentityLabels, families: Families) -> bool {
        within(self.cidr(), labels, families)
            && !self
                .except()
                .iter()
                .any(|net| within(*net, labels, families))
    }
}

/// The identity's prefix lies within `net`. A prefix of length 0 is the world of its family, which also
/// holds identities without a prefix (those of names).
fn within(net: IpNet, labels: &IdentityLabels, families: Families) -> bool {
    if net.prefix_len() == 0 {
        return labels.has_reserved(world(net, families));
    }
    labels
        .iter()
        .filter_map(Label::prefix)
        .any(|prefix| net.contains(&prefix))
}

/// The built-in label of everything outside the cluster, for the family of `net`.
fn world(net: IpNet, families: Families) -> &'static str {
    match net {
        IpNet::V4(_) if families.ipv6 => "world-ipv4",
        IpNet::V6(_) if families.ipv4 => "world-ipv6",
        _ => "world",
    }
}

impl CidrGroupPeer {
    fn selects(&self, labels: &IdentityLabels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
            && !labels
                .iter()
                .filter_map(Label::prefix)
                .any(|prefix| self.except.iter().any(|net| net.contains(&prefix)))
    }
}

impl FqdnPeer {
    fn selects(&self, labels: &IdentityLabels) -> bool {
        let key: &Arc<str> = &self.0;
        labels
            .with_key(key)
            .iter()
            .any(|label| *label.source() == LabelSource::Fqdn)
    }
}
