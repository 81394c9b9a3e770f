//! What users of a pod must know of it: its policy is not enforced as they would expect. Told as events on the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use oxilium_model::condition::{Object, Reason};
use oxilium_model::world::PodRef;

use super::FIELD_MANAGER;
use crate::kubernetes::Warning;
use crate::reconcile::View;

/// Nothing of a pod's policy is enforced, or not all that should be.
const NOT_ENFORCED: &str = "PolicyNotEnforced";

/// What is to be told of a pod under one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The life of the pod that it is about.
    pub(super) pod_uid: Arc<str>,
    pub(super) message: String,
    /// Who tells it.
    pub(super) node: Arc<str>,
}

impl News {
    pub(super) fn warning(&self, pod: &PodRef, reason: &'static str) -> Warning {
        Warning {
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.to_string()),
                name: Some(pod.name.to_string()),
                uid: Some(self.pod_uid.to_string()),
                ..ObjectReference::default()
            },
            generation: None,
            reason,
            message: self.message.clone(),
            component: FIELD_MANAGER,
            host: Some(self.node.to_string()),
        }
    }
}

/// All news of this node's pods, by reason.
pub(super) fn news(view: &View) -> BTreeMap<(PodRef, &'static str), News> {
    let mut texts: BTreeMap<(PodRef, &'static str), Vec<String>> = BTreeMap::new();
    let mut tell = |pod: &PodRef, reason, text| {
        texts.entry((pod.clone(), reason)).or_default().push(text);
    };
    for (pod, why) in view.in_doubt.iter() {
        let text = format!(
            "policy is not enforced, as the pod was made without the agent: {why}; restart it"
        );
        tell(pod, NOT_ENFORCED, text);
    }
    for (id, details) in &view.endpoints {
        if let (Some(why), Some(endpoint)) = (&details.failure, view.state.endpoints.get(id)) {
            tell(
                &endpoint.pod,
                NOT_ENFORCED,
                format!("policy is not enforced in full: {why}"),
            );
        }
    }
    for condition in &view.state.conditions {
        let reason = &condition.reason;
        match (&condition.object, reason) {
            // The first is no pod that an event could be about; the second passes.
            (_, Reason::PodUnknown | Reason::IdentityPending { asked: Some(_) }) => {}
            (Object::Pod(pod), _) => tell(pod, reason.kind(), reason.to_string()),
            (policy, Reason::WouldOverflow { pod, .. }) => {
                tell(pod, reason.kind(), format!("{policy}: {reason}"));
            }
            _ => {}
        }
    }
    let about = |((pod, reason), texts): ((PodRef, &'static str), Vec<String>)| {
        let uid = &view.world.pods.get(&pod)?.uid;
        let news = News {
            pod_uid: Arc::clone(uid),
            message: texts.join("; "),
            node: Arc::clone(&view.world.config.node_name),
        };
        (!uid.is_empty()).then_some(((pod, reason), news))
    };
    texts.into_iter().filter_map(about).collect()
}

#[cfg(test)]
mod tests {
    use oxilium_abi::Direction;
    use oxilium_model::condition::Condition;
    use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity};
    use oxilium_model::node_state::NodeState;
    use oxilium_model::policy::rule::{PolicyKind, PolicyRef};
    use oxilium_model::world::{Pod, World};

    use super::*;

    fn pod(name: &str, uid: &str) -> (PodRef, Arc<Pod>) {
        let pod = Pod {
            reference: PodRef::new("shop", name),
            uid: uid.into(),
            labels: IdentityLabels::default(),
            service_account: None,
            addresses: Vec::new(),
            named_ports: NamedPorts::default(),
            node: None,
            host_network: false,
        };
        (pod.reference.clone(), Arc::new(pod))
    }

    #[test]
    fn a_pod_is_told_of_what_concerns_it_and_of_nothing_that_passes() {
        let known = [pod("web", "uid-web"), pod("old", "uid-old")];
        let policy = |name: &str| PolicyRef {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: Some("shop".into()),
            name: name.into(),
            uid: "".into(),
        };
        let overflow = |name: &str| Condition {
            object: Object::Policy(Arc::new(policy(name))),
            reason: Reason::WouldOverflow {
                pod: PodRef::new("shop", "web"),
                direction: Direction::Egress,
                needed: 20_000,
                available: 16_384,
            },
        };
        let of_pod = |name: &str, reason| Condition {
            object: Object::Pod(PodRef::new("shop", name)),
            reason,
        };
        let state = NodeState {
            conditions: vec![
                overflow("large"),
                overflow("larger"),
                of_pod(
                    "web",
                    Reason::IdentityPending {
                        asked: Some(NumericIdentity(300)),
                    },
                ),
                of_pod("gone", Reason::Unresolvable { error: "no".into() }),
            ],
            ..NodeState::default()
        };
        let view = View {
            world: Arc::new(World {
                pods: known.into_iter().collect(),
                ..World::default()
            }),
            state: Arc::new(state),
            in_doubt: Arc::new(
                [(PodRef::new("shop", "old"), "two have its address".into())].into(),
            ),
            ..View::default()
        };
        let told: Vec<String> = news(&view)
            .into_iter()
            .map(|((pod, reason), news)| format!("{pod} {reason}: {}", news.message))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
