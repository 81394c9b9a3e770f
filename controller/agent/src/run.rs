//! A process that is the agent: everything wired together.

use std::fs;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use nix::sys::stat::{Mode, umask};
use oxilium_kernel::{AttachMode, KernelConfig, KernelNode, MapSizes, Monitor, Node};
use oxilium_model::world::{IdentityAllocation, NodeConfig, PodRef, SpoofingOptOut};
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::api::{Metrics, Monitors, Server, Service};
use crate::config::{self, AgentOptions, LogFormat, ObjectSource};
use crate::disk::{InstanceLock, LOCK, Ledger, Places, make_directory, missing, write_whole};
use crate::http::{self, OptionalAddress};
use crate::metrics::{CountLogLines, Instruments, LogLines};
use crate::publish::{Publishing, publish};
use crate::reconcile::{Input, Reconciler, Start, View};
use crate::source::{self, TombstoneWatch};

/// tcx hooks announce no change: how often they are asked.
const HOOKS_EVERY: Duration = Duration::from_secs(1);
/// How many hooks get their tcx links put on again at once. More are staged, and so are those of a new pod: others may
/// come behind it, and would wait for its links.
const LINKS_AT_ONCE: usize = 2;
/// How long no pod must have come before staged programs get their links.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// Log lines go to stderr; `counted` counts those that are warnings or errors. Once in a process.
pub fn log_to_stderr(debug: bool, format: LogFormat, counted: Option<LogLines>) {
    let level = if debug { "debug" } else { "info" };
    // What goes wrong with a request is told by whoever made it.
    let quiet = format!("{level},kube_client=off");
    let filter = EnvFilter::try_from_env("OXILIUM_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    let counted = counted.map(CountLogLines);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .finish()
            .with(counted)
            .init(),
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .with(counted)
            .init(),
    }
}

/// This boot's id.
pub(crate) fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    Ok(text.trim().to_owned())
}

/// The cluster's UID: given, or made once and kept.
fn cluster_uid(options: &AgentOptions) -> Result<String> {
    const RANDOM: &str = "/proc/sys/kernel/random/uuid";
    if let Some(uid) = &options.cluster_uid {
        return Ok(uid.clone());
    }
    let path = options.state_dir.join("cluster-uid");
    match fs::read_to_string(&path) {
        Ok(uid) if !uid.trim().is_empty() => return Ok(uid.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
        _ => {}
    }
    let uid = fs::read_to_string(RANDOM).with_context(|| format!("cannot read {RANDOM}"))?;
    write_whole(&path, uid.as_bytes())?;
    Ok(uid.trim().to_owned())
}

fn node_name(options: &AgentOptions) -> Result<String> {
    match &options.node_name {
        Some(name) => Ok(name.clone()),
        None => Ok(nix::unistd::gethostname()
            .context("cannot read the host name; give --node-name")?
            .to_string_lossy()
            .into_owned()),
    }
}

fn spoofing(options: &AgentOptions) -> SpoofingOptOut {
    let (pods, namespaces): (Vec<_>, Vec<_>) = options
        .allow_spoofing
        .iter()
        .partition(|name| name.contains('/'));
    SpoofingOptOut {
        namespaces: namespaces.iter().map(|name| name.as_str().into()).collect(),
        pods: pods
            .iter()
            .filter_map(|name| name.split_once('/'))
            .map(|(namespace, name)| PodRef::new(namespace, name))
            .collect(),
    }
}

/// What is known of the node before its kernel is opened.
fn node_config(options: &AgentOptions) -> Result<NodeConfig> {
    Ok(NodeConfig {
        node_name: node_name(options)?.into(),
        cluster_uid: cluster_uid(options)?.into(),
        boot_id: boot_id()?.into(),
        policy: options.policy(),
        capacities: options.capacities(),
        allow_spoofing: spoofing(options),
        tunnel_address: options.tunnel_address,
        identity_allocation: match options.source() {
            ObjectSource::Manifests(_) => IdentityAllocation::Node,
            ObjectSource::Kubernetes(_) => IdentityAllocation::Cluster,
        },
        ..NodeConfig::default()
    })
}

/// The agent's process, before its kernel is opened: its directories and its lock.
struct Process {
    config: NodeConfig,
    /// Beside it the kernel's side locks the place of the pins.
    lock: InstanceLock,
}

impl Process {
    fn prepare(options: &AgentOptions, socket: &Path) -> Result<Self> {
        // What the agent makes is for root only, from the moment that it is there.
        umask(Mode::from_bits_truncate(0o077));
        let made = missing(&options.state_dir);
        make_directory(&options.state_dir)?;
        let lock = InstanceLock::take(&options.state_dir.join(LOCK))?;
        let places = Places {
            bpf_root: options.bpf_root.clone(),
            status: options
                .status_dir()
                .unwrap_or_else(|| options.state_dir.join("status")),
            tombstones: options.tombstones.clone(),
            socket: socket.to_owned(),
        };
        // Before anything else is made.
        Ledger::note(&options.state_dir, made, places)?;
        Ok(Self {
            config: node_config(options)?,
            lock,
        })
    }
}

/// The kernel, opened.
struct Kernel {
    node: KernelNode,
    monitor: Monitor,
    attach_mode: &'static str,
}

impl Kernel {
    /// Inside a runtime.
    fn open(options: &AgentOptions) -> Result<Self> {
        // Subscribed to before the first look, so that no change falls in between.
        let monitor = Monitor::open()?;
        let started = Instant::now();
        let node = KernelNode::open(&kernel_config(options))
            .context("the kernel's side cannot be set up; what was enforced before still is")?;
        let attach_mode = if node.uses_tcx() { "TCX" } else { "TC" };
        let ms = started.elapsed().as_millis();
        tracing::info!(pins = %node.directory().display(), ms, "maps and programs are loaded");
        Ok(Self {
            node,
            monitor,
            attach_mode,
        })
    }
}

/// Everything beside the kernel: the loop, the sources, the socket.
fn serve(
    options: AgentOptions,
    socket: &Path,
    process: Process,
    kernel: Kernel,
    instruments: Instruments,
    runtime: &Runtime,
) -> Result<()> {
    let Process {
        mut config,
        lock: _held,
    } = process;
    let Kernel {
        node,
        monitor,
        attach_mode,
    } = kernel;
    config.programs = node.programs();
    config.stage_above = node.uses_tcx().then_some(LINKS_AT_ONCE);
    config.stage_new = node.uses_tcx();
    let node_name = config.node_name.to_string();
    let start = Start {
        node,
        config,
        state_dir: options.state_dir.clone(),
        status_dir: options.status_dir(),
        tombstones: options.tombstones.clone(),
        adopt_from: options.adopt_from(),
        sweep: options.sweep(),
        hooks: HOOKS_EVERY,
        settle: SETTLE_AFTER,
        conntrack_gc: options.conntrack_gc(),
        instruments: instruments.clone(),
    };
    let (inputs, received) = channel();
    tracing::info!(node = node_name, attach_mode, "agent starts");

    let _guard = runtime.enter();
    let server = Server::bind(socket)?;
    let view = start_reconciling(start, received, runtime.handle().clone())?;
    tokio::spawn(watch_kernel(monitor, inputs.clone()));
    let calls = &instruments.api_calls;
    if let Some(client) = source::start(&options, &node_name, calls, inputs.clone(), runtime)? {
        start_publishing(client, view.clone(), inputs.clone());
    }
    let _watch = watch_tombstones(&options.tombstones, &inputs);
    let service = Arc::new(Service {
        monitors: Monitors::start(inputs.clone(), view.clone())?,
        inputs,
        view,
        options: Arc::new(options),
        attach_mode,
        instruments,
    });
    serve_pages(&service, runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            () = server.serve(service) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("agent ends; what it enforced stays enforced");
        Ok(())
    })
}

/// What probes and Prometheus read, where the options say.
fn serve_pages<N: Node + 'static>(service: &Arc<Service<N>>, runtime: &Runtime) -> Result<()> {
    let options = &service.options;
    if let Some(port) = options.agent_health_port {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = runtime.block_on(http::listen(address.into(), "agent-health-port"))?;
        tokio::spawn(http::serve(listener, Arc::clone(service)));
    }
    if let OptionalAddress(Some(address)) = options.prometheus_serve_addr {
        let listener = runtime.block_on(http::listen(address, "prometheus-serve-addr"))?;
        tokio::spawn(http::serve(
            listener,
            Arc::new(Metrics(Arc::clone(service))),
        ));
    }
    Ok(())
}

/// Word that the CNI plugin leaves is heeded at once. Without a watch the sweep finds it.
fn watch_tombstones<N: Send + 'static>(
    directory: &Path,
    inputs: &Sender<Input<N>>,
) -> Option<TombstoneWatch> {
    let told = inputs.clone();
    let watch = TombstoneWatch::begin(directory, move || {
        if told.send(Input::Tombstones).is_err() {
            tracing::trace!("nobody heeds tombstones any more");
        }
    });
    // Watched before they are read, so that none falls in between.
    drop(inputs.send(Input::Tombstones));
    watch
        .inspect_err(|error| {
            tracing::warn!(directory = %directory.display(), %error, "tombstones cannot be watched; sweeps read them");
        })
        .ok()
}

/// Starts the thread that owns everything; what readers look at comes back.
fn start_reconciling<N: Node + 'static>(
    start: Start<N>,
    received: Receiver<Input<N>>,
    runtime: runtime::Handle,
) -> Result<watch::Receiver<Arc<View>>> {
    let (made, result) = channel();
    thread::Builder::new()
        .name("reconcile".to_owned())
        .spawn(move || {
            // The event ring is opened on this thread.
            let _guard = runtime.enter();
            match Reconciler::new(start) {
                Ok((reconciler, view)) => {
                    if made.send(Ok(view)).is_ok() {
                        reconciler.drive(&received);
                    }
                }
                Err(error) => drop(made.send(Err(error))),
            }
        })
        .context("cannot start the reconcile thread")?;
    let view = result.recv().context("the reconcile thread ended")??;
    Ok(view)
}

/// Tells the API server of this node. How it goes is told in status.
fn start_publishing<N: Send + 'static>(
    client: Client,
    view: watch::Receiver<Arc<View>>,
    inputs: Sender<Input<N>>,
) {
    let publishing = Publishing::default();
    tokio::spawn(publish(client, publishing, view, move |report| {
        // The loop ends with the process.
        drop(inputs.send(Input::Published(Arc::new(report))));
    }));
}

/// News of the kernel's: links and addresses, and in tc mode filters. Missed news is made up for by sweeps.
async fn watch_kernel<N>(mut monitor: Monitor, inputs: Sender<Input<N>>) {
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        let input = match monitor.changed().await {
            Ok(changes) => Input::KernelChanged {
                hooks: changes.filters,
            },
            Err(error) => {
                tracing::warn!(%error, "no news of the kernel; subscribing anew");
                tokio::time::sleep(PAUSE).await;
                match Monitor::open() {
                    Ok(new) => monitor = new,
                    Err(error) => tracing::warn!(%error, "cannot subscribe"),
                }
                // Whatever happened in between was missed.
                Input::KernelChanged { hooks: true }
            }
        };
        if inputs.send(input).is_err() {
            return;
        }
    }
}

fn kernel_config(options: &AgentOptions) -> KernelConfig {
    KernelConfig {
        bpf_root: options.bpf_root.clone(),
        accept_private_bpffs: options.accept_private_bpffs,
        attach_mode: match options.attach_mode {
            config::AttachMode::Auto => AttachMode::Auto,
            config::AttachMode::Tcx => AttachMode::Tcx,
            config::AttachMode::Tc => AttachMode::Tc,
        },
        sizes: MapSizes {
            tables: options.capacities(),
            conntrack: options.bpf_ct_global_tcp_max,
            conntrack_unanswered: options.bpf_ct_global_any_max,
            ..MapSizes::default()
        },
        conntrack_accounting: options.bpf_conntrack_accounting,
        cluster_id: u32::from(options.cluster_id),
        loopback: (
            options.ipv4_service_loopback_address,
            options.ipv6_service_loopback_address,
        ),
        ..KernelConfig::default()
    }
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// When it cannot start; with what to do about it.
pub fn run(options: AgentOptions, socket: &Path) -> Result<()> {
    let instruments = Instruments::default();
    log_to_stderr(
        options.debug,
        options.log_format,
        Some(instruments.log_lines.clone()),
    );
    options.configured.log();
    let process = Process::prepare(&options, socket)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let kernel = {
        let _guard = runtime.enter();
        Kernel::open(&options)?
    };
    serve(options, socket, process, kernel, instruments, &runtime)
}
