//! Lines on the socket.

use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ApiError, Request};

/// Version of the protocol. It changes only when an old client would misread a new agent: fields and
/// requests are added without it.
pub const VERSION: u32 = 1;

/// Longest line in bytes that either side takes; a plan of a large directory needs the most.
pub const MAX_LINE: usize = 64 << 20;

/// A request or an answer with the version of the protocol that it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub version: u32,
    /// What is said.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Envelope<T> {
    /// `body` in this version of the protocol.
    pub fn new(body: T) -> Self {
        Self {
            version: VERSION,
            body,
        }
    }
}

/// One line of the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why it is not given.
    Error(ApiError),
}

/// A request that has one type of answer.
pub trait Call {
    /// What the agent answers with.
    type Reply: DeserializeOwned;

    /// The request as it goes over the wire.
    fn into_request(self) -> Request;
}

/// Reads a line of at most [`MAX_LINE`] bytes, without its end; `None` at the end of the stream.
///
/// # Errors
///
/// What reading gives; `InvalidData` for a line that is too long or that the stream's end cuts off.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = MAX_LINE as u64 + 1;
    reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= MAX_LINE => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line is longer than {MAX_LINE} bytes"),
        )),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the stream ends in the middle of a line",
        )),
    }
}
