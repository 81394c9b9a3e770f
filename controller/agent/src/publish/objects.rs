//! The objects that would be published.

use std::net::IpAddr;

use oxilium_api::StagedReport;
use oxilium_crds::endpoint::{
    AddressPair, EndpointHealth, EndpointIdentity, EndpointNetworking, EndpointPolicy,
    EndpointPolicyDirection, EndpointStatus, ExternalIdentifiers, NamedPort,
};
use oxilium_crds::meta::OwnerReference;
use oxilium_crds::{CiliumEndpoint, CiliumIdentity, Condition, ObjectMeta, Resource};
use oxilium_model::condition::{Object, Reason};
use oxilium_model::identity::{IdentityLabels, NumericIdentity};
use oxilium_model::label::{LabelSource, POD_NAMESPACE};
use oxilium_model::node_state::{Endpoint, EndpointState};
use oxilium_model::policy::rule::PolicyRef;
use oxilium_model::world::Pod;
use serde::Serialize;

use crate::reconcile::{EndpointView, View};

/// A policy lacks fields with which it was written.
pub const FIELDS_PRUNED: &str = "FieldsPruned";

/// An object as a file.
pub(super) struct File {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) content: String,
}

/// All objects of this node.
pub(super) fn all(view: &View) -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |kind, name: String, content: Option<String>| {
        files.extend(content.map(|content| File {
            kind,
            name,
            content,
        }));
    };
    for endpoint in view.state.endpoints.values() {
        let name = format!("{}_{}", endpoint.pod.namespace, endpoint.pod.name);
        let details = view.endpoints.get(&endpoint.id);
        let object = cilium_endpoint(endpoint, details, view);
        add("CiliumEndpoint", name, yaml(&object));
    }
    for (id, identity) in view.state.identities.iter() {
        if id.0 < NumericIdentity::FIRST_CLUSTER || id.is_cidr() || id.is_remote_node() {
            continue;
        }
        let object = cilium_identity(id, &identity.labels);
        add("CiliumIdentity", id.0.to_string(), yaml(&object));
    }
    for policy in view.world.policies.keys() {
        let namespace = policy
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| format!("{namespace}_"));
        let name = format!("{}_{namespace}{}", policy.kind.name(), policy.name);
        add("Policy", name, yaml(&PolicyFile::new(policy, view)));
    }
    files
}

/// A CiliumIdentity as Cilium writes it. Of the labels only the namespace is one of the object's as well: others may be
/// longer than the API server lets labels be.
pub(super) fn cilium_identity(number: NumericIdentity, labels: &IdentityLabels) -> CiliumIdentity {
    let security_labels = labels
        .iter()
        .map(|label| {
            let key = format!("{}:{}", label.source().name(), label.key());
            (key, label.value().to_owned())
        })
        .collect();
    let namespace = labels.find(&LabelSource::K8s, POD_NAMESPACE);
    CiliumIdentity {
        api_version: CiliumIdentity::API_VERSION.to_owned(),
        kind: CiliumIdentity::KIND.to_owned(),
        metadata: ObjectMeta {
            name: number.0.to_string(),
            labels: namespace
                .map(|label| (label.key().to_owned(), label.value().to_owned()))
                .into_iter()
                .collect(),
            ..ObjectMeta::default()
        },
        security_labels,
    }
}

/// What the agent says of a policy object.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyFile {
    kind: &'static str,
    metadata: ObjectMeta,
    status: PolicyStatus,
}

#[derive(Serialize)]
struct PolicyStatus {
    conditions: Vec<Condition>,
    /// Of a staged policy: what it would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<StagedReport>,
}

impl PolicyFile {
    fn new(policy: &PolicyRef, view: &View) -> Self {
        Self {
            kind: policy.kind.name(),
            metadata: ObjectMeta {
                name: policy.name.to_string(),
                namespace: policy
                    .namespace
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                ..ObjectMeta::default()
            },
            status: PolicyStatus {
                conditions: policy_conditions(policy, view),
                staged: view.staged.get(policy).cloned(),
            },
        }
    }
}

/// Conditions of a policy that is in force: it is valid; and what else there is to say.
pub fn policy_conditions(policy: &PolicyRef, view: &View) -> Vec<Condition> {
    let valid = Condition {
        condition: "Valid".to_owned(),
        status: "True".to_owned(),
        last_transition_time: None,
        reason: Some("Admitted".to_owned()),
        message: Some("Policy validation succeeded".to_owned()),
    };
    let others = view.state.conditions.iter().filter_map(|condition| {
        let Object::Policy(about) = &condition.object else {
            return None;
        };
        (**about == *policy).then(|| self::condition(&condition.reason))
    });
    std::iter::once(valid)
        .chain(staged(policy, view))
        .chain(pruned(policy, view))
        .chain(others)
        .collect()
}

/// Of a policy that lacks fields with which it was written: which.
fn pruned(policy: &PolicyRef, view: &View) -> Option<Condition> {
    let message = view.source.pruned.get(policy)?;
    Some(Condition {
        condition: FIELDS_PRUNED.to_owned(),
        status: "True".to_owned(),
        last_transition_time: None,
        reason: Some(FIELDS_PRUNED.to_owned()),
        message: Some(message.clone()),
    })
}

/// Of a staged policy: that it is not in force, and how much it would change.
fn staged(policy: &PolicyRef, view: &View) -> Option<Condition> {
    view.world
        .policies
        .get(policy)
        .filter(|object| object.audit)?;
    let message = match view.staged.get(policy) {
        None => "computed beside the policies in force; flows are not compared yet".to_owned(),
        Some(report) => format!(
            "computed beside the policies in force; it would newly deny {} and newly allow {} flows",
            report.newly_denied, report.newly_allowed
        ),
    };
    Some(Condition {
        condition: "Staged".to_owned(),
        status: "True".to_owned(),
        last_transition_time: None,
        reason: Some("Audit".to_owned()),
        message: Some(message),
    })
}

fn condition(reason: &Reason) -> Condition {
    Condition {
        condition: reason.kind().to_owned(),
        status: "True".to_owned(),
        last_transition_time: None,
        reason: Some(reason.kind().to_owned()),
        message: Some(reason.to_string()),
    }
}

/// A CiliumEndpoint as it goes to an API server, for the pod's life that `pod` is: what Cilium writes there, and no more.
/// What passes or grows (its health, its log) stays with the agent.
pub(super) fn published_endpoint(
    endpoint: &Endpoint,
    details: Option<&EndpointView>,
    view: &View,
    pod: &Pod,
    node: IpAddr,
) -> CiliumEndpoint {
    let mut object = cilium_endpoint(endpoint, details, view);
    object.metadata.owner_references = vec![OwnerReference {
        api_version: oxilium_crds::Pod::API_VERSION.to_owned(),
        kind: oxilium_crds::Pod::KIND.to_owned(),
        name: pod.reference.name.to_string(),
        uid: pod.uid.to_string(),
        ..OwnerReference::default()
    }];
    object.metadata.labels = pod
        .labels
        .iter()
        .map(|label| (label.key().to_owned(), label.value().to_owned()))
        .collect();
    let status = &mut object.status;
    status.health = None;
    status.conditions = Vec::new();
    if let Some(networking) = &mut status.networking {
        networking.node = Some(node.to_string());
    }
    object
}

fn cilium_endpoint(
    endpoint: &Endpoint,
    details: Option<&EndpointView>,
    view: &View,
) -> CiliumEndpoint {
    let ready = details.is_some_and(|details| details.ready);
    let state = match endpoint.state {
        EndpointState::Ready if !ready => "regenerating",
        state => state.name(),
    };
    let pod = view.world.pods.get(&endpoint.pod);
    CiliumEndpoint {
        api_version: CiliumEndpoint::API_VERSION.to_owned(),
        kind: CiliumEndpoint::KIND.to_owned(),
        metadata: ObjectMeta {
            name: endpoint.pod.name.to_string(),
            namespace: endpoint.pod.namespace.to_string(),
            ..ObjectMeta::default()
        },
        status: EndpointStatus {
            id: Some(endpoint.id.into()),
            external_identifiers: Some(external_identifiers(endpoint)),
            health: Some(health(endpoint, ready, details)),
            identity: Some(EndpointIdentity {
                id: Some(endpoint.identity.0.into()),
                labels: endpoint.labels.iter().map(ToString::to_string).collect(),
            }),
            networking: Some(EndpointNetworking {
                addressing: address_pairs(endpoint),
                node: node_address(view),
            }),
            policy: Some(EndpointPolicy {
                ingress: Some(direction(endpoint.policy.ingress_enforced)),
                egress: Some(direction(endpoint.policy.egress_enforced)),
            }),
            state: Some(state.to_owned()),
            named_ports: endpoint
                .named_ports
                .iter()
                .map(|(name, protocol, port)| NamedPort {
                    name: name.to_owned(),
                    port,
                    protocol: protocol.to_string(),
                })
                .collect(),
            service_account: pod
                .and_then(|pod| pod.service_account.as_deref())
                .map(ToOwned::to_owned),
            conditions: endpoint_conditions(endpoint, view),
            ..EndpointStatus::default()
        },
    }
}

fn external_identifiers(endpoint: &Endpoint) -> ExternalIdentifiers {
    ExternalIdentifiers {
        cni_attachment_id: Some(endpoint.attachment.to_string()),
        container_id: Some(endpoint.attachment.container.to_string()),
        k8s_namespace: Some(endpoint.pod.namespace.to_string()),
        k8s_pod_name: Some(endpoint.pod.name.to_string()),
        pod_name: Some(endpoint.pod.to_string()),
    }
}

fn health(endpoint: &Endpoint, ready: bool, details: Option<&EndpointView>) -> EndpointHealth {
    let policy = if ready { "OK" } else { "Pending" };
    let failing = details.is_some_and(|details| details.failing.is_some());
    let rest = if failing { "Failure" } else { policy };
    EndpointHealth {
        bpf: Some(rest.to_owned()),
        connected: Some(endpoint.ifindex.is_some()),
        overall_health: Some(rest.to_owned()),
        policy: Some(policy.to_owned()),
    }
}

/// An address of this node that is not one among its pods'.
fn node_address(view: &View) -> Option<String> {
    let node = view.world.nodes.get(&view.world.config.node_name)?;
    let is_pods = |address: &IpAddr| node.pod_cidrs.iter().any(|cidr| cidr.contains(address));
    node.addresses
        .iter()
        .find(|address| address.is_ipv4() && !is_pods(address))
        .map(ToString::to_string)
}

fn endpoint_conditions(endpoint: &Endpoint, view: &View) -> Vec<Condition> {
    view.state
        .conditions
        .iter()
        .filter(|condition| match &condition.object {
            Object::Pod(pod) => *pod == endpoint.pod,
            Object::Attachment(id) => *id == endpoint.attachment,
            Object::Policy(_) | Object::Prefix(_) | Object::Service(_) | Object::Claims => false,
        })
        .map(|condition| self::condition(&condition.reason))
        .collect()
}

fn direction(enforcing: bool) -> EndpointPolicyDirection {
    EndpointPolicyDirection {
        enforcing,
        state: Some(if enforcing { "enforcing" } else { "disabled" }.to_owned()),
    }
}

/// Addresses in pairs, as Cilium writes them: the first IPv4 with the first IPv6, and so on.
pub fn address_pairs(endpoint: &Endpoint) -> Vec<AddressPair> {
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = endpoint
        .addresses
        .iter()
        .copied()
        .partition(IpAddr::is_ipv4);
    (0..four.len().max(six.len()))
        .map(|i| AddressPair {
            ipv4: four.get(i).map(IpAddr::to_string),
            ipv6: six.get(i).map(IpAddr::to_string),
        })
        .collect()
}

/// None for what YAML cannot hold, which these types are not.
fn yaml(object: &impl Serialize) -> Option<String> {
    match serde_saphyr::to_string(object) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::error!(%error, "an object cannot be written as YAML");
            None
        }
    }
}
