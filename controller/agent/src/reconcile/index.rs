//! All inputs in one place, and the snapshots made of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use oxilium_model::identity::NumericIdentity;
use oxilium_model::policy::rule::{Policy, PolicyRef};
use oxilium_model::world::{
    Attachment, AttachmentId, CidrGroup, Claims, ClusterIdentity, Namespace, Node, NodeConfig, Pod,
    PodRef, RemoteEndpoint, Services, Source, Synced, Table, Timestamp, World,
};

use crate::metrics::Differences;

/// What the cluster's objects say, whole: a source hands over a new one, never a change of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// All nodes.
    pub nodes: Table<Arc<str>, Arc<Node>>,
    /// All namespaces.
    pub namespaces: Table<Arc<str>, Arc<Namespace>>,
    /// Pods of this node.
    pub pods: Table<PodRef, Arc<Pod>>,
    /// CiliumEndpoints.
    pub remote_endpoints: Table<PodRef, Arc<RemoteEndpoint>>,
    /// CiliumIdentities.
    pub cluster_identities: Table<NumericIdentity, ClusterIdentity>,
    /// Policies.
    pub policies: Table<Arc<PolicyRef>, Arc<Policy>>,
    /// CiliumCIDRGroups.
    pub cidr_groups: Table<Arc<str>, Arc<CidrGroup>>,
    /// Services with ClusterIPs, joined with their backends.
    pub services: Services,
    /// Addresses of the API server's backends.
    pub api_servers: BTreeSet<IpAddr>,
}

/// Sources that [`Objects`] stand for.
pub const OBJECT_SOURCES: [Source; 7] = [
    Source::Policies,
    Source::Pods,
    Source::Nodes,
    Source::Namespaces,
    Source::Endpoints,
    Source::CidrGroups,
    Source::Services,
];

/// How many objects differ from those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectChanges {
    pub policies: Differences,
    pub services: Differences,
}

fn differences<K: Ord, V: PartialEq>(
    before: &Table<K, Arc<V>>,
    after: &Table<K, Arc<V>>,
) -> Differences {
    let mut found = Differences::default();
    for entry in before.differing(after) {
        match (entry.was, entry.is) {
            (None, _) => found.added += 1,
            (_, None) => found.deleted += 1,
            _ => found.updated += 1,
        }
    }
    found
}

/// The inputs as they are now.
#[derive(Debug)]
pub(crate) struct Index {
    config: Arc<NodeConfig>,
    objects: Arc<Objects>,
    attachments: Table<AttachmentId, Arc<Attachment>>,
    local_addresses: BTreeSet<IpAddr>,
    claims: Claims,
    synced: Synced,
    revision: u64,
}

impl Index {
    pub(crate) fn new(config: Arc<NodeConfig>, claims: Claims) -> Self {
        Self {
            config,
            objects: Arc::default(),
            attachments: Table::default(),
            local_addresses: BTreeSet::new(),
            claims,
            synced: Synced::default(),
            revision: 0,
        }
    }

    /// Number of changes so far.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn synced(&self) -> &Synced {
        &self.synced
    }

    /// Pods of this node.
    pub(crate) fn pods(&self) -> &Table<PodRef, Arc<Pod>> {
        &self.objects.pods
    }

    pub(crate) fn attachments(&self) -> &Table<AttachmentId, Arc<Attachment>> {
        &self.attachments
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The cluster's objects; of those in `full` all that there are. What differs from those before.
    pub(crate) fn set_objects(
        &mut self,
        objects: Arc<Objects>,
        full: &BTreeSet<Source>,
    ) -> ObjectChanges {
        let before = self.synced.clone();
        for source in full {
            self.synced.first_list_delivered(*source);
        }
        // A first list is a change even when it is empty: now it is known to be.
        if self.synced == before && *self.objects == *objects {
            return ObjectChanges::default();
        }
        let changes = ObjectChanges {
            policies: differences(&self.objects.policies, &objects.policies),
            services: differences(&self.objects.services, &objects.services),
        };
        self.objects = objects;
        self.revision += 1;
        changes
    }

    /// All attachments with their devices, and the node's addresses, as observed just now.
    pub(crate) fn set_kernel(
        &mut self,
        attachments: Vec<Attachment>,
        local_addresses: BTreeSet<IpAddr>,
    ) {
        self.synced.first_list_delivered(Source::Attachments);
        self.synced.first_list_delivered(Source::Kernel);
        let new: Table<AttachmentId, Arc<Attachment>> = attachments
            .into_iter()
            .map(|attachment| {
                // What did not change stays the same allocation: the engine sees that by pointer.
                let old = self.attachments.get(&attachment.id);
                let shared = match old {
                    Some(old) if **old == attachment => Arc::clone(old),
                    _ => Arc::new(attachment),
                };
                (shared.id.clone(), shared)
            })
            .collect();
        if self.attachments != new || self.local_addresses != local_addresses {
            self.attachments = new;
            self.local_addresses = local_addresses;
            self.revision += 1;
        }
    }

    /// The numbers given out. Not a new revision: they follow from one.
    pub(crate) fn set_claims(&mut self, claims: Claims) {
        self.claims = claims;
    }

    /// The configuration. Its programs are known once they are loaded.
    pub(crate) fn config(&self) -> &Arc<NodeConfig> {
        &self.config
    }

    /// One immutable snapshot of all this.
    pub(crate) fn world(&self) -> World {
        let objects = &self.objects;
        World {
            config: Arc::clone(&self.config),
            now: now(),
            synced: self.synced.clone(),
            claims: self.claims.clone(),
            nodes: objects.nodes.clone(),
            local_addresses: self.local_addresses.clone(),
            api_servers: objects.api_servers.clone(),
            namespaces: objects.namespaces.clone(),
            pods: objects.pods.clone(),
            remote_endpoints: objects.remote_endpoints.clone(),
            cluster_identities: objects.cluster_identities.clone(),
            policies: objects.policies.clone(),
            cidr_groups: objects.cidr_groups.clone(),
            services: objects.services.clone(),
            attachments: self.attachments.clone(),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_changed_and_went_is_counted_by_what_it_says() {
        let table = |entries: &[(u8, &str)]| -> Table<u8, Arc<String>> {
            let owned = entries.iter();
            owned
                .map(|(key, text)| (*key, Arc::new((*text).to_owned())))
                .collect()
        };
        let before = table(&[(1, "stays"), (2, "changes"), (3, "goes"), (4, "goes")]);
        let after = table(&[(1, "stays"), (2, "changed"), (5, "comes")]);
        let found = differences(&before, &after);
        assert_eq!((found.added, found.updated, found.deleted), (1, 1, 2));
        assert_eq!(differences(&after, &after.clone()), Differences::default());
    }
}
