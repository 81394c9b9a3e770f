//! The ipcache: which identity each address has.
//!
//! Of several that claim the same prefix the first of these has it: this node; an endpoint of this
//! node; another node, or an API server on one; the CiliumEndpoint of another node's pod; an API server
//! elsewhere and the prefixes that policies name; the world. Two pods of other nodes with one address
//! and different identities: none of them has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoints::Draft;
use super::identities;
use super::numbers::Numbers;
use crate::identity::{IdentityLabels, NumericIdentity};
use crate::node_state::{Ipcache, IpcacheTarget};
use crate::world::{Node, NodeOrigin, World};

/// An address that can be a peer's: not of a loopback, not link-local (many have the same), not multicast.
pub(super) fn is_usable(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// The addresses of this node: those of its devices, and those that it is published with.
pub(super) fn host_addresses(world: &World) -> BTreeSet<IpAddr> {
    let published = world
        .nodes
        .get(&world.config.node_name)
        .map(|node| node.addresses.iter());
    world
        .local_addresses
        .iter()
        .chain(published.into_iter().flatten())
        .copied()
        .filter(|address| is_usable(*address))
        .collect()
}

/// The addresses of another node. A Node says little: the first two addresses of its pods' prefixes are
/// those of its tunnel and bridge devices.
fn node_addresses(node: &Node) -> BTreeSet<IpAddr> {
    let mut addresses = node.addresses.clone();
    if node.origin == NodeOrigin::Node {
        let first_two = |prefix: &IpNet| {
            let prefix = *prefix;
            let first = prefix.network();
            let second = match first {
                IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().saturating_add(1))),
                IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().saturating_add(1))),
            };
            [first, second]
                .into_iter()
                .filter(move |a| prefix.contains(a))
        };
        addresses.extend(node.pod_cidrs.iter().flat_map(first_two));
    }
    addresses.retain(|address| is_usable(*address));
    addresses
}

fn other_nodes(world: &World) -> impl Iterator<Item = &Arc<Node>> {
    world
        .nodes
        .values()
        .filter(|node| node.name != world.config.node_name)
}

/// API servers that are on no node that is known.
pub(super) fn foreign_api_servers(world: &World) -> BTreeSet<IpAddr> {
    let mut servers: BTreeSet<IpAddr> = world
        .api_servers
        .iter()
        .copied()
        .filter(|address| is_usable(*address))
        .collect();
    if servers.is_empty() {
        return servers;
    }
    for address in host_addresses(world) {
        servers.remove(&address);
    }
    for address in other_nodes(world).flat_map(|node| node_addresses(node)) {
        servers.remove(&address);
    }
    servers
}

/// Composes the ipcache. `remote_pods`: the addresses of other nodes' pods.
pub(super) fn ipcache(
    world: &World,
    drafts: &[Draft],
    prefixes: &BTreeMap<IpNet, IdentityLabels>,
    numbers: &Numbers,
    remote_pods: Ipcache,
) -> Ipcache {
    let mut cache = Composer::default();
    for address in host_addresses(world) {
        cache.add(address.into(), NumericIdentity::HOST, None);
    }
    for draft in drafts {
        let identity = numbers.identity_of(draft);
        for address in &draft.addresses {
            cache.add((*address).into(), identity, None);
        }
    }
    for address in other_nodes(world).flat_map(|node| node_addresses(node)) {
        let identity = if world.api_servers.contains(&address) {
            NumericIdentity::KUBE_APISERVER
        } else {
            NumericIdentity::REMOTE_NODE
        };
        cache.add(address.into(), identity, None);
    }
    let mut cache = cache.over(remote_pods);
    for (prefix, labels) in prefixes {
        if let Some(identity) = numbers.identity(labels) {
            cache.add(*prefix, identity, None);
        }
    }
    let whole = [
        IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ];
    for family in whole {
        let whole = IpNet::new(family.addr(), 0).unwrap_or(family);
        let identity = identities::world_identity(world, family.addr());
        cache.add(whole, identity, None);
    }
    cache.0
}

#[derive(Default)]
struct Composer(Ipcache);

impl Composer {
    /// The first to claim a prefix has it.
    fn add(&mut self, prefix: IpNet, identity: NumericIdentity, tunnel_endpoint: Option<Ipv4Addr>) {
        self.0.entry(prefix.trunc()).or_insert(IpcacheTarget {
            identity,
            tunnel_endpoint,
        });
    }

    /// These claim after all that did. There are many more of them.
    fn over(self, mut later: Ipcache) -> Self {
        for (prefix, target) in &self.0 {
            later.insert(*prefix, *target);
        }
        Self(later)
    }
}
