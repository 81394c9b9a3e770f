//! A synchronous client.

use std::io::{self, BufReader, Write};
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::wire::{Answer, Call, Envelope, VERSION, read_line};
use crate::{ApiError, MonitorEvent, MonitorFilter, Request};

/// Why a call gave no answer, or which answer was a failure.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("the agent does not answer on {}: {source}; is `oxilium agent` running, and with this socket?", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connecting gave.
        source: io::Error,
    },
    /// The socket may not be opened by this user.
    #[error("may not open {}: the agent's socket is for root only", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer on {} within {} s", path.display(), after.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The time waited.
        after: Duration,
    },
    /// The connection broke before the answer.
    #[error("the agent closed the connection on {} before it answered: {source}", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// What reading or writing gave.
        source: io::Error,
    },
    /// The answer is not one that this client understands.
    #[error("cannot read the agent's answer: {reason}; are agent and client of one version?")]
    Garbled {
        /// What is wrong with it.
        reason: String,
    },
    /// The agent's own failure.
    #[error(transparent)]
    Agent(#[from] ApiError),
}

impl ClientError {
    /// The same call may succeed later without anybody changing it.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Timeout { .. } | Self::Closed { .. } => true,
            Self::Permission { .. } | Self::Garbled { .. } => false,
            Self::Agent(error) => error.retryable,
        }
    }

    /// The agent was not there at all, so that it has seen nothing of the call.
    pub fn agent_absent(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

/// Calls the agent, one connection a call.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the agent that listens on `path`. A call fails after `timeout` without an answer.
    pub fn new(path: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            path: path.into(),
            timeout,
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls the agent and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`ClientError`], also when the agent answers with a failure.
    pub fn call<C: Call>(&self, call: C) -> Result<C::Reply, ClientError> {
        let mut lines = self.send::<C::Reply>(call.into_request(), Some(self.timeout))?;
        lines.next().unwrap_or_else(|| {
            Err(ClientError::Closed {
                path: self.path.clone(),
                source: io::ErrorKind::UnexpectedEof.into(),
            })
        })
    }

    /// Events until the agent goes away or the stream is dropped. No timeout: there may be none for long.
    ///
    /// # Errors
    ///
    /// [`ClientError`] when the request could not be sent.
    pub fn monitor(&self, filter: MonitorFilter) -> Result<Stream<MonitorEvent>, ClientError> {
        self.send(Request::Monitor(filter), None)
    }

    fn send<T>(
        &self,
        request: Request,
        timeout: Option<Duration>,
    ) -> Result<Stream<T>, ClientError> {
        let mut socket = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission {
                path: self.path.clone(),
            },
            _ => ClientError::NotRunning {
                path: self.path.clone(),
                source: error,
            },
        })?;
        let failed = |source| self.io_error(source);
        socket.set_read_timeout(timeout).map_err(failed)?;
        socket
            .set_write_timeout(Some(self.timeout))
            .map_err(failed)?;
        let mut line =
            serde_json::to_vec(&Envelope::new(request)).map_err(|error| ClientError::Garbled {
                reason: format!("the request itself cannot be written: {error}"),
            })?;
        line.push(b'\n');
        socket.write_all(&line).map_err(failed)?;
        Ok(Stream {
            reader: BufReader::new(socket),
            client: self.clone(),
            item: PhantomData,
        })
    }

    fn io_error(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout {
                path,
                after: self.timeout,
            },
            _ => ClientError::Closed { path, source },
        }
    }
}

/// Answers of one request, line by line.
#[derive(Debug)]
pub struct Stream<T> {
    reader: BufReader<UnixStream>,
    client: Client,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for Stream<T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match read_line(&mut self.reader) {
            Ok(None) => None,
            Ok(Some(line)) => Some(parse(&line)),
            Err(error) => Some(Err(self.client.io_error(error))),
        }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    let answer: Envelope<Answer<T>> =
        serde_json::from_slice(line).map_err(|error| ClientError::Garbled {
            reason: error.to_string(),
        })?;
    if answer.version != VERSION {
        return Err(ClientError::Garbled {
            reason: format!(
                "it is in version {} of the protocol, this client speaks {VERSION}",
                answer.version
            ),
        });
    }
    match answer.body {
        Answer::Ok(reply) => Ok(reply),
        Answer::Error(error) => Err(error.into()),
    }
}
