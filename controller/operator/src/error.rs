//! What can go wrong.

use std::time::Duration;

/// The operator, or one of its passes, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A request failed.
    #[error("cannot {action} {what}: {source}")]
    Request {
        /// `list`, `delete`, …
        action: &'static str,
        /// Which objects.
        what: String,
        /// What the API server, or the way to it, said.
        source: kube::Error,
    },
    /// An answer cannot be understood.
    #[error("the list of {what} is not as expected: {reason}")]
    Malformed {
        /// Which objects.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A resource definition of ours is not one.
    #[error("the definition {0} has no name or no version")]
    Definition(String),
    /// A resource definition is not served.
    #[error("the definition {name} is installed, but not served after {} s", waited.as_secs())]
    NotEstablished {
        /// Which.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Somebody else is the leader now, or the lease could not be renewed in time.
    #[error("the lease is lost ({0}): another operator may work now, so this one ends")]
    LeaseLost(String),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

impl OperatorError {
    /// For `map_err`.
    pub(crate) fn request(
        action: &'static str,
        what: impl Into<String>,
    ) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Request {
            action,
            what,
            source,
        }
    }
}

/// The status that the API server answered with.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Not there any more, or changed meanwhile: somebody else was first.
pub(crate) fn is_overtaken(error: &kube::Error) -> bool {
    matches!(code(error), Some(404 | 409))
}
