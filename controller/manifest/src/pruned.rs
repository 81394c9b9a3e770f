//! Fields that somebody wrote and that are not in the object any more.
//!
//! An API server takes away what its definition of the kind does not know, unless the client asks it to be strict, and stores
//! the rest: a policy whose `fromEndpoint` lacks an `s` then lets everyone in. Two things tell of it afterwards:
//!
//! - the annotation `kubectl.kubernetes.io/last-applied-configuration`, which `kubectl apply` writes: the object as it was sent;
//! - `metadata.managedFields`: the fields that each writer set. What is gone from the object but not from there was taken away
//!   by a definition that came later, one of an older version say. (What a person removes is removed there, too.) It ends where
//!   lists begin, since the lists of policies are written whole.
//!
//! [`fields`] is called with the object as the server gave it, before `managedFields` is dropped, for every policy that is
//! read. If it finds something the policy is enforced as it is in the object, and carries the condition `FieldsPruned` with what
//! was found ([`told`]). An object that was written otherwise tells nothing of itself.

use serde_json::Value as Json;

use crate::tree::{Node, Value};

/// The annotation in which `kubectl apply` keeps what it sent.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where policies say what they say. The rest is the server's, or nobody's.
const FIELDS: [&str; 2] = ["spec", "specs"];

/// A field that was written and is not in the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pruned {
    /// Where it was: `spec.ingress[0].fromEndpoint`.
    pub path: String,
    /// How it is known.
    pub evidence: Evidence,
}

/// How it is known that a field was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// By what was last applied.
    LastApplied,
    /// By who manages it.
    ManagedFields,
}

impl std::fmt::Display for Pruned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let evidence = match self.evidence {
            Evidence::LastApplied => "was applied",
            Evidence::ManagedFields => "was set",
        };
        write!(f, "{} {evidence} and is not in the object", self.path)
    }
}

/// In words, for a condition: the first few of them, and how many more there are.
pub fn told(pruned: &[Pruned]) -> String {
    const NAMED: usize = 5;
    let named: Vec<String> = pruned.iter().take(NAMED).map(ToString::to_string).collect();
    let mut text = named.join("; ");
    if let Some(more @ 1..) = pruned.len().checked_sub(NAMED) {
        text = format!("{text}; and {more} more");
    }
    text + ": the API server does not know them, and the policy is enforced without them. Look for misspelt fields (kubectl apply --validate=strict names them) or a CustomResourceDefinition of another version"
}

/// What is missing of what was written, in the order of the object's fields; each path once.
pub fn fields(object: &Node) -> Vec<Pruned> {
    let mut pruned = Vec::new();
    let metadata = object.get("metadata");
    let managed = metadata.and_then(|metadata| metadata.get("managedFields"));
    let managed = managed.map_or(&[][..], Node::items);
    if let Some(applied) = metadata.and_then(last_applied)
        && !was_written_since(managed)
    {
        for name in FIELDS {
            if let (Some(was), Some(is)) = (applied.set(name), object.get(name)) {
                missing(was, is, name, &mut pruned);
            }
        }
    }
    for entry in managed {
        let Some(owned) = entry.get("fieldsV1") else {
            continue;
        };
        for name in FIELDS {
            if let (Some(owned), Some(is)) = (owned.get(&format!("f:{name}")), object.get(name)) {
                unowned(owned, is, name, &mut pruned);
            }
        }
    }
    pruned
}

fn last_applied(metadata: &Node) -> Option<Node> {
    let text = metadata.get("annotations")?.get(LAST_APPLIED)?.text()?;
    // Whoever may write the object may write this: what is no JSON says nothing.
    let applied: Json = serde_json::from_str(text).ok()?;
    Some(Node::from_json(&applied))
}

/// Somebody else wrote rules after the last `kubectl apply`: what it sent is no evidence any more.
fn was_written_since(managed: &[Node]) -> bool {
    let writes: Vec<(bool, &str)> = managed
        .iter()
        .filter(|entry| {
            let owned = entry.get("fieldsV1");
            owned.is_some_and(|owned| {
                FIELDS
                    .iter()
                    .any(|name| owned.get(&format!("f:{name}")).is_some())
            })
        })
        .map(|entry| {
            let apply = entry.text_of("manager") == Some("kubectl-client-side-apply");
            (apply, entry.text_of("time").unwrap_or_default())
        })
        .collect();
    // Times are RFC 3339 in UTC, to the second: the later text is the later time.
    let applied = writes
        .iter()
        .filter(|(apply, _)| *apply)
        .map(|(_, time)| *time)
        .max();
    writes
        .iter()
        .any(|(apply, time)| !apply && applied.is_some_and(|applied| *time > applied))
}

/// Fields of `was` that `is` lacks. A list of another length was changed since, which no pruning does.
fn missing(was: &Node, is: &Node, path: &str, pruned: &mut Vec<Pruned>) {
    match (&was.value, &is.value) {
        (Value::Object(members), Value::Object(_)) => {
            for member in members {
                let path = format!("{path}.{}", member.name);
                match is.get(&member.name) {
                    // To a server null is absent.
                    None if member.node.value == Value::Null => {}
                    None => push(path, Evidence::LastApplied, pruned),
                    Some(is) => missing(&member.node, is, &path, pruned),
                }
            }
        }
        (Value::List(was), Value::List(is)) if was.len() == is.len() => {
            for (index, (was, is)) in was.iter().zip(is).enumerate() {
                missing(was, is, &format!("{path}[{index}]"), pruned);
            }
        }
        _ => {}
    }
}

/// Fields that `owned` names, `f:` before each, and that `is` lacks.
fn unowned(owned: &Node, is: &Node, path: &str, pruned: &mut Vec<Pruned>) {
    if !matches!(is.value, Value::Object(_)) {
        return;
    }
    for member in owned.members() {
        let Some(name) = member.name.strip_prefix("f:") else {
            continue;
        };
        let path = format!("{path}.{name}");
        match is.get(name) {
            None => push(path, Evidence::ManagedFields, pruned),
            Some(is) => unowned(&member.node, is, &path, pruned),
        }
    }
}

fn push(path: String, evidence: Evidence, pruned: &mut Vec<Pruned>) {
    if !pruned.iter().any(|known| known.path == path) {
        pruned.push(Pruned { path, evidence });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::{LAST_APPLIED, fields, told};
    use crate::tree::Node;

    fn found(object: &Json) -> Vec<String> {
        let found = fields(&Node::from_json(object));
        found.iter().map(ToString::to_string).collect()
    }

    fn applied(spec: &Json, is: &Json, managed: &Json) -> Json {
        let sent = json!({"metadata": {"name": "p"}, "spec": spec}).to_string();
        json!({
            "metadata": {"name": "p", "annotations": {LAST_APPLIED: sent}, "managedFields": managed},
            "spec": is,
        })
    }

    #[test]
    fn what_was_applied_and_is_not_there_is_named() {
        for (sent, is, expected) in [
            (json!({"a": 1}), json!({"a": 2}), vec![]),
            (json!({"a": 1, "b": {}}), json!({"a": 1}), vec!["spec.b"]),
            (
                json!({"ingress": [{"fromEndpoint": []}, {"x": {"y": 1}}]}),
                json!({"ingress": [{}, {"x": {}}]}),
                vec!["spec.ingress[0].fromEndpoint", "spec.ingress[1].x.y"],
            ),
            // null is absent; a list of another length was changed by a person.
            (json!({"a": null}), json!({}), vec![]),
            (json!({"l": [{"a": 1}, {}]}), json!({"l": [{}]}), vec![]),
            (json!({"a": {"b": 1}}), json!({"a": "text"}), vec![]),
        ] {
            let expected: Vec<String> = expected
                .into_iter()
                .map(|path| format!("{path} was applied and is not in the object"))
                .collect();
            assert_eq!(
                found(&applied(&sent, &is, &json!([]))),
                expected,
                "{sent} {is}"
            );
        }
    }

    #[test]
    fn of_many_fields_the_first_few_are_named() {
        for (count, named, more) in [(1, 1, None), (5, 5, None), (8, 5, Some("; and 3 more: "))] {
            let sent: serde_json::Map<_, _> = (0..count)
                .map(|number| (format!("f{number}"), json!(1)))
                .collect();
            let object = applied(&Json::Object(sent), &json!({}), &json!([]));
            let text = told(&fields(&Node::from_json(&object)));
            assert_eq!(text.matches(" was applied").count(), named, "{text}");
            assert_eq!(text.contains(" more: "), more.is_some(), "{text}");
            assert!(more.is_none_or(|more| text.contains(more)), "{text}");
        }
    }

    #[test]
    fn what_was_applied_before_somebody_else_wrote_is_no_evidence() {
        let by = |manager: &str, time: &str, fields: &Json| json!({"manager": manager, "time": time, "fieldsV1": fields});
        let spec = json!({"f:spec": {"f:a": {}}});
        let first = by("kubectl-client-side-apply", "2026-01-01T00:00:00Z", &spec);
        for (second, expected) in [
            (by("kubectl-edit", "2026-01-01T00:00:01Z", &spec), 0),
            (by("kubectl-edit", "2025-12-31T00:00:00Z", &spec), 1),
            (
                by(
                    "kubectl-label",
                    "2026-01-02T00:00:00Z",
                    &json!({"f:metadata": {}}),
                ),
                1,
            ),
        ] {
            let object = applied(
                &json!({"a": 1, "b": 1}),
                &json!({"a": 1}),
                &json!([first, second]),
            );
            assert_eq!(found(&object).len(), expected, "{second}");
        }
    }

    #[test]
    fn what_is_managed_and_is_not_there_is_named_once() {
        let object = json!({
            "metadata": {"managedFields": [
                {"manager": "a", "fieldsV1": {"f:spec": {".": {}, "f:old": {"f:deep": {}}, "f:kept": {"f:x": {}}}}},
                {"manager": "b", "fieldsV1": {"f:spec": {"f:old": {}}, "f:status": {"f:gone": {}}}},
                {"manager": "c", "fieldsType": "FieldsV1"},
            ]},
            "spec": {"kept": {}},
        });
        assert_eq!(
            found(&object),
            [
                "spec.old was set and is not in the object",
                "spec.kept.x was set and is not in the object"
            ]
        );
    }

    #[test]
    fn what_is_no_evidence_says_nothing() {
        for metadata in [
            json!({}),
            json!({"annotations": {LAST_APPLIED: "{"}}),
            json!({"annotations": {LAST_APPLIED: 1}}),
            json!({"annotations": {LAST_APPLIED: "[]"}, "managedFields": "x"}),
            json!({"annotations": {LAST_APPLIED: "{\"spec\": 7}"}, "managedFields": [1, {"fieldsV1": [2]}]}),
        ] {
            assert!(
                found(&json!({"metadata": metadata, "spec": {"a": 1}})).is_empty(),
                "{metadata}"
            );
        }
    }
}
