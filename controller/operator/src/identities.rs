//! CiliumIdentities that nobody uses.
//!
//! One that no CiliumEndpoint has is marked with the time, in an annotation. One that has been marked for the whole
//! timeout and still is unused is removed, in the very version that was marked. An agent that begins to use a marked
//! identity takes the mark off *first*, as does one that finds a mark on an identity that its endpoints have: that is
//! a new version, which the removal does not touch. So a user that comes between mark and removal wins, however late.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
pub use oxilium_crds::identity::UNUSED_SINCE;
use serde::Deserialize;
use serde_json::json;

use crate::OperatorError;
use crate::error::is_overtaken;
use crate::list::{Metadata, list};

/// Writes at a time.
const AT_ONCE: usize = 8;

const IDENTITIES: &str = "/apis/cilium.io/v2/ciliumidentities";
const ENDPOINTS: &str = "/apis/cilium.io/v2/ciliumendpoints";

/// What is looked at of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Its metadata; the name is the number.
    pub metadata: Metadata,
}

/// What is looked at of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    status: Option<EndpointStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointStatus {
    identity: Option<EndpointIdentity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointIdentity {
    id: u64,
}

/// What becomes of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Keep,
    /// It is unused from now on.
    Mark,
    /// Somebody uses it again.
    Unmark,
    /// Nobody has used it for the whole timeout.
    Remove,
}

/// Decides about one identity. `used`: numbers that endpoints had at a moment after the identity was looked at.
pub fn judge(
    identity: &Identity,
    used: &BTreeSet<u64>,
    now: Timestamp,
    timeout: Duration,
) -> Verdict {
    let metadata = &identity.metadata;
    let Ok(number) = metadata.name.parse::<u64>() else {
        // Not one that an agent made.
        return Verdict::Keep;
    };
    if metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    let mark = metadata.annotations.get(UNUSED_SINCE);
    match (used.contains(&number), mark) {
        (true, None) => Verdict::Keep,
        (true, Some(_)) => Verdict::Unmark,
        (false, None) => Verdict::Mark,
        (false, Some(since)) => match since.parse::<Timestamp>() {
            Ok(since) if now.duration_since(since) >= signed(timeout) => Verdict::Remove,
            // A clock that runs ahead wrote it: the wait is longer, not shorter.
            Ok(_) => Verdict::Keep,
            // Nobody knows since when.
            Err(_) => Verdict::Mark,
        },
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Identities that are there.
    pub seen: usize,
    /// Marked as unused.
    pub marked: usize,
    /// In use again.
    pub unmarked: usize,
    /// Removed.
    pub removed: usize,
    /// Changed by somebody else before they could be.
    pub overtaken: usize,
    /// Not done, because a request failed.
    pub failed: usize,
}

/// What is to be done, to the versions that were looked at.
#[derive(Clone, Debug)]
pub struct Plan {
    seen: usize,
    at: Timestamp,
    work: Vec<(Identity, Verdict)>,
}

/// Looks at all identities and at who uses them.
///
/// # Errors
/// If the lists cannot be read.
pub async fn look(client: &Client, timeout: Duration) -> Result<Plan, OperatorError> {
    // In this order: whoever begins to use an identity after its version was read here changes that version first.
    let identities: Vec<Identity> = list(client, IDENTITIES).await?;
    let endpoints: Vec<Endpoint> = list(client, ENDPOINTS).await?;
    let used: BTreeSet<u64> = endpoints
        .into_iter()
        .filter_map(|endpoint| Some(endpoint.status?.identity?.id))
        .collect();
    let at = Timestamp::now();
    let seen = identities.len();
    let work = identities.into_iter().filter_map(|identity| {
        let verdict = judge(&identity, &used, at, timeout);
        (verdict != Verdict::Keep).then_some((identity, verdict))
    });
    Ok(Plan {
        seen,
        at,
        work: work.collect(),
    })
}

/// Does it. A write that fails is logged and counted.
pub async fn apply(client: &Client, plan: Plan) -> Pass {
    let api = api(client);
    let mut pass = Pass {
        seen: plan.seen,
        ..Pass::default()
    };
    let at = plan.at;
    let mut writes = futures_util::stream::iter(plan.work)
        .map(|(identity, verdict)| {
            let api = &api;
            async move {
                let result = write(api, &identity, verdict, at).await;
                (identity, verdict, result)
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((identity, verdict, result)) = writes.next().await {
        pass.count(&identity.metadata.name, verdict, result);
    }
    pass
}

/// One pass over all identities.
///
/// # Errors
/// If the lists cannot be read; nothing is changed then.
pub async fn collect(client: &Client, timeout: Duration) -> Result<Pass, OperatorError> {
    Ok(apply(client, look(client, timeout).await?).await)
}

impl Pass {
    fn count(&mut self, name: &str, verdict: Verdict, result: Result<(), kube::Error>) {
        match result {
            Ok(()) => match verdict {
                Verdict::Keep => {}
                Verdict::Mark => self.marked += 1,
                Verdict::Unmark => self.unmarked += 1,
                Verdict::Remove => {
                    tracing::info!(identity = name, "removed: nobody uses it");
                    self.removed += 1;
                }
            },
            Err(error) if is_overtaken(&error) => self.overtaken += 1,
            Err(error) => {
                tracing::warn!(identity = name, ?verdict, %error, "not done");
                self.failed += 1;
            }
        }
    }
}

fn api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumIdentity");
    let resource = ApiResource::from_gvk_with_plural(&kind, "ciliumidentities");
    Api::all_with(client.clone(), &resource)
}

/// Does it to the version that was looked at, or not at all.
async fn write(
    api: &Api<DynamicObject>,
    identity: &Identity,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let metadata = &identity.metadata;
    let mark = match verdict {
        Verdict::Keep => return Ok(()),
        Verdict::Mark => json!(now.to_string()),
        Verdict::Unmark => json!(null),
        Verdict::Remove => {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    resource_version: Some(metadata.resource_version.clone()),
                    uid: Some(metadata.uid.clone()),
                }),
                ..DeleteParams::default()
            };
            return api.delete(&metadata.name, &params).await.map(drop);
        }
    };
    let patch = json!({"metadata": {
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "annotations": {UNUSED_SINCE: mark},
    }});
    let params = PatchParams::default();
    api.patch(&metadata.name, &params, &Patch::Merge(&patch))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(30);

    fn identity(name: &str, mark: Option<&str>) -> Identity {
        let mut metadata = Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        };
        let mark = mark.map(|mark| (UNUSED_SINCE.to_owned(), mark.to_owned()));
        metadata.annotations.extend(mark);
        Identity { metadata }
    }

    #[test]
    fn an_identity_goes_when_nobody_has_used_it_for_the_whole_timeout() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let used = BTreeSet::from([300]);
        let cases = [
            ("300", None, Verdict::Keep),
            ("301", None, Verdict::Mark),
            ("301", Some("2026-01-01T11:30:01Z"), Verdict::Keep),
            ("301", Some("2026-01-01T11:30:00Z"), Verdict::Remove),
            ("301", Some("2026-01-01T13:00:00Z"), Verdict::Keep),
            ("301", Some("yesterday"), Verdict::Mark),
            ("300", Some("2025-01-01T00:00:00Z"), Verdict::Unmark),
            ("not-a-number", None, Verdict::Keep),
        ];
        for (name, mark, expected) in cases {
            let found = judge(&identity(name, mark), &used, now, TIMEOUT);
            assert_eq!(found, expected, "{name} {mark:?}");
        }
    }

    #[test]
    fn one_that_is_being_deleted_is_let_go() {
        let mut going = identity("301", None);
        going.metadata.deletion_timestamp = Some("2026-01-01T11:00:00Z".to_owned());
        let verdict = judge(&going, &BTreeSet::new(), Timestamp::UNIX_EPOCH, TIMEOUT);
        assert_eq!(verdict, Verdict::Keep);
    }
}
