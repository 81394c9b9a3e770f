//! /healthz and /livez over HTTP, for kubelet's probes. On the loopback address: they say how the node does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The longest request that is read.
const LONGEST: usize = 4096;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time.
const AT_ONCE: usize = 16;

/// An answer to GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200, with JSON.
    Well(String),
    /// 503, with JSON.
    Unwell(String),
    /// 404.
    NoSuchPage,
}

impl Answer {
    fn response(&self) -> String {
        let (status, body) = match self {
            Self::Well(body) => ("200 OK", body.as_str()),
            Self::Unwell(body) => ("503 Service Unavailable", body.as_str()),
            Self::NoSuchPage => ("404 Not Found", "{}"),
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// What pages are made from.
pub trait Pages: Send + Sync + 'static {
    /// The page of this path.
    fn page(&self, path: &str) -> impl Future<Output = Answer> + Send;
}

/// Opens the port.
///
/// # Errors
/// If it is taken, with what to do about it.
pub async fn listen(address: SocketAddr, option: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let told =
            format!("cannot serve /healthz on {address}: {error}; --{option} names another place");
        io::Error::new(error.kind(), told)
    })
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, pages: Arc<impl Pages>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, _)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(PATIENCE, answer(socket, &*pages)).await;
                    if let Ok(Err(error)) = answered {
                        tracing::debug!(%error, "a probe's connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a probe's connection");
                // Out of file descriptors, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut socket: TcpStream, pages: &impl Pages) -> io::Result<()> {
    let mut request = Vec::new();
    // The whole head is read, or the client would see its connection reset.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= LONGEST || socket.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let answer = match path(&request) {
        Some(path) => pages.page(path).await,
        None => Answer::NoSuchPage,
    };
    socket.write_all(answer.response().as_bytes()).await?;
    socket.shutdown().await
}

/// The path that a GET or HEAD asks for.
fn path(request: &[u8]) -> Option<&str> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let path = match words.next()? {
        "GET" => words.next()?,
        _ => return None,
    };
    path.split('?').next()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    struct Fixed;

    impl Pages for Fixed {
        async fn page(&self, path: &str) -> Answer {
            match path {
                "/well" => Answer::Well("{\"a\":1}".to_owned()),
                "/unwell" => Answer::Unwell("{}".to_owned()),
                _ => Answer::NoSuchPage,
            }
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_probe_sees_by_the_status_how_it_is() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), "port")
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Fixed)));
        let cases = [
            (
                "GET /well HTTP/1.1\r\nHost: a\r\nbrief: true\r\n\r\n",
                "200",
            ),
            ("GET /well?verbose HTTP/1.1\r\n\r\n", "200"),
            ("GET /unwell HTTP/1.0\r\n\r\n", "503"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /well HTTP/1.1\r\n\r\n", "404"),
            ("\r\n\r\n", "404"),
        ];
        for (request, status) in cases {
            let answer = ask(address, request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?} {answer}"
            );
            assert!(answer.contains("Connection: close"), "{answer}");
        }
        assert!(
            ask(address, cases[0].0)
                .await
                .ends_with("\r\n\r\n{\"a\":1}")
        );
        let taken = listen(address, "agent-health-port").await.unwrap_err();
        assert!(taken.to_string().contains("--agent-health-port"), "{taken}");
    }
}
