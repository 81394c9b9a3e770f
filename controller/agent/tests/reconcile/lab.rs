//! A node in memory with the real loop on it.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxilium_agent::disk::BootDirectory;
use oxilium_agent::metrics::Instruments;
use oxilium_agent::reconcile::{Input, Objects, Reconciler, Start, View};
use oxilium_agent::source::{Delivery, objects};
use oxilium_api::{
    ApiError, Attach, Attached, AttachmentKey, Check, ContainerInterface, Detach, Done,
    HostInterface, Pod,
};
use oxilium_kernel::fake::{FakeKernel, FakeNode, Fault, Faults};
use oxilium_kernel::port::LinkInfo;
use oxilium_manifest::directory::{Admitted, Listing, Settings, admit_files};
use oxilium_model::node_state::{Hook, ProgramTag};
use oxilium_model::plan::Write;
use oxilium_model::world::{Capacities, NodeConfig};
use tokio::sync::{oneshot, watch};

/// Longest time that a test waits for the loop to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub(crate) kernel: FakeKernel,
    capacities: Capacities,
    sweep: Duration,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) agent: Option<Reconciler<FakeNode>>,
    view: watch::Receiver<Arc<View>>,
}

impl Lab {
    /// An empty node and an agent that has read nothing yet.
    pub(crate) fn new() -> Self {
        Self::of_size(Capacities::default())
    }

    /// The same, with tables of these sizes.
    pub(crate) fn of_size(capacities: Capacities) -> Self {
        Self::start(capacities, Duration::from_hours(1))
    }

    /// The same, with a sweep as often as that.
    pub(crate) fn sweeping(every: Duration) -> Self {
        Self::start(Capacities::default(), every)
    }

    fn start(capacities: Capacities, sweep: Duration) -> Self {
        let kernel = FakeKernel::new(capacities);
        let directory = tempfile::tempdir().unwrap();
        let (agent, view) = start(&kernel, capacities, sweep, directory.path(), "boot-1");
        Self {
            kernel,
            capacities,
            sweep,
            directory,
            agent: Some(agent),
            view,
        }
    }

    /// An agent with these manifests, at rest.
    pub(crate) fn with(manifests: &str) -> Self {
        let mut lab = Self::new();
        lab.manifests(manifests);
        lab.settle();
        lab
    }

    /// The agent dies and another one starts, with these manifests.
    pub(crate) fn restart(&mut self, manifests: &str) {
        self.restart_in("boot-1", manifests);
    }

    pub(crate) fn restart_in(&mut self, boot: &str, manifests: &str) {
        self.restart_blind(boot);
        self.manifests(manifests);
    }

    /// The same, and nobody has told the new one anything yet.
    pub(crate) fn restart_blind(&mut self, boot: &str) {
        self.agent = None;
        self.kernel.clear_history();
        let directory = self.directory.path();
        let (agent, view) = start(&self.kernel, self.capacities, self.sweep, directory, boot);
        (self.agent, self.view) = (Some(agent), view);
    }

    pub(crate) fn agent(&mut self) -> &mut Reconciler<FakeNode> {
        self.agent.as_mut().unwrap()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    pub(crate) fn take(&mut self, input: Input<FakeNode>) {
        self.agent().take(vec![input]);
    }

    /// The whole cluster is what these documents say.
    pub(crate) fn manifests(&mut self, yaml: &str) {
        let objects = Arc::new(objects_of(yaml));
        self.take(Input::Objects(Delivery::full(objects, Arc::default())));
    }

    /// Turns until nothing is left to do, waiting as the real loop does.
    pub(crate) fn settle(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let next = self.agent().turn();
            let view = self.view();
            let done = view.failing.is_empty()
                && view.revisions.applied == view.revisions.input
                && next > Instant::now();
            if done {
                return;
            }
            assert!(Instant::now() < end, "not at rest: {:?}", view.failing);
            wait_until(next);
        }
    }

    /// Turns until that is so.
    pub(crate) fn until(&mut self, so: impl Fn(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "not so: {:?}", self.view().failing);
            let next = self.turn();
            wait_until(next);
        }
    }

    /// One turn and no more.
    pub(crate) fn turn(&mut self) -> Instant {
        self.agent().turn()
    }

    /// A veth appears on the node; its pod's end as `bridge` would make it.
    pub(crate) fn veth(&self, index: u32) {
        self.kernel.set_link(link(index));
    }

    /// A turn in which the first program that is put on this interface fails.
    pub(crate) fn turn_with_faults_on_attach(&mut self, index: u32, fault: Fault) {
        // A trial run on a copy tells how many writes come before it.
        let before = self.writes_before_attach(index);
        let mut next: VecDeque<Option<Fault>> = vec![None; before].into();
        next.push_back(Some(fault));
        self.kernel.set_faults(Faults {
            next,
            ..Faults::default()
        });
        self.turn();
    }

    fn writes_before_attach(&mut self, index: u32) -> usize {
        let copy = tempfile::tempdir().unwrap();
        let boot = |state| BootDirectory::open(state, "boot-1").unwrap();
        let (from, to) = (boot(self.directory.path()), boot(copy.path()));
        for entry in std::fs::read_dir(from.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
        let kernel = FakeKernel::new(Capacities::default());
        let tables = self.kernel.tables();
        kernel.tamper(|empty| *empty = tables);
        kernel.set_link(link(index));
        let (mut agent, _view) = start(&kernel, self.capacities, self.sweep, copy.path(), "boot-1");
        let world = Arc::clone(&self.view().world);
        let objects = Objects {
            pods: world.pods.clone(),
            policies: world.policies.clone(),
            ..Objects::default()
        };
        agent.take(vec![Input::Objects(Delivery::full(
            Arc::new(objects),
            Arc::default(),
        ))]);
        agent.turn();
        kernel
            .history()
            .iter()
            .filter(|write| **write != Write::Barrier)
            .position(
                |write| matches!(write, Write::Attach { point, .. } if point.ifindex == index),
            )
            .unwrap()
    }

    /// CNI ADD for the veth `index`; the answer comes with the turns.
    pub(crate) fn add(&mut self, pod: &str, index: u32, wait: Duration) -> Answer<Attached> {
        let (reply, answer) = oneshot::channel();
        let attach = Box::new(attach(pod, index, wait));
        self.take(Input::Attach(attach, Instant::now(), reply));
        Answer(answer)
    }

    /// A pod of this name on the veth `index`, enforced.
    pub(crate) fn pod(&mut self, name: &str, index: u32) -> Attached {
        self.veth(index);
        let mut answer = self.add(name, index, PATIENCE);
        self.settle();
        answer.get().unwrap()
    }

    pub(crate) fn del(&mut self, index: u32) {
        let (reply, answer) = oneshot::channel();
        let detach = Detach { key: key(index) };
        self.take(Input::Detach(detach, reply));
        Answer::<Done>(answer).get().unwrap();
    }

    pub(crate) fn check(&mut self, index: u32) -> Result<Done, ApiError> {
        let (reply, answer) = oneshot::channel();
        let check = Check {
            key: key(index),
            host_ifindex: index,
        };
        self.take(Input::Check(check, reply));
        Answer(answer).get()
    }

    /// The veth goes, and rtnetlink says that something went.
    pub(crate) fn remove_veth(&mut self, index: u32) {
        self.kernel.remove_link(index);
        self.take(Input::KernelChanged { hooks: false });
    }

    pub(crate) fn writes(&self) -> Vec<Write> {
        self.kernel.history()
    }

    /// Are both programs on the interface?
    pub(crate) fn attached(&self, index: u32) -> bool {
        let tables = self.kernel.tables();
        Hook::ALL.iter().all(|hook| {
            tables
                .attachments
                .keys()
                .any(|point| point.ifindex == index && point.hook == *hook)
        })
    }
}

/// An answer that comes or not.
pub(crate) struct Answer<T>(oneshot::Receiver<Result<T, ApiError>>);

impl<T> Answer<T> {
    /// The answer, if it has come.
    pub(crate) fn try_get(&mut self) -> Option<Result<T, ApiError>> {
        self.0.try_recv().ok()
    }

    pub(crate) fn get(&mut self) -> Result<T, ApiError> {
        self.try_get().expect("there is no answer yet")
    }
}

fn start(
    kernel: &FakeKernel,
    capacities: Capacities,
    sweep: Duration,
    directory: &Path,
    boot: &str,
) -> (Reconciler<FakeNode>, watch::Receiver<Arc<View>>) {
    let programs: BTreeMap<Hook, ProgramTag> = Hook::ALL
        .into_iter()
        .map(|hook| (hook, ProgramTag([hook as u8 + 1; 8])))
        .collect();
    let config = NodeConfig {
        node_name: "worker".into(),
        cluster_uid: "test".into(),
        boot_id: boot.into(),
        programs: programs.clone(),
        capacities,
        stage_above: Some(2),
        ..NodeConfig::default()
    };
    Reconciler::new(Start {
        node: kernel.node(programs),
        config,
        state_dir: directory.to_owned(),
        status_dir: Some(directory.join("status")),
        tombstones: directory.join("deleted"),
        adopt_from: vec![directory.join("netns")],
        sweep,
        hooks: Duration::from_millis(20),
        settle: Duration::ZERO,
        conntrack_gc: None,
        instruments: Instruments::default(),
    })
    .unwrap()
}

/// The node's end of a veth, as `bridge` would make it.
pub(crate) fn link(index: u32) -> LinkInfo {
    LinkInfo {
        ifindex: index,
        name: format!("veth{index}"),
        kind: "veth".to_owned(),
        mac: Some(host_mac(index)),
        peer: Some(2),
        netns_id: Some(index.cast_signed()),
        master: None,
        up: true,
        mtu: 1500,
        tx_queue_len: 1000,
    }
}

pub(crate) fn objects_of(yaml: &str) -> Objects {
    let settings = Settings {
        node: "worker".to_owned(),
        ..Settings::default()
    };
    let content = Ok(Arc::from(yaml.as_bytes()));
    let listing = Listing::from([(Arc::from("all.yaml"), content)]);
    let (_, snapshot) = admit_files(&Admitted::default(), &listing, &settings);
    for document in &snapshot.documents {
        assert!(document.errors.is_empty(), "{:?}", document.errors);
    }
    objects(&snapshot, "worker", &Objects::default())
}

pub(crate) fn key(index: u32) -> AttachmentKey {
    AttachmentKey {
        container_id: format!("c{index}"),
        interface: "eth0".to_owned(),
    }
}

fn host_mac(index: u32) -> [u8; 6] {
    [2, 1, 0, 0, 0, index.to_be_bytes()[3]]
}

pub(crate) fn attach(pod: &str, index: u32, wait: Duration) -> Attach {
    let [.., last] = index.to_be_bytes();
    Attach {
        key: key(index),
        netns: format!("/run/netns/{pod}"),
        pod: Pod {
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            uid: Some(format!("uid-{pod}")),
        },
        host: HostInterface {
            ifindex: index,
            name: format!("veth{index}"),
            mac: format!("02:01:00:00:00:{last:02x}"),
        },
        container: ContainerInterface {
            ifindex: 2,
            mac: format!("02:00:00:00:00:{last:02x}"),
            addresses: vec![format!("10.1.0.{last}").parse().unwrap()],
            ipv6_prefix_length: None,
        },
        wait_millis: u64::try_from(wait.as_millis()).unwrap(),
    }
}

/// A Pod object on this node.
pub(crate) fn pod_yaml(name: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n  uid: uid-{name}\n  labels: {labels}\nspec:\n  nodeName: worker\n"
    )
}

fn wait_until(moment: Instant) {
    // As the real loop waits, where nothing comes in.
    let (_sender, nothing) = std::sync::mpsc::channel::<()>();
    let wait = moment.saturating_duration_since(Instant::now());
    assert!(
        nothing
            .recv_timeout(wait.min(Duration::from_millis(200)))
            .is_err()
    );
}
