//! The operator's options, in Cilium's names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oxilium_agent::config::LogFormat;
use oxilium_agent::config::value::{parse_boolean, parse_seconds};
use oxilium_agent::http::OptionalAddress;
use oxilium_agent::kubernetes::KubernetesOptions;

use crate::lease::Terms;

/// Options of `oxilium operator`.
#[derive(Clone, Debug, Args)]
pub struct OperatorOptions {
    /// Directory with a file for each key: the mounted ConfigMap cilium-config. Flags and environment count before it.
    #[arg(long, env = "CILIUM_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Option<PathBuf>,

    /// Where the API server is.
    #[command(flatten)]
    pub kubernetes: KubernetesOptions,

    /// Namespace of the lease.
    #[arg(
        long,
        env = "CILIUM_K8S_NAMESPACE",
        default_value = "kube-system",
        value_name = "NAMESPACE"
    )]
    pub k8s_namespace: String,

    /// Name of this operator among others; the host name unless given.
    #[arg(long, env = "K8S_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Directory of resource definitions, one a file, to be installed and upgraded in place of those that this program
    /// brings.
    #[arg(long, env = "OXILIUM_CRDS_DIR", value_name = "DIR")]
    pub crds_dir: Option<PathBuf>,

    /// Time between two collections of unused CiliumIdentities; 0: none.
    #[arg(long, env = "CILIUM_IDENTITY_GC_INTERVAL", default_value = "15m", value_parser = seconds, value_name = "DURATION")]
    pub identity_gc_interval: Duration,

    /// How long an identity is unused before it is removed.
    #[arg(long, env = "CILIUM_IDENTITY_HEARTBEAT_TIMEOUT", default_value = "30m", value_parser = seconds, value_name = "DURATION")]
    pub identity_heartbeat_timeout: Duration,

    /// Time between two collections of orphaned CiliumEndpoints; 0: none.
    #[arg(long, env = "CILIUM_CILIUM_ENDPOINT_GC_INTERVAL", default_value = "5m", value_parser = seconds, value_name = "DURATION")]
    pub cilium_endpoint_gc_interval: Duration,

    /// How long others wait for the leader to be heard of.
    #[arg(long, env = "CILIUM_LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = seconds, value_name = "DURATION")]
    pub leader_election_lease_duration: Duration,

    /// How long the leader goes on without having been heard of; less than the others wait.
    #[arg(long, env = "CILIUM_LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = seconds, value_name = "DURATION")]
    pub leader_election_renew_deadline: Duration,

    /// Time between two looks at the lease.
    #[arg(long, env = "CILIUM_LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = seconds, value_name = "DURATION")]
    pub leader_election_retry_period: Duration,

    /// Where /healthz is served.
    #[arg(
        long,
        env = "CILIUM_OPERATOR_API_SERVE_ADDR",
        default_value = "127.0.0.1:9234",
        value_parser = address,
        value_name = "ADDRESS"
    )]
    pub operator_api_serve_addr: SocketAddr,

    /// Where /metrics is served: :PORT, or ADDRESS:PORT; nowhere unless given.
    #[arg(
        long,
        env = "CILIUM_OPERATOR_PROMETHEUS_SERVE_ADDR",
        default_value = "",
        value_name = "ADDRESS"
    )]
    pub operator_prometheus_serve_addr: OptionalAddress,

    /// How log lines are written.
    #[arg(long, env = "OXILIUM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log more.
    #[arg(
        long,
        short = 'D',
        env = "CILIUM_DEBUG",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    pub debug: bool,
}

impl OperatorOptions {
    /// Terms of the lease.
    ///
    /// # Errors
    /// If the leader would go on for as long as the others wait.
    pub fn terms(&self) -> Result<Terms, String> {
        Terms::new(
            self.leader_election_lease_duration,
            self.leader_election_renew_deadline,
            self.leader_election_retry_period,
        )
    }
}

/// Go's way to say every address: no host.
fn address(text: &str) -> Result<SocketAddr, String> {
    let whole = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.replace("localhost", "127.0.0.1"),
    };
    whole
        .parse()
        .map_err(|_| "allowed: ADDRESS:PORT, e.g. 127.0.0.1:9234".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(Duration::from_secs)
}
