//! Answers that follow from the latest picture alone.

use oxilium_api::{
    Addressing, ApiError, ApiIdentity, Condition, DirectionStatus, Done, Endpoint as ApiEndpoint,
    EndpointHealth, EndpointPolicy, EndpointState as ApiState, EndpointStatus, ErrorCode,
    ExplainQuery, ExplainReport, ExternalIdentifiers, HealthState, Networking, Policies,
    PolicyEnabled, PolicyMode, PolicyObject, RealizedPolicy,
};
use oxilium_crds::Condition as CrdCondition;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{Endpoint, EndpointState};
use oxilium_model::policy::rule::{Policy, Subject};

use crate::explain;
use crate::publish::{address_pairs, policy_conditions};
use crate::reconcile::{EndpointView, View, mac_text};

/// May pods be added?
pub(super) fn ready(view: &View) -> Result<Done, ApiError> {
    view.ready()
        .map(|()| Done {})
        .map_err(|reason| ApiError::new(ErrorCode::NotReady, reason))
}

pub(super) fn endpoints(view: &View) -> Vec<ApiEndpoint> {
    view.state
        .endpoints
        .values()
        .map(|endpoint| describe(view, endpoint, false))
        .collect()
}

pub(super) fn endpoint(view: &View, name: &str) -> Result<ApiEndpoint, ApiError> {
    let found = view.endpoint(name).ok_or_else(|| {
        let message = format!("there is no endpoint {name}; name it by id or as namespace/pod");
        ApiError::new(ErrorCode::NotFound, message)
    })?;
    Ok(describe(view, found, true))
}

fn describe(view: &View, endpoint: &Endpoint, with_log: bool) -> ApiEndpoint {
    let unknown = EndpointView::default();
    let details = view.endpoints.get(&endpoint.id).unwrap_or(&unknown);
    let state = match endpoint.state {
        _ if details.failing.is_some() => ApiState::NotReady,
        EndpointState::WaitingForIdentity => ApiState::WaitingForIdentity,
        EndpointState::Disconnecting | EndpointState::Disconnected => ApiState::Disconnecting,
        EndpointState::Invalid => ApiState::NotReady,
        EndpointState::Ready if details.ready => ApiState::Ready,
        EndpointState::Ready => ApiState::Regenerating,
    };
    let uid = (!endpoint.pod_uid.is_empty()).then(|| endpoint.pod_uid.to_string());
    ApiEndpoint {
        id: endpoint.id,
        status: EndpointStatus {
            external_identifiers: ExternalIdentifiers {
                container_id: endpoint.attachment.container.to_string(),
                container_interface_name: endpoint.attachment.interface.to_string(),
                k8s_namespace: endpoint.pod.namespace.to_string(),
                k8s_pod_name: endpoint.pod.name.to_string(),
                k8s_pod_uid: uid,
            },
            identity: Some(ApiIdentity {
                id: endpoint.identity.0,
                labels: endpoint.labels.iter().map(ToString::to_string).collect(),
            }),
            networking: Networking {
                addressing: address_pairs(endpoint)
                    .into_iter()
                    .map(|pair| Addressing {
                        ipv4: pair.ipv4,
                        ipv6: pair.ipv6,
                    })
                    .collect(),
                host_mac: mac_text(endpoint.host_mac),
                interface_index: endpoint.ifindex.unwrap_or_default(),
                interface_name: endpoint.device.to_string(),
                mac: mac_text(endpoint.mac),
            },
            policy: EndpointPolicy {
                realized: realized(view, endpoint, details),
            },
            state,
            health: Some(health(endpoint, details)),
            log: if with_log {
                details.log.to_vec()
            } else {
                Vec::new()
            },
        },
    }
}

fn health(endpoint: &Endpoint, details: &EndpointView) -> EndpointHealth {
    let bpf = if details.failing.is_some() {
        HealthState::Failure
    } else if details.ready {
        HealthState::Ok
    } else {
        HealthState::Pending
    };
    let policy = match endpoint.state {
        EndpointState::Invalid => HealthState::Failure,
        EndpointState::WaitingForIdentity => HealthState::Pending,
        _ if details.ready => HealthState::Ok,
        _ => HealthState::Pending,
    };
    EndpointHealth {
        bpf,
        policy,
        connected: endpoint.ifindex.is_some(),
        overall_health: bpf.max(policy),
        failing: details.failing.clone(),
    }
}

fn realized(view: &View, endpoint: &Endpoint, details: &EndpointView) -> RealizedPolicy {
    let policy = &endpoint.policy;
    let direction = |enforced| {
        if !details.ready && details.table == 0 {
            DirectionStatus::Unknown
        } else if enforced {
            DirectionStatus::Enabled
        } else {
            DirectionStatus::Disabled
        }
    };
    RealizedPolicy {
        policy_enabled: match (policy.ingress_enforced, policy.egress_enforced) {
            (false, false) => PolicyEnabled::None,
            (true, false) => PolicyEnabled::Ingress,
            (false, true) => PolicyEnabled::Egress,
            (true, true) => PolicyEnabled::Both,
        },
        ingress: direction(policy.ingress_enforced),
        egress: direction(policy.egress_enforced),
        table: details.table,
        entries: policy.table.0.len(),
        policy_revision: view.revisions.applied,
    }
}

pub(super) fn identities(view: &View) -> Vec<ApiIdentity> {
    view.state
        .identities
        .iter()
        .map(|(id, identity)| ApiIdentity {
            id: id.0,
            labels: identity.labels.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

pub(super) fn identity(view: &View, id: u32) -> Result<ApiIdentity, ApiError> {
    let found = view.state.identities.get(NumericIdentity(id));
    let found = found.ok_or_else(|| {
        ApiError::new(ErrorCode::NotFound, format!("identity {id} is not in use"))
    })?;
    Ok(ApiIdentity {
        id,
        labels: found.labels.iter().map(ToString::to_string).collect(),
    })
}

pub(super) fn policies(view: &View) -> Policies {
    Policies {
        revision: view.revisions.plan,
        policies: view
            .world
            .policies
            .values()
            .map(|p| describe_policy(view, p))
            .collect(),
    }
}

fn describe_policy(view: &View, policy: &Policy) -> PolicyObject {
    PolicyObject {
        kind: policy.reference.kind.name().to_owned(),
        namespace: policy.reference.namespace.as_ref().map(ToString::to_string),
        name: policy.reference.name.to_string(),
        origin: policy
            .rules
            .iter()
            .find_map(|rule| rule.origin.location.as_ref())
            .map(|location| format!("{}:{}", location.file, location.line)),
        mode: if policy.audit {
            PolicyMode::Audit
        } else {
            PolicyMode::Enforce
        },
        rules: policy.rules.len(),
        endpoints: selected(view, policy),
        conditions: policy_conditions(&policy.reference, view)
            .into_iter()
            .map(condition_of)
            .collect(),
        staged: view.staged.get(&policy.reference).cloned(),
    }
}

/// How many endpoints of this node a policy selects.
fn selected(view: &View, policy: &Policy) -> usize {
    let selects = |subject: &Subject, endpoint: &Endpoint| subject.selects(&endpoint.labels);
    view.state
        .endpoints
        .values()
        .filter(|endpoint| {
            policy
                .rules
                .iter()
                .any(|rule| selects(&rule.subject, endpoint))
        })
        .count()
}

/// A condition as the API has it.
pub fn condition_of(condition: CrdCondition) -> Condition {
    Condition {
        kind: condition.condition,
        status: condition.status,
        reason: condition.reason.unwrap_or_default(),
        message: condition.message.unwrap_or_default(),
    }
}

pub(super) fn explain(view: &View, query: &ExplainQuery) -> Result<ExplainReport, ApiError> {
    explain::explain(view.known(), query)
        .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.to_string()))
}
