//! Resource definitions: installed where they are missing, upgraded where they are older, never the other way.
//!
//! It is done once, when an operator becomes the leader. A definition that somebody removes later is not made anew behind
//! his back: the agents freeze what they enforce as long as it is missing, and an empty one would read as "all objects
//! are deleted".

use std::time::{Duration, Instant};

use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use tokio::time::sleep;

use crate::OperatorError;
use crate::error::code;

/// Label with the version of the schema, which is Cilium's, too.
pub const SCHEMA_VERSION: &str = "io.cilium.k8s.crd.schema.version";

/// How long a definition may take to be served.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks whether it is.
const LOOK: Duration = Duration::from_millis(200);
/// A write that somebody else overtakes is tried this many times.
const ATTEMPTS: u32 = 5;

/// A version of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64, u64, u64);

impl Version {
    /// `1.31.10`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

/// What to do about a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is missing.
    Create,
    /// It is older, or of no known version.
    Upgrade,
    /// It is ours, or newer.
    Leave,
}

/// Decides about one definition; `label`: the version of the one that is there, if one is.
pub fn judge(is_there: bool, label: Option<&str>, ours: Version) -> Verdict {
    match label.and_then(Version::parse) {
        _ if !is_there => Verdict::Create,
        Some(theirs) if theirs >= ours => Verdict::Leave,
        _ => Verdict::Upgrade,
    }
}

fn version_label(definition: &DynamicObject) -> Option<&str> {
    let labels = definition.metadata.labels.as_ref()?;
    labels.get(SCHEMA_VERSION).map(String::as_str)
}

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions")
}

/// Installs them all and waits until they are served.
///
/// # Errors
/// [`OperatorError`]; those before are installed then.
pub async fn install(client: &Client, definitions: &[DynamicObject]) -> Result<(), OperatorError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource());
    for ours in definitions {
        let wrong = || OperatorError::Definition(ours.metadata.name.clone().unwrap_or_default());
        let name = ours.metadata.name.as_deref().ok_or_else(wrong)?;
        let version = version_label(ours)
            .and_then(Version::parse)
            .ok_or_else(wrong)?;
        put(&api, name, ours, version).await?;
    }
    for ours in definitions {
        until_served(&api, ours.metadata.name.as_deref().unwrap_or_default()).await?;
    }
    Ok(())
}

/// The API server says so in a condition, a moment after the definition is written.
async fn until_served(api: &Api<DynamicObject>, name: &str) -> Result<(), OperatorError> {
    let begin = Instant::now();
    loop {
        let found = api.get_opt(name).await;
        let found = found.map_err(OperatorError::request("get", name))?;
        if found.is_some_and(|found| is_established(&found)) {
            return Ok(());
        }
        let waited = begin.elapsed();
        if waited > PATIENCE {
            return Err(OperatorError::NotEstablished {
                name: name.to_owned(),
                waited,
            });
        }
        sleep(LOOK).await;
    }
}

fn is_established(definition: &DynamicObject) -> bool {
    let conditions = definition.data["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

async fn put(
    api: &Api<DynamicObject>,
    name: &str,
    ours: &DynamicObject,
    version: Version,
) -> Result<(), OperatorError> {
    let params = PostParams::default();
    let mut attempt = 1;
    loop {
        let found = api
            .get_opt(name)
            .await
            .map_err(OperatorError::request("get", name))?;
        let label = found.as_ref().and_then(version_label);
        let written = match (judge(found.is_some(), label, version), found) {
            (Verdict::Leave, _) => return Ok(()),
            (Verdict::Upgrade, Some(found)) => {
                let upgraded = merged(found, ours);
                api.replace(name, &params, &upgraded)
                    .await
                    .map(|_| "upgraded")
            }
            (Verdict::Create | Verdict::Upgrade, _) => {
                api.create(&params, ours).await.map(|_| "installed")
            }
        };
        match written {
            Ok(what) => {
                tracing::info!(name, "definition {what}");
                return Ok(());
            }
            // Another wrote it at the same time: what is there now decides.
            Err(error) if code(&error) == Some(409) && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(OperatorError::request("write", name)(error)),
        }
    }
}

/// Ours over what is there; labels and annotations of others stay.
fn merged(mut found: DynamicObject, ours: &DynamicObject) -> DynamicObject {
    let add = |into: &mut Option<_>, from: &Option<std::collections::BTreeMap<_, _>>| {
        let all: &mut std::collections::BTreeMap<String, String> =
            into.get_or_insert_with(Default::default);
        all.extend(from.clone().unwrap_or_default());
    };
    add(&mut found.metadata.labels, &ours.metadata.labels);
    add(&mut found.metadata.annotations, &ours.metadata.annotations);
    found.data["spec"] = ours.data["spec"].clone();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_never_replaced_by_an_older_one() {
        let ours = Version(1, 31, 10);
        let cases = [
            (false, None, Verdict::Create),
            (true, None, Verdict::Upgrade),
            (true, Some("1.31.9"), Verdict::Upgrade),
            (true, Some("1.31.10"), Verdict::Leave),
            (true, Some("1.32.0"), Verdict::Leave),
            (true, Some("2.0.0"), Verdict::Leave),
            (true, Some("latest"), Verdict::Upgrade),
            (true, Some("1.31"), Verdict::Upgrade),
        ];
        for (is_there, label, expected) in cases {
            assert_eq!(judge(is_there, label, ours), expected, "{label:?}");
        }
    }
}
