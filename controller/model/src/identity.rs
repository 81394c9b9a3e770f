//! Security identities: numbers, the labels that they stand for, and named ports.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::label::{Label, LabelSource};

/// Number of a security identity.
///
/// | range | meaning |
/// | --- | --- |
/// | 0 | unknown; in a policy table: any |
/// | 1…10 | reserved, with names |
/// | 11…14 | aggregates: in policy tables only, never on a packet |
/// | 15 | a pod's for which the ipcache has no room: on packets only |
/// | up to 2²⁴ | of a cluster; bits 16…23 are the cluster's id |
/// | from 2²⁴ | of this node: prefixes and names |
/// | from 2²⁵ | of this node: remote nodes |
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NumericIdentity(pub u32);

impl NumericIdentity {
    /// In a policy table: any identity.
    pub const ANY: Self = Self(0);
    /// The local node.
    pub const HOST: Self = Self(1);
    /// Outside the cluster, when only one address family is on.
    pub const WORLD: Self = Self(2);
    /// An endpoint that Oxilium does not manage.
    pub const UNMANAGED: Self = Self(3);
    /// The health endpoint of a node.
    pub const HEALTH: Self = Self(4);
    /// An endpoint whose labels are not known yet.
    pub const INIT: Self = Self(5);
    /// Another node.
    pub const REMOTE_NODE: Self = Self(6);
    /// The API server's backends.
    pub const KUBE_APISERVER: Self = Self(7);
    /// The ingress proxy.
    pub const INGRESS: Self = Self(8);
    /// Outside the cluster, IPv4.
    pub const WORLD_IPV4: Self = Self(9);
    /// Outside the cluster, IPv6.
    pub const WORLD_IPV6: Self = Self(10);
    /// Aggregate: the pods of this cluster.
    pub const AGGREGATE_CLUSTER: Self = Self(11);
    /// Aggregate: the pods of other clusters.
    pub const AGGREGATE_CLUSTER_MESH: Self = Self(12);
    /// Aggregate: identities of prefixes and names.
    pub const AGGREGATE_WORLD: Self = Self(13);
    /// Aggregate: identities of remote nodes.
    pub const AGGREGATE_REMOTE_NODE: Self = Self(14);

    /// A pod on another node for whose address the ipcache has no room: on a packet, never a pod's own.
    pub const UNRESOLVED: Self = Self(oxilium_abi::IDENTITY_UNRESOLVED);

    /// First identity of a prefix or name.
    pub const FIRST_CIDR: u32 = 1 << 24;
    /// First identity of a remote node.
    pub const FIRST_REMOTE_NODE: u32 = 1 << 25;
    /// Identities below are built in; their aggregate is [`Self::ANY`].
    pub const FIRST_WITH_AGGREGATE: u32 = 100;
    /// First identity that is allocated to labels of pods.
    pub const FIRST_CLUSTER: u32 = 256;

    /// Names of the identities 0…15.
    const NAMES: [&str; 16] = [
        "unknown",
        "host",
        "world",
        "unmanaged",
        "health",
        "init",
        "remote-node",
        "kube-apiserver",
        "ingress",
        "world-ipv4",
        "world-ipv6",
        "aggregate-cluster",
        "aggregate-cluster-mesh",
        "aggregate-world",
        "aggregate-remote-node",
        "unresolved",
    ];

    /// The name of a reserved identity or aggregate.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get(self.0 as usize).copied()
    }

    /// The identity of that name; not the aggregates, `unknown` and `unresolved`.
    pub fn from_name(name: &str) -> Option<Self> {
        (1..=10).map(Self).find(|id| id.name() == Some(name))
    }

    /// 11…14: an identity of policy tables only.
    pub const fn is_aggregate(self) -> bool {
        self.0 >= Self::AGGREGATE_CLUSTER.0 && self.0 <= Self::AGGREGATE_REMOTE_NODE.0
    }

    /// The identity of a prefix or name, given by this node.
    pub const fn is_cidr(self) -> bool {
        self.0 >> 24 == 1
    }

    /// The identity of one remote node, given by this node.
    pub const fn is_remote_node(self) -> bool {
        self.0 >> 24 == 2
    }

    /// Id of the cluster that the identity was given by; 0 for the reserved ones and a cluster without id.
    /// None for identities of this node.
    pub const fn cluster_id(self) -> Option<u8> {
        let [above, cluster, ..] = self.0.to_be_bytes();
        if above == 0 { Some(cluster) } else { None }
    }

    /// Under which aggregate a policy table may speak of this identity (Cilium 1.20's scopes).
    /// Identities below 100 have none of their own: [`Self::ANY`].
    #[must_use]
    pub const fn aggregate(self, local_cluster: u8) -> Self {
        if self.is_aggregate() {
            return self;
        }
        if self.0 < Self::FIRST_WITH_AGGREGATE {
            return Self::ANY;
        }
        match self.cluster_id() {
            Some(cluster) if cluster == local_cluster => Self::AGGREGATE_CLUSTER,
            None if self.is_remote_node() => Self::AGGREGATE_REMOTE_NODE,
            None if self.is_cidr() => Self::AGGREGATE_WORLD,
            Some(_) | None => Self::AGGREGATE_CLUSTER_MESH,
        }
    }
}

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) if self.0 != 0 => f.write_str(name),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// The labels of an identity: a set, sorted by key, then source and value. They are compared and looked up for every
/// pod of a cluster, so their hash is made once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<Label>", into = "Vec<Label>")]
pub struct IdentityLabels {
    labels: Arc<[Label]>,
    hash: u64,
}

impl IdentityLabels {
    fn of_set(labels: Arc<[Label]>) -> Self {
        let mut hasher = SipHasher24::new();
        labels.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            labels,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.labels, &other.labels)
    }

    /// How many hold this allocation.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.labels)
    }

    /// All labels, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.labels.iter()
    }

    /// The labels of that key, from every source.
    pub fn with_key<'a>(&'a self, key: &str) -> &'a [Label] {
        let start = self.labels.partition_point(|label| label.key() < key);
        let rest = &self.labels[start..];
        // Seldom more than one: no second search.
        let len = rest.iter().take_while(|label| label.key() == key).count();
        &rest[..len]
    }

    /// The label of that source and key.
    pub fn find(&self, source: &LabelSource, key: &str) -> Option<&Label> {
        self.with_key(key)
            .iter()
            .find(|label| label.source() == source)
    }

    /// Holds `reserved:NAME`.
    pub fn has_reserved(&self, name: &str) -> bool {
        self.find(&LabelSource::Reserved, name).is_some()
    }
}

impl FromIterator<Label> for IdentityLabels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut sorted: Vec<Label> = labels.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self::of_set(sorted.into())
    }
}

impl Default for IdentityLabels {
    fn default() -> Self {
        Self::of_set(Arc::default())
    }
}

impl PartialEq for IdentityLabels {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.hash == other.hash && self.labels == other.labels
    }
}

impl Eq for IdentityLabels {}

impl PartialOrd for IdentityLabels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for IdentityLabels {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.is_same(other) {
            return Ordering::Equal;
        }
        self.labels.cmp(&other.labels)
    }
}

impl Hash for IdentityLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl From<Vec<Label>> for IdentityLabels {
    fn from(labels: Vec<Label>) -> Self {
        labels.into_iter().collect()
    }
}

impl From<IdentityLabels> for Vec<Label> {
    fn from(labels: IdentityLabels) -> Self {
        labels.labels.to_vec()
    }
}

impl<'a> IntoIterator for &'a IdentityLabels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.labels.iter()
    }
}

/// IP protocol number, as in the IP header. [`Protocol::ANY`] in a policy entry means every protocol.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Every protocol; its entries have no port.
    pub const ANY: Self = Self(0);
    /// ICMP for IPv4; the "port" of its entries is the type.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMPv6; the "port" of its entries is the type.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// What `ANY` with a port means: the protocols that have ports.
    pub const WITH_PORTS: [Self; 3] = [Self::TCP, Self::UDP, Self::SCTP];

    const NAMES: [(Self, &str); 10] = [
        (Self::ANY, "ANY"),
        (Self::TCP, "TCP"),
        (Self::UDP, "UDP"),
        (Self::SCTP, "SCTP"),
        (Self::ICMP, "ICMP"),
        (Self::ICMPV6, "ICMPv6"),
        (Self(2), "IGMP"),
        (Self(47), "GRE"),
        (Self(50), "ESP"),
        (Self(112), "VRRP"),
    ];

    /// The protocol of that name, in any case of letters: the names that policies may use.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(protocol, _)| *protocol)
    }

    /// ICMP or ICMPv6.
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Named ports of an endpoint, or of all endpoints of one identity (which may differ: hence sets).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "PortsByName", into = "PortsByName")]
pub struct NamedPorts(Option<Arc<PortsByName>>);

type PortsByName = BTreeMap<Arc<str>, BTreeSet<(Protocol, u16)>>;

impl From<PortsByName> for NamedPorts {
    fn from(ports: PortsByName) -> Self {
        Self((!ports.is_empty()).then(|| Arc::new(ports)))
    }
}

impl From<NamedPorts> for PortsByName {
    fn from(ports: NamedPorts) -> Self {
        ports.0.as_deref().cloned().unwrap_or_default()
    }
}

impl NamedPorts {
    fn by_name(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<(Protocol, u16)>)> {
        self.0.iter().flat_map(|ports| ports.iter())
    }

    fn change(&mut self) -> &mut PortsByName {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// How many hold this allocation; none if there is none.
    pub fn holders(&self) -> usize {
        self.0.as_ref().map_or(0, Arc::strong_count)
    }

    /// Adds a port. Names compare without regard to case: they are kept in lower case.
    pub fn insert(&mut self, name: &str, protocol: Protocol, port: u16) {
        self.change()
            .entry(name.to_ascii_lowercase().into())
            .or_default()
            .insert((protocol, port));
    }

    /// The port numbers that `name` has for a protocol; [`Protocol::ANY`] asks for those of TCP, UDP and SCTP.
    pub fn resolve(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = (Protocol, u16)> {
        self.0
            .iter()
            .filter_map(|ports| ports.get(name))
            .flatten()
            .copied()
            .filter(move |(p, _)| *p == protocol || protocol == Protocol::ANY)
    }

    /// Adds those of another endpoint of the same identity.
    pub fn merge(&mut self, other: &Self) {
        if self == other || other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        for (name, ports) in other.by_name() {
            let known = self.0.as_ref().and_then(|known| known.get(name));
            if known.is_none_or(|known| !known.is_superset(ports)) {
                self.change().entry(name.clone()).or_default().extend(ports);
            }
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Name, protocol and number of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Protocol, u16)> {
        self.by_name().flat_map(|(name, ports)| {
            ports
                .iter()
                .map(move |(protocol, port)| (&**name, *protocol, *port))
        })
    }
}

/// What the resolver knows of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its labels.
    pub labels: IdentityLabels,
    /// The named ports of its endpoints, for named ports of egress rules.
    pub named_ports: NamedPorts,
}

/// All identities that a policy may speak of, by number: an input of the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities(BTreeMap<NumericIdentity, Identity>);

impl Default for Identities {
    /// The reserved identities 1…10, each with its label `reserved:NAME`; kube-apiserver is a remote node too.
    fn default() -> Self {
        let mut all = BTreeMap::new();
        for id in (1..=10).map(NumericIdentity) {
            let name = id.name().unwrap_or_default();
            let mut labels = vec![Label::reserved(name)];
            if id == NumericIdentity::KUBE_APISERVER {
                labels.push(Label::reserved("remote-node"));
            }
            all.insert(
                id,
                Identity {
                    labels: labels.into(),
                    named_ports: NamedPorts::default(),
                },
            );
        }
        Self(all)
    }
}

impl Identities {
    /// Adds an identity or replaces it (the host's labels are those of its node, for example).
    pub fn insert(&mut self, id: NumericIdentity, identity: Identity) -> Option<Identity> {
        self.0.insert(id, identity)
    }

    /// Takes an identity away.
    pub fn remove(&mut self, id: NumericIdentity) -> Option<Identity> {
        self.0.remove(&id)
    }

    /// One identity.
    pub fn get(&self, id: NumericIdentity) -> Option<&Identity> {
        self.0.get(&id)
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = (NumericIdentity, &Identity)> {
        self.0.iter().map(|(id, identity)| (*id, identity))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never in practice: the reserved ones are always there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_the_aggregate_of_its_kind() {
        let cases = [
            (0, 0),
            (1, 0),
            (10, 0),
            (11, 11),
            (14, 14),
            (99, 0),
            (100, 11),
            (65535, 11),
            (131_149, 12),
            (16_777_217, 13),
            (33_554_433, 14),
        ];
        for (identity, aggregate) in cases {
            assert_eq!(
                NumericIdentity(identity).aggregate(0).0,
                aggregate,
                "{identity}"
            );
        }
        // In cluster 2, its own identities are those of 2.
        assert_eq!(NumericIdentity(131_149).aggregate(2).0, 11);
        assert_eq!(NumericIdentity(10_001).aggregate(2).0, 12);
    }

    #[test]
    fn names_of_ports_compare_without_regard_to_case_and_by_protocol() {
        let mut ports = NamedPorts::default();
        ports.insert("HTTP", Protocol::TCP, 80);
        ports.insert("http", Protocol::UDP, 443);
        let found = |protocol| ports.resolve("http", protocol).collect::<Vec<_>>();
        assert_eq!(found(Protocol::TCP), [(Protocol::TCP, 80)]);
        assert_eq!(found(Protocol::SCTP), []);
        assert_eq!(found(Protocol::ANY).len(), 2);
    }

    #[test]
    fn labels_of_one_key_are_found_whatever_their_source() {
        let labels: IdentityLabels = ["k8s:host=a", "reserved:host", "k8s:hos=b", "k8s:hosts=c"]
            .into_iter()
            .map(|text| Label::parse(text).unwrap())
            .collect();
        assert_eq!(labels.with_key("host").len(), 2);
        assert!(labels.has_reserved("host") && !labels.has_reserved("hosts"));
        assert_eq!(
            labels.find(&LabelSource::K8s, "host").map(Label::value),
            Some("a")
        );
    }
}
