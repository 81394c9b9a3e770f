//! Says what is to be said of one policy.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{DynamicObject, Patch, PatchParams, TypeMeta};
use oxilium_agent::kubernetes::{Warning, warn};
use serde_json::json;

use super::{FIELD_MANAGER, PolicyKind, changes, conditions, events};
use crate::error::is_overtaken;

/// Looks at one policy, and says what is to be said of it if the policy does not say so already.
///
/// # Errors
/// If not all of it was said: look again.
pub(super) async fn say(
    client: &Client,
    kind: PolicyKind,
    object: &DynamicObject,
) -> Result<(), kube::Error> {
    let mut object = object.clone();
    object.types = Some(TypeMeta {
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
    });
    match write(client, kind, &object).await {
        // It is looked at again as it is now.
        Err(error) if is_overtaken(&error) => Ok(()),
        written => written,
    }
}

async fn write(
    client: &Client,
    kind: PolicyKind,
    object: &DynamicObject,
) -> Result<(), kube::Error> {
    let value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    let wanted = conditions(&value);
    let events = events(&wanted);
    let changes = if kind.has_conditions {
        let Some(changes) = changes(&value, wanted, Timestamp::now()) else {
            return Ok(());
        };
        Some(changes)
    } else {
        None
    };
    // Events come first: once the conditions are there nothing is to be said any more.
    for (reason, message) in events {
        tell(client, kind, object, (reason, message)).await?;
    }
    let Some(conditions) = changes else {
        return Ok(());
    };
    let metadata = &object.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": kind.api_version(),
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
    kind.api_of(client, metadata.namespace.as_deref())
        .patch_status(name, &by, &Patch::Apply(body))
        .await
        .map(drop)
}

/// An event on a policy.
async fn tell(
    client: &Client,
    kind: PolicyKind,
    object: &DynamicObject,
    (reason, message): (&'static str, String),
) -> Result<(), kube::Error> {
    let metadata = &object.metadata;
    let warning = Warning {
        about: ObjectReference {
            api_version: Some(kind.api_version()),
            kind: Some(kind.kind.to_owned()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectReference::default()
        },
        generation: metadata.generation,
        reason,
        message,
        component: FIELD_MANAGER,
        host: None,
    };
    warn(client, warning).await
}
