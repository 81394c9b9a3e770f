//! What the whole source hands on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use oxilium_manifest::LowerOptions;
use oxilium_model::desired;
use oxilium_model::identity::IdentityLabels;
use oxilium_model::label::Label;
use oxilium_model::world::{Source, World};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::KubernetesSource;
use super::super::resource::{Definition, Resource};
use super::server::{Answer, Server};
use crate::reconcile::{OBJECT_SOURCES, Objects};

/// What is in force, and what is wrong.
struct Handed {
    objects: Arc<Objects>,
    problem: Option<String>,
    synced: BTreeSet<Source>,
}

struct Lab {
    events: BTreeMap<Resource, mpsc::UnboundedSender<Value>>,
    handed: mpsc::UnboundedReceiver<Handed>,
    directory: TempDir,
    _server: Server,
}

impl Lab {
    /// Everything was read, with these objects.
    async fn with(objects: &[(Resource, Value)]) -> Self {
        let server = Server::start().await;
        let version = json!({"gitVersion": "v1.36.0", "platform": "linux/amd64"});
        server.answer("/version", Answer::Object(200, version));
        let mut events = BTreeMap::new();
        for resource in Resource::ALL {
            if resource.definition() != Definition::BuiltIn {
                server.defines(resource, &json!({"uid": resource.qualified()}));
            }
            let of_kind = objects.iter().filter(|(kind, _)| *kind == resource);
            let list: Vec<Value> = of_kind.map(|(_, object)| object.clone()).collect();
            events.insert(resource, server.lists(resource, &list));
        }
        let directory = tempfile::tempdir().unwrap();
        let source = KubernetesSource::start(
            server.client.clone(),
            "http://server",
            "n1",
            LowerOptions::default(),
            directory.path(),
        );
        let (sender, handed) = mpsc::unbounded_channel();
        tokio::spawn(source.unwrap().run(move |delivery| {
            let handed = Handed {
                objects: delivery.objects.clone().unwrap(),
                problem: delivery.report.problem.clone(),
                synced: delivery.synced.clone(),
            };
            sender.send(handed).is_ok()
        }));
        let mut lab = Self {
            events,
            handed,
            directory,
            _server: server,
        };
        lab.until(|handed| handed.synced == OBJECT_SOURCES.into())
            .await;
        lab
    }

    async fn next(&mut self) -> Handed {
        const LONG: Duration = Duration::from_mins(1);
        let handed = timeout(LONG, self.handed.recv()).await;
        handed
            .expect("something is handed on")
            .expect("the source lives")
    }

    async fn until(&mut self, is: impl Fn(&Handed) -> bool) -> Handed {
        loop {
            let handed = self.next().await;
            if is(&handed) {
                return handed;
            }
        }
    }

    fn tell(&self, resource: Resource, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.events[&resource].send(event).unwrap();
    }
}

#[tokio::test]
async fn policies_wait_for_the_disk_and_nothing_else_does() {
    let mut lab = Lab::with(&[]).await;
    // No file takes the place of a directory.
    let record = lab.directory.path().join("definitions.json");
    fs::create_dir(&record).unwrap();
    let policy = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "1", "resourceVersion": "11"},
        "spec": {"endpointSelector": {}, "ingress": [{}]}});
    lab.tell(Resource::CiliumNetworkPolicies, "ADDED", &policy);
    let waits = lab.until(|handed| handed.problem.is_some()).await;
    let problem = waits.problem.unwrap();
    assert!(problem.contains("policies stay as they are"), "{problem}");
    assert!(waits.objects.policies.is_empty());
    let namespace = json!({"metadata": {"name": "shop", "uid": "2", "resourceVersion": "12"}});
    lab.tell(Resource::Namespaces, "ADDED", &namespace);
    let goes_on = lab
        .until(|handed| handed.objects.namespaces.contains_key("shop"))
        .await;
    assert!(goes_on.objects.policies.is_empty());
    // Nothing else happens: it is tried again by itself.
    fs::remove_dir(&record).unwrap();
    let written = lab.until(|handed| handed.problem.is_none()).await;
    assert_eq!(written.objects.policies.len(), 1);
    assert!(record.is_file());
}

fn endpoint(name: &str, number: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": number.to_string()}, "status": {
        "identity": {"id": number, "labels": [format!("k8s:app={name}")]},
        "networking": {"addressing": [{"ipv4": "10.0.1.5"}], "node": "192.0.2.2"}}})
}

/// Whose the address is.
fn owner(objects: &Objects) -> Option<IdentityLabels> {
    let world = World {
        remote_endpoints: objects.remote_endpoints.clone(),
        ..World::default()
    };
    let state = desired(&world);
    let target = state
        .ipcache
        .get(&"10.0.1.5/32".parse::<IpNet>().unwrap())?;
    let identity = state.identities.get(target.identity).unwrap();
    Some(identity.labels.clone())
}

fn labels(app: &str) -> IdentityLabels {
    let label = Label::parse(&format!("k8s:app={app}")).unwrap();
    vec![label].into()
}

/// Whichever of the two is heard of first: that its pod is gone, or that another has its address.
#[tokio::test]
async fn an_address_that_another_pod_has_is_not_its_former_owners() {
    const ENDPOINTS: Resource = Resource::CiliumEndpoints;
    for new_first in [false, true] {
        let (old, new) = (endpoint("old", 300), endpoint("new", 301));
        let mut lab = Lab::with(&[(ENDPOINTS, old.clone())]).await;
        if new_first {
            lab.tell(ENDPOINTS, "ADDED", &new);
        }
        lab.tell(ENDPOINTS, "DELETED", &old);
        if !new_first {
            lab.tell(ENDPOINTS, "ADDED", &new);
        }
        loop {
            let objects = lab.next().await.objects;
            let has = |name: &str| {
                let mut names = objects.remote_endpoints.keys().map(|pod| &*pod.name);
                names.any(|known| known == name)
            };
            let expected = match (has("old"), has("new")) {
                (true, false) => Some(labels("old")),
                (false, true) => Some(labels("new")),
                // Of two nobody can say: it is the world's.
                _ => None,
            };
            assert_eq!(owner(&objects), expected, "new first: {new_first}");
            if expected == Some(labels("new")) {
                break;
            }
        }
    }
}
