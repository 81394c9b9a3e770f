//! Failures as the CNI specification writes them.

use std::io;

use oxilium_api::ClientError;
use serde_json::json;

/// Error codes of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration's version or the command in it is not supported.
    IncompatibleVersion = 1,
    /// The container is not known.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The input is not JSON of the expected shape.
    Decode = 6,
    /// The configuration cannot work.
    InvalidConfig = 7,
    /// The same call may succeed later.
    TryAgainLater = 11,
    /// STATUS: pods cannot be added at present.
    NotAvailable = 50,
    /// The agent refused (plugins number their own codes from 100).
    Refused = 100,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CniError {
    /// What kind of failure.
    pub(crate) code: Code,
    /// What failed and where.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(Code::Io, format!("{what}: {error}"), "")
    }

    /// The agent's answer, or that there is none.
    pub(crate) fn from_client(error: &ClientError) -> Self {
        let code = if error.retryable() {
            Code::TryAgainLater
        } else {
            Code::Refused
        };
        let details = if error.agent_absent() {
            "start the agent, or wait until it runs: nothing was changed"
        } else if error.retryable() {
            "the container runtime tries again by itself"
        } else {
            "trying again does not help"
        };
        Self::new(code, error.to_string(), details)
    }

    /// The error as the specification wants it on stdout.
    pub(crate) fn to_json(&self, version: &str) -> String {
        let mut error = json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
        });
        if !self.details.is_empty() {
            error["details"] = self.details.as_str().into();
        }
        format!("{error:#}")
    }
}
