//! The agent's options: flags, environment variables, a configuration directory, under Cilium's names where it has them.

pub mod directory;
pub mod keys;
pub mod settle;
mod tell;
pub mod value;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use oxilium_abi::{SERVICE_LOOPBACK4, SERVICE_LOOPBACK6};
use oxilium_api::paths;
use oxilium_manifest::object::{LabelFilter, LabelFilterError};
use oxilium_model::policy::config::{AllowLocalhost, EnforcementMode, Families, PolicyConfig};
use oxilium_model::world::Capacities;

use self::settle::Configured;
use self::value::{parse_boolean, parse_seconds};
use crate::http::OptionalAddress;
use crate::kubernetes::KubernetesOptions;

/// Options of `oxilium agent`.
#[derive(Clone, Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct AgentOptions {
    /// Directory with a file for each key: the mounted ConfigMap cilium-config. Flags and environment count before it.
    #[arg(long, env = "CILIUM_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Option<PathBuf>,

    /// Directory of manifests, in place of an API server.
    #[arg(
        long,
        env = "OXILIUM_MANIFESTS",
        value_name = "DIR",
        conflicts_with_all = ["k8s_kubeconfig_path", "k8s_api_server"]
    )]
    pub manifests: Option<PathBuf>,

    /// The API server.
    #[command(flatten)]
    pub kubernetes: KubernetesOptions,

    /// Name of this node, as its Node object has it. The host name unless given.
    #[arg(long, env = "K8S_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// What must outlive the agent: attachments, numbers given out, admitted objects.
    #[arg(long, env = "CILIUM_STATE_DIR", default_value = paths::STATE, value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Mount point of the BPF file system, or a directory in it.
    #[arg(long, env = "CILIUM_BPF_ROOT", default_value = paths::BPF_ROOT, value_name = "DIR")]
    pub bpf_root: PathBuf,

    /// Accept a BPF file system that only this mount namespace has. For trials: pins go with it.
    #[arg(long, env = "OXILIUM_ACCEPT_PRIVATE_BPFFS")]
    pub accept_private_bpffs: bool,

    /// Where what would go to Kubernetes is written as YAML: STATE_DIR/status unless given, and with an API server,
    /// to which it does go, nowhere unless given.
    #[arg(long, env = "OXILIUM_STATUS_DIR", value_name = "DIR")]
    pub status_dir: Option<PathBuf>,

    /// Where the CNI plugin leaves word of containers that went away while the agent was down.
    #[arg(long, alias = "cni-tombstones", env = "OXILIUM_TOMBSTONES", default_value = paths::TOMBSTONES, value_name = "DIR")]
    pub tombstones: PathBuf,

    /// Enforce policy also on pods that run already when the agent comes, without a restart of theirs.
    #[arg(
        long,
        env = "OXILIUM_ADOPT_PODS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub adopt_pods: bool,

    /// Where container runtimes keep the network namespaces of pods, for those.
    #[arg(
        long,
        env = "OXILIUM_NETNS_DIRS",
        value_delimiter = ',',
        default_value = "/var/run/netns,/var/run/docker/netns",
        value_name = "DIRS"
    )]
    pub netns_dirs: Vec<PathBuf>,

    /// Whom policy is enforced on: those that a policy selects, everybody, nobody.
    #[arg(long, alias = "enforcement-mode", env = "CILIUM_ENABLE_POLICY", value_enum, default_value_t = Enforcement::Default)]
    pub enable_policy: Enforcement,

    /// May this node reach its own pods whatever policy says by default?
    #[arg(long, env = "CILIUM_ALLOW_LOCALHOST", value_enum, default_value_t = Localhost::Auto)]
    pub allow_localhost: Localhost,

    /// How programs are attached; `auto` takes tcx where the kernel has it.
    #[arg(long, env = "OXILIUM_ATTACH_MODE", value_enum, default_value_t = AttachMode::Auto)]
    pub attach_mode: AttachMode,

    /// Name of this cluster.
    #[arg(
        long,
        env = "CILIUM_CLUSTER_NAME",
        default_value = "default",
        value_name = "NAME"
    )]
    pub cluster_name: String,

    /// Id of this cluster, 0 to 255.
    #[arg(
        long,
        env = "CILIUM_CLUSTER_ID",
        default_value_t = 0,
        value_name = "ID"
    )]
    pub cluster_id: u8,

    /// UID of this cluster, which identity numbers start from; made once and kept unless given.
    #[arg(long, env = "OXILIUM_CLUSTER_UID", value_name = "UID")]
    pub cluster_uid: Option<String>,

    /// Address of this node towards the others, for pods behind a tunnel.
    #[arg(long, env = "OXILIUM_TUNNEL_ADDRESS", value_name = "ADDRESS")]
    pub tunnel_address: Option<Ipv4Addr>,

    /// Which labels of pods make identities, on top of the default rules: rules `[SOURCE:][!]EXPRESSION`, separated by
    /// spaces; an expression matches the start of a key.
    #[arg(long, env = "CILIUM_LABELS", value_parser = label_filter, default_value = "", value_name = "RULES")]
    pub labels: LabelFilter,

    /// Namespaces whose pods may send from addresses that are not theirs.
    #[arg(
        long,
        env = "OXILIUM_ALLOW_SPOOFING",
        value_delimiter = ',',
        value_name = "NAMESPACES"
    )]
    pub allow_spoofing: Vec<String>,

    /// Entries that one policy table and direction may have.
    #[arg(
        long,
        env = "CILIUM_BPF_POLICY_MAP_MAX",
        default_value_t = 16_384,
        value_name = "ENTRIES"
    )]
    pub bpf_policy_map_max: u32,

    /// Entries of all policy tables together.
    #[arg(
        long,
        env = "OXILIUM_BPF_POLICY_TOTAL_MAX",
        default_value_t = 512 * 1024,
        value_name = "ENTRIES"
    )]
    pub bpf_policy_total_max: u32,

    /// Prefixes and addresses whose identity programs know: of pods anywhere, nodes, and what policies name.
    #[arg(
        long,
        env = "OXILIUM_BPF_IPCACHE_MAX",
        default_value_t = 520_192,
        value_parser = clap::value_parser!(u32).range(64..),
        value_name = "ENTRIES"
    )]
    pub bpf_ipcache_max: u32,

    /// Pods on this node.
    #[arg(
        long,
        env = "OXILIUM_BPF_INTERFACES_MAX",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=65_535),
        value_name = "ENTRIES"
    )]
    pub bpf_interfaces_max: u32,

    /// Backends of all services together, each counted once for each of a service's addresses and ports; and addresses
    /// and ports of services, of which there is room for 32768 at most. 262144 and 32768 unless given.
    #[arg(
        long,
        env = "CILIUM_BPF_LB_MAP_MAX",
        value_parser = clap::value_parser!(u32).range(1..=1 << 22),
        value_name = "ENTRIES"
    )]
    pub bpf_lb_map_max: Option<u32>,

    /// Answered flows that are remembered, of each address family.
    #[arg(
        long,
        env = "CILIUM_BPF_CT_GLOBAL_TCP_MAX",
        default_value_t = 131_072,
        value_name = "FLOWS"
    )]
    pub bpf_ct_global_tcp_max: u32,

    /// Flows without an answer that are remembered, of each address family.
    #[arg(
        long,
        env = "CILIUM_BPF_CT_GLOBAL_ANY_MAX",
        default_value_t = 32_768,
        value_name = "FLOWS"
    )]
    pub bpf_ct_global_any_max: u32,

    /// Count packets and bytes of each remembered flow. Each packet then writes to its flow's entry, which the CPUs of the
    /// two directions take from each other.
    #[arg(
        long,
        env = "CILIUM_BPF_CONNTRACK_ACCOUNTING",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        value_parser = parse_boolean,
        value_name = "BOOL"
    )]
    pub bpf_conntrack_accounting: bool,

    /// IPv4 address that stands in for a pod which reaches itself through a service, as source of what it gets.
    #[arg(
        long,
        env = "CILIUM_IPV4_SERVICE_LOOPBACK_ADDRESS",
        default_value_t = SERVICE_LOOPBACK4.into(),
        value_parser = loopback4,
        value_name = "ADDRESS"
    )]
    pub ipv4_service_loopback_address: Ipv4Addr,

    /// The same for IPv6. Pods send to it by their default route, so it cannot be link-local.
    #[arg(
        long,
        env = "CILIUM_IPV6_SERVICE_LOOPBACK_ADDRESS",
        default_value_t = SERVICE_LOOPBACK6.into(),
        value_parser = loopback6,
        value_name = "ADDRESS"
    )]
    pub ipv6_service_loopback_address: Ipv6Addr,

    /// Seconds between two comparisons of the kernel with what it should hold, a tenth more or less.
    #[arg(
        long,
        env = "OXILIUM_SWEEP_INTERVAL",
        default_value_t = 10,
        value_name = "SECONDS"
    )]
    pub sweep_interval: u64,

    /// Time between two removals of flows that ended; 0: 10 seconds to 5 minutes, as the tables fill.
    #[arg(
        long,
        env = "CILIUM_CONNTRACK_GC_INTERVAL",
        default_value = "0s",
        value_parser = parse_seconds,
        value_name = "DURATION"
    )]
    pub conntrack_gc_interval: u64,

    /// Port of /healthz and /livez on the loopback address; neither is served unless given.
    #[arg(long, env = "CILIUM_AGENT_HEALTH_PORT", value_name = "PORT")]
    pub agent_health_port: Option<u16>,

    /// Where /metrics is served for Prometheus, `:PORT` for all addresses of the node; empty: nowhere.
    #[arg(
        long,
        env = "CILIUM_PROMETHEUS_SERVE_ADDR",
        default_value = "",
        value_name = "[HOST]:PORT"
    )]
    pub prometheus_serve_addr: OptionalAddress,

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

    /// What is to be told about the configuration.
    #[arg(skip)]
    pub configured: Configured,
}

/// Where the cluster's objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectSource<'o> {
    /// A directory of manifests.
    Manifests(&'o Path),
    /// The Kubernetes API.
    Kubernetes(&'o KubernetesOptions),
}

/// Whom policy is enforced on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Enforcement {
    /// Those that a policy selects.
    Default,
    /// Everybody.
    Always,
    /// Nobody.
    Never,
}

impl Enforcement {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// May the node reach its own pods whatever policy says by default?
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Localhost {
    /// As `always`.
    Auto,
    /// Yes, unless a rule denies it: kubelets probe pods.
    Always,
    /// Only where a policy allows it.
    Policy,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachMode {
    /// tcx where the kernel has it, else clsact filters.
    Auto,
    /// tcx links.
    Tcx,
    /// clsact filters.
    Tc,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

fn loopback4(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| "no IPv4 address, e.g. 169.254.42.1".to_owned())?;
    if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
    {
        return Err(
            "a pod takes no packet from there; any address that nobody has, e.g. 169.254.42.1"
                .to_owned(),
        );
    }
    Ok(address)
}

fn loopback6(text: &str) -> Result<Ipv6Addr, String> {
    let address: Ipv6Addr = text
        .parse()
        .map_err(|_| "no IPv6 address, e.g. 100::a9fe:2a01".to_owned())?;
    if address.is_unicast_link_local() {
        return Err(
            "a pod would look for it on its own link, where nobody answers; any other address that nobody has, e.g. 100::a9fe:2a01"
                .to_owned(),
        );
    }
    if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.to_ipv4_mapped().is_some()
    {
        return Err(
            "a pod takes no packet from there; any address that nobody has, e.g. 100::a9fe:2a01"
                .to_owned(),
        );
    }
    Ok(address)
}

fn label_filter(rules: &str) -> Result<LabelFilter, LabelFilterError> {
    LabelFilter::new(rules.split_whitespace())
}

impl AgentOptions {
    /// Where objects come from: the directory if one is given.
    pub fn source(&self) -> ObjectSource<'_> {
        match &self.manifests {
            Some(directory) => ObjectSource::Manifests(directory),
            None => ObjectSource::Kubernetes(&self.kubernetes),
        }
    }

    /// What concerns policy.
    pub fn policy(&self) -> PolicyConfig {
        PolicyConfig {
            mode: match self.enable_policy {
                Enforcement::Default => EnforcementMode::Default,
                Enforcement::Always => EnforcementMode::Always,
                Enforcement::Never => EnforcementMode::Never,
            },
            allow_localhost: match self.allow_localhost {
                Localhost::Auto | Localhost::Always => AllowLocalhost::Always,
                Localhost::Policy => AllowLocalhost::Policy,
            },
            host_firewall: false,
            families: Families::default(),
            cluster_name: self.cluster_name.as_str().into(),
            cluster_id: self.cluster_id,
        }
    }

    /// Where the status goes, if anywhere.
    pub fn status_dir(&self) -> Option<PathBuf> {
        let by_default = match self.source() {
            ObjectSource::Manifests(_) => Some(self.state_dir.join("status")),
            ObjectSource::Kubernetes(_) => None,
        };
        self.status_dir.clone().or(by_default)
    }

    /// Sizes of the tables that the agent fills.
    pub fn capacities(&self) -> Capacities {
        let default = Capacities::default();
        let services = self.bpf_lb_map_max.map(|most| most as usize);
        Capacities {
            policy_entries: self.bpf_policy_total_max as usize,
            table_quota: self.bpf_policy_map_max as usize,
            ipcache: self.bpf_ipcache_max as usize,
            interfaces: self.bpf_interfaces_max as usize,
            frontends: services.map_or(default.frontends, |most| most.min(default.frontends)),
            backends: services.unwrap_or(default.backends),
            ..default
        }
    }

    /// Time between two removals of flows that ended; none: as need be.
    pub fn conntrack_gc(&self) -> Option<Duration> {
        (self.conntrack_gc_interval > 0).then(|| Duration::from_secs(self.conntrack_gc_interval))
    }

    /// Directories in which pods that run already are looked for.
    pub fn adopt_from(&self) -> Vec<PathBuf> {
        if self.adopt_pods {
            self.netns_dirs.clone()
        } else {
            Vec::new()
        }
    }

    /// Time between two sweeps.
    pub fn sweep(&self) -> Duration {
        Duration::from_secs(self.sweep_interval.max(1))
    }
}
