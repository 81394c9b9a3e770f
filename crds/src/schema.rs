//! What the definitions of resources say of their objects: from the types, in the form that an API server takes.
//!
//! An API server's schema is *structural*: each value has one type, nothing refers to a definition elsewhere, and what
//! `allOf`, `anyOf`, `oneOf` and `not` add are only conditions on values. Here
//!
//! - nothing has a default: an absent list and an empty one select different things, and a default would make one of the other;
//! - `null` is nowhere a value: where an object has it, an API server takes the field away;
//! - how many fields may be set together is said with `anyOf`, not with CEL: lists of rules have no limit in Cilium's
//!   definitions, and the cost of a CEL rule is counted for the largest list that fits into a request.
//!
//! [`form`] has the forms of texts, [`rules`] what fields say of each other.

pub(crate) mod form;
pub(crate) mod rules;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// The schema of `T`, as `openAPIV3Schema` has it.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    structural(&mut schema);
    // An API server knows `metadata` by itself.
    if let Some(metadata) = schema.pointer_mut("/properties/metadata") {
        *metadata = json!({"type": "object"});
    }
    schema
}

/// Takes away what is no part of a structural schema.
fn structural(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    without_null(schema);
    for keyword in ["$schema", "default", "title"] {
        schema.remove(keyword);
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
    // A width of Rust's, which an API server does not know.
    let foreign = |format: &Value| format.as_str().is_some_and(|name| name.starts_with("uint"));
    if schema.get("format").is_some_and(foreign) {
        schema.remove("format");
    }
    for keyword in ["properties", "patternProperties"] {
        for child in schema
            .get_mut(keyword)
            .and_then(Value::as_object_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            structural(child);
        }
    }
    for keyword in ["items", "additionalProperties", "not"] {
        if let Some(child) = schema.get_mut(keyword) {
            structural(child);
        }
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for child in schema
            .get_mut(keyword)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            structural(child);
        }
    }
}

/// An optional field is one that may be absent: `T`, not `T` or `null`.
fn without_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = &types[..] {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    let Some(Value::Array(choices)) = schema.get_mut("anyOf") else {
        return;
    };
    let before = choices.len();
    choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
    if choices.len() == before {
        return;
    }
    if let [one] = &mut choices[..] {
        let one = one.take();
        schema.remove("anyOf");
        for (keyword, value) in one.as_object().cloned().unwrap_or_default() {
            match (schema.get_mut(&keyword), value) {
                (None, value) => drop(schema.insert(keyword, value)),
                // Conditions hold together.
                (Some(Value::Array(all)), Value::Array(more)) if keyword == "allOf" => {
                    all.extend(more);
                }
                // What is said of the field goes before what is said of its type.
                (Some(_), _) => {}
            }
        }
    }
}

/// Objects of `schema` keep fields that are not in it: other agents' and operators', of which this project reads nothing.
pub(crate) fn keep_unknown(schema: &mut Schema) {
    fn keep(schema: &mut Value) {
        let Some(map) = schema.as_object_mut() else {
            return;
        };
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            properties.values_mut().for_each(keep);
            map.insert(UNKNOWN.to_owned(), true.into());
        }
        if let Some(items) = map.get_mut("items") {
            keep(items);
        }
        for choice in map
            .get_mut("anyOf")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            keep(choice);
        }
    }
    let mut value = std::mem::take(schema).to_value();
    keep(&mut value);
    if let Value::Object(map) = value {
        *schema = map.into();
    }
}

/// The keyword by which an object keeps fields that are not in the schema.
pub(crate) const UNKNOWN: &str = "x-kubernetes-preserve-unknown-fields";
