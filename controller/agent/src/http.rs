//! Pages over HTTP: /healthz and /livez for kubelet's probes, /metrics for Prometheus.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The longest head of a request that is read, in bytes: the least that hyper lets itself be given.
const LONGEST: usize = 8192;
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
    /// 200, with metrics in the OpenMetrics text format.
    Metrics(String),
    /// 404.
    NoSuchPage,
}

impl Answer {
    fn response(self) -> Response<Full<Bytes>> {
        const JSON: &str = "application/json";
        const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let (status, content, body) = match self {
            Self::Well(body) => (StatusCode::OK, JSON, body),
            Self::Unwell(body) => (StatusCode::SERVICE_UNAVAILABLE, JSON, body),
            Self::Metrics(body) => (StatusCode::OK, OPEN_METRICS, body),
            Self::NoSuchPage => (StatusCode::NOT_FOUND, JSON, "{}".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let content = HeaderValue::from_static(content);
        response.headers_mut().insert(CONTENT_TYPE, content);
        response
    }
}

/// What pages are made from.
pub trait Pages: Send + Sync + 'static {
    /// The page of this path.
    fn page(&self, path: &str) -> impl Future<Output = Answer> + Send;
}

/// Where something is served, as Go programs are told: `HOST:PORT`, or `:PORT` for all addresses of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeAddress {
    /// None: all addresses.
    host: Option<IpAddr>,
    port: u16,
}

/// Not such an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT with an IP address (IPv6 in brackets), nor :PORT")]
pub struct BadServeAddress(String);

impl FromStr for ServeAddress {
    type Err = BadServeAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadServeAddress(text.to_owned());
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().map_err(|_| bad())?;
            return Ok(Self { host: None, port });
        }
        let address: SocketAddr = text.parse().map_err(|_| bad())?;
        Ok(Self {
            host: Some(address.ip()),
            port: address.port(),
        })
    }
}

/// The same, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<ServeAddress>);

impl FromStr for OptionalAddress {
    type Err = BadServeAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self(None)),
            address => address.parse().map(|address| Self(Some(address))),
        }
    }
}

impl From<SocketAddr> for ServeAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Some(address.ip()),
            port: address.port(),
        }
    }
}

impl ServeAddress {
    /// In the order in which they are tried: the first answers on IPv4 as well, where there is IPv6.
    fn candidates(self) -> Vec<SocketAddr> {
        match self.host {
            Some(host) => vec![SocketAddr::new(host, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}

/// Opens the port.
///
/// # Errors
/// If it is taken, with what to do about it.
pub async fn listen(address: ServeAddress, option: &str) -> io::Result<TcpListener> {
    let candidates = address.candidates();
    TcpListener::bind(&*candidates).await.map_err(|error| {
        let place = candidates.first().map(ToString::to_string);
        let place = place.unwrap_or_default();
        let told = format!("cannot serve on {place}: {error}; --{option} names another place");
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
                    let answered = tokio::time::timeout(PATIENCE, answer(socket, pages)).await;
                    if let Ok(Err(error)) = answered {
                        tracing::debug!(%error, "a client's connection broke");
                    }
                    drop(place);
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

/// One request: a client that keeps its connection would keep others out.
async fn answer(socket: TcpStream, pages: Arc<impl Pages>) -> hyper::Result<()> {
    let page = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move {
            let answer = match *request.method() {
                Method::GET | Method::HEAD => pages.page(request.uri().path()).await,
                _ => Answer::NoSuchPage,
            };
            Ok::<_, Infallible>(answer.response())
        }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(LONGEST)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(socket), page)
        .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Fixed;

    impl Pages for Fixed {
        async fn page(&self, path: &str) -> Answer {
            match path {
                "/well" => Answer::Well("{\"a\":1}".to_owned()),
                "/unwell" => Answer::Unwell("{}".to_owned()),
                "/metrics" => Answer::Metrics("# EOF\n".to_owned()),
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
    async fn a_client_sees_by_the_status_how_it_is() {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = listen(local.into(), "port").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Fixed)));
        let cases = [
            (
                "GET /well HTTP/1.1\r\nHost: a\r\nbrief: true\r\n\r\n",
                "200",
            ),
            ("GET /well?verbose HTTP/1.1\r\n\r\n", "200"),
            ("GET /metrics HTTP/1.1\r\n\r\n", "200"),
            ("GET /unwell HTTP/1.0\r\n\r\n", "503"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /well HTTP/1.1\r\n\r\n", "404"),
            ("HEAD /well HTTP/1.1\r\n\r\n", "200"),
            ("\r\nno request\r\n\r\n", "400"),
        ];
        for (request, status) in cases {
            let answer = ask(address, request).await;
            let (version, rest) = answer.split_once(' ').unwrap();
            assert!(version.starts_with("HTTP/1."), "{request:?} {answer}");
            assert!(rest.starts_with(status), "{request:?} {answer}");
        }
        let well = ask(address, cases[0].0).await;
        assert!(well.ends_with("\r\n\r\n{\"a\":1}"), "{well}");
        let taken = listen(address.into(), "agent-health-port")
            .await
            .unwrap_err();
        assert!(taken.to_string().contains("--agent-health-port"), "{taken}");
    }

    #[test]
    fn an_address_to_serve_on_is_written_as_go_programs_want_it() {
        let cases = [
            (":9962", Some("[::]:9962")),
            ("127.0.0.1:9962", Some("127.0.0.1:9962")),
            ("[::1]:80", Some("[::1]:80")),
            ("localhost:80", None),
            ("9962", None),
            (":99999", None),
            ("", None),
        ];
        assert_eq!("".parse(), Ok(OptionalAddress(None)));
        for (text, first) in cases {
            let parsed = text.parse::<ServeAddress>();
            let first_candidate = parsed.ok().map(|address| address.candidates()[0]);
            assert_eq!(
                first_candidate,
                first.map(|first| first.parse().unwrap()),
                "{text}"
            );
        }
    }
}
