//! The connection to the Kubernetes API: where it is, as whom, with which patience.

mod backoff;
mod warning;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

pub use backoff::Backoff;
pub(crate) use backoff::chance;
pub use warning::{Warning, warn};

use crate::metrics::ApiCalls;

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to accept a request.
const WRITE: Duration = Duration::from_secs(30);

/// Where the API server is, in Cilium's options. None of them given: the cluster that the agent's pod is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct KubernetesOptions {
    /// Absolute path of the kubeconfig file; KUBECONFIG and then the pod's service account unless given.
    #[arg(long, env = "CILIUM_K8S_KUBECONFIG_PATH", value_name = "FILE")]
    pub k8s_kubeconfig_path: Option<PathBuf>,

    /// URL of the API server, in place of the one that the kubeconfig or the pod's environment names.
    #[arg(long, env = "CILIUM_K8S_API_SERVER", value_name = "URL")]
    pub k8s_api_server: Option<String>,
}

/// Who asks, as the API server's log and its metrics name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// `oxilium agent`.
    Agent,
    /// `oxilium operator`.
    Operator,
}

impl Component {
    const fn user_agent(self) -> &'static str {
        match self {
            Self::Agent => concat!("oxilium-agent/", env!("CARGO_PKG_VERSION"), " (linux)"),
            Self::Operator => concat!("oxilium-operator/", env!("CARGO_PKG_VERSION"), " (linux)"),
        }
    }
}

/// The API server of a cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Asks it.
    pub client: Client,
    /// Where it is, for people.
    pub url: String,
}

/// Why there is no client. Whether the API server answers is another matter.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read, or names no usable cluster.
    #[error(
        "kubeconfig {}: {reason}; put it right, or name another one with --k8s-kubeconfig-path",
        path.display()
    )]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: KubeconfigError,
    },
    /// Nothing was named, and this is no pod with a service account.
    #[error(
        "no Kubernetes API is named and this is no pod with a service account ({0}): give --k8s-kubeconfig-path or KUBECONFIG, or --manifests DIR to do without an API server"
    )]
    NoCluster(InClusterError),
    /// The URL is none.
    #[error("--k8s-api-server {url:?} is no URL ({reason}): write https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS or credentials cannot be set up.
    #[error("the client of the Kubernetes API cannot be set up: {0}")]
    Setup(#[from] kube::Error),
}

/// Where the configuration comes from.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Kubeconfig(PathBuf),
    /// Plain HTTP, e.g. a proxy on this host: nobody is told who asks.
    Plain(http::Uri),
    InCluster,
}

impl KubernetesOptions {
    /// `kubeconfig`: what the environment variable KUBECONFIG says.
    fn origin(
        &self,
        kubeconfig: Option<OsString>,
    ) -> Result<(Origin, Option<http::Uri>), ClientError> {
        let server = self.k8s_api_server.as_deref().map(url).transpose()?;
        let kubeconfig = kubeconfig.filter(|path| !path.is_empty()).map(Into::into);
        let path = self.k8s_kubeconfig_path.clone().or(kubeconfig);
        Ok(match (path, server) {
            (Some(path), server) => (Origin::Kubeconfig(path), server),
            (None, Some(server)) if server.scheme_str() == Some("http") => {
                (Origin::Plain(server), None)
            }
            (None, server) => (Origin::InCluster, server),
        })
    }
}

fn url(text: &str) -> Result<http::Uri, ClientError> {
    let wrong = |reason: String| ClientError::Url {
        url: text.to_owned(),
        reason,
    };
    let uri: http::Uri = text
        .parse()
        .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it must begin with https:// or http://".to_owned()));
    }
    Ok(uri)
}

async fn from_kubeconfig(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

/// A client of the Kubernetes API whose requests are counted. The API server is not asked anything yet. Inside a runtime.
///
/// # Errors
/// [`ClientError`].
pub async fn connect(
    component: Component,
    options: &KubernetesOptions,
    calls: &ApiCalls,
) -> Result<Cluster, ClientError> {
    let (origin, server) = options.origin(std::env::var_os("KUBECONFIG"))?;
    let mut config = match origin {
        Origin::Kubeconfig(path) => from_kubeconfig(&path)
            .await
            .map_err(|reason| ClientError::Kubeconfig { path, reason })?,
        Origin::Plain(server) => Config::new(server),
        Origin::InCluster => Config::incluster().map_err(ClientError::NoCluster)?,
    };
    if let Some(server) = server {
        config.cluster_url = server;
    }
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    // Each user of the client waits and tries again as befits what it does.
    config.default_retry = false;
    let agent = http::HeaderValue::from_static(component.user_agent());
    config.headers.push((http::header::USER_AGENT, agent));
    let url = config.cluster_url.to_string();
    let host = config.cluster_url.authority().map(ToString::to_string);
    let count = calls.layer(host.unwrap_or_default());
    let client = ClientBuilder::try_from(config)?.with_layer(&count).build();
    Ok(Cluster { client, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kubeconfig: Option<&str>, server: Option<&str>) -> KubernetesOptions {
        KubernetesOptions {
            k8s_kubeconfig_path: kubeconfig.map(Into::into),
            k8s_api_server: server.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn what_is_said_more_exactly_counts() {
        let uri = |text: &str| text.parse::<http::Uri>().unwrap();
        let file = |path: &str| Origin::Kubeconfig(path.into());
        let cases = [
            (None, None, None, Origin::InCluster, None),
            (None, None, Some("/e"), file("/e"), None),
            (None, None, Some(""), Origin::InCluster, None),
            (Some("/f"), None, Some("/e"), file("/f"), None),
            (
                Some("/f"),
                Some("https://a:1"),
                None,
                file("/f"),
                Some(uri("https://a:1")),
            ),
            (
                None,
                Some("https://a:1"),
                None,
                Origin::InCluster,
                Some(uri("https://a:1")),
            ),
            (
                None,
                Some("http://a:1"),
                None,
                Origin::Plain(uri("http://a:1")),
                None,
            ),
        ];
        for (path, server, environment, origin, replaced) in cases {
            let said = options(path, server);
            let found = said.origin(environment.map(Into::into)).unwrap();
            assert_eq!(found, (origin, replaced), "{said:?} {environment:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let broken = directory.path().join("broken");
        std::fs::write(&broken, "clusters: [").unwrap();
        let no_context = directory.path().join("no-context");
        std::fs::write(&no_context, "apiVersion: v1\nkind: Config\n").unwrap();
        let missing = directory.path().join("missing");
        let cases = [
            options(missing.to_str(), None),
            options(broken.to_str(), None),
            options(no_context.to_str(), None),
            options(None, Some("10.0.0.1:6443")),
            options(None, Some("ftp://10.0.0.1")),
        ];
        let mut told = Vec::new();
        for case in cases {
            let error = connect(Component::Agent, &case, &ApiCalls::default())
                .await
                .err()
                .unwrap();
            told.push(error.to_string());
        }
        let told = told
            .join("\n")
            .replace(directory.path().to_str().unwrap(), "DIR");
        insta::assert_snapshot!(told);
    }
}
