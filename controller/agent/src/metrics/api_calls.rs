//! Requests to the API server, as its client sees them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tower::{Layer, Service};

/// What stands for a status where no answer came.
const NO_ANSWER: &str = "<error>";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    host: String,
    method: String,
    return_code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    path: String,
    method: String,
}

/// Handles: a clone counts in the same instruments.
#[derive(Clone, Debug)]
pub struct ApiCalls {
    calls: Family<Call, Counter>,
    latency: Family<Place, Histogram, fn() -> Histogram>,
}

/// From 1 ms to 33 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 2.0, 16))
}

impl Default for ApiCalls {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            latency: Family::new_with_constructor(seconds),
        }
    }
}

impl ApiCalls {
    /// Counts what passes to `host`.
    pub fn layer(&self, host: String) -> CountCalls {
        CountCalls {
            calls: self.clone(),
            host,
        }
    }

    /// An answer came, or none, this long after the request; that of a watch comes when it begins.
    pub fn answered(
        &self,
        host: &str,
        method: &Method,
        path: &str,
        status: Option<u16>,
        time: Duration,
    ) {
        let call = Call {
            host: host.to_owned(),
            method: method.to_string(),
            return_code: status.map_or_else(|| NO_ANSWER.to_owned(), |status| status.to_string()),
        };
        self.calls.get_or_create(&call).inc();
        let place = Place {
            path: template(path),
            method: method.to_string(),
        };
        self.latency
            .get_or_create(&place)
            .observe(time.as_secs_f64());
    }

    /// Under names that begin with `prefix`.
    pub fn register(&self, registry: &mut Registry, prefix: &str) {
        registry.register(
            format!("{prefix}_k8s_client_api_calls"),
            "Requests to the API server by its answer",
            self.calls.clone(),
        );
        registry.register_with_unit(
            format!("{prefix}_k8s_client_api_latency_time"),
            "Time until the API server began to answer",
            Unit::Seconds,
            self.latency.clone(),
        );
    }
}

/// A path without the names of objects: as many values of a label as there are kinds of requests, not as there are objects.
fn template(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let version = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => return path.to_owned(),
    };
    if parts.len() <= version {
        return path.to_owned();
    }
    let (group, mut rest) = parts.split_at(version);
    let mut told = group.to_vec();
    if let ["namespaces", _, of_namespace @ ..] = rest
        && !of_namespace.is_empty()
    {
        told.extend(["namespaces", "{namespace}"]);
        rest = of_namespace;
    }
    if let [resource, of_object @ ..] = rest {
        told.push(resource);
        if let [_, subresource @ ..] = of_object {
            told.push("{name}");
            told.extend(subresource);
        }
    }
    format!("/{}", told.join("/"))
}

/// See [`ApiCalls::layer`].
#[derive(Clone, Debug)]
pub struct CountCalls {
    calls: ApiCalls,
    host: String,
}

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            count: self.clone(),
        }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    count: CountCalls,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let CountCalls { calls, host } = self.count.clone();
        let began = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            calls.answered(&host, &method, &path, status, began.elapsed());
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_without_the_names_in_it() {
        let cases = [
            ("/version", "/version"),
            ("/apis/cilium.io/v2", "/apis/cilium.io/v2"),
            ("/api/v1/pods", "/api/v1/pods"),
            ("/api/v1/nodes/worker/status", "/api/v1/nodes/{name}/status"),
            ("/api/v1/namespaces/shop", "/api/v1/namespaces/{name}"),
            (
                "/api/v1/namespaces/shop/pods/web-0",
                "/api/v1/namespaces/{namespace}/pods/{name}",
            ),
            (
                "/apis/cilium.io/v2/namespaces/shop/ciliumendpoints/web-0",
                "/apis/cilium.io/v2/namespaces/{namespace}/ciliumendpoints/{name}",
            ),
            (
                "/apis/cilium.io/v2/ciliumidentities/300",
                "/apis/cilium.io/v2/ciliumidentities/{name}",
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(template(path), expected);
        }
    }
}
