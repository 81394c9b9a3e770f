//! A real API server for a test: etcd and kube-apiserver, on addresses that nobody else reaches.
//!
//! ```no_run
//! use oxilium_e2e::apiserver::ApiServer;
//! use oxilium_e2e::require::{Need, require};
//!
//! # fn main() -> anyhow::Result<()> {
//! if !require(&[Need::ApiServer]) {
//!     return Ok(());
//! }
//! let api = ApiServer::shared()?; // or start(): one that the test may stop, break and fill
//! api.namespace("shop")?;
//! api.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}")?;
//! println!("{}", api.kubectl(&["get", "namespaces"])?);
//! # Ok(())
//! # }
//! ```
//!
//! - It is RBAC's: the administrator may do everything, a ServiceAccount ([`ApiServer::service_account`]) what a role says.
//! - There is no controller manager: nothing makes a namespace's `default` ServiceAccount ([`ApiServer::namespace`] does),
//!   nothing deletes what an owner leaves behind, and a deleted namespace stays `Terminating`.
//! - There are no kubelets: a Pod is as the test writes it.
//! - Its data lie in memory, and everything goes with the value; where the test's process is killed, a
//!   reaper sees that and does it.
//!
//! The programs are those of `KUBEBUILDER_ASSETS`, else those that `scripts/apiserver.sh` built. With
//! `OXILIUM_API_SERVER=kubeconfig` the tests run on the cluster of `KUBECONFIG` instead, as its administrator; it has to be
//! said, because they define resources there, and a shell often has a `KUBECONFIG` for something else.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{netns::Netns, process, wait};

mod control_plane;
mod definitions;
pub mod programs;
mod reaper;

use control_plane::ControlPlane;
pub use definitions::CLUSTER_NETWORK_POLICY;
use programs::Source;

/// An API server, and how to speak to it as its administrator. One of its own ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    netns: Option<Netns>,
    // Its processes end before their directory goes.
    own: Option<ControlPlane>,
    directory: reaper::Directory,
}

impl ApiServer {
    /// The one that the tests of this process share: in namespaces of their own, with objects of the cluster by names that
    /// no other test uses.
    ///
    /// # Errors
    /// As [`ApiServer::start`], and then for each test.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<ApiServer, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    /// One of the test's own, on the loopback interface.
    ///
    /// # Errors
    /// If a program is missing, ends, or is not ready in time: with its log.
    pub fn start() -> Result<Self> {
        match programs::find()? {
            Source::Programs(folder) => {
                Self::launch(&folder, None, IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            Source::Kubeconfig { kubectl, config } => Ok(Self {
                kubectl,
                kubeconfig: config,
                netns: None,
                own: None,
                directory: reaper::Directory::create()?,
            }),
        }
    }

    /// One of the test's own inside `netns`, at an address that it has there: for agents of a lab's nodes.
    ///
    /// # Errors
    /// As [`ApiServer::start`]; and where the tests run on somebody's cluster, which is not in that namespace.
    pub fn start_in(netns: &Netns, address: IpAddr) -> Result<Self> {
        match programs::find()? {
            Source::Programs(folder) => Self::launch(&folder, Some(netns.clone()), address),
            Source::Kubeconfig { .. } => {
                bail!(
                    "{} has an API server already, and not in {netns:?}",
                    programs::CHOICE
                )
            }
        }
    }

    fn launch(folder: &Path, netns: Option<Netns>, address: IpAddr) -> Result<Self> {
        let started = Instant::now();
        let directory = reaper::Directory::create()?;
        let own = ControlPlane::start(folder, &directory, netns.as_ref(), address)?;
        let kubeconfig =
            directory.write("admin.kubeconfig", &own.admin_kubeconfig().to_string())?;
        let mut server = Self {
            kubectl: folder.join("kubectl"),
            kubeconfig,
            netns,
            own: Some(own),
            directory,
        };
        server.until_ready()?;
        control_plane::tell(&format!("ready at {}", server.url()?), started);
        Ok(server)
    }

    /// `https://ADDRESS:PORT`.
    ///
    /// # Errors
    /// If kubectl cannot read the configuration.
    pub fn url(&self) -> Result<String> {
        self.kubectl(&[
            "config",
            "view",
            "--minify",
            "--output=jsonpath={.clusters[0].cluster.server}",
        ])
    }

    /// The administrator's configuration, for clients.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl` as the administrator, with arguments to be added.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.directory.path().join("kubectl"))
            .env_remove("KUBECONFIG");
        command
    }

    /// Runs `kubectl ARGS` and returns what it printed.
    ///
    /// # Errors
    /// If it fails: with what it wrote to stderr.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        self.inside(|| process::run(&mut command))
    }

    /// Runs `kubectl ARGS` with `input` to read: `-f -`.
    ///
    /// # Errors
    /// If it fails: with what it wrote to stderr.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        self.inside(|| process::run_with_input(&mut command, input))
    }

    /// `kubectl apply` of a manifest; unknown and doubled fields are errors.
    ///
    /// # Errors
    /// If the server refuses a document.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "--validate=strict", "-f", "-"], yaml)
    }

    /// Makes a namespace and its ServiceAccount `default`, without which no Pod is admitted there.
    ///
    /// # Errors
    /// If it exists, or the server refuses.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["create", "namespace", name])?;
        if self.own.is_some() {
            self.kubectl(&["-n", name, "create", "serviceaccount", "default"])?;
        }
        Ok(())
    }

    /// Makes a ServiceAccount, which may do nothing yet, and a configuration that speaks as it.
    ///
    /// # Errors
    /// If it exists, or the server gives no token.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.kubectl(&["-n", namespace, "create", "serviceaccount", name])?;
        let token = self.kubectl(&["-n", namespace, "create", "token", name])?;
        let mut config: Value = serde_json::from_str(&self.kubectl(&[
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "--output=json",
        ])?)?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        self.directory.write(
            &format!("{namespace}-{name}.kubeconfig"),
            &config.to_string(),
        )
    }

    /// Stops kube-apiserver as an outage does: at once. Its data stay.
    ///
    /// # Errors
    /// If it is not this test's own, or has ended already.
    pub fn stop(&mut self) -> Result<()> {
        self.own_mut()?.stop_apiserver()
    }

    /// Lets it answer no more (SIGSTOP), or again (SIGCONT): what a client sees of a hung server or a lost network.
    ///
    /// # Errors
    /// If it is not this test's own, or has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let own = self.own.as_ref().with_context(not_ours)?;
        own.signal_apiserver(signal)
    }

    /// Starts kube-apiserver again after [`ApiServer::stop`], at the same address and on the same data, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// As [`ApiServer::start`].
    pub fn resume(&mut self) -> Result<()> {
        let own = self.own.as_mut().with_context(not_ours)?;
        own.start_apiserver(&self.directory, self.netns.as_ref())?;
        self.until_ready()
    }

    fn until_ready(&mut self) -> Result<()> {
        wait::until("the API server is ready", control_plane::LIMIT, || {
            if let Err(ended) = self.own_mut()?.still_runs() {
                return Ok(Some(Err(ended)));
            }
            self.kubectl(&["get", "--raw", "/readyz"])?;
            Ok(Some(Ok(())))
        })??;
        // The server makes this namespace by itself, a moment after it is ready.
        wait::until("the namespace default", control_plane::LIMIT, || {
            let yaml = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}";
            self.apply(yaml).map(Some)
        })
        .map(drop)
    }

    fn own_mut(&mut self) -> Result<&mut ControlPlane> {
        self.own.as_mut().with_context(not_ours)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.netns {
            Some(netns) => netns.enter(work)?,
            None => work(),
        }
    }
}

fn not_ours() -> String {
    format!(
        "not with {}=kubeconfig: that cluster is not this test's own",
        programs::CHOICE
    )
}
