//! The same pure core without a node: what manifests would come to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_api::{ExplainQuery, ExplainReport, ManifestFile, PlanReport, PlannedWrite};
use oxilium_manifest::LowerOptions;
use oxilium_manifest::directory::{
    Admitted, DocumentState, Listing, Settings, Snapshot, admit_files,
};
use oxilium_model::desired;
use oxilium_model::observed::Observed;
use oxilium_model::plan::{Plan, PlanError, plan};
use oxilium_model::world::{
    Attachment, AttachmentId, Device, Lifecycle, NodeConfig, Source, Waiting, World,
};

use crate::config::AgentOptions;
use crate::explain::{ExplainError, Known, LeftOut, explain};
use crate::reconcile::Objects;
use crate::source;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The agent has not read all its inputs.
    #[error(transparent)]
    Waiting(#[from] Waiting),
    /// A question that makes no sense.
    #[error(transparent)]
    Explain(#[from] ExplainError),
}

/// How policies are read.
pub fn lower_options(options: &AgentOptions) -> LowerOptions {
    LowerOptions {
        cluster: Some(options.cluster_name.clone()),
        labels: options.labels.clone(),
        ..LowerOptions::default()
    }
}

fn admit(files: &[ManifestFile], node: &str, lower: LowerOptions) -> (Snapshot, Vec<String>) {
    let listing: Listing = files
        .iter()
        .map(|file| {
            let content = Arc::from(file.content.as_bytes());
            (Arc::from(file.name.as_str()), Ok(content))
        })
        .collect();
    let settings = Settings {
        node: node.to_owned(),
        options: lower,
        ..Settings::default()
    };
    let (_, snapshot) = admit_files(&Admitted::default(), &listing, &settings);
    let refused = snapshot
        .documents
        .iter()
        .filter(|document| {
            !matches!(
                document.state,
                DocumentState::InForce | DocumentState::Unread
            )
        })
        .flat_map(|document| {
            document
                .errors
                .iter()
                .map(|error| format!("{}: {error}", error.place()))
        })
        .collect();
    (snapshot, refused)
}

fn put_objects(world: &mut World, objects: Objects) {
    world.nodes = objects.nodes;
    world.namespaces = objects.namespaces;
    world.pods = objects.pods;
    world.remote_endpoints = objects.remote_endpoints;
    world.cluster_identities = objects.cluster_identities;
    world.policies = objects.policies;
    world.cidr_groups = objects.cidr_groups;
    world.api_servers = objects.api_servers;
}

/// What would be written to this node if the manifests were these. Its pods stay the ones that it has.
///
/// # Errors
/// [`OfflineError`].
pub fn plan_on(
    world: &World,
    observed: &Observed,
    options: &AgentOptions,
    files: &[ManifestFile],
) -> Result<PlanReport, OfflineError> {
    let node = Arc::clone(&world.config.node_name);
    let (snapshot, refused) = admit(files, &node, lower_options(options));
    let mut world = world.clone();
    let objects = source::objects(&snapshot, &node, &Objects::default());
    put_objects(&mut world, objects);
    let state = desired(&world);
    let plan = plan(observed, &state, &world.config, world.synced.complete()?)?;
    Ok(report(&plan, refused))
}

/// A node that is made up of manifests: each of its pods has a device that is made up, too.
pub struct OfflineNode {
    world: World,
    /// Why documents are refused.
    pub refused: Vec<String>,
}

impl OfflineNode {
    /// The node of this name in a cluster that has these objects. Without a name: the one that the pods
    /// are on, if they all are on one; pods without a node are on it.
    pub fn new(files: &[ManifestFile], node: Option<&str>, config: NodeConfig) -> Self {
        let lower = LowerOptions {
            cluster: Some(config.policy.cluster_name.to_string()),
            ..LowerOptions::default()
        };
        let node = node.map_or_else(|| only_node(files, &lower), str::to_owned);
        let (snapshot, refused) = admit(files, &node, lower);
        let mut world = World {
            config: Arc::new(NodeConfig {
                node_name: node.as_str().into(),
                ..config
            }),
            ..World::default()
        };
        put_objects(
            &mut world,
            source::objects(&snapshot, &node, &Objects::default()),
        );
        for source in Source::ALL {
            world.synced.first_list_delivered(source);
        }
        world.attachments = made_up(&world).into();
        Self { world, refused }
    }

    /// What would be written to the node if it held nothing.
    ///
    /// # Errors
    /// [`OfflineError::Plan`].
    pub fn plan(&self) -> Result<PlanReport, OfflineError> {
        let state = desired(&self.world);
        let complete = self.world.synced.complete()?;
        let plan = plan(&Observed::default(), &state, &self.world.config, complete)?;
        Ok(report(&plan, self.refused.clone()))
    }

    /// What becomes of a packet there.
    ///
    /// # Errors
    /// [`OfflineError::Explain`].
    pub fn explain(&self, query: &ExplainQuery) -> Result<ExplainReport, OfflineError> {
        let state = desired(&self.world);
        let known = Known {
            world: &self.world,
            state: &state,
            left_out: &LeftOut::default(),
        };
        Ok(explain(known, query)?)
    }
}

/// The node that all pods are on; without one, a name of our own.
fn only_node(files: &[ManifestFile], lower: &LowerOptions) -> String {
    let (snapshot, _) = admit(files, "", lower.clone());
    let mut nodes: Vec<String> = snapshot
        .objects
        .iter()
        .filter_map(|object| match &object.input {
            oxilium_manifest::object::Input::Pod(pod) => pod.node.as_ref().map(ToString::to_string),
            _ => None,
        })
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    match nodes.as_slice() {
        [node] => node.clone(),
        _ => "node".to_owned(),
    }
}

/// An attachment for each pod that would have one.
fn made_up(world: &World) -> BTreeMap<AttachmentId, Arc<Attachment>> {
    const FIRST_INDEX: u32 = 1000;
    let pods = world.pods.values().filter(|pod| !pod.host_network);
    pods.zip(FIRST_INDEX..)
        .map(|(pod, ifindex)| {
            let [_, b1, b2, b3] = ifindex.to_be_bytes();
            let id = AttachmentId {
                container: pod.reference.to_string().into(),
                interface: "eth0".into(),
            };
            let device = Device {
                ifindex,
                name: format!("lxc{ifindex}").into(),
                host_mac: [2, 1, 0, b1, b2, b3],
                mac: [2, 0, 0, b1, b2, b3],
                addresses: pod
                    .addresses
                    .iter()
                    .copied()
                    .filter(|address| !IpAddr::is_unspecified(address))
                    .collect(),
                link_local: None,
                ipv6_prefix_length: None,
                netns_id: None,
            };
            let attachment = Attachment {
                id: id.clone(),
                pod: pod.reference.clone(),
                pod_uid: Arc::clone(&pod.uid),
                boot_id: Arc::clone(&world.config.boot_id),
                lifecycle: Lifecycle::Added,
                device: Some(device),
            };
            (id, Arc::new(attachment))
        })
        .collect()
}

fn report(plan: &Plan, refused: Vec<String>) -> PlanReport {
    let mut totals = BTreeMap::new();
    for ((table, _), count) in plan.counts() {
        *totals.entry(table.name().to_owned()).or_default() += count;
    }
    PlanReport {
        writes: plan
            .steps()
            .iter()
            .map(|step| PlannedWrite {
                table: step.write.target().map_or_else(
                    || "barrier".to_owned(),
                    |(table, _)| table.name().to_owned(),
                ),
                write: step.write.to_string(),
                reason: step.reason.to_string(),
            })
            .collect(),
        totals,
        refused,
        text: plan.to_string(),
    }
}
