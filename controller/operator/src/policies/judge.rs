//! What is to be said of a policy object, from the object alone.

use k8s_openapi::jiff::Timestamp;
use oxilium_crds::Condition;
use oxilium_manifest::object::{Input, admit};
use oxilium_manifest::policy::service::Services;
use oxilium_manifest::pruned;
use oxilium_manifest::tree::Node;
use oxilium_manifest::{Admission, LowerOptions};
use serde_json::Value;

/// Agents take the policy, or do not.
pub const VALID: &str = "Valid";
/// Fields that the policy was written with are not in it.
pub const FIELDS_PRUNED: &str = "FieldsPruned";
/// Parts of the policy have no enforcing component.
pub const NOT_ENFORCED: &str = "NotEnforced";

/// Every condition that is this operator's affair.
const OURS: [&str; 3] = [VALID, FIELDS_PRUNED, NOT_ENFORCED];

/// Conditions of which an event tells as well: with which status, and the event's reason.
const EVENTS: [(&str, &str, &str); 3] = [
    (VALID, "False", "PolicyRefused"),
    (NOT_ENFORCED, "True", "PolicyNotEnforced"),
    (FIELDS_PRUNED, "True", "PolicyFieldsPruned"),
];

fn condition(kind: &str, is: bool, reason: &str, message: String) -> Condition {
    Condition {
        condition: kind.to_owned(),
        status: if is { "True" } else { "False" }.to_owned(),
        last_transition_time: None,
        reason: Some(reason.to_owned()),
        message: Some(message),
    }
}

/// The conditions of a policy object as the API server has it.
pub fn conditions(object: &Value) -> Vec<Condition> {
    let root = Node::from_json(object);
    let options = LowerOptions {
        admission: Admission::Agent,
        ..LowerOptions::default()
    };
    let services = Services::new();
    let mut conditions = Vec::new();
    match admit(&root, None, "", &options.config(&services)) {
        Ok(admitted) => {
            let message = "Policy validation succeeded".to_owned();
            conditions.push(condition(VALID, true, "Admitted", message));
            if let Input::Policy(lowered) = &admitted.input {
                let parts = lowered.policy.not_enforced();
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                if !parts.is_empty() {
                    let message = parts.join("; ");
                    conditions.push(condition(NOT_ENFORCED, true, NOT_ENFORCED, message));
                }
            }
        }
        Err(errors) => {
            let told: Vec<String> = errors
                .iter()
                .map(|error| match error.path.as_str() {
                    "" => error.problem.to_string(),
                    path => format!("{path}: {}", error.problem),
                })
                .collect();
            conditions.push(condition(VALID, false, "Refused", told.join("; ")));
        }
    }
    let fields = pruned::fields(&root);
    if !fields.is_empty() {
        let message = pruned::told(&fields);
        conditions.push(condition(FIELDS_PRUNED, true, FIELDS_PRUNED, message));
    }
    conditions
}

/// The events that tell of these conditions: a reason and a message each.
pub fn events(conditions: &[Condition]) -> Vec<(&'static str, String)> {
    let told = conditions.iter().filter_map(|condition| {
        let is = |(kind, status, _): &&(&str, &str, _)| {
            condition.condition == *kind && condition.status == *status
        };
        let (.., reason) = EVENTS.iter().find(is)?;
        Some((*reason, condition.message.clone().unwrap_or_default()))
    });
    told.collect()
}

/// The conditions to be written, with the times since when they are so; none if the object says all that already.
pub fn changes(object: &Value, wanted: Vec<Condition>, now: Timestamp) -> Option<Vec<Condition>> {
    let known = object.pointer("/status/conditions");
    let known: Vec<Condition> = known
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default();
    let of = |kind: &str| known.iter().find(|known| known.condition == kind);
    let timeless = |condition: &Condition| Condition {
        last_transition_time: None,
        ..condition.clone()
    };
    let stale = OURS
        .iter()
        .any(|kind| of(kind).is_some() && !wanted.iter().any(|wanted| wanted.condition == *kind));
    let differs = |wanted: &Condition| of(&wanted.condition).map(timeless).as_ref() != Some(wanted);
    if !stale && !wanted.iter().any(differs) {
        return None;
    }
    let since = |wanted: &Condition| {
        of(&wanted.condition)
            .filter(|known| known.status == wanted.status)
            .and_then(|known| known.last_transition_time.clone())
            .unwrap_or_else(|| now.to_string())
    };
    let dated = wanted.into_iter().map(|wanted| Condition {
        last_transition_time: Some(since(&wanted)),
        ..wanted
    });
    Some(dated.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: &Value) -> Value {
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "default", "uid": "1"}, "spec": spec,
        })
    }

    fn said(object: &Value) -> Vec<(String, String)> {
        let conditions = conditions(object).into_iter();
        conditions
            .map(|condition| (condition.condition, condition.status))
            .collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(kind, status)| ((*kind).to_owned(), (*status).to_owned()))
            .collect()
    }

    #[test]
    fn a_policy_is_valid_or_says_which_field_is_not() {
        let good = json!({"endpointSelector": {}, "ingress": [{}]});
        assert_eq!(said(&policy(&good)), pairs(&[("Valid", "True")]));
        let bad = json!({"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/33"]}]});
        let found = conditions(&policy(&bad));
        assert_eq!(found[0].status, "False");
        let message = found[0].message.clone().unwrap_or_default();
        assert!(
            message.starts_with("spec.ingress[0].fromCIDR[0]: "),
            "{message}"
        );
        let l7 = json!({"endpointSelector": {}, "ingress": [{"toPorts": [
            {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]}]});
        assert_eq!(
            said(&policy(&l7)),
            pairs(&[("Valid", "True"), ("NotEnforced", "True")])
        );
        let told = |spec| {
            let told = events(&conditions(&policy(spec))).into_iter();
            told.map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        assert_eq!(told(&good), [""; 0]);
        assert_eq!(told(&bad), ["PolicyRefused"]);
        assert_eq!(told(&l7), ["PolicyNotEnforced"]);
    }

    /// Older API servers take addresses that mean different things to different readers.
    #[test]
    fn a_network_policy_can_be_refused_as_well() {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "default", "uid": "1"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]},
        });
        let events = events(&conditions(&object));
        let [("PolicyRefused", message)] = &events[..] else {
            panic!("{events:?}");
        };
        let field = "spec.ingress[0].from[0].ipBlock.cidr: ";
        assert!(message.starts_with(field), "{message}");
    }

    #[test]
    fn fields_that_the_api_server_took_away_are_named() {
        let mut object = policy(&json!({"endpointSelector": {}, "ingress": [{}]}));
        object["metadata"]["managedFields"] =
            json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ingres": {}}}}]);
        assert_eq!(
            said(&object),
            pairs(&[("Valid", "True"), ("FieldsPruned", "True")])
        );
    }

    #[test]
    fn what_the_object_says_already_is_not_written() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut object = policy(&json!({"endpointSelector": {}, "ingress": [{}]}));
        let wanted = conditions(&object);
        let first = changes(&object, wanted.clone(), now).unwrap();
        let time = first[0].last_transition_time.as_deref();
        assert_eq!(time, Some("2026-01-02T00:00:00Z"));
        let other = json!({"type": "Other", "status": "True"});
        let mut list = json!(first);
        list.as_array_mut().unwrap().push(other);
        object["status"] = json!({"conditions": list});
        assert_eq!(changes(&object, wanted.clone(), now), None);
        // Another message of the same status: since when it is so stays.
        object["status"]["conditions"][0]["message"] = json!("said otherwise");
        let later: Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        assert_eq!(changes(&object, wanted.clone(), later), Some(first));
        // One of ours that is so no more is to go.
        object["status"]["conditions"] = json!([
            {"type": "Valid", "status": "True", "reason": "Admitted", "message": "Policy validation succeeded"},
            {"type": "FieldsPruned", "status": "True"},
        ]);
        assert!(changes(&object, wanted, now).is_some());
    }
}
