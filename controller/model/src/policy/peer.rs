//! The other side of a rule: whom it allows or denies.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::selector::{EndpointSelector, NodeSelector, Requirement};

/// All peers of a rule. Absent, empty and a list are three different things, and each has a variant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    /// Everyone, known or not. A Cilium rule with `toPorts` or `icmps` and no peer field; `from`/`to` absent
    /// or `[]` in a NetworkPolicy; a ClusterNetworkPolicy rule without peers where the API allows that.
    Anyone,
    /// Nobody: the rule selects nothing, and all that it does is to switch default deny on.
    /// A Cilium rule `{}`; a peer field that is there and empty (`fromEndpoints: []`), whatever ports.
    Nobody,
    /// Whoever one of these selects; several fields of one rule (`fromCIDR`, `fromCIDRSet`…) are one list.
    AnyOf(Vec<Peer>),
}

impl Peers {
    /// From a list that was resolved: an empty list is nobody, never everyone.
    pub fn from_list(peers: Vec<Peer>) -> Self {
        if peers.is_empty() {
            return Self::Nobody;
        }
        Self::AnyOf(peers)
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// `fromEndpoints`, `toEndpoints`, pod and namespace selectors.
    Endpoints(EndpointSelector),
    /// `fromNodes`, `toNodes`.
    Nodes(NodeSelector),
    /// `fromEntities`, `toEntities`.
    Entity(Entity),
    /// `fromCIDR`, `fromCIDRSet`, `ipBlock`, `networks`: identities of prefixes within it.
    Cidr(CidrPeer),
    /// `cidrGroupRef`, `cidrGroupSelector`: identities of prefixes of the group.
    CidrGroup(CidrGroupPeer),
    /// `toFQDNs`, `domainNames`: identities that DNS answers for this name or pattern led to.
    Fqdn(FqdnPeer),
}

/// A prefix without some prefixes within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrPeer {
    cidr: IpNet,
    except: Vec<IpNet>,
}

impl CidrPeer {
    /// Host bits are masked.
    pub fn new(cidr: IpNet, except: impl IntoIterator<Item = IpNet>) -> Self {
        let mut except: Vec<IpNet> = except.into_iter().map(|net| net.trunc()).collect();
        except.sort_unstable();
        except.dedup();
        Self {
            cidr: cidr.trunc(),
            except,
        }
    }

    /// The prefix.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// What is taken out of it.
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }
}

/// The prefixes of CIDR groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrGroupPeer {
    /// Requirements on `cidrgroup:` labels ([`CidrGroupPeer::named`], or `cidrGroupSelector` with
    /// [`SelectorKey::source`](super::selector::SelectorKey) `CidrGroup` on each key).
    pub requirements: Vec<Requirement>,
    /// What is taken out.
    pub except: Vec<IpNet>,
}

impl CidrGroupPeer {
    /// `cidrGroupRef`.
    pub fn named(name: &str, except: impl IntoIterator<Item = IpNet>) -> Self {
        let key = super::selector::SelectorKey {
            source: Some(crate::label::LabelSource::CidrGroup),
            key: format!("{}{name}", crate::label::CIDR_GROUP_NAME).into(),
        };
        Self {
            requirements: vec![Requirement::exists(key)],
            except: except.into_iter().map(|net| net.trunc()).collect(),
        }
    }
}

/// A name or pattern of `toFQDNs`, exactly as the policy writes it: the identity's `fqdn:` label is compared literally.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FqdnPeer(pub Arc<str>);

/// `fromEntities` and `toEntities`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// Everyone.
    All,
    /// Everything outside the cluster.
    World,
    /// Everything outside the cluster, over IPv4.
    WorldIpv4,
    /// Everything outside the cluster, over IPv6.
    WorldIpv6,
    /// All of this cluster: pods, nodes, and what Oxilium does not manage.
    Cluster,
    /// All of the connected clusters, this one included.
    ClusterMesh,
    /// The local node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// The API server's backends.
    KubeApiserver,
    /// Endpoints whose labels are not known yet.
    Init,
    /// Health endpoints.
    Health,
    /// Endpoints that Oxilium does not manage.
    Unmanaged,
    /// The ingress proxy.
    Ingress,
    /// Nobody.
    None,
}

impl Entity {
    /// All, with their names.
    pub const NAMES: [(Self, &str); 14] = [
        (Self::All, "all"),
        (Self::World, "world"),
        (Self::WorldIpv4, "world-ipv4"),
        (Self::WorldIpv6, "world-ipv6"),
        (Self::Cluster, "cluster"),
        (Self::ClusterMesh, "cluster-mesh"),
        (Self::Host, "host"),
        (Self::RemoteNode, "remote-node"),
        (Self::KubeApiserver, "kube-apiserver"),
        (Self::Init, "init"),
        (Self::Health, "health"),
        (Self::Unmanaged, "unmanaged"),
        (Self::Ingress, "ingress"),
        (Self::None, "none"),
    ];

    /// The entity of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(entity, _)| *entity)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(entity, _)| *entity == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
