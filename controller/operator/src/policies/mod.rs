//! Conditions of CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies, and an event for each that is refused.
//!
//! One writer for the cluster: what is said of a policy follows from the object alone, and a thousand agents that each
//! said it would write it a thousand times. Agents decide for themselves, by the same code; what goes wrong on one
//! node only is told by that node (`oxilium status`, its metrics). A policy is written to only when what is said of it
//! changes, by server-side apply under a name of its own, in the version that was looked at: whoever changes
//! the policy meanwhile has it looked at again.

mod judge;

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, WatchParams};
use kube::core::{ApiResource, GroupVersionKind, WatchEvent};
use kube::{Api, Client};
use oxilium_agent::kubernetes::{Warning, warn};
use oxilium_crds::Condition;
use serde_json::{Value, json};
use tokio::time::sleep;

pub use judge::{FIELDS_PRUNED, NOT_ENFORCED, VALID, changes, conditions};

use crate::OperatorError;
use crate::error::{code, is_overtaken};

/// Who writes: `metadata.managedFields` name it.
pub const FIELD_MANAGER: &str = "oxilium-operator";

/// Objects of one answer.
const PAGE: u32 = 500;
/// Writes at a time.
const AT_ONCE: usize = 8;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// The answer to a version that is too old.
const GONE: u16 = 410;

/// A kind of policies.
#[derive(Clone, Copy, Debug)]
pub struct PolicyKind {
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
}

/// Those that have conditions.
pub const KINDS: [PolicyKind; 2] = [
    PolicyKind {
        kind: "CiliumNetworkPolicy",
        plural: "ciliumnetworkpolicies",
        namespaced: true,
    },
    PolicyKind {
        kind: "CiliumClusterwideNetworkPolicy",
        plural: "ciliumclusterwidenetworkpolicies",
        namespaced: false,
    },
];

impl PolicyKind {
    fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk("cilium.io", "v2", self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    fn api_of(self, client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
        match object.metadata.namespace.as_deref() {
            Some(namespace) if self.namespaced => {
                Api::namespaced_with(client.clone(), namespace, &self.resource())
            }
            _ => Api::all_with(client.clone(), &self.resource()),
        }
    }
}

/// Follows policies of that kind, for ever.
pub async fn follow(client: &Client, kind: PolicyKind) {
    let mut version = None;
    loop {
        let from = match version.take() {
            Some(version) => Ok(version),
            None => all(client, kind).await,
        };
        let watched = match from {
            Ok(from) => watch(client, kind, from).await,
            Err(error) => Err(error),
        };
        match watched {
            Ok(reached) => version = Some(reached),
            Err(OperatorError::Request { source, .. }) if code(&source) == Some(GONE) => {}
            Err(error) => {
                tracing::warn!(kind = kind.kind, %error, "policies are not looked at; trying again");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Looks at all policies of that kind; returns the version from which changes are asked for.
///
/// # Errors
/// If they cannot be listed. A write that fails is logged.
pub async fn all(client: &Client, kind: PolicyKind) -> Result<String, OperatorError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(OperatorError::request("list", kind.plural))?;
        futures_util::stream::iter(page.items)
            .for_each_concurrent(AT_ONCE, |object| look(client, kind, object))
            .await;
        let more = page.metadata.continue_.filter(|token| !token.is_empty());
        match more {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

/// Looks at changes from that version on, until the API server ends it; returns how far it came.
async fn watch(client: &Client, kind: PolicyKind, from: String) -> Result<String, OperatorError> {
    let failed = |source| OperatorError::request("watch", kind.plural)(source);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    let events = api
        .watch(&WatchParams::default(), &from)
        .await
        .map_err(failed)?;
    let mut events = pin!(events);
    let mut reached = from;
    while let Some(event) = events.next().await {
        match event.map_err(failed)? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if let Some(version) = &object.metadata.resource_version {
                    reached.clone_from(version);
                }
                look(client, kind, object).await;
            }
            WatchEvent::Deleted(object) => {
                reached = object.metadata.resource_version.unwrap_or(reached);
            }
            WatchEvent::Bookmark(bookmark) => reached = bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(failed(kube::Error::Api(status))),
        }
    }
    Ok(reached)
}

/// Looks at one policy, and writes what is to be said of it if that is something else.
async fn look(client: &Client, kind: PolicyKind, mut object: DynamicObject) {
    object.types = Some(kube::api::TypeMeta {
        api_version: "cilium.io/v2".to_owned(),
        kind: kind.kind.to_owned(),
    });
    let name = object.metadata.name.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let result = match serde_json::to_value(&object) {
        Ok(value) => write(client, kind, &object, &value).await,
        Err(error) => Err(kube::Error::SerdeError(error)),
    };
    match result {
        // It is looked at again as it is now.
        Err(error) if is_overtaken(&error) => {}
        Err(error) => {
            tracing::warn!(kind = kind.kind, namespace, name, %error, "no condition written");
        }
        Ok(()) => {}
    }
}

async fn write(
    client: &Client,
    kind: PolicyKind,
    object: &DynamicObject,
    value: &Value,
) -> Result<(), kube::Error> {
    let wanted = conditions(value);
    let refused = wanted
        .iter()
        .find(|condition| condition.condition == VALID && condition.status == "False")
        .cloned();
    let Some(conditions) = changes(value, wanted, Timestamp::now()) else {
        return Ok(());
    };
    let metadata = &object.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": "cilium.io/v2",
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "status": {"conditions": conditions},
    });
    let by = PatchParams::apply(FIELD_MANAGER).force();
    kind.api_of(client, object)
        .patch_status(name, &by, &Patch::Apply(body))
        .await?;
    if let Some(refused) = refused {
        tell(client, kind, object, &refused).await?;
    }
    Ok(())
}

/// An event on a policy that is refused.
async fn tell(
    client: &Client,
    kind: PolicyKind,
    object: &DynamicObject,
    refused: &Condition,
) -> Result<(), kube::Error> {
    let metadata = &object.metadata;
    let warning = Warning {
        about: ObjectReference {
            api_version: Some("cilium.io/v2".to_owned()),
            kind: Some(kind.kind.to_owned()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectReference::default()
        },
        generation: metadata.generation,
        reason: "PolicyRefused",
        message: refused.message.clone().unwrap_or_default(),
        component: FIELD_MANAGER,
        host: None,
    };
    match warn(client, warning).await {
        Err(error) if !is_overtaken(&error) => Err(error),
        _ => Ok(()),
    }
}
