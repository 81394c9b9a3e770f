//! Which labels the identity numbers stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::addresses;
use super::endpoints::Draft;
use super::numbers::Numbers;
use crate::identity::{Identities, Identity, IdentityLabels, NamedPorts, NumericIdentity};
use crate::label::Label;
use crate::policy::peer::{Peer, Peers};
use crate::policy::rule::Policy;
use crate::world::{CidrGroup, World};

/// Prefixes outside the cluster that need an identity of their own, with its labels: those that policies
/// in force name, those of the CIDR groups that they name, and API servers that are on no node.
pub(super) fn prefixes(world: &World) -> BTreeMap<IpNet, IdentityLabels> {
    let mut named: BTreeSet<IpNet> = BTreeSet::new();
    for policy in world.policies.values().filter(|policy| !policy.audit) {
        name_prefixes(policy, world, &mut named);
    }
    let api_servers = addresses::foreign_api_servers(world);
    named.extend(api_servers.iter().copied().map(IpNet::from));
    named
        .into_iter()
        // The whole of a family is the world itself.
        .filter(|prefix| prefix.prefix_len() > 0)
        .map(|prefix| {
            let is_api_server = prefix.prefix_len() == prefix.max_prefix_len()
                && api_servers.contains(&prefix.addr());
            (prefix, labels(world, prefix, is_api_server))
        })
        .collect()
}

fn name_prefixes(policy: &Policy, world: &World, named: &mut BTreeSet<IpNet>) {
    let peers = policy.rules.iter().filter_map(|rule| match &rule.peers {
        Peers::AnyOf(peers) => Some(peers),
        Peers::Anyone | Peers::Nobody => None,
    });
    for peer in peers.flatten() {
        match peer {
            Peer::Cidr(peer) => {
                named.insert(peer.cidr());
                named.extend(peer.except());
            }
            Peer::CidrGroup(peer) => {
                named.extend(&peer.except);
                let groups = world.cidr_groups.values().filter(|group| {
                    let labels = group_labels(group).collect();
                    peer.requirements.iter().all(|r| r.matches(&labels))
                });
                named.extend(groups.flat_map(|group| &group.prefixes).map(IpNet::trunc));
            }
            Peer::Endpoints(_) | Peer::Nodes(_) | Peer::Entity(_) | Peer::Fqdn(_) => {}
        }
    }
}

fn group_labels(group: &CidrGroup) -> impl Iterator<Item = Label> {
    std::iter::once(Label::cidr_group(&group.name)).chain(group.labels.iter().cloned())
}

/// The prefix, the world that it is in, and the groups that have it or a wider one.
fn labels(world: &World, prefix: IpNet, is_api_server: bool) -> IdentityLabels {
    let world_name = world_identity(world, prefix.addr())
        .name()
        .unwrap_or_default();
    let mut labels = vec![Label::cidr(prefix), Label::reserved(world_name)];
    if is_api_server {
        labels.push(Label::reserved("kube-apiserver"));
    }
    let groups = world
        .cidr_groups
        .values()
        .filter(|group| group.prefixes.iter().any(|wide| wide.contains(&prefix)));
    labels.extend(groups.flat_map(|group| group_labels(group)));
    labels.into()
}

/// The identity of what is outside the cluster: one for each family where both are on.
pub(super) fn world_identity(world: &World, address: IpAddr) -> NumericIdentity {
    let families = world.config.policy.families;
    match address {
        _ if !(families.ipv4 && families.ipv6) => NumericIdentity::WORLD,
        IpAddr::V4(_) => NumericIdentity::WORLD_IPV4,
        IpAddr::V6(_) => NumericIdentity::WORLD_IPV6,
    }
}

/// All identities, with their labels and the named ports of their endpoints.
pub(super) fn universe(
    world: &World,
    drafts: &[Draft],
    numbers: &Numbers,
    elsewhere: &BTreeMap<NumericIdentity, NamedPorts>,
) -> Identities {
    let mut identities = Identities::default();
    identities.insert(
        NumericIdentity::HOST,
        Identity {
            labels: host_labels(world),
            named_ports: NamedPorts::default(),
        },
    );
    let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
    for draft in drafts {
        let id = numbers.identity_of(draft);
        ports.entry(id).or_default().merge(&draft.named_ports);
    }
    for (id, labels) in numbers.labels() {
        let mut named_ports = ports.remove(&id).unwrap_or_default();
        if let Some(elsewhere) = elsewhere.get(&id) {
            named_ports.merge(elsewhere);
        }
        identities.insert(
            id,
            Identity {
                labels: labels.clone(),
                named_ports,
            },
        );
    }
    identities
}

fn host_labels(world: &World) -> IdentityLabels {
    let mut labels = vec![Label::reserved("host")];
    if let Some(node) = world.nodes.get(&world.config.node_name) {
        labels.extend(node.labels.iter().cloned());
    }
    let own = addresses::host_addresses(world);
    if world
        .api_servers
        .iter()
        .any(|address| own.contains(address))
    {
        labels.push(Label::reserved("kube-apiserver"));
    }
    labels.into()
}
