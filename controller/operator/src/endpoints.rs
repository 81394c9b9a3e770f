//! CiliumEndpoints that no pod stands behind.
//!
//! Kubernetes removes them with the pod that owns them, and agents remove their own; what is left over is of a node that
//! went away, or lost its owner.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use kube::api::{DeleteParams, DynamicObject, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize;

use crate::OperatorError;
use crate::error::is_overtaken;
use crate::list::{Metadata, list};

/// Removals at a time.
const AT_ONCE: usize = 8;

const ENDPOINTS: &str = "/apis/cilium.io/v2/ciliumendpoints";
const PODS: &str = "/api/v1/pods";

/// What is looked at of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Its metadata.
    pub metadata: Metadata,
}

/// UIDs of pods by namespace and name.
pub type Pods = BTreeMap<(String, String), String>;

/// Is there no pod behind this endpoint? `pods`: all that there were at a moment after the endpoint was looked at.
pub fn is_orphan(endpoint: &Object, pods: &Pods) -> bool {
    let metadata = &endpoint.metadata;
    if metadata.deletion_timestamp.is_some() {
        return false;
    }
    let owners = &metadata.owner_references;
    let owner = owners.iter().find(|owner| owner.kind == "Pod");
    if owner.is_none() && !owners.is_empty() {
        // It stands for something else, which its owner knows of.
        return false;
    }
    let pod = pods.get(&(metadata.namespace.clone(), metadata.name.clone()));
    match (pod, owner) {
        (None, _) => true,
        // A pod of the same name is another pod.
        (Some(uid), Some(owner)) => *uid != owner.uid,
        (Some(_), None) => false,
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Endpoints that are there.
    pub seen: usize,
    /// Removed.
    pub removed: usize,
    /// Changed by somebody else before they could be.
    pub overtaken: usize,
    /// Not done, because a request failed.
    pub failed: usize,
}

/// What is to be removed, in the versions that were looked at.
#[derive(Clone, Debug)]
pub struct Plan {
    seen: usize,
    orphans: Vec<Object>,
}

/// Looks at all endpoints and pods.
///
/// # Errors
/// If the lists cannot be read.
pub async fn look(client: &Client) -> Result<Plan, OperatorError> {
    // In this order: the pod of every endpoint that was seen is in the later list, if it is there at all.
    let mut endpoints: Vec<Object> = list(client, ENDPOINTS).await?;
    let pods: Vec<Object> = list(client, PODS).await?;
    let pods: Pods = pods
        .into_iter()
        .map(|Object { metadata }| ((metadata.namespace, metadata.name), metadata.uid))
        .collect();
    let seen = endpoints.len();
    endpoints.retain(|endpoint| is_orphan(endpoint, &pods));
    Ok(Plan {
        seen,
        orphans: endpoints,
    })
}

/// One pass over all endpoints.
///
/// # Errors
/// If the lists cannot be read; nothing is removed then.
pub async fn collect(client: &Client) -> Result<Pass, OperatorError> {
    Ok(apply(client, look(client).await?).await)
}

/// Does it. A removal that fails is logged and counted.
pub async fn apply(client: &Client, plan: Plan) -> Pass {
    let mut pass = Pass {
        seen: plan.seen,
        ..Pass::default()
    };
    let mut removals = futures_util::stream::iter(plan.orphans)
        .map(|Object { metadata }| async move {
            let result = remove(client, &metadata).await;
            (metadata, result)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((metadata, result)) = removals.next().await {
        let (namespace, name) = (&metadata.namespace, &metadata.name);
        match result {
            Ok(()) => {
                tracing::info!(namespace, name, "CiliumEndpoint removed: its pod is gone");
                pass.removed += 1;
            }
            Err(error) if is_overtaken(&error) => pass.overtaken += 1,
            Err(error) => {
                tracing::warn!(namespace, name, %error, "CiliumEndpoint not removed");
                pass.failed += 1;
            }
        }
    }
    pass
}

/// Removes the version that was looked at.
async fn remove(client: &Client, metadata: &Metadata) -> Result<(), kube::Error> {
    let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumEndpoint");
    let resource = ApiResource::from_gvk_with_plural(&kind, "ciliumendpoints");
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &metadata.namespace, &resource);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            resource_version: Some(metadata.resource_version.clone()),
            uid: Some(metadata.uid.clone()),
        }),
        ..DeleteParams::default()
    };
    api.delete(&metadata.name, &params).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Owner;

    fn endpoint(owner: Option<(&str, &str)>) -> Object {
        let owner = owner.map(|(kind, uid)| Owner {
            kind: kind.to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
        });
        Object {
            metadata: Metadata {
                name: "web".to_owned(),
                namespace: "default".to_owned(),
                owner_references: owner.into_iter().collect(),
                ..Metadata::default()
            },
        }
    }

    #[test]
    fn an_endpoint_without_its_own_pod_is_an_orphan() {
        let there = Pods::from([(("default".to_owned(), "web".to_owned()), "1".to_owned())]);
        let elsewhere = Pods::from([(("other".to_owned(), "web".to_owned()), "1".to_owned())]);
        let cases = [
            (Some(("Pod", "1")), &there, false),
            (Some(("Pod", "2")), &there, true),
            (Some(("Pod", "1")), &elsewhere, true),
            (None, &there, false),
            (None, &elsewhere, true),
            (Some(("CiliumNode", "9")), &elsewhere, false),
        ];
        for (owner, pods, expected) in cases {
            assert_eq!(
                is_orphan(&endpoint(owner), pods),
                expected,
                "{owner:?} {pods:?}"
            );
        }
    }
}
