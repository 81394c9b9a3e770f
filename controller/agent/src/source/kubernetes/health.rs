//! How reading each kind goes, in words that say what to do.

use std::time::SystemTime;

use kube::core::Status;
use oxilium_api::{ComponentState, ComponentStatus, rfc3339};

use super::resource::{Definition, Resource};

/// How reading one kind goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// The first answer is still to come.
    Starting,
    /// What the API server knows arrives here.
    Connected,
    /// Nobody answers, or not as an API server does.
    Away {
        /// What happened.
        reason: String,
    },
    /// The API server does not know who asks.
    Unauthorized,
    /// The API server does not let the agent.
    Forbidden {
        /// What is not allowed.
        verb: &'static str,
        /// On which resource.
        resource: String,
        /// The API server's words.
        reason: String,
    },
    /// The API server has no such kind.
    Missing,
    /// The kind's definition is being deleted, and its objects with it.
    Terminating,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// See [`Health`].
    Unwell(Health),
    /// The version that was asked for is too old: list again. Not worth a word.
    Expired,
}

impl Failure {
    /// What an error of a request with `verb` on `resource` means.
    pub(super) fn of(error: &kube::Error, verb: &'static str, resource: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status, verb, resource),
            other => Self::away(&whole(other)),
        }
    }

    /// What the API server says instead of an answer.
    pub(super) fn answered(status: &Status, verb: &'static str, resource: &str) -> Self {
        Self::Unwell(match status.code {
            401 => Health::Unauthorized,
            403 => Health::Forbidden {
                verb,
                resource: resource.to_owned(),
                reason: status.message.clone(),
            },
            404 => Health::Missing,
            410 => return Self::Expired,
            code => Health::Away {
                reason: format!("{verb} {resource}: {} ({code})", status.message),
            },
        })
    }

    pub(super) fn away(reason: &str) -> Self {
        Self::Unwell(Health::Away {
            reason: reason.to_owned(),
        })
    }
}

/// An error with its causes: the outermost says little.
fn whole(error: &kube::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

/// What was read last stays in force, whatever happens.
const FROZEN: &str = "what was read before stays in force";

impl Health {
    /// Something is wrong with it, for a resource that is defined so.
    pub(super) fn is_bad(&self, resource: Resource) -> bool {
        match self {
            Self::Starting | Self::Connected => false,
            Self::Missing => resource.definition() != Definition::Optional,
            _ => true,
        }
    }

    /// The state and what a person reads. `objects`: how many are in force.
    pub(super) fn status(
        &self,
        resource: Resource,
        since: SystemTime,
        objects: usize,
    ) -> ComponentStatus {
        let since = rfc3339(since);
        let qualified = resource.qualified();
        let (state, msg) = match self {
            Self::Starting => (ComponentState::Warning, "asked for".to_owned()),
            Self::Connected => (ComponentState::Ok, format!("{objects} objects")),
            Self::Away { reason } => (
                ComponentState::Failure,
                format!("API server away since {since} ({reason}); {FROZEN}: {objects} objects"),
            ),
            Self::Unauthorized => (
                ComponentState::Failure,
                format!(
                    "the API server does not accept the agent's credentials since {since}: renew the token or certificate; {FROZEN}: {objects} objects"
                ),
            ),
            Self::Forbidden {
                verb,
                resource,
                reason,
            } => (
                ComponentState::Failure,
                format!(
                    "RBAC: the agent's ClusterRole lacks {verb:?} on {resource:?} since {since} ({reason}); {FROZEN}: {objects} objects"
                ),
            ),
            Self::Missing => missing(resource, &qualified, &since, objects),
            Self::Terminating => (
                ComponentState::Failure,
                format!(
                    "the CustomResourceDefinition {qualified} is being deleted, and its objects with it, since {since}; {FROZEN}: {objects} objects. To have them again: create the definition and apply them anew"
                ),
            ),
        };
        ComponentStatus { state, msg }
    }
}

fn missing(
    resource: Resource,
    qualified: &str,
    since: &str,
    objects: usize,
) -> (ComponentState, String) {
    match resource.definition() {
        Definition::Optional if objects == 0 => (
            ComponentState::Disabled,
            format!("the cluster does not have {qualified}"),
        ),
        Definition::BuiltIn => (
            ComponentState::Failure,
            format!(
                "the API server does not serve {qualified} since {since}; {FROZEN}: {objects} objects"
            ),
        ),
        Definition::Required | Definition::Optional => (
            ComponentState::Failure,
            format!(
                "there is no CustomResourceDefinition {qualified} since {since}: the operator installs it, or kubectl apply; {FROZEN}: {objects} objects"
            ),
        ),
    }
}
