//! An API server, and nodes in memory whose agents publish to it and see what it holds.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use oxilium_agent::publish::{PublishReport, Publishing, publish};
use oxilium_agent::reconcile::{EndpointView, InDoubt, Revisions, View};
use oxilium_e2e::apiserver::ApiServer;
use oxilium_manifest::object::{Input, admit};
use oxilium_manifest::{Admission, LowerConfig, tree};
use oxilium_model::desired;
use oxilium_model::identity::NamedPorts;
use oxilium_model::identity::Protocol;
use oxilium_model::label::Label;
use oxilium_model::world::{
    Attachment, AttachmentId, Device, IdentityAllocation, Lifecycle, Node, NodeConfig, NodeOrigin,
    Pod, PodRef, Source, Timestamp, World,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::util::MapRequestLayer;

/// Longest time that a test waits for something to come about.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// How often an agent asked the API server to write something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<AtomicUsize>);

impl Asked {
    pub(crate) fn writes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, method: &http::Method) {
        if method != http::Method::GET {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A client, with its writes counted.
pub(crate) async fn client(kubeconfig: &Path) -> (Client, Asked) {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.default_retry = false;
    let asked = Asked::default();
    let counted = asked.clone();
    let count = MapRequestLayer::new(move |request: http::Request<Body>| {
        counted.note(request.method());
        request
    });
    let client = ClientBuilder::try_from(config)
        .unwrap()
        .with_layer(&count)
        .build();
    (client, asked)
}

/// A node in memory. What it knows of the cluster is what [`Agent::look`] saw last.
pub(crate) struct Agent {
    pub(crate) world: World,
    pub(crate) asked: Asked,
    /// Pods that run already and are not adopted.
    pub(crate) in_doubt: InDoubt,
    reader: Client,
    view: watch::Sender<Arc<View>>,
    report: Arc<Mutex<PublishReport>>,
    task: JoinHandle<()>,
}

impl Agent {
    /// An agent on the node of that name, speaking as `kubeconfig` says; it looks at the cluster as the administrator.
    pub(crate) async fn start(api: &ApiServer, name: &str, kubeconfig: &Path) -> Self {
        let config = NodeConfig {
            node_name: name.into(),
            boot_id: "boot".into(),
            identity_allocation: IdentityAllocation::Cluster,
            ..NodeConfig::default()
        };
        let mut world = World {
            config: Arc::new(config),
            now: Timestamp(1000),
            local_addresses: [
                "127.0.0.1",
                "192.0.2.9",
                "10.1.9.1",
                "fe80::1",
                "2001:db8::9",
            ]
            .map(|text| text.parse().unwrap())
            .into(),
            ..World::default()
        };
        for source in Source::ALL {
            world.synced.first_list_delivered(source);
        }
        let node = Node {
            name: name.into(),
            origin: NodeOrigin::Node,
            addresses: ["192.0.2.9".parse().unwrap()].into(),
            pod_cidrs: vec!["10.1.9.0/24".parse().unwrap()],
            labels: vec![].into(),
        };
        world.nodes.insert(name.into(), Arc::new(node));
        let (view, shown) = watch::channel(Arc::new(View {
            waiting: Some("everything".to_owned()),
            ..View::default()
        }));
        let (client, asked) = client(kubeconfig).await;
        let report = Arc::new(Mutex::new(PublishReport::default()));
        let told = Arc::clone(&report);
        let task = tokio::spawn(publish(
            client,
            Publishing::default(),
            shown,
            move |report| {
                *told.lock().unwrap() = report;
            },
        ));
        let (reader, _) = self::client(api.kubeconfig()).await;
        Self {
            world,
            asked,
            in_doubt: InDoubt::new(),
            reader,
            view,
            report,
            task,
        }
    }

    /// It dies; another one starts on the same node, with what was on its disk.
    pub(crate) async fn restart(self, api: &ApiServer) -> Self {
        self.task.abort();
        let name = self.world.config.node_name.to_string();
        let mut next = Self::start(api, &name, api.kubeconfig()).await;
        next.world = self.world;
        next.in_doubt = self.in_doubt;
        next
    }

    pub(crate) fn add(&mut self, uid: &str, namespace: &str, name: &str, app: &str, last: u8) {
        let mut named_ports = NamedPorts::default();
        named_ports.insert("http", Protocol::TCP, 8080);
        let pod = Pod {
            reference: PodRef::new(namespace, name),
            uid: uid.into(),
            labels: vec![Label::of_pod("app", app).unwrap()].into(),
            service_account: Some("default".into()),
            addresses: Vec::new(),
            named_ports,
            node: Some(Arc::clone(&self.world.config.node_name)),
            host_network: false,
        };
        let attachment = Attachment {
            id: AttachmentId {
                container: format!("c-{name}").into(),
                interface: "eth0".into(),
            },
            pod: pod.reference.clone(),
            pod_uid: pod.uid.clone(),
            boot_id: "boot".into(),
            lifecycle: Lifecycle::Added,
            device: Some(Device {
                ifindex: 10 + u32::from(last),
                name: format!("lxc{last}").into(),
                host_mac: [2; 6],
                mac: [4; 6],
                addresses: [std::net::IpAddr::from([10, 1, 9, last])].into(),
                link_local: None,
                netns_id: None,
                ipv6_prefix_length: None,
            }),
        };
        self.world
            .attachments
            .insert(attachment.id.clone(), Arc::new(attachment));
        self.world.pods.insert(pod.reference.clone(), Arc::new(pod));
    }

    pub(crate) fn remove(&mut self, namespace: &str, name: &str) {
        let pod = PodRef::new(namespace, name);
        self.world.pods.remove(&pod);
        let others = self.world.attachments.iter();
        let others = others.filter(|(_, attachment)| attachment.pod != pod);
        self.world.attachments = others
            .map(|(id, attachment)| (id.clone(), Arc::clone(attachment)))
            .collect();
    }

    async fn list(&self, kind: &str, plural: &str) -> Vec<Input> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("cilium.io", "v2", kind),
            plural,
        );
        let api: Api<DynamicObject> = Api::all_with(self.reader.clone(), &resource);
        let end = Instant::now() + PATIENCE;
        let found = loop {
            match api.list(&ListParams::default()).await {
                Ok(found) => break found,
                // Its caches come up after it.
                Err(kube::Error::Api(status)) if status.code == 429 && Instant::now() < end => {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => panic!("{kind}: {error}"),
            }
        };
        let lower = LowerConfig {
            admission: Admission::Agent,
            ..LowerConfig::default()
        };
        let of = |mut object: DynamicObject| {
            object.types = Some(kube::api::TypeMeta {
                api_version: "cilium.io/v2".to_owned(),
                kind: kind.to_owned(),
            });
            let tree = tree::Node::from_json(&serde_json::to_value(object).unwrap());
            admit(&tree, None, "", &lower).unwrap().input
        };
        found.items.into_iter().map(of).collect()
    }

    /// Looks at the cluster, computes, and shows what comes of it, enforced or not.
    pub(crate) async fn look(&mut self) -> Arc<View> {
        let mut world = World {
            cluster_identities: std::collections::BTreeMap::new().into(),
            remote_endpoints: std::collections::BTreeMap::new().into(),
            ..self.world.clone()
        };
        let identities = self.list("CiliumIdentity", "ciliumidentities").await;
        let endpoints = self.list("CiliumEndpoint", "ciliumendpoints").await;
        for input in identities.into_iter().chain(endpoints) {
            match input {
                Input::ClusterIdentity(number, identity) => {
                    world.cluster_identities.insert(number, identity);
                }
                Input::RemoteEndpoint(endpoint) => {
                    world
                        .remote_endpoints
                        .insert(endpoint.reference.clone(), Arc::new(*endpoint));
                }
                other => panic!("{other:?}"),
            }
        }
        self.world = world;
        self.show()
    }

    /// Computes, and shows what comes of it, as if it were enforced.
    pub(crate) fn show(&mut self) -> Arc<View> {
        let state = Arc::new(desired(&self.world));
        self.world.claims = state.claims.clone();
        let ready = |id: &u16| {
            (
                *id,
                EndpointView {
                    ready: true,
                    ..EndpointView::default()
                },
            )
        };
        let view = Arc::new(View {
            world: Arc::new(self.world.clone()),
            revisions: Revisions {
                input: 1,
                plan: 1,
                applied: 1,
                last_writes: 0,
            },
            endpoints: state.endpoints.keys().map(ready).collect(),
            state,
            in_doubt: Arc::new(self.in_doubt.clone()),
            ..View::default()
        });
        self.view.send_replace(Arc::clone(&view));
        view
    }

    /// Looks until that is so.
    pub(crate) async fn until(&mut self, what: &str, so: impl Fn(&View) -> bool) -> Arc<View> {
        let end = Instant::now() + PATIENCE;
        loop {
            let view = self.look().await;
            if so(&view) {
                return view;
            }
            assert!(Instant::now() < end, "{what}: {:?}", self.report());
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn report(&self) -> PublishReport {
        self.report.lock().unwrap().clone()
    }
}

/// Until that is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(POLL).await;
    }
}
