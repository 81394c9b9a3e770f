//! What the CiliumEndpoints come to: which labels have which numbers elsewhere, whose the addresses of other nodes'
//! pods are, which named ports an identity has.
//!
//! A cluster may have tens of thousands. [`claimed`] and [`resolve`] look at all of them each time and are the
//! specification; [`RemotePodsMemory`] says the same and looks only at what is new, which it finds by comparing where objects
//! are in memory. What it cannot tell piece by piece (this node's own addresses changed) it computes anew.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::{host_addresses, is_usable};
use super::numbers::{Numbers, RemoteIdentity, remote_identity};
use crate::condition::{Condition, Object, Reason};
use crate::identity::{IdentityLabels, NamedPorts, NumericIdentity};
use crate::node_state::{Ipcache, IpcacheTarget};
use crate::world::{Pod, PodRef, RemoteEndpoint, Table, World};

/// Numbers that nodes have for the labels of their pods, each pair once, in their order.
pub(super) type Claimed = Vec<(NumericIdentity, IdentityLabels)>;

/// What they come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RemotePods {
    /// Whose each address is of which no two pods say that it is theirs and that they are different.
    pub(super) addresses: Ipcache,
    /// The others.
    pub(super) conflicts: Vec<Condition>,
    /// By identity.
    pub(super) named_ports: BTreeMap<NumericIdentity, NamedPorts>,
}

/// See [`Claimed`].
pub(super) fn claimed(world: &World) -> Claimed {
    let remotes = world.remote_endpoints.values();
    let pairs = remotes.filter_map(|remote| claim_of(remote));
    let sorted: BTreeSet<(NumericIdentity, &IdentityLabels)> = pairs.collect();
    sorted
        .into_iter()
        .map(|(id, labels)| (id, labels.clone()))
        .collect()
}

fn claim_of(remote: &RemoteEndpoint) -> Option<(NumericIdentity, &IdentityLabels)> {
    match remote_identity(remote) {
        RemoteIdentity::Labels(labels) => Some((remote.identity, labels)),
        RemoteIdentity::Number(_) => None,
    }
}

/// See [`RemotePods`].
pub(super) fn resolve(world: &World, numbers: &Numbers) -> RemotePods {
    let own = host_addresses(world);
    let mut pods = RemotePods::default();
    let mut claims: BTreeMap<IpAddr, Vec<Claimant>> = BTreeMap::new();
    for remote in world.remote_endpoints.values() {
        let Some(identity) = numbers.identity_of_remote(remote) else {
            continue;
        };
        let ports = pods.named_ports.entry(identity).or_default();
        ports.merge(&remote.named_ports);
        if is_elsewhere(remote, world, &own) {
            let claimant = Claimant {
                identity,
                remote: Arc::clone(remote),
            };
            for address in usable(remote) {
                claims.entry(address).or_default().push(claimant.clone());
            }
        }
    }
    pods.named_ports.retain(|_, ports| !ports.is_empty());
    for (address, claimants) in claims {
        match judge(world, address, &claimants) {
            Some(Ok(target)) => {
                pods.addresses.insert(address.into(), target);
            }
            Some(Err(conflict)) => pods.conflicts.push(conflict),
            None => {}
        }
    }
    pods
}

/// A pod that says that an address is its own.
#[derive(Clone, Debug)]
struct Claimant {
    identity: NumericIdentity,
    remote: Arc<RemoteEndpoint>,
}

/// A pod that is not one of this node's.
fn is_elsewhere(remote: &RemoteEndpoint, world: &World, own: &BTreeSet<IpAddr>) -> bool {
    let is_ours = remote
        .node_address
        .is_some_and(|address| own.contains(&address.into()));
    !is_ours && !world.pods.contains_key(&remote.reference)
}

fn usable(remote: &RemoteEndpoint) -> impl Iterator<Item = IpAddr> {
    let addresses = remote.addresses.iter().copied();
    addresses.filter(|address| is_usable(*address))
}

/// Whose the address is, of claimants in the order of their names.
fn judge(
    world: &World,
    address: IpAddr,
    claimants: &[Claimant],
) -> Option<Result<IpcacheTarget, Condition>> {
    let first = claimants.first()?;
    let other = claimants
        .iter()
        .find(|other| other.identity != first.identity);
    let Some(other) = other else {
        return Some(Ok(IpcacheTarget {
            identity: first.identity,
            tunnel_endpoint: world.config.tunnel_address.and(first.remote.node_address),
        }));
    };
    let (pod, other) = (&first.remote.reference, &other.remote.reference);
    Some(Err(Condition {
        object: Object::Prefix(address.into()),
        reason: Reason::AddressConflict {
            address,
            kept: "nobody".into(),
            refused: format!("pods {pod} and {other}").into(),
        },
    }))
}

/// By what a pod's identity is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// By its labels.
    Labels(IdentityLabels),
    /// By the number that it is published with.
    Number(NumericIdentity),
}

fn key_of(remote: &RemoteEndpoint) -> Key {
    match remote_identity(remote) {
        RemoteIdentity::Labels(labels) => Key::Labels(labels.clone()),
        RemoteIdentity::Number(number) => Key::Number(number),
    }
}

/// Pods of one key.
#[derive(Debug, Default)]
struct Group {
    pods: usize,
    /// Their identity when it was looked at last.
    identity: Option<NumericIdentity>,
    /// How many of them have these ports.
    ports: HashMap<NamedPorts, usize>,
}

/// Remembers what CiliumEndpoints came to, from one World to the next.
#[derive(Debug, Default)]
pub struct RemotePodsMemory {
    known: Table<PodRef, Arc<RemoteEndpoint>>,
    /// Pods that changed since it was last told what numbers there are: as they were, as they are.
    changed: BTreeMap<PodRef, Change>,
    claimed: BTreeMap<(NumericIdentity, IdentityLabels), usize>,
    groups: HashMap<Key, Group>,
    /// What the addresses were found with.
    own: BTreeSet<IpAddr>,
    has_tunnel: bool,
    local: Table<PodRef, Arc<Pod>>,
    claimants: BTreeMap<IpAddr, Vec<Claimant>>,
    pods: RemotePods,
    conflicts: BTreeMap<IpAddr, Condition>,
}

/// A pod as it was and as it is.
#[derive(Debug, Default)]
struct Change {
    before: Option<Arc<RemoteEndpoint>>,
    after: Option<Arc<RemoteEndpoint>>,
}

impl RemotePodsMemory {
    /// As [`claimed`]. Notes what changed.
    pub(super) fn claimed(&mut self, world: &World) -> Claimed {
        if !self.known.is_same(&world.remote_endpoints) {
            let before = std::mem::replace(&mut self.known, world.remote_endpoints.clone());
            for entry in before.differing(&world.remote_endpoints) {
                if let Some(was) = entry.was {
                    self.forget(was);
                }
                if let Some(is) = entry.is {
                    self.learn(is);
                }
                // It was resolved as it was before the first of several changes.
                let change = self.changed.entry(entry.key.clone()).or_insert(Change {
                    before: entry.was.cloned(),
                    after: None,
                });
                change.after = entry.is.cloned();
            }
        }
        self.claimed.keys().cloned().collect()
    }

    fn learn(&mut self, remote: &RemoteEndpoint) {
        if let Some((id, labels)) = claim_of(remote) {
            *self.claimed.entry((id, labels.clone())).or_default() += 1;
        }
        let group = self.groups.entry(key_of(remote)).or_default();
        group.pods += 1;
        if !remote.named_ports.is_empty() {
            *group.ports.entry(remote.named_ports.clone()).or_default() += 1;
        }
    }

    fn forget(&mut self, remote: &RemoteEndpoint) {
        if let Some((id, labels)) = claim_of(remote) {
            let key = (id, labels.clone());
            if let Some(count) = self.claimed.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.claimed.remove(&key);
                }
            }
        }
        if let Entry::Occupied(mut group) = self.groups.entry(key_of(remote)) {
            let of = group.get_mut();
            of.pods -= 1;
            if let Entry::Occupied(mut count) = of.ports.entry(remote.named_ports.clone()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if of.pods == 0 {
                group.remove();
            }
        }
    }

    /// As [`resolve`], of the world that [`Self::claimed`] was last told of.
    pub(super) fn resolve(&mut self, world: &World, numbers: &Numbers) -> RemotePods {
        let changed = std::mem::take(&mut self.changed);
        let identified = self.identify(numbers);
        let own = host_addresses(world);
        let has_tunnel = world.config.tunnel_address.is_some();
        let mut addresses = BTreeSet::new();
        if self.own != own || self.has_tunnel != has_tunnel {
            self.claimants.clear();
            self.pods.addresses.clear();
            self.conflicts.clear();
            self.own = own;
            self.has_tunnel = has_tunnel;
            for remote in self.known.values() {
                addresses.extend(usable(remote));
            }
            let all: Vec<_> = self.known.values().cloned().collect();
            for remote in &all {
                self.claim(world, numbers, remote);
            }
        } else {
            for change in changed.values() {
                if let Some(before) = &change.before {
                    self.disclaim(before, &mut addresses);
                }
            }
            let again = self.others(world, &identified, &changed);
            for remote in &again {
                self.disclaim(remote, &mut addresses);
            }
            let after = changed.values().filter_map(|change| change.after.as_ref());
            for remote in after.chain(&again) {
                addresses.extend(usable(remote));
                self.claim(world, numbers, remote);
            }
        }
        self.local = world.pods.clone();
        for address in addresses {
            self.judge(world, address);
        }
        self.pods.conflicts = self.conflicts.values().cloned().collect();
        self.pods.clone()
    }

    /// Looks up the identity of every group, and what ports each identity has. Returns the groups that have another
    /// one than before.
    fn identify(&mut self, numbers: &Numbers) -> HashSet<Key> {
        let mut others = HashSet::new();
        let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
        for (key, group) in &mut self.groups {
            let identity = match key {
                Key::Labels(labels) => numbers.identity(labels),
                Key::Number(number) => numbers.identity_of_number(*number),
            };
            if group.identity != identity {
                group.identity = identity;
                others.insert(key.clone());
            }
            if let Some(identity) = identity.filter(|_| !group.ports.is_empty()) {
                let of_identity = ports.entry(identity).or_default();
                group
                    .ports
                    .keys()
                    .for_each(|ports| of_identity.merge(ports));
            }
        }
        self.pods.named_ports = ports;
        others
    }

    /// Pods that did not change and yet are to be looked at: those of groups that have another identity, and those that
    /// came to this node or left it.
    fn others(
        &self,
        world: &World,
        identified: &HashSet<Key>,
        changed: &BTreeMap<PodRef, Change>,
    ) -> Vec<Arc<RemoteEndpoint>> {
        let is_new = |remote: &&Arc<RemoteEndpoint>| !changed.contains_key(&remote.reference);
        let mut again: BTreeMap<&PodRef, &Arc<RemoteEndpoint>> = BTreeMap::new();
        // Most often the groups that have another identity are those that are new altogether.
        let of_changed = changed.values().filter_map(|change| change.after.as_ref());
        let new: HashMap<Key, usize> = of_changed.fold(HashMap::new(), |mut counts, remote| {
            *counts.entry(key_of(remote)).or_default() += 1;
            counts
        });
        let is_known = |key: &Key| {
            let all = self.groups.get(key).map_or(0, |group| group.pods);
            new.get(key).copied().unwrap_or_default() < all
        };
        if identified.iter().any(is_known) {
            let of_groups = self.known.values().filter(is_new);
            let of_groups = of_groups.filter(|remote| identified.contains(&key_of(remote)));
            again.extend(of_groups.map(|remote| (&remote.reference, remote)));
        }
        if !self.local.is_same(&world.pods) {
            let here = |table: &Table<PodRef, Arc<Pod>>, pod: &PodRef| table.contains_key(pod);
            let moved = self
                .local
                .keys()
                .filter(|pod| !here(&world.pods, pod))
                .chain(world.pods.keys().filter(|pod| !here(&self.local, pod)))
                .filter_map(|pod| self.known.get(pod))
                .filter(is_new);
            again.extend(moved.map(|remote| (&remote.reference, remote)));
        }
        again.into_values().cloned().collect()
    }

    /// The pod's addresses are its own no more.
    fn disclaim(&mut self, remote: &RemoteEndpoint, addresses: &mut BTreeSet<IpAddr>) {
        for address in usable(remote) {
            addresses.insert(address);
            if let Some(claimants) = self.claimants.get_mut(&address) {
                claimants.retain(|other| other.remote.reference != remote.reference);
                if claimants.is_empty() {
                    self.claimants.remove(&address);
                }
            }
        }
    }

    /// The pod's addresses are its own, if it has an identity and is elsewhere.
    fn claim(&mut self, world: &World, numbers: &Numbers, remote: &Arc<RemoteEndpoint>) {
        let Some(identity) = numbers.identity_of_remote(remote) else {
            return;
        };
        if !is_elsewhere(remote, world, &self.own) {
            return;
        }
        for address in usable(remote) {
            // Nearly always there is one.
            let claimants = self.claimants.entry(address);
            let claimants = claimants.or_insert_with(|| Vec::with_capacity(1));
            let place =
                claimants.partition_point(|other| other.remote.reference <= remote.reference);
            let claimant = Claimant {
                identity,
                remote: Arc::clone(remote),
            };
            claimants.insert(place, claimant);
        }
    }

    fn judge(&mut self, world: &World, address: IpAddr) {
        let claimants = self.claimants.get(&address).map_or(&[][..], Vec::as_slice);
        let (target, conflict) = match judge(world, address, claimants) {
            None => (None, None),
            Some(Ok(target)) => (Some(target), None),
            Some(Err(conflict)) => (None, Some(conflict)),
        };
        let prefix = IpNet::from(address);
        match target {
            Some(target) => self.pods.addresses.insert(prefix, target),
            None => self.pods.addresses.remove(&prefix),
        };
        match conflict {
            Some(conflict) => self.conflicts.insert(address, conflict),
            None => self.conflicts.remove(&address),
        };
    }
}
