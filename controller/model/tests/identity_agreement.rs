//! Several agents and an API server that answer each other late and in any order: all come to one number for the same
//! labels, and on the way no number means two things.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_model::desired;
use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity};
use oxilium_model::label::Label;
use oxilium_model::node_state::{Endpoint, EndpointState, IdentityRequest, NodeState};
use oxilium_model::world::{
    Attachment, AttachmentId, Claims, ClusterIdentity, Device, IdentityAllocation, Lifecycle,
    NodeConfig, Pod, PodRef, RemoteEndpoint, Timestamp, World,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const AGENTS: usize = 3;
const SLOTS: u8 = 2;
const APPS: [&str; 3] = ["a", "b", "c"];

/// What a pod of this app has, as an agent composes it.
fn labels(app: &str) -> IdentityLabels {
    [
        Label::of_pod("app", app).expect("a pod's label"),
        Label::pod_namespace("red"),
        Label::cluster("default"),
    ]
    .into_iter()
    .collect()
}

type Objects = BTreeMap<NumericIdentity, ClusterIdentity>;
type Endpoints = BTreeMap<PodRef, (NumericIdentity, IdentityLabels, IpAddr)>;

/// Keeps every state that it was in, so that each agent may be at another.
struct Server {
    objects: Vec<Objects>,
    endpoints: Vec<Endpoints>,
}

impl Server {
    fn objects(&self) -> &Objects {
        self.objects.last().expect("never empty")
    }

    fn endpoints(&self) -> &Endpoints {
        self.endpoints.last().expect("never empty")
    }

    fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        let mut next = self.objects().clone();
        change(&mut next);
        self.objects.push(next);
    }

    /// As the API server does: who comes second is refused.
    fn ask(&mut self, id: NumericIdentity, request: &IdentityRequest) {
        match request {
            IdentityRequest::Create(labels) if !self.objects().contains_key(&id) => {
                self.change(|all| drop(all.insert(id, labels.clone().into())));
            }
            IdentityRequest::Keep(labels)
                if self
                    .objects()
                    .get(&id)
                    .is_some_and(|o| o.labels.as_ref() == Some(labels)) =>
            {
                self.change(|all| drop(all.insert(id, labels.clone().into())));
            }
            IdentityRequest::Create(_) | IdentityRequest::Keep(_) => {}
        }
    }

    fn is_referenced(&self, id: NumericIdentity) -> bool {
        self.endpoints().values().any(|(used, ..)| *used == id)
    }
}

#[derive(Default)]
struct Agent {
    name: String,
    pods: BTreeMap<u8, &'static str>,
    claims: Claims,
    objects_seen: usize,
    endpoints_seen: usize,
    requests: BTreeMap<NumericIdentity, IdentityRequest>,
    published: Endpoints,
    state: NodeState,
}

impl Agent {
    fn pod(&self, slot: u8) -> PodRef {
        PodRef::new("red", &format!("{}-{slot}", self.name))
    }

    fn address(&self, slot: u8) -> IpAddr {
        let node = u8::try_from(self.name.len()).expect("short");
        IpAddr::from([10, 1, node, slot])
    }

    fn world(&self, server: &Server, now: u64) -> World {
        let config = NodeConfig {
            node_name: self.name.as_str().into(),
            cluster_uid: "cluster".into(),
            boot_id: "boot".into(),
            identity_allocation: IdentityAllocation::Cluster,
            ..NodeConfig::default()
        };
        let mut world = World {
            config: Arc::new(config),
            now: Timestamp(now),
            claims: self.claims.clone(),
            cluster_identities: server.objects[self.objects_seen]
                .clone()
                .into_iter()
                .collect(),
            ..World::default()
        };
        for (slot, app) in &self.pods {
            let pod = Pod {
                reference: self.pod(*slot),
                uid: format!("uid-{slot}").into(),
                labels: [Label::of_pod("app", app).expect("a pod's label")]
                    .into_iter()
                    .collect(),
                service_account: None,
                addresses: Vec::new(),
                named_ports: NamedPorts::default(),
                node: Some(self.name.as_str().into()),
                host_network: false,
            };
            let attachment = Attachment {
                id: AttachmentId {
                    container: format!("c{slot}").into(),
                    interface: "eth0".into(),
                },
                pod: pod.reference.clone(),
                pod_uid: pod.uid.clone(),
                boot_id: "boot".into(),
                lifecycle: Lifecycle::Added,
                device: Some(Device {
                    ifindex: 10 + u32::from(*slot),
                    name: "lxc".into(),
                    host_mac: [2; 6],
                    mac: [4; 6],
                    addresses: [self.address(*slot)].into(),
                    link_local: None,
                    netns_id: None,
                    ipv6_prefix_length: None,
                }),
            };
            world
                .attachments
                .insert(attachment.id.clone(), Arc::new(attachment));
            world.pods.insert(pod.reference.clone(), Arc::new(pod));
        }
        for (reference, (identity, labels, address)) in &server.endpoints[self.endpoints_seen] {
            let remote = RemoteEndpoint {
                reference: reference.clone(),
                addresses: vec![*address],
                identity: *identity,
                labels: labels.clone(),
                named_ports: NamedPorts::default(),
                node_address: None,
            };
            world
                .remote_endpoints
                .insert(reference.clone(), Arc::new(remote));
        }
        world
    }

    /// Computes the state and checks every step of the way; what is to be published follows from it.
    fn compute(&mut self, server: &Server, now: u64) {
        let world = self.world(server, now);
        let state = desired(&world);
        let mut again = world.clone();
        again.claims = state.claims.clone();
        assert_eq!(desired(&again), state, "the same inputs, with its numbers");
        self.meanings_last(&world, &state, now);
        for endpoint in state.endpoints.values() {
            self.is_right(&world, &state, endpoint);
        }
        self.claims = state.claims.clone();
        self.requests = state.identity_requests.clone();
        self.published = state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.identity != NumericIdentity::INIT)
            .filter_map(|endpoint| {
                let address = endpoint.addresses.first()?;
                let said = (endpoint.identity, endpoint.labels.clone(), *address);
                Some((endpoint.pod.clone(), said))
            })
            .collect();
        self.state = state;
    }

    /// A number that meant something here means the same, until it rested.
    fn meanings_last(&self, world: &World, state: &NodeState, now: u64) {
        for (id, claim) in &self.claims.identities {
            let rested = claim
                .quarantine
                .is_some_and(|q| q.since.0 + world.config.quarantine <= now);
            if let Some(identity) = state.identities.get(*id).filter(|_| !rested) {
                assert_eq!(identity.labels, claim.labels, "{id} on {}", self.name);
            }
        }
    }

    /// An endpoint is what its labels say, or what it was, or nobody.
    fn is_right(&self, world: &World, state: &NodeState, endpoint: &Endpoint) {
        let app = self.pods[&endpoint.pod.name.bytes().last().map_or(0, |b| b - b'0')];
        let own = labels(app);
        let meaning = &state
            .identities
            .get(endpoint.identity)
            .expect("known")
            .labels;
        assert_eq!(meaning, &endpoint.labels);
        if endpoint.state == EndpointState::WaitingForIdentity {
            let before = self.claims.endpoints.get(&endpoint.id).map(|c| c.identity);
            let kept = before == Some(endpoint.identity);
            assert!(
                endpoint.identity == NumericIdentity::INIT || kept,
                "{endpoint:?}"
            );
            return;
        }
        assert_eq!(meaning, &own);
        let in_use = self
            .claims
            .identities
            .get(&endpoint.identity)
            .is_some_and(|c| c.labels == own && c.quarantine.is_none());
        let object = world.cluster_identities.get(&endpoint.identity);
        let agreed = object.is_some_and(|o| o.labels.as_ref() == Some(&own) && !o.marked);
        let published = world
            .remote_endpoints
            .values()
            .any(|r| r.identity == endpoint.identity && r.labels == own);
        assert!(
            in_use || agreed || published,
            "nobody agreed to {endpoint:?}"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pod {
        agent: usize,
        slot: u8,
        app: Option<&'static str>,
    },
    Look {
        agent: usize,
        objects: Index,
        endpoints: Index,
    },
    Compute {
        agent: usize,
    },
    /// One of its requests arrives; the others may never.
    Arrive {
        agent: usize,
        which: Index,
    },
    Publish {
        agent: usize,
    },
    Mark {
        which: Index,
    },
    Collect {
        which: Index,
    },
    /// Somebody deletes an object that is in use.
    Delete {
        which: Index,
    },
    /// Somebody takes a number that an agent is about to ask for, or that is in use but without object.
    Take {
        agent: usize,
        which: Index,
        readable: bool,
    },
    Later {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..AGENTS;
    prop_oneof![
        3 => (agent.clone(), 0..SLOTS, prop::option::weighted(0.8, select(&APPS[..])))
            .prop_map(|(agent, slot, app)| Step::Pod { agent, slot, app }),
        6 => (agent.clone(), any::<Index>(), any::<Index>())
            .prop_map(|(agent, objects, endpoints)| Step::Look { agent, objects, endpoints }),
        8 => agent.clone().prop_map(|agent| Step::Compute { agent }),
        6 => (agent.clone(), any::<Index>()).prop_map(|(agent, which)| Step::Arrive { agent, which }),
        4 => agent.clone().prop_map(|agent| Step::Publish { agent }),
        1 => any::<Index>().prop_map(|which| Step::Mark { which }),
        1 => any::<Index>().prop_map(|which| Step::Collect { which }),
        1 => any::<Index>().prop_map(|which| Step::Delete { which }),
        1 => (agent, any::<Index>(), any::<bool>())
            .prop_map(|(agent, which, readable)| Step::Take { agent, which, readable }),
        1 => (1..400_u64).prop_map(|seconds| Step::Later { seconds }),
    ]
}

struct Cluster {
    server: Server,
    agents: Vec<Agent>,
    now: u64,
}

impl Cluster {
    fn new() -> Self {
        let agents = (0..AGENTS).map(|i| Agent {
            name: "n".repeat(i + 1),
            ..Agent::default()
        });
        Self {
            server: Server {
                objects: vec![Objects::new()],
                endpoints: vec![Endpoints::new()],
            },
            agents: agents.collect(),
            now: 1000,
        }
    }

    fn step(&mut self, step: &Step) {
        let server = &mut self.server;
        match step {
            Step::Pod { agent, slot, app } => {
                let pods = &mut self.agents[*agent].pods;
                match app {
                    Some(app) => drop(pods.insert(*slot, app)),
                    None => drop(pods.remove(slot)),
                }
            }
            Step::Look {
                agent,
                objects,
                endpoints,
            } => {
                let agent = &mut self.agents[*agent];
                let ahead = server.objects.len() - agent.objects_seen;
                agent.objects_seen += objects.index(ahead);
                let ahead = server.endpoints.len() - agent.endpoints_seen;
                agent.endpoints_seen += endpoints.index(ahead);
            }
            Step::Compute { agent } => self.agents[*agent].compute(server, self.now),
            Step::Arrive { agent, which } => {
                let requests: Vec<_> = self.agents[*agent].requests.iter().collect();
                if !requests.is_empty() {
                    let (id, request) = requests[which.index(requests.len())];
                    server.ask(*id, request);
                }
            }
            Step::Publish { agent } => self.publish(*agent),
            Step::Mark { which } => {
                if let Some(id) =
                    one(server.objects(), *which).filter(|id| !server.is_referenced(*id))
                {
                    server.change(|all| {
                        all.entry(id).and_modify(|o| o.marked = true);
                    });
                }
            }
            Step::Collect { which } => {
                let marked = one(server.objects(), *which).filter(|id| server.objects()[id].marked);
                if let Some(id) = marked.filter(|id| !server.is_referenced(*id)) {
                    server.change(|all| drop(all.remove(&id)));
                }
            }
            Step::Delete { which } => {
                if let Some(id) = one(server.objects(), *which) {
                    server.change(|all| drop(all.remove(&id)));
                }
            }
            Step::Take {
                agent,
                which,
                readable,
            } => {
                let wanted = &self.agents[*agent].requests;
                if !wanted.is_empty() {
                    let id = wanted
                        .keys()
                        .nth(which.index(wanted.len()))
                        .expect("in range");
                    let foreign = ClusterIdentity {
                        labels: readable.then(|| labels("foreign")),
                        marked: false,
                    };
                    server.change(|all| {
                        all.entry(*id).or_insert(foreign);
                    });
                }
            }
            Step::Later { seconds } => self.now += seconds,
        }
    }

    fn publish(&mut self, agent: usize) {
        let agent = &self.agents[agent];
        let prefix = format!("{}-", agent.name);
        let mut next = self.server.endpoints().clone();
        next.retain(|pod, _| !pod.name.starts_with(&prefix));
        next.extend(agent.published.clone());
        if next != *self.server.endpoints() {
            self.server.endpoints.push(next);
        }
    }

    /// Everybody sees everything and everything arrives.
    fn settle(&mut self) {
        for _ in 0..12 {
            for i in 0..AGENTS {
                let agent = &mut self.agents[i];
                agent.objects_seen = self.server.objects.len() - 1;
                agent.endpoints_seen = self.server.endpoints.len() - 1;
                agent.compute(&self.server, self.now);
                for (id, request) in agent.requests.clone() {
                    self.server.ask(id, &request);
                }
                self.publish(i);
            }
        }
    }

    /// The number that all pods of an app have.
    fn number_of(&self, app: &str) -> Option<NumericIdentity> {
        let wanted = labels(app);
        let lowest = self
            .server
            .objects()
            .iter()
            .find(|(_, object)| object.labels.as_ref() == Some(&wanted) && !object.marked);
        lowest.map(|(id, _)| *id)
    }

    fn is_agreed(&self) {
        for agent in &self.agents {
            assert!(agent.requests.is_empty(), "{:?}", agent.requests);
            for endpoint in agent.state.endpoints.values() {
                let app = endpoint
                    .labels
                    .find(&oxilium_model::label::LabelSource::K8s, "app");
                let app = app
                    .map(|label| label.value().to_owned())
                    .unwrap_or_default();
                assert_eq!(endpoint.state, EndpointState::Ready);
                assert_eq!(Some(endpoint.identity), self.number_of(&app));
            }
        }
        let said: BTreeSet<_> = self
            .server
            .endpoints()
            .values()
            .map(|(id, l, _)| (id, l))
            .collect();
        let numbers: BTreeSet<_> = said.iter().map(|(id, _)| id).collect();
        let meanings: BTreeSet<_> = said.iter().map(|(_, labels)| labels).collect();
        assert_eq!(
            (numbers.len(), meanings.len()),
            (said.len(), said.len()),
            "one to one"
        );
    }
}

fn one(objects: &Objects, which: Index) -> Option<NumericIdentity> {
    if objects.is_empty() {
        return None;
    }
    objects.keys().nth(which.index(objects.len())).copied()
}

fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn whatever_happens_on_the_way_all_come_to_one_number(steps in prop::collection::vec(step(), 1..80)) {
        let mut cluster = Cluster::new();
        for step in &steps {
            cluster.step(step);
        }
        cluster.settle();
        // Numbers that the cluster gave to others while this node knew them otherwise are free now.
        cluster.now += 1000;
        cluster.settle();
        cluster.is_agreed();
    }
}

#[test]
fn agents_that_start_at_once_ask_for_the_same_number() {
    let mut cluster = Cluster::new();
    for agent in &mut cluster.agents {
        agent.pods.insert(0, "a");
        agent.compute(&cluster.server, cluster.now);
    }
    let asked: BTreeSet<_> = cluster
        .agents
        .iter()
        .map(|a| a.requests.keys().copied().collect::<Vec<_>>())
        .collect();
    assert_eq!(asked.len(), 1);
    for agent in &cluster.agents {
        let endpoint = agent.state.endpoints.values().next().unwrap();
        assert_eq!(endpoint.state, EndpointState::WaitingForIdentity);
        assert_eq!(endpoint.identity, NumericIdentity::INIT);
        let told: Vec<String> = agent
            .state
            .conditions
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            told.iter().any(|text| text.contains("IdentityPending")),
            "{told:?}"
        );
    }
    cluster.settle();
    cluster.is_agreed();
    assert_eq!(cluster.server.objects().len(), 1);
}

#[test]
fn a_running_pod_whose_labels_change_is_what_it_was_until_the_cluster_agrees() {
    let mut cluster = Cluster::new();
    cluster.agents[0].pods.insert(0, "a");
    cluster.settle();
    let before = cluster.number_of("a").unwrap();
    cluster.agents[0].pods.insert(0, "b");
    let agent = &mut cluster.agents[0];
    for _ in 0..2 {
        agent.compute(&cluster.server, cluster.now);
        let endpoint = agent.state.endpoints.values().next().unwrap();
        assert_eq!(
            (endpoint.identity, endpoint.state),
            (before, EndpointState::WaitingForIdentity)
        );
    }
    cluster.settle();
    cluster.is_agreed();
    let now = cluster.agents[0]
        .state
        .endpoints
        .values()
        .next()
        .unwrap()
        .identity;
    assert_eq!(Some(now), cluster.number_of("b"));
}

#[test]
fn a_number_that_is_taken_for_other_labels_is_passed_over_also_when_nobody_can_read_them() {
    for readable in [true, false] {
        let mut cluster = Cluster::new();
        cluster.agents[0].pods.insert(0, "a");
        cluster.step(&Step::Compute { agent: 0 });
        let first = *cluster.agents[0].requests.keys().next().unwrap();
        let foreign = ClusterIdentity {
            labels: readable.then(|| labels("x")),
            marked: false,
        };
        cluster
            .server
            .change(|all| drop(all.insert(first, foreign)));
        cluster.settle();
        cluster.is_agreed();
        assert_eq!(
            cluster.number_of("a"),
            Some(NumericIdentity(NumericIdentity::FIRST_CLUSTER))
        );
    }
}

#[test]
fn a_marked_number_is_kept_before_it_is_used_and_kept_in_use() {
    let mut cluster = Cluster::new();
    cluster.agents[0].pods.insert(0, "a");
    cluster.settle();
    let number = cluster.number_of("a").unwrap();
    cluster.agents[0].pods.clear();
    cluster.settle();
    cluster
        .server
        .change(|all| all.get_mut(&number).unwrap().marked = true);
    let agent = &mut cluster.agents[1];
    agent.pods.insert(0, "a");
    agent.objects_seen = cluster.server.objects.len() - 1;
    agent.compute(&cluster.server, cluster.now);
    let endpoint = agent.state.endpoints.values().next().unwrap();
    assert_eq!(
        endpoint.identity,
        NumericIdentity::INIT,
        "it may be deleted any moment"
    );
    assert_eq!(agent.requests[&number], IdentityRequest::Keep(labels("a")));
    cluster.settle();
    cluster.is_agreed();
    cluster
        .server
        .change(|all| all.get_mut(&number).unwrap().marked = true);
    let agent = &mut cluster.agents[1];
    agent.objects_seen = cluster.server.objects.len() - 1;
    agent.compute(&cluster.server, cluster.now);
    let endpoint = agent.state.endpoints.values().next().unwrap();
    assert_eq!(
        (endpoint.identity, endpoint.state),
        (number, EndpointState::Ready)
    );
    assert_eq!(agent.requests[&number], IdentityRequest::Keep(labels("a")));
}
