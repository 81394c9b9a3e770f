//! The real loop and the real socket on a node in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};
use oxilium_agent::AgentOptions;
use oxilium_agent::api::{Metrics, Monitors, Server, Service};
use oxilium_agent::http::{Answer, Pages};
use oxilium_agent::metrics::Instruments;
use oxilium_agent::reconcile::{Input, Objects, Reconciler, Start};
use oxilium_agent::source::{Delivery, objects};
use oxilium_api::{Attach, AttachmentKey, Client, ContainerInterface, HostInterface, Pod};
use oxilium_kernel::fake::{FakeKernel, FakeNode};
use oxilium_kernel::port::LinkInfo;
use oxilium_manifest::directory::{Admitted, Listing, Settings, admit_files};
use oxilium_model::node_state::{Hook, ProgramTag};
use oxilium_model::world::{Capacities, NodeConfig};
use tokio::runtime::Runtime;

pub(crate) const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, uid: uid-web, labels: {app: web}}
spec: {nodeName: worker}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny-all, namespace: default}
spec:
  endpointSelector: {}
  ingress: [{}]
";

/// A node whose agent listens.
pub(crate) struct Node {
    pub(crate) kernel: FakeKernel,
    pub(crate) inputs: Sender<Input<FakeNode>>,
    directory: tempfile::TempDir,
    service: Arc<Service<FakeNode>>,
    runtime: Runtime,
}

impl Node {
    /// An agent that has read nothing yet.
    pub(crate) fn fresh() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::new(Capacities::default());
        let programs: BTreeMap<Hook, ProgramTag> = Hook::ALL
            .into_iter()
            .map(|hook| (hook, ProgramTag([hook as u8 + 1; 8])))
            .collect();
        let instruments = Instruments::default();
        let start = Start {
            node: kernel.node(programs.clone()),
            config: NodeConfig {
                node_name: "worker".into(),
                boot_id: "boot".into(),
                programs,
                ..NodeConfig::default()
            },
            state_dir: directory.path().to_owned(),
            status_dir: Some(directory.path().join("status")),
            tombstones: directory.path().join("deleted"),
            sweep: Duration::from_hours(1),
            adopt_from: vec![directory.path().join("netns")],
            hooks: Duration::from_hours(1),
            settle: Duration::from_hours(1),
            conntrack_gc: None,
            instruments: instruments.clone(),
        };
        let runtime = Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        let (inputs, received) = channel();
        let (made, view) = channel();
        thread::spawn(move || {
            let _guard = handle.enter();
            let (reconciler, view) = Reconciler::new(start).unwrap();
            made.send(view).unwrap();
            reconciler.drive(&received);
        });
        let view = view.recv().unwrap();
        let guard = runtime.enter();
        let service = Service {
            monitors: Monitors::start(inputs.clone(), view.clone()).unwrap(),
            inputs: inputs.clone(),
            view,
            options: Arc::new(options()),
            attach_mode: "TCX",
            instruments,
        };
        let server = Server::bind(&directory.path().join("run/agent.sock")).unwrap();
        let service = Arc::new(service);
        tokio::spawn(server.serve(Arc::clone(&service)));
        drop(guard);
        Self {
            kernel,
            inputs,
            directory,
            service,
            runtime,
        }
    }

    /// An agent that knows the pod `web`, which has a veth of index 7, and a policy.
    pub(crate) fn ready() -> Self {
        let node = Self::fresh();
        node.kernel.set_link(LinkInfo {
            ifindex: 7,
            name: "veth7".to_owned(),
            kind: "veth".to_owned(),
            mac: Some([2, 1, 0, 0, 0, 7]),
            peer: Some(2),
            netns_id: Some(1),
            master: None,
            up: true,
            mtu: 1500,
            tx_queue_len: 1000,
        });
        node.manifests(PODS);
        node
    }

    /// The whole cluster is what these documents say.
    pub(crate) fn manifests(&self, yaml: &str) {
        let objects = Arc::new(objects_of(yaml));
        self.inputs
            .send(Input::Objects(Delivery::full(objects, Arc::default())))
            .unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("run/agent.sock")
    }

    /// What Prometheus reads.
    pub(crate) fn metrics(&self) -> Answer {
        let metrics = Metrics(Arc::clone(&self.service));
        self.runtime.block_on(metrics.page("/metrics"))
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.service.instruments
    }

    /// What kubelet's readiness probe is told.
    pub(crate) fn health(&self) -> Answer {
        self.runtime.block_on(self.service.page("/healthz"))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket(), Duration::from_secs(20))
    }
}

/// Options as the command line gives them.
fn options() -> AgentOptions {
    let command = AgentOptions::augment_args(Command::new("agent"));
    let matches = command.get_matches_from(["agent", "--manifests", "/manifests"]);
    AgentOptions::from_arg_matches(&matches).unwrap()
}

fn objects_of(yaml: &str) -> Objects {
    let settings = Settings {
        node: "worker".to_owned(),
        ..Settings::default()
    };
    let content = Ok(Arc::from(yaml.as_bytes()));
    let listing = Listing::from([(Arc::from("all.yaml"), content)]);
    let (_, snapshot) = admit_files(&Admitted::default(), &listing, &settings);
    objects(&snapshot, "worker", &Objects::default())
}

/// CNI ADD of the pod `web`.
pub(crate) fn attach() -> Attach {
    Attach {
        key: AttachmentKey {
            container_id: "c7".to_owned(),
            interface: "eth0".to_owned(),
        },
        netns: "/run/netns/web".to_owned(),
        pod: Pod {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: Some("uid-web".to_owned()),
        },
        host: HostInterface {
            ifindex: 7,
            name: "veth7".to_owned(),
            mac: "02:01:00:00:00:07".to_owned(),
        },
        container: ContainerInterface {
            ifindex: 2,
            mac: "02:00:00:00:00:07".to_owned(),
            addresses: vec!["10.1.0.7".parse().unwrap()],
            ipv6_prefix_length: None,
        },
        wait_millis: 15_000,
    }
}
