//! Who gets which number. Claims come first; what is free is given out in an order that depends on
//! the inputs alone; what is released rests before it gets another owner.

mod agreement;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hasher;

use ipnet::IpNet;
use siphasher::sip::SipHasher24;

use super::endpoints::Draft;
use super::remotes::Claimed;
use crate::condition::{Condition, NumberKind, Object, Reason};
use crate::identity::{IdentityLabels, NumericIdentity};
use crate::label::{Label, LabelSource};
use crate::node_state::IdentityRequest;
use crate::world::{
    AttachmentId, Claims, EndpointClaim, IdentityAllocation, IdentityClaim, Quarantine,
    RemoteEndpoint, Table, World,
};

/// Identities that a cluster gives to labels, without the cluster's id.
const CLUSTER_NUMBERS: std::ops::RangeInclusive<u32> = NumericIdentity::FIRST_CLUSTER..=0xFFFF;

/// The numbers of a node state.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    by_labels: HashMap<IdentityLabels, NumericIdentity>,
    labels: BTreeMap<NumericIdentity, IdentityLabels>,
    endpoints: BTreeMap<AttachmentId, u16>,
    /// Identity that an endpoint had last, for those whose Pod object is not known.
    /// And, where the cluster gives the numbers, for those whose labels have none yet.
    last: BTreeMap<AttachmentId, NumericIdentity>,
    keeps_last: bool,
    pub(super) claims: Claims,
    pub(super) requests: BTreeMap<NumericIdentity, IdentityRequest>,
}

impl Numbers {
    pub(super) fn endpoint(&self, attachment: &AttachmentId) -> Option<u16> {
        self.endpoints.get(attachment).copied()
    }

    /// The identity of these labels, if there is one.
    pub(super) fn identity(&self, labels: &IdentityLabels) -> Option<NumericIdentity> {
        self.by_labels.get(labels).copied()
    }

    /// The identity of an endpoint: that of its labels; without them that of its last life; else `init`.
    pub(super) fn identity_of(&self, draft: &Draft) -> NumericIdentity {
        let of_labels = draft.labels.as_ref().map(|labels| self.identity(labels));
        match of_labels {
            Some(Some(id)) => Some(id),
            Some(None) if !self.keeps_last => None,
            // What it was has one number, which need not be the one that it had.
            Some(None) | None => self
                .last
                .get(&draft.attachment.id)
                .and_then(|id| self.labels.get(id))
                .and_then(|labels| self.identity(labels)),
        }
        .unwrap_or(NumericIdentity::INIT)
    }

    /// The cluster has not agreed on a number for the endpoint's labels.
    pub(super) fn waits(&self, draft: &Draft) -> bool {
        let labels = draft.labels.as_ref();
        self.keeps_last && labels.is_some_and(|labels| self.identity(labels).is_none())
    }

    /// The identity of a pod of another node: that of its labels, whatever number its node has for them.
    /// None for what nobody may be: then its address is what it is without its CiliumEndpoint.
    pub(super) fn identity_of_remote(&self, remote: &RemoteEndpoint) -> Option<NumericIdentity> {
        match remote_identity(remote) {
            RemoteIdentity::Labels(labels) => self.identity(labels),
            RemoteIdentity::Number(id) => self.identity_of_number(id),
        }
    }

    /// The identity of a pod of another node that has no labels of a pod, by its number.
    pub(super) fn identity_of_number(&self, id: NumericIdentity) -> Option<NumericIdentity> {
        (OF_PODS.contains(&id) || self.labels.contains_key(&id)).then_some(id)
    }

    /// Every number with its labels.
    pub(super) fn labels(&self) -> impl Iterator<Item = (NumericIdentity, &IdentityLabels)> {
        self.labels.iter().map(|(id, labels)| (*id, labels))
    }

    fn enter(&mut self, id: NumericIdentity, labels: &IdentityLabels) {
        if self.labels.contains_key(&id) {
            return;
        }
        self.labels.insert(id, labels.clone());
        self.by_labels.entry(labels.clone()).or_insert(id);
    }
}

/// Built-in identities that a pod may have.
const OF_PODS: [NumericIdentity; 3] = [
    NumericIdentity::HEALTH,
    NumericIdentity::INGRESS,
    NumericIdentity::INIT,
];

/// By what a pod's identity is found.
pub(super) enum RemoteIdentity<'a> {
    /// By its labels.
    Labels(&'a IdentityLabels),
    /// By the number that it is published with.
    Number(NumericIdentity),
}

/// A pod is `health`, `ingress`, `init` or a pod; never a node or the world, whatever its CiliumEndpoint says.
pub(super) fn remote_identity(remote: &RemoteEndpoint) -> RemoteIdentity<'_> {
    let is_foreign =
        |label: &Label| matches!(label.source(), LabelSource::Reserved | LabelSource::Cidr);
    let mut labels = remote.labels.iter().peekable();
    let is_pod = labels.peek().is_some() && !labels.any(is_foreign);
    if is_pod && !OF_PODS.contains(&remote.identity) {
        RemoteIdentity::Labels(&remote.labels)
    } else {
        RemoteIdentity::Number(remote.identity)
    }
}

/// What numbers are given out for.
#[derive(Clone, Copy)]
pub(super) struct Given<'g> {
    /// Those given out before.
    pub(super) claims: &'g Claims,
    /// This node's endpoints.
    pub(super) drafts: &'g [Draft],
    /// Prefixes outside the cluster.
    pub(super) prefixes: &'g BTreeMap<IpNet, IdentityLabels>,
    /// What other nodes give to their pods.
    pub(super) elsewhere: &'g Claimed,
}

/// Gives out all numbers.
pub(super) fn allot(world: &World, given: Given<'_>, conditions: &mut Vec<Condition>) -> Numbers {
    let Given {
        claims,
        drafts,
        prefixes,
        elsewhere,
    } = given;
    let mut numbers = Numbers::default();
    let mut allotment = Allotment {
        world,
        claims,
        elsewhere,
        numbers: &mut numbers,
        conditions,
    };
    allotment.claimed_endpoints(drafts);
    let used = match world.config.identity_allocation {
        IdentityAllocation::Node => {
            allotment.agreed_by_cluster();
            allotment.claimed_identities();
            allotment.published_by_others();
            allotment.identities(drafts, prefixes)
        }
        IdentityAllocation::Cluster => allotment.agreed_identities(drafts, prefixes),
    };
    allotment.endpoints(drafts);
    allotment.claims(drafts, prefixes, &used);
    numbers
}

struct Allotment<'w> {
    world: &'w World,
    claims: &'w Claims,
    elsewhere: &'w Claimed,
    numbers: &'w mut Numbers,
    conditions: &'w mut Vec<Condition>,
}

impl<'w> Allotment<'w> {
    /// CiliumIdentity objects: of several for the same labels the lowest is used, and all are known.
    fn agreed_by_cluster(&mut self) {
        for (id, object) in &self.world.cluster_identities {
            if let Some(labels) = object.labels.as_ref().filter(|_| is_cluster_number(*id)) {
                self.numbers.enter(*id, labels);
            }
        }
    }

    fn claimed_identities(&mut self) {
        // Of two numbers with the same labels the one that does not rest.
        for rests in [false, true] {
            for (id, claim) in &self.claims.identities {
                if claim.quarantine.is_some() == rests {
                    self.numbers.enter(*id, &claim.labels);
                }
            }
        }
    }

    fn claimed_endpoints(&mut self, drafts: &[Draft]) {
        let present: BTreeSet<&AttachmentId> = drafts.iter().map(|d| &d.attachment.id).collect();
        for (id, claim) in &self.claims.endpoints {
            if present.contains(&claim.owner) {
                self.numbers.endpoints.insert(claim.owner.clone(), *id);
                self.numbers
                    .last
                    .insert(claim.owner.clone(), claim.identity);
            }
        }
    }

    /// Numbers that other nodes use for the labels of their pods: taken over where they are free here.
    fn published_by_others(&mut self) {
        for (id, labels) in self.elsewhere {
            let is_free = is_cluster_number(*id) && self.numbers.identity(labels).is_none();
            if is_free && self.may_have(*id, labels) {
                self.numbers.enter(*id, labels);
            }
        }
    }

    /// An identity for all labels that want one; returns those that are in use.
    fn identities(
        &mut self,
        drafts: &[Draft],
        prefixes: &BTreeMap<IpNet, IdentityLabels>,
    ) -> BTreeSet<NumericIdentity> {
        let of_pods = self.labels_of_pods(drafts);
        let of_prefixes: HashSet<&IdentityLabels> = prefixes.values().collect();
        self.free_rested(|labels| of_pods.contains(labels) || of_prefixes.contains(labels));
        self.identify(&of_pods, NumberKind::ClusterIdentity);
        self.identify(&of_prefixes, NumberKind::CidrIdentity);
        self.keep_used(drafts, of_pods.into_iter().chain(of_prefixes))
    }

    /// The labels of pods, of this node and of others.
    fn labels_of_pods<'d>(&self, drafts: &'d [Draft]) -> HashSet<&'d IdentityLabels>
    where
        'w: 'd,
    {
        drafts
            .iter()
            .filter_map(|draft| draft.labels.as_ref())
            .chain(self.elsewhere.iter().map(|(_, labels)| labels))
            .collect()
    }

    /// Returns the numbers that are in use. A claim that nobody uses keeps its number, but is no identity that
    /// policy speaks of.
    fn keep_used<'l>(
        &mut self,
        drafts: &[Draft],
        wanted: impl Iterator<Item = &'l IdentityLabels>,
    ) -> BTreeSet<NumericIdentity> {
        let numbers = &mut *self.numbers;
        let mut used: BTreeSet<NumericIdentity> = wanted
            .filter_map(|labels| numbers.identity(labels))
            .collect();
        used.extend(drafts.iter().map(|draft| numbers.identity_of(draft)));
        let objects = &self.world.cluster_identities;
        numbers.labels.retain(|id, labels| {
            let agreed = objects
                .get(id)
                .is_some_and(|object| !object.marked && object.labels.as_ref() == Some(labels));
            agreed || used.contains(id)
        });
        let Numbers {
            by_labels, labels, ..
        } = numbers;
        by_labels.retain(|_, id| labels.contains_key(id));
        used
    }

    /// A number for those that have none, in the order of their labels.
    fn identify(&mut self, wanted: &HashSet<&IdentityLabels>, kind: NumberKind) {
        let mut without: Vec<&IdentityLabels> = wanted
            .iter()
            .copied()
            .filter(|labels| self.numbers.identity(labels).is_none())
            .collect();
        without.sort_unstable();
        for labels in without {
            self.identity(labels, kind);
        }
    }

    fn identity(&mut self, labels: &IdentityLabels, kind: NumberKind) {
        let free = |id: &u32| !self.numbers.labels.contains_key(&NumericIdentity(*id));
        let found = match kind {
            NumberKind::CidrIdentity => {
                (NumericIdentity::FIRST_CIDR + 1..NumericIdentity::FIRST_REMOTE_NODE).find(free)
            }
            NumberKind::ClusterIdentity | NumberKind::Endpoint => {
                self.choices(labels).find(|id| free(&id.0)).map(|id| id.0)
            }
        };
        match found {
            Some(id) => self.numbers.enter(NumericIdentity(id), labels),
            None => self.conditions.push(Condition {
                object: Object::Claims,
                reason: Reason::NumbersExhausted { kind },
            }),
        }
    }

    /// The numbers that these labels may get, in the order in which they are tried.
    fn choices(&self, labels: &IdentityLabels) -> impl Iterator<Item = NumericIdentity> + use<> {
        let config = &self.world.config;
        let cluster = u32::from(config.policy.cluster_id) << 16;
        let uid = match config.identity_allocation {
            IdentityAllocation::Node => None,
            IdentityAllocation::Cluster => self.world.namespaces.get("kube-system"),
        };
        let uid = uid.map_or(&config.cluster_uid, |namespace| &namespace.uid);
        std::iter::once(first_choice(uid, labels))
            .chain(CLUSTER_NUMBERS)
            .map(move |number| NumericIdentity(cluster | number))
    }

    /// Frees the numbers whose owners have been gone for as long as the configuration asks, and do not come back.
    fn free_rested(&mut self, wanted: impl Fn(&IdentityLabels) -> bool) {
        for (id, claim) in &self.claims.identities {
            let rested = claim.quarantine.is_some_and(|q| self.is_over(q));
            let agreed = self.world.cluster_identities.contains_key(id);
            if !rested || agreed || wanted(&claim.labels) {
                continue;
            }
            // Somebody else may have it by now.
            if self.numbers.labels.get(id) == Some(&claim.labels) {
                self.numbers.labels.remove(id);
            }
            if self.numbers.identity(&claim.labels) == Some(*id) {
                self.numbers.by_labels.remove(&claim.labels);
            }
        }
    }

    fn is_over(&self, quarantine: Quarantine) -> bool {
        let end = quarantine
            .since
            .0
            .saturating_add(self.world.config.quarantine);
        end <= self.world.now.0
    }

    fn endpoints(&mut self, drafts: &[Draft]) {
        let mut taken: BTreeSet<u16> = self
            .claims
            .endpoints
            .iter()
            .filter(|(_, claim)| !claim.quarantine.is_some_and(|q| self.is_over(q)))
            .map(|(id, _)| *id)
            .collect();
        taken.extend(self.numbers.endpoints.values());
        for draft in drafts {
            let attachment = &draft.attachment.id;
            if self.numbers.endpoints.contains_key(attachment) {
                continue;
            }
            let last = self.world.config.capacities.max_endpoint;
            let Some(id) = (1..=last).find(|id| !taken.contains(id)) else {
                self.conditions.push(Condition {
                    object: Object::Attachment(attachment.clone()),
                    reason: Reason::NumbersExhausted {
                        kind: NumberKind::Endpoint,
                    },
                });
                continue;
            };
            taken.insert(id);
            self.numbers.endpoints.insert(attachment.clone(), id);
        }
    }

    /// What is to be remembered: who has what, and since when what is free has been resting.
    fn claims(
        &mut self,
        drafts: &[Draft],
        prefixes: &BTreeMap<IpNet, IdentityLabels>,
        used: &BTreeSet<NumericIdentity>,
    ) {
        let since = Quarantine {
            since: self.world.now,
        };
        let resting = |quarantine: Option<Quarantine>| match quarantine {
            None => Some(since),
            Some(quarantine) => (!self.is_over(quarantine)).then_some(quarantine),
        };
        let labels_of = |id: &NumericIdentity| {
            let id = used.get(id)?;
            self.numbers.labels.get(id)
        };
        let mut prefix_of: HashMap<&IdentityLabels, IpNet> = HashMap::new();
        for (prefix, labels) in prefixes {
            prefix_of.entry(labels).or_insert(*prefix);
        }
        let mut identities = self.claims.identities.clone();
        for (id, claim) in &self.claims.identities {
            if labels_of(id).is_none() {
                let claim = resting(claim.quarantine).map(|quarantine| IdentityClaim {
                    quarantine: Some(quarantine),
                    ..claim.clone()
                });
                remember(&mut identities, *id, claim);
            }
        }
        for id in used {
            if let Some(labels) = labels_of(id) {
                let claim = IdentityClaim {
                    labels: labels.clone(),
                    prefix: prefix_of.get(labels).copied(),
                    quarantine: None,
                };
                remember(&mut identities, *id, Some(claim));
            }
        }

        let id_of = |draft: &Draft| self.numbers.endpoints.get(&draft.attachment.id).copied();
        let present: BTreeSet<u16> = drafts.iter().filter_map(id_of).collect();
        let mut endpoints = self.claims.endpoints.clone();
        for (id, claim) in &self.claims.endpoints {
            if !present.contains(id) {
                let claim = resting(claim.quarantine).map(|quarantine| EndpointClaim {
                    quarantine: Some(quarantine),
                    ..claim.clone()
                });
                remember(&mut endpoints, *id, claim);
            }
        }
        for draft in drafts {
            if let Some(id) = id_of(draft) {
                let claim = EndpointClaim {
                    owner: draft.attachment.id.clone(),
                    identity: self.numbers.identity_of(draft),
                    quarantine: None,
                };
                remember(&mut endpoints, id, Some(claim));
            }
        }
        self.numbers.claims = Claims {
            identities,
            endpoints,
        };
    }
}

/// Notes what a number is now, or that it is nobody's. A table in which nothing changes stays the one that it is.
fn remember<K: Clone + Ord, V: Clone + PartialEq>(
    table: &mut Table<K, V>,
    id: K,
    claim: Option<V>,
) {
    match claim {
        Some(claim) if table.get(&id) != Some(&claim) => drop(table.insert(id, claim)),
        None if table.contains_key(&id) => drop(table.remove(&id)),
        Some(_) | None => {}
    }
}

fn is_cluster_number(id: NumericIdentity) -> bool {
    id.cluster_id().is_some() && CLUSTER_NUMBERS.contains(&(id.0 & 0xFFFF))
}

/// Where the search for a number begins: a hash that nobody can aim at without knowing the cluster's UID,
/// and that every node of the cluster finds.
fn first_choice(cluster_uid: &str, labels: &IdentityLabels) -> u32 {
    let mut key = SipHasher24::new();
    key.write(cluster_uid.as_bytes());
    let first = key.finish();
    key.write_u8(0xFF);
    let mut hasher = SipHasher24::new_with_keys(first, key.finish());
    for label in labels {
        for part in [label.source().name(), label.key(), label.value()] {
            hasher.write_usize(part.len());
            hasher.write(part.as_bytes());
        }
    }
    let count = u64::from(CLUSTER_NUMBERS.end() - CLUSTER_NUMBERS.start() + 1);
    let offset = u32::try_from(hasher.finish() % count).unwrap_or_default();
    CLUSTER_NUMBERS.start() + offset
}
