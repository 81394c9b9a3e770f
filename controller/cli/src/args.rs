//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use oxilium_agent::AgentOptions;
use oxilium_agent::uninstall::UninstallOptions;
use oxilium_api::{Client, MonitorKind, paths};
use oxilium_operator::OperatorOptions;

use crate::cni::Cni;
use crate::output::Format;

/// Network policy for Kubernetes pods by eBPF, as a declarative reconciler.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 yes or done; 1 the answer is no (status is not Ok, a packet is denied, a manifest is refused); 2 no answer; 3 explain --packet: programs and tables contradict each other."
)]
pub(crate) struct Cli {
    /// The agent's socket.
    #[arg(long, short = 'H', visible_alias = "host", global = true, env = "CILIUM_SOCK", default_value = paths::SOCKET, value_name = "PATH")]
    socket: String,

    /// For programs: json, yaml or jsonpath=TEMPLATE. For people: nothing.
    #[arg(long, short, global = true, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The socket; `unix://` before it is allowed.
    pub(crate) fn socket_path(&self) -> PathBuf {
        let path = self.socket.strip_prefix("unix://").unwrap_or(&self.socket);
        path.into()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket_path(), Duration::from_mins(1))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent.
    Agent(Box<AgentOptions>),
    /// Run the cluster's operator.
    Operator(Box<OperatorOptions>),
    /// The CNI plugin on this node: put in place, taken away.
    #[command(subcommand)]
    Cni(Cni),
    /// How the agent does. Exit status 1 unless it is Ok.
    Status(StatusArgs),
    /// Endpoints: the interfaces of this node's pods.
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Security identities.
    #[command(subcommand)]
    Identity(List),
    /// Policies.
    #[command(subcommand)]
    Policy(Policy),
    /// Services that pods reach by a ClusterIP.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// What the kernel holds.
    #[command(subcommand)]
    Bpf(Bpf),
    /// Drops and policy verdicts as they happen.
    Monitor(MonitorArgs),
    /// What would be written to the kernel for a directory of manifests; nothing is.
    Plan(PlanArgs),
    /// Whether a packet passes, and which rules decide. Exit status 0: it passes, 1: it does not.
    Explain(ExplainArgs),
    /// Remove everything that an agent ever made on this host: no policy holds after it. Refused while an agent runs.
    /// Exit status 1 when something had to stay.
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub agent: UninstallOptions,

    /// Where the node keeps its CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub cni_bin_dir: PathBuf,

    /// Where the node keeps its CNI configurations.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub cni_conf_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// One line.
    #[arg(long)]
    pub(crate) brief: bool,
    /// More: maps and writes.
    #[arg(long, visible_alias = "all-details")]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum List {
    /// All of them.
    #[command(visible_alias = "ls")]
    List {
        /// Leave the headers out.
        #[arg(long)]
        no_headers: bool,
    },
    /// One of them: an endpoint by id or as namespace/pod, an identity by number.
    Get {
        /// Which.
        what: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Endpoint {
    #[command(flatten)]
    Show(List),
    /// What happened to one of them, oldest first.
    Log {
        /// Its id, or namespace/pod.
        endpoint: String,
    },
    /// Whether one of them works, and what is tried again. Exit status 1 unless it does.
    Health {
        /// Its id, or namespace/pod.
        endpoint: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Policies in force and what became of them.
    Get,
    /// Check manifests as the agent would. Exit status 1 if one is refused.
    Check {
        /// Files and directories.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Answer policy vectors, one JSON line a case; identity-sets.json must lie beside the file.
    Resolve {
        /// The file of cases.
        #[arg(long, value_name = "FILE")]
        vectors: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bpf {
    /// Policy tables.
    Policy(BpfPolicy),
    /// Identities of addresses.
    Ipcache(Listing),
    /// Connection tracking.
    #[command(subcommand)]
    Ct(Ct),
    /// Packets let through and dropped, by reason and direction.
    Metrics(Listing),
    /// Endpoints and their interfaces.
    Endpoint(Listing),
    /// Load balancing: services, backends, reverse NAT.
    #[command(subcommand)]
    Lb(Lb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// All of them, with their backends.
    #[command(visible_alias = "ls")]
    List {
        /// Leave the headers out.
        #[arg(long)]
        no_headers: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lb {
    /// Frontends with their slots, or one of the other tables.
    #[command(visible_alias = "ls")]
    List(LbList),
}

#[derive(Debug, Args)]
pub(crate) struct LbList {
    /// Addresses of frontends by id.
    #[arg(long, conflicts_with_all = ["frontends", "backends"])]
    pub(crate) revnat: bool,
    /// Frontends without their slots.
    #[arg(long, conflicts_with = "backends")]
    pub(crate) frontends: bool,
    /// Backends by id.
    #[arg(long)]
    pub(crate) backends: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BpfPolicy {
    #[command(subcommand)]
    pub(crate) get: BpfPolicyGet,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BpfPolicyGet {
    /// The tables of all endpoints, or of one.
    #[command(visible_alias = "ls")]
    List {
        /// Endpoint id.
        #[arg(conflicts_with = "all")]
        endpoint: Option<u16>,
        /// Each endpoint's, which is so without an id.
        #[arg(long)]
        all: bool,
        /// Numbers of identities in place of their labels.
        #[arg(long, short)]
        numeric: bool,
    },
    /// The table of an endpoint, or with --all of each.
    Get {
        /// Endpoint id.
        #[arg(required_unless_present = "all")]
        endpoint: Option<u16>,
        /// Each endpoint's.
        #[arg(long)]
        all: bool,
        /// Numbers of identities in place of their labels.
        #[arg(long, short)]
        numeric: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    #[command(subcommand)]
    list: OnlyList,
}

#[derive(Debug, Subcommand)]
enum OnlyList {
    /// All of them.
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ct {
    /// Flows; of all endpoints (`global`) or of one.
    #[command(visible_alias = "ls")]
    List {
        /// `global` or an endpoint id.
        #[arg(default_value = "global")]
        scope: String,
    },
    /// Who fills the tables: flows of each endpoint by its peers' identity, the most first.
    Top {
        /// So many rows; 0 for all.
        #[arg(long, short = 'n', default_value_t = 20)]
        number: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Only events of this kind; may be repeated.
    #[arg(long = "type", short = 't', value_enum, value_name = "KIND")]
    pub(crate) kinds: Vec<EventKind>,
    /// Only packets from these endpoints.
    #[arg(long, value_delimiter = ',', value_name = "ENDPOINT")]
    pub(crate) from: Vec<u16>,
    /// Only packets to these endpoints.
    #[arg(long, value_delimiter = ',', value_name = "ENDPOINT")]
    pub(crate) to: Vec<u16>,
    /// Only packets from or to these endpoints.
    #[arg(long, value_delimiter = ',', value_name = "ENDPOINT")]
    pub(crate) related_to: Vec<u16>,
    /// One JSON object a line.
    #[arg(long, short)]
    pub(crate) json: bool,
    /// Numbers of identities beside their names.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Numbers of identities in place of their names.
    #[arg(long, short, conflicts_with = "verbose")]
    pub(crate) numeric: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum EventKind {
    /// Dropped packets.
    Drop,
    /// Packets that were passed on.
    Trace,
    /// Evaluations of policy.
    PolicyVerdict,
}

impl From<EventKind> for MonitorKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Drop => Self::Drop,
            EventKind::Trace => Self::Trace,
            EventKind::PolicyVerdict => Self::PolicyVerdict,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Directory of manifests.
    pub(crate) directory: PathBuf,
    /// Against an empty node, without an agent. Devices of pods are made up, programs are not planned.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Offline: which node it is; the one that all pods are on unless given.
    #[arg(long, value_name = "NAME", requires = "offline")]
    pub(crate) node_name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Who sends: namespace/pod, IP address, endpoint id, identity:N, or a reserved name such as world.
    pub(crate) from: String,
    /// Who receives, likewise, or service:namespace/name.
    pub(crate) to: String,
    /// PORT/PROTO, e.g. 80/TCP; TYPE/ICMP, e.g. 8/ICMP.
    pub(crate) port: String,
    /// Ask the loaded programs too, with a packet that is not sent. Exit status 3 if they contradict the tables.
    #[arg(long, conflicts_with = "manifests")]
    pub(crate) packet: bool,
    /// Offline: what these manifests say, without an agent.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Offline: which node it is; the one that all pods are on unless given.
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub(crate) node_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Of every subcommand: names that are taken twice, conflicts with options that it does not have, and the like. A build
    /// for release does not look, and ends where such an option is read.
    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_directory_of_manifests_is_in_place_of_an_api_server() {
        for server in ["--k8s-api-server=https://a:1", "--k8s-kubeconfig-path=/f"] {
            let agent = ["oxilium", "agent", "--manifests=/m", server];
            let refused = Cli::try_parse_from(agent).unwrap_err().to_string();
            assert!(refused.contains("cannot be used with"), "{refused}");
            let operator = ["oxilium", "operator", server];
            assert!(Cli::try_parse_from(operator).is_ok());
        }
    }
}
