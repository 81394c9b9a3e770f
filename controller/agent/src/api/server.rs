//! Connections: a line of request, a line of answer.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use oxilium_api::{Answer, ApiError, Envelope, ErrorCode, MAX_LINE, Request, VERSION};
use oxilium_kernel::Node;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use super::{Monitors, answers, dumps, flows, monitor, status};
use crate::config::AgentOptions;
use crate::disk::{DiskError, make_directory};
use crate::metrics::Instruments;
use crate::reconcile::{Input, Reply, View};

/// How long an answer of the loop may take that waits for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Something else lies there.
    #[error("{} is there and is no socket; the agent does not remove it", .0.display())]
    InTheWay(PathBuf),
    /// Binding failed.
    #[error("cannot listen on {}: {source}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What answers need.
pub struct Service<N> {
    /// To the reconcile loop.
    pub inputs: Sender<Input<N>>,
    /// The latest picture.
    pub view: watch::Receiver<Arc<View>>,
    /// The event ring.
    pub monitors: Monitors,
    /// The agent's options.
    pub options: Arc<AgentOptions>,
    /// How programs are attached, in a word.
    pub attach_mode: &'static str,
    /// What is counted as it happens.
    pub instruments: Instruments,
}

/// The listening socket: for root only from the moment that it can be reached.
pub struct Server {
    listener: UnixListener,
}

impl Server {
    /// Makes the socket in place of one that an earlier agent left. The caller holds the instance lock.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::InTheWay(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(DiskError::io("remove", path))?,
            Err(_) => {}
        }
        let failed = |source| SocketError::Bind {
            path: path.to_owned(),
            source,
        };
        // The process's umask keeps others out until the mode is set.
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener })
    }

    /// Answers until the process ends.
    pub async fn serve<N: Node + 'static>(self, service: Arc<Service<N>>) {
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let service = Arc::clone(&service);
                    tokio::spawn(async move {
                        if let Err(error) = connection(socket, &service).await {
                            tracing::debug!(%error, "a client's connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of file descriptors, most likely: others must end first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection<N: Node + 'static>(socket: UnixStream, service: &Service<N>) -> io::Result<()> {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(line) = read_line(&mut reader).await? {
        let request = match parse(&line) {
            Ok(request) => request,
            Err(error) => {
                send(&mut writer, &Answer::<()>::Error(error)).await?;
                continue;
            }
        };
        if let Request::Monitor(filter) = request {
            return monitor::stream(service, &filter, &mut reader, &mut writer).await;
        }
        answer(service, request, &mut writer).await?;
    }
    Ok(())
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = MAX_LINE as u64 + 1;
    reader.take(limit).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the line is too long, or cut off",
        )),
    }
}

fn parse(line: &[u8]) -> Result<Request, ApiError> {
    let invalid = |error: serde_json::Error| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            format!("cannot read the request: {error}"),
        )
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(invalid)?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(VERSION.into()) {
        let message = format!(
            "the request is in version {} of the protocol, this agent speaks {VERSION}",
            version.map_or_else(|| "none".to_owned(), |version| version.to_string())
        );
        return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
    }
    let envelope: Envelope<Request> = serde_json::from_value(value).map_err(invalid)?;
    Ok(envelope.body)
}

/// Writes one line.
pub(super) async fn send<T: Serialize>(
    writer: &mut OwnedWriteHalf,
    answer: &Answer<T>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Envelope::new(answer))?;
    line.push(b'\n');
    writer.write_all(&line).await
}

async fn answer<N: Node + 'static>(
    service: &Service<N>,
    request: Request,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let view = || Arc::clone(&service.view.borrow());
    macro_rules! reply {
        ($result:expr) => {
            match $result {
                Ok(reply) => send(writer, &Answer::Ok(reply)).await,
                Err(error) => send(writer, &Answer::<()>::Error(error)).await,
            }
        };
    }
    match request {
        Request::Attach(attach) => {
            let wait = Duration::from_millis(attach.wait_millis).saturating_add(PATIENCE);
            reply!(ask(service, wait, |reply| Input::Attach(attach, reply)).await)
        }
        Request::Detach(detach) => {
            reply!(ask(service, PATIENCE, |reply| Input::Detach(detach, reply)).await)
        }
        Request::Check(check) => {
            reply!(ask(service, PATIENCE, |reply| Input::Check(check, reply)).await)
        }
        Request::CollectGarbage(gc) => {
            reply!(ask(service, PATIENCE, |reply| Input::CollectGarbage(gc, reply)).await)
        }
        Request::Ready => reply!(answers::ready(&view())),
        Request::Status => reply!(status::report(service).await),
        Request::EndpointList => reply!(Ok::<_, ApiError>(answers::endpoints(&view()))),
        Request::EndpointGet(name) => reply!(answers::endpoint(&view(), &name)),
        Request::IdentityList => reply!(Ok::<_, ApiError>(answers::identities(&view()))),
        Request::IdentityGet(id) => reply!(answers::identity(&view(), id)),
        Request::PolicyGet => reply!(Ok::<_, ApiError>(answers::policies(&view()))),
        Request::BpfPolicy(endpoint) => {
            reply!(
                errand(service, move |node, view| dumps::policy(
                    node, view, endpoint
                ))
                .await
            )
        }
        Request::BpfIpcache => reply!(errand(service, dumps::ipcache).await),
        Request::BpfConntrack(endpoint) => {
            reply!(errand(service, move |node, _| flows::conntrack(node, endpoint)).await)
        }
        Request::BpfConntrackTop => reply!(errand(service, dumps::conntrack_top).await),
        Request::BpfMetrics => reply!(errand(service, |node, _| dumps::metrics(node)).await),
        Request::BpfEndpoints => reply!(errand(service, |node, _| dumps::endpoints(node)).await),
        Request::BpfServices => reply!(errand(service, super::services::services).await),
        Request::Plan(files) => {
            let options = Arc::clone(&service.options);
            reply!(
                errand(service, move |node, view| {
                    dumps::plan(node, view, &options, &files)
                })
                .await
            )
        }
        Request::Explain(query) => reply!(answers::explain(&view(), &query)),
        Request::ExplainPacket(query) => {
            reply!(
                errand(service, move |node, view| dumps::explain_packet(
                    node, view, &query
                ))
                .await
            )
        }
        Request::Monitor(_) => unreachable_request(writer).await,
    }
}

/// A monitor takes the connection over before requests are answered one by one.
async fn unreachable_request(writer: &mut OwnedWriteHalf) -> io::Result<()> {
    let error = ApiError::new(
        ErrorCode::InvalidRequest,
        "a monitor has its own connection",
    );
    send(writer, &Answer::<()>::Error(error)).await
}

/// Hands something to the reconcile loop and waits for its answer.
async fn ask<N, T>(
    service: &Service<N>,
    patience: Duration,
    input: impl FnOnce(Reply<T>) -> Input<N>,
) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    let ending = || ApiError::new(ErrorCode::NotReady, "the agent is ending");
    service.inputs.send(input(reply)).map_err(|_| ending())?;
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ending()),
        Err(_) => Err(ApiError::new(
            ErrorCode::Timeout,
            format!("the agent was busy for {} s", patience.as_secs()),
        )),
    }
}

/// Has the loop do something with the kernel.
pub(super) async fn errand<N, T: Send + 'static>(
    service: &Service<N>,
    work: impl FnOnce(&mut N, &View) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    ask(service, PATIENCE, |reply: Reply<T>| {
        Input::Errand(Box::new(move |node, view| {
            // A client that went away needs no answer.
            drop(reply.send(work(node, view)));
        }))
    })
    .await
}
