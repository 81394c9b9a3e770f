//! One piece of work with the API server: look, compare, write what differs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams,
    PostParams, Preconditions,
};
use oxilium_crds::identity::MARKS;
use oxilium_crds::node::{CiliumNodeAddress, CiliumNodeSpec, Ipam};
use oxilium_model::identity::{IdentityLabels, NumericIdentity};
use oxilium_model::node_state::IdentityRequest;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::FIELD_MANAGER;
use super::ledger::Job;
use super::wanted::{EndpointWanted, Key, NodeWanted, Wanted};
use crate::kubernetes::warn;
use crate::publish::objects;

/// Why a piece of work was not done.
#[derive(Debug, Error)]
pub(super) enum RequestError {
    /// The agent's role lacks a permission.
    #[error(
        "{message}; the ClusterRole of the agent's ServiceAccount must allow it, see the chart's rbac"
    )]
    Forbidden {
        /// The API server's words: who may not do what to which resource.
        message: String,
    },
    /// The kind is not defined.
    #[error(
        "the API server does not know {kind}; the operator installs the definition, or `kubectl apply` it"
    )]
    NoDefinition {
        /// Which.
        kind: String,
    },
    /// The node's own Node object is not there.
    #[error("there is no Node {0}; is --node-name the name under which the kubelet registered?")]
    NoNode(String),
    /// The object is that of another life of the pod, and so is the pod.
    #[error("the pod of that name is another one by now; its node's agent publishes it")]
    AnotherLife,
    /// Anything else that the API server said, or that it says nothing.
    #[error("{0}")]
    Api(String),
    /// An object cannot be written as JSON.
    #[error("the object cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl RequestError {
    fn of(kind: &str, error: kube::Error) -> Self {
        match error {
            // A namespace that is being deleted refuses as well, whoever asks.
            kube::Error::Api(status)
                if status.code == 403 && !status.message.contains("being terminated") =>
            {
                Self::Forbidden {
                    message: status.message,
                }
            }
            // A path without handler: the answer names no object.
            kube::Error::Api(status) if status.code == 404 && status.details.is_none() => {
                Self::NoDefinition {
                    kind: kind.to_owned(),
                }
            }
            kube::Error::Api(status) => Self::Api(format!(
                "{} {}: {}",
                status.code, status.reason, status.message
            )),
            error => Self::Api(said(&error)),
        }
    }
}

/// An error with what it comes from: the outermost alone says little where the API server is away.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// What came of a piece of work that was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Under which UID the object is there now.
    pub(super) uid: Option<String>,
    /// What was learnt of this node's Node.
    pub(super) facts: Option<Arc<NodeFacts>>,
}

/// What this node's Node says that the reconcile loop need not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    uid: String,
    labels: BTreeMap<String, String>,
    /// Type and address, in the kubelet's order; only those by which the node is reached.
    addresses: Vec<(String, IpAddr)>,
    pod_cidrs: Vec<IpNet>,
}

impl NodeFacts {
    fn of(node: &Node) -> Self {
        let addresses = node
            .status
            .iter()
            .flat_map(|s| s.addresses.iter().flatten());
        let spec = node.spec.clone().unwrap_or_default();
        let pod_cidrs = spec
            .pod_cidrs
            .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        Self {
            pod_cidrs: pod_cidrs
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses
                .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
                .filter_map(|address| Some((address.type_.clone(), address.address.parse().ok()?)))
                .collect(),
        }
    }

    /// The node's address as others know it: the first internal one, IPv4 before IPv6, else an external one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let of = |kind: &'static str, four: bool| {
            self.addresses
                .iter()
                .find(move |(is, address)| is == kind && address.is_ipv4() == four)
        };
        of("InternalIP", true)
            .or_else(|| of("InternalIP", false))
            .or_else(|| self.addresses.first())
            .map(|(_, address)| *address)
    }

    /// All addresses with their types: those of the Node under the types that it gives them; others are the node's own
    /// where pods are (`CiliumInternalIP`, as Cilium calls its router's), or further internal ones.
    fn published(&self, wanted: &NodeWanted) -> Vec<CiliumNodeAddress> {
        let named = self
            .addresses
            .iter()
            .map(|(kind, address)| (kind.as_str(), *address));
        let others = wanted
            .addresses
            .iter()
            .filter(|address| self.addresses.iter().all(|(_, named)| named != *address))
            .map(|address| {
                let is_pods = self.pod_cidrs.iter().any(|cidr| cidr.contains(address));
                let kind = if is_pods {
                    "CiliumInternalIP"
                } else {
                    "InternalIP"
                };
                (kind, *address)
            });
        named
            .chain(others)
            .map(|(kind, address)| CiliumNodeAddress {
                kind: Some(kind.to_owned()),
                ip: address.to_string(),
            })
            .collect()
    }
}

/// The API server, for work one piece at a time.
pub(super) struct Requests {
    client: Client,
    not_ready_taint: Arc<str>,
}

impl Requests {
    pub(super) fn new(client: Client, not_ready_taint: Arc<str>) -> Self {
        Self {
            client,
            not_ready_taint,
        }
    }

    /// Does it.
    pub(super) async fn perform(&self, job: &Job) -> Result<Outcome, RequestError> {
        match (&job.wanted, &job.key) {
            (Wanted::Identity(IdentityRequest::Create(labels)), Key::Identity(number)) => {
                self.create_identity(*number, labels).await
            }
            (Wanted::Identity(IdentityRequest::Keep(labels)), Key::Identity(number)) => {
                self.keep_identity(*number, labels).await
            }
            (Wanted::Node(wanted), _) => self.cilium_node(wanted).await,
            (Wanted::Availability { name, .. }, _) => self.availability(name).await,
            (Wanted::Endpoint(wanted), _) => self.endpoint(wanted, job.uid.as_deref()).await,
            (Wanted::NoEndpoint { live, node }, Key::Endpoint(pod)) => {
                let api = self.endpoints(&pod.namespace);
                remove_endpoint(&api, &pod.name, live.as_deref(), *node).await
            }
            (Wanted::Event(news), Key::Event(pod, reason)) => {
                let warning = news.warning(pod, reason);
                let told = warn(&self.client, warning).await;
                told.map_err(|error| RequestError::of("Event", error))?;
                Ok(Outcome::default())
            }
            // Keys and what is wanted of them are made together.
            (Wanted::Identity(_) | Wanted::NoEndpoint { .. } | Wanted::Event(_), _) => {
                Ok(Outcome::default())
            }
        }
    }

    fn cluster(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource(kind, plural))
    }

    fn endpoints(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = resource("CiliumEndpoint", "ciliumendpoints");
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// That somebody was faster is no failure: the watches show who.
    async fn create_identity(
        &self,
        number: NumericIdentity,
        labels: &IdentityLabels,
    ) -> Result<Outcome, RequestError> {
        let api = self.cluster("CiliumIdentity", "ciliumidentities");
        let object = serde_json::to_value(objects::cilium_identity(number, labels))?;
        let object: DynamicObject = serde_json::from_value(object)?;
        let by = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match api.create(&by, &object).await {
            Ok(_) => {
                tracing::info!(
                    identity = number.0,
                    ?labels,
                    "identity proposed and accepted"
                );
                Ok(Outcome::default())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                tracing::debug!(identity = number.0, "identity is taken");
                Ok(Outcome::default())
            }
            Err(error) => Err(RequestError::of("CiliumIdentity", error)),
        }
    }

    /// Takes an operator's mark away from an identity of these labels, unless it changed in the meantime.
    async fn keep_identity(
        &self,
        number: NumericIdentity,
        labels: &IdentityLabels,
    ) -> Result<Outcome, RequestError> {
        let failed = |error| RequestError::of("CiliumIdentity", error);
        let api = self.cluster("CiliumIdentity", "ciliumidentities");
        let name = number.0.to_string();
        let Some(found) = api.get_opt(&name).await.map_err(failed)? else {
            return Ok(Outcome::default());
        };
        let wanted = serde_json::to_value(objects::cilium_identity(number, labels))?;
        let is_theirs = found.data.get("security-labels") == wanted.get("security-labels");
        let annotations = found.metadata.annotations.unwrap_or_default();
        let marks: Map<String, Value> = MARKS
            .iter()
            .filter(|mark| annotations.contains_key(**mark))
            .map(|mark| ((*mark).to_owned(), Value::Null))
            .collect();
        if !is_theirs || marks.is_empty() {
            return Ok(Outcome::default());
        }
        // The version that was looked at: one that the operator deleted meanwhile is not made anew by this.
        let patch = json!({"metadata": {
            "uid": found.metadata.uid,
            "resourceVersion": found.metadata.resource_version,
            "annotations": marks,
        }});
        api.patch(&name, &by_us(), &Patch::Merge(patch))
            .await
            .map_err(failed)?;
        tracing::info!(
            identity = number.0,
            "identity was marked for deletion and is kept"
        );
        Ok(Outcome::default())
    }

    async fn node(&self, name: &str) -> Result<Node, RequestError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let found = api.get_opt(name).await;
        found
            .map_err(|error| RequestError::of("Node", error))?
            .ok_or_else(|| RequestError::NoNode(name.to_owned()))
    }

    async fn cilium_node(&self, wanted: &NodeWanted) -> Result<Outcome, RequestError> {
        let failed = |error| RequestError::of("CiliumNode", error);
        let node = self.node(&wanted.name).await?;
        let facts = NodeFacts::of(&node);
        let spec = CiliumNodeSpec {
            bootid: Some(wanted.boot_id.to_string()),
            addresses: facts.published(wanted),
            ipam: Ipam {
                pod_cidrs: facts.pod_cidrs.iter().map(ToString::to_string).collect(),
            },
            ..CiliumNodeSpec::default()
        };
        let spec = serde_json::to_value(spec)?;
        let body = json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {
                "name": &*wanted.name,
                "labels": facts.labels,
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": &*wanted.name, "uid": facts.uid},
                ],
            },
            "spec": spec,
        });
        let api = self.cluster("CiliumNode", "ciliumnodes");
        let found = api.get_opt(&wanted.name).await.map_err(failed)?;
        if !found.is_some_and(|found| says(&found, &body)) {
            api.patch(&wanted.name, &apply(), &Patch::Apply(body))
                .await
                .map_err(failed)?;
            tracing::info!(node = %wanted.name, "CiliumNode published");
        }
        Ok(Outcome {
            uid: None,
            facts: Some(Arc::new(facts)),
        })
    }

    /// Says that the node's network works where nobody says so yet, and takes the taint away that waited for it.
    async fn availability(&self, name: &str) -> Result<Outcome, RequestError> {
        let failed = |error| RequestError::of("Node", error);
        let api: Api<Node> = Api::all(self.client.clone());
        let node = self.node(name).await?;
        if !is_available(&node) {
            let now = Time(Timestamp::now());
            let condition = NodeCondition {
                type_: NETWORK_UNAVAILABLE.to_owned(),
                status: "False".to_owned(),
                reason: Some("CiliumIsUp".to_owned()),
                message: Some("Cilium is running on this node".to_owned()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(now),
            };
            let patch = json!({"status": {"conditions": [condition]}});
            api.patch_status(name, &by_us(), &Patch::Strategic(patch))
                .await
                .map_err(failed)?;
            tracing::info!(node = name, "node condition NetworkUnavailable is False");
        }
        let taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        let (ours, others): (Vec<_>, Vec<_>) =
            taints.partition(|taint| taint.key == *self.not_ready_taint);
        if !ours.is_empty() {
            // The list is one value: whoever changed it in the meantime comes first.
            let fresh = self.node(name).await?;
            let unchanged = fresh.spec.as_ref().map(|spec| &spec.taints)
                == node.spec.as_ref().map(|spec| &spec.taints);
            if !unchanged {
                return Err(RequestError::Api(
                    "the node's taints changed meanwhile".to_owned(),
                ));
            }
            let patch = json!({
                "metadata": {"resourceVersion": fresh.metadata.resource_version},
                "spec": {"taints": others},
            });
            api.patch(name, &by_us(), &Patch::Merge(patch))
                .await
                .map_err(failed)?;
            tracing::info!(node = name, taint = %self.not_ready_taint, "taint removed");
        }
        Ok(Outcome::default())
    }

    /// The pod of that name is this life of it now. The watches may be late, and the object that is there may be that
    /// of a later life on another node.
    async fn is_current(
        &self,
        meta: &oxilium_crds::ObjectMeta,
        uid: &str,
    ) -> Result<(), RequestError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &meta.namespace);
        let found = api.get_metadata_opt(&meta.name).await;
        let found = found.map_err(|error| RequestError::of("Pod", error))?;
        if found.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid)) {
            return Ok(());
        }
        Err(RequestError::AnotherLife)
    }

    /// `uid`: the object is there under it, as this agent left it.
    async fn endpoint(
        &self,
        wanted: &EndpointWanted,
        uid: Option<&str>,
    ) -> Result<Outcome, RequestError> {
        let failed = |error| RequestError::of("CiliumEndpoint", error);
        let meta = &wanted.object.metadata;
        let api = self.endpoints(&meta.namespace);
        let mut body = serde_json::to_value(&wanted.object)?;
        if let Some(uid) = uid {
            // Another object of this name, say of a later life of the pod on another node, is left alone.
            body["metadata"]["uid"] = json!(uid);
        } else if let Some(found) = api.get_opt(&meta.name).await.map_err(failed)? {
            if says(&found, &body) {
                return Ok(Outcome {
                    uid: found.metadata.uid,
                    facts: None,
                });
            }
            if owner(&found.metadata).is_some_and(|owner| owner != &*wanted.pod_uid) {
                self.is_current(meta, &wanted.pod_uid).await?;
                tracing::info!(pod = %meta.name, namespace = %meta.namespace, "CiliumEndpoint is that of another life of the pod");
                api.delete(&meta.name, &exactly(&found.metadata))
                    .await
                    .map_err(failed)?;
            } else {
                body["metadata"]["uid"] = json!(found.metadata.uid);
            }
        }
        let written = api
            .patch(&meta.name, &apply(), &Patch::Apply(body))
            .await
            .map_err(failed)?;
        tracing::debug!(pod = %meta.name, namespace = %meta.namespace, "CiliumEndpoint published");
        Ok(Outcome {
            uid: written.metadata.uid,
            facts: None,
        })
    }
}

const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// Somebody says already that the network works: in chaining mode the other plugin's agent may.
fn is_available(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == NETWORK_UNAVAILABLE)
        .any(|condition| condition.status == "False")
}

/// Removes the object if it is of the node of that address, and not of the pod that is there under `live`.
async fn remove_endpoint(
    api: &Api<DynamicObject>,
    name: &str,
    live: Option<&str>,
    node: IpAddr,
) -> Result<Outcome, RequestError> {
    let failed = |error| RequestError::of("CiliumEndpoint", error);
    let Some(found) = api.get_opt(name).await.map_err(failed)? else {
        return Ok(Outcome::default());
    };
    let its_node = found.data.pointer("/status/networking/node");
    let is_ours = its_node.and_then(Value::as_str) == Some(node.to_string().as_str());
    let is_live = live.is_some() && owner(&found.metadata) == live;
    if is_ours && !is_live {
        match api.delete(name, &exactly(&found.metadata)).await {
            Ok(_) => tracing::info!(pod = name, "CiliumEndpoint of a pod that is gone removed"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Outcome::default())
}

/// UID of the pod that an endpoint belongs to.
fn owner(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.kind == "Pod")
        .map(|owner| owner.uid.as_str())
        .next()
}

/// The object says all of `body` in the parts that this agent writes, and nothing else there.
fn says(found: &DynamicObject, body: &Value) -> bool {
    let Ok(found) = serde_json::to_value(found) else {
        return false;
    };
    let same = |path: &str| {
        let empty = |value: Option<&Value>| {
            value.is_none_or(|value| match value {
                Value::Null => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            })
        };
        let (is, should) = (found.pointer(path), body.pointer(path));
        is == should || (empty(is) && empty(should))
    };
    let pointers = [
        "/metadata/labels",
        "/metadata/ownerReferences",
        "/status",
        "/spec",
    ];
    pointers.into_iter().all(same)
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("cilium.io", "v2", kind), plural)
}

fn by_us() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// This object in this state, and no other.
fn exactly(meta: &ObjectMeta) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        }),
        ..DeleteParams::default()
    }
}
