//! What a request failed of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Class of a failure. A client decides by this, never by the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request makes no sense as it stands.
    InvalidRequest,
    /// The client speaks another version of the protocol.
    UnsupportedVersion,
    /// What the request names does not exist.
    NotFound,
    /// The request contradicts what the agent knows (another pod of that name, another interface).
    Conflict,
    /// The agent has not read its inputs and the kernel yet.
    NotReady,
    /// What was waited for did not come about within the request's time.
    Timeout,
    /// The kernel refused a write; the agent goes on trying.
    Kernel,
    /// The agent cannot do this in its present configuration.
    Unsupported,
}

/// A failure as the agent reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ApiError {
    /// The class.
    pub code: ErrorCode,
    /// What failed, where, and what to do about it.
    pub message: String,
    /// The same request may succeed later without anybody changing it.
    pub retryable: bool,
}

impl ApiError {
    /// A failure of this class; whether it is retryable follows from the class.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retryable = match code {
            ErrorCode::NotReady | ErrorCode::Timeout | ErrorCode::Kernel => true,
            ErrorCode::InvalidRequest
            | ErrorCode::UnsupportedVersion
            | ErrorCode::NotFound
            | ErrorCode::Conflict
            | ErrorCode::Unsupported => false,
        };
        Self {
            code,
            message: message.into(),
            retryable,
        }
    }

    /// The same failure, retryable whatever its class.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
