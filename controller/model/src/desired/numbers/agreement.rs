//! Numbers that the cluster agrees on: CiliumIdentity objects, of which anybody may make one and the API server lets
//! one of a name be.
//!
//! What is asked for is a function of the World, as everything here: who is refused because others were faster sees
//! their object in a later World, and so takes the next number, or theirs. Of several objects for the same labels all
//! take the lowest once they see it. Until there is one, a pod is what it was last, or `init`.
//!
//! A number whose meaning this node's kernel knows keeps it here until the quarantine is over, whatever the cluster says.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;

use super::{Allotment, is_cluster_number};
use crate::condition::{Condition, NumberKind, Object, Reason};
use crate::desired::endpoints::Draft;
use crate::identity::{IdentityLabels, NumericIdentity};
use crate::node_state::IdentityRequest;

impl Allotment<'_> {
    /// An identity for all labels for which there is one; returns those in use, and asks for what is missing.
    pub(super) fn agreed_identities(
        &mut self,
        drafts: &[Draft],
        prefixes: &BTreeMap<IpNet, IdentityLabels>,
    ) -> BTreeSet<NumericIdentity> {
        self.numbers.keeps_last = true;
        let of_prefixes: HashSet<&IdentityLabels> = prefixes.values().collect();
        let of_pods = self.labels_of_pods(drafts);
        self.enter_agreed();
        self.enter_in_use();
        self.published_by_others();
        self.free_rested(|labels| of_pods.contains(labels) || of_prefixes.contains(labels));
        self.identify(&of_prefixes, NumberKind::CidrIdentity);
        self.ask(drafts);
        self.keep_used(drafts, of_pods.into_iter().chain(of_prefixes))
    }

    /// Objects that are to stay. They come first and in their order, so that everybody takes the lowest.
    fn enter_agreed(&mut self) {
        for (id, object) in &self.world.cluster_identities {
            let labels = object.labels.as_ref().filter(|_| !object.marked);
            if let Some(labels) = labels
                && is_cluster_number(*id)
                && !self.means_other(*id, labels)
            {
                self.numbers.enter(*id, labels);
            }
        }
    }

    /// What this node uses goes on, also while its object is marked, gone, or out of sight; and identities of prefixes,
    /// which are this node's affair.
    fn enter_in_use(&mut self) {
        let claims = &self.claims.identities;
        let of = |rests: bool| {
            claims
                .iter()
                .filter(move |(_, claim)| claim.quarantine.is_some() == rests)
        };
        for (id, claim) in of(false) {
            self.numbers.enter(*id, &claim.labels);
        }
        for (id, claim) in of(true).filter(|(id, _)| id.is_cidr()) {
            self.numbers.enter(*id, &claim.labels);
        }
    }

    /// This node's kernel knows the number as that of other labels, or did until a moment ago.
    fn means_other(&self, id: NumericIdentity, labels: &IdentityLabels) -> bool {
        self.claims.identities.get(&id).is_some_and(|claim| {
            let rested = claim.quarantine.is_some_and(|q| self.is_over(q));
            claim.labels != *labels && !rested
        })
    }

    /// Nothing speaks against giving the number to these labels.
    pub(super) fn may_have(&self, id: NumericIdentity, labels: &IdentityLabels) -> bool {
        let object = self.world.cluster_identities.get(&id);
        let known = self.numbers.labels.get(&id);
        object.is_none_or(|object| object.labels.as_ref() == Some(labels))
            && known.is_none_or(|known| known == labels)
            && !self.means_other(id, labels)
    }

    /// Asks for what the labels of this node's pods lack. Those of other nodes are their nodes' affair.
    fn ask(&mut self, drafts: &[Draft]) {
        let mut asked: BTreeMap<&IdentityLabels, Option<NumericIdentity>> = BTreeMap::new();
        let of_pods: BTreeSet<&IdentityLabels> =
            drafts.iter().filter_map(|d| d.labels.as_ref()).collect();
        for labels in of_pods {
            let request = self.request(labels);
            if let Some((id, request)) = &request {
                self.numbers.requests.insert(*id, request.clone());
            }
            asked.insert(labels, request.map(|(id, _)| id));
        }
        for draft in drafts.iter().filter(|draft| self.numbers.waits(draft)) {
            let asked = draft
                .labels
                .as_ref()
                .and_then(|labels| asked.get(labels).copied().flatten());
            self.conditions.push(Condition {
                object: Object::Pod(draft.attachment.pod.clone()),
                reason: Reason::IdentityPending { asked },
            });
        }
    }

    /// What is to be asked for these labels, if anything.
    fn request(&self, labels: &IdentityLabels) -> Option<(NumericIdentity, IdentityRequest)> {
        let objects = &self.world.cluster_identities;
        let in_use = self.numbers.identity(labels);
        let is_theirs = |id: &NumericIdentity| {
            objects
                .get(id)
                .is_some_and(|object| object.labels.as_ref() == Some(labels))
        };
        let is_marked = |id: &NumericIdentity| objects.get(id).is_some_and(|object| object.marked);
        let create = |id| (id, IdentityRequest::Create(labels.clone()));
        let keep = |id| (id, IdentityRequest::Keep(labels.clone()));
        match in_use {
            Some(id) if is_theirs(&id) => return is_marked(&id).then(|| keep(id)),
            Some(id) if !objects.contains_key(&id) => return Some(create(id)),
            // The cluster gave the number in use to others: another one is needed.
            Some(_) | None => {}
        }
        let marked = objects.keys().find(|id| {
            is_theirs(id)
                && is_marked(id)
                && is_cluster_number(**id)
                && !self.means_other(**id, labels)
        });
        if let Some(id) = marked {
            return Some(keep(*id));
        }
        // One that they had and that rests is as good as new to them.
        let resting = self
            .claims
            .identities
            .iter()
            .filter(|(id, claim)| claim.labels == *labels && is_cluster_number(**id))
            .map(|(id, _)| *id);
        resting
            .chain(self.choices(labels))
            .find(|id| self.is_free(*id, labels))
            .map(create)
    }

    fn is_free(&self, id: NumericIdentity, labels: &IdentityLabels) -> bool {
        !self.world.cluster_identities.contains_key(&id)
            && !self.numbers.requests.contains_key(&id)
            && self.may_have(id, labels)
    }
}
