//! What the fields of a rule say of each other, to be named by `#[schemars(transform = …)]`.
//!
//! Each adds a condition to `allOf`. An empty list is as if its field were absent where it is counted how many are set.

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::form;

/// Adds a condition.
fn require(schema: &mut Schema, condition: Value) {
    let all = schema
        .ensure_object()
        .entry("allOf")
        .or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.push(condition);
    }
}

/// None of these lists has an item.
fn empty(fields: &[&str]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| ((*field).to_owned(), json!({"maxItems": 0})))
        .collect();
    json!({"properties": properties})
}

/// At most one of these lists has items.
fn at_most_one(schema: &mut Schema, fields: &[&str]) {
    let choices: Vec<Value> = fields
        .iter()
        .map(|one| {
            let others: Vec<&str> = fields.iter().filter(|f| *f != one).copied().collect();
            empty(&others)
        })
        .collect();
    require(schema, json!({"anyOf": choices}));
}

/// Exactly one of these fields is there.
fn exactly_one(schema: &mut Schema, fields: &[&str]) {
    let choices: Vec<Value> = fields
        .iter()
        .map(|one| json!({"required": [one]}))
        .collect();
    require(schema, json!({"oneOf": choices}));
}

/// An item of `ingress` or `ingressDeny`.
pub(crate) fn ingress(schema: &mut Schema) {
    at_most_one(
        schema,
        &[
            "fromEndpoints",
            "fromEntities",
            "fromCIDR",
            "fromCIDRSet",
            "fromNodes",
            "fromGroups",
        ],
    );
    at_most_one(schema, &["toPorts", "icmps"]);
    removed(schema, "fromRequires");
}

/// An item of `ingress`: what a proxy does not do towards a pod.
pub(crate) fn ingress_proxy(schema: &mut Schema) {
    ingress(schema);
    require(
        schema,
        json!({"properties": {"toPorts": {"items": {
            "not": {"required": ["listener"]},
            "properties": {"rules": {"properties": {"dns": {"maxItems": 0}}}},
        }}}}),
    );
}

const EGRESS_DENY: [&str; 7] = [
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toServices",
    "toNodes",
    "toGroups",
];

/// An item of `egressDeny`.
pub(crate) fn egress_deny(schema: &mut Schema) {
    at_most_one(schema, &EGRESS_DENY);
    at_most_one(schema, &["toPorts", "icmps"]);
    removed(schema, "toRequires");
}

/// An item of `egress`.
pub(crate) fn egress(schema: &mut Schema) {
    at_most_one(schema, &[&EGRESS_DENY[..], &["toFQDNs"]].concat());
    at_most_one(schema, &["toPorts", "icmps"]);
    removed(schema, "toRequires");
}

/// A list that Cilium had once: nothing may be in it.
fn removed(schema: &mut Schema, field: &str) {
    require(schema, empty(&[field]));
}

/// A rule: for pods or for nodes, and with something in one of its lists.
pub(crate) fn rule(schema: &mut Schema) {
    exactly_one(schema, &["endpointSelector", "nodeSelector"]);
    let lists: Vec<Value> = ["ingress", "ingressDeny", "egress", "egressDeny"]
        .iter()
        .map(|list| json!({"required": [list], "properties": {*list: {"minItems": 1}}}))
        .collect();
    require(schema, json!({"anyOf": lists}));
    // A proxy does nothing for what nodes serve, and no HTTP for what they ask.
    let on_ports = |rules: Value| json!({"items": {"properties": {"toPorts": {"items": {"properties": {"rules": {"properties": rules}}}}}}});
    require(
        schema,
        json!({"anyOf": [
            {"not": {"required": ["nodeSelector"]}},
            {"properties": {
                "ingress": on_ports(json!({"http": {"maxItems": 0}, "dns": {"maxItems": 0}})),
                "egress": on_ports(json!({"http": {"maxItems": 0}})),
            }},
        ]}),
    );
}

/// A policy has rules.
fn policy(schema: &mut Schema) {
    schema.ensure_object().insert(
        "x-kubernetes-validations".to_owned(),
        json!([{
            "rule": "has(self.spec) || has(self.specs)",
            "message": "spec or specs is required: write the rules of the policy",
        }]),
    );
}

/// A policy of the cluster.
pub(crate) fn clusterwide(schema: &mut Schema) {
    policy(schema);
}

/// A policy of a namespace: for pods only.
pub(crate) fn namespaced(schema: &mut Schema) {
    policy(schema);
    // Said of its fields, since a schema with a status has no conditions at its root.
    let Some(Value::Object(fields)) = schema.get_mut("properties") else {
        return;
    };
    let for_pods = json!({"not": {"required": ["nodeSelector"]}});
    for (field, condition) in [
        ("spec", for_pods.clone()),
        ("specs", json!({"items": for_pods})),
    ] {
        if let Some(Value::Object(field)) = fields.get_mut(field) {
            field.insert("allOf".to_owned(), json!([condition]));
        }
    }
}

/// A requirement has the values that its operator needs.
pub(crate) fn requirement(schema: &mut Schema) {
    require(
        schema,
        json!({"anyOf": [
            {"required": ["values"], "properties": {"operator": {"enum": ["In", "NotIn"]}, "values": {"minItems": 1}}},
            {"properties": {"operator": {"enum": ["Exists", "DoesNotExist"]}, "values": {"maxItems": 0}}},
        ]}),
    );
}

/// A prefix, or one of the ways to name groups of them.
pub(crate) fn cidr_rule(schema: &mut Schema) {
    exactly_one(schema, &["cidr", "cidrGroupRef", "cidrGroupSelector"]);
}

/// A name or a pattern.
pub(crate) fn fqdn(schema: &mut Schema) {
    exactly_one(schema, &["matchName", "matchPattern"]);
}

/// The requests of one protocol.
pub(crate) fn l7_rules(schema: &mut Schema) {
    exactly_one(schema, &["http", "dns"]);
}

/// Ports are of protocols that have ports.
pub(crate) fn port(schema: &mut Schema) {
    require(
        schema,
        json!({"anyOf": [
            {"properties": {"protocol": {"enum": ["TCP", "UDP", "SCTP", "ANY"]}}},
            {"properties": {"port": {"anyOf": [{"enum": ["0"]}, {"pattern": form::PORT_NAME, "maxLength": 15}]}}},
        ]}),
    );
}

/// What L7 rules ask of the ports and of what stands beside them.
pub(crate) fn port_rule(schema: &mut Schema) {
    let without = |lists: &[&str]| json!({"properties": {"rules": empty(lists)}});
    let no_rules = without(&["http", "dns"]);
    let ports = |item: Value| json!({"properties": {"ports": {"items": item}}});
    for condition in [
        json!({"anyOf": [
            without(&["http"]),
            ports(json!({"required": ["protocol"], "properties": {"protocol": {"enum": ["TCP"]}}})),
        ]}),
        json!({"anyOf": [
            without(&["dns"]),
            {"required": ["ports"], "properties": {"ports": {"minItems": 1}}},
        ]}),
        json!({"anyOf": [
            no_rules,
            ports(json!({"properties": {"port": {"not": {"pattern": "^0+$"}}}})),
        ]}),
        json!({"anyOf": [no_rules, empty(&["serverNames"]), {"required": ["terminatingTLS"]}]}),
        json!({"anyOf": [no_rules, {"not": {"required": ["listener"]}}]}),
    ] {
        require(schema, condition);
    }
}

/// The names of ICMP types are those of the family.
pub(crate) fn icmp_field(schema: &mut Schema) {
    require(
        schema,
        json!({"anyOf": [
            {"properties": {"family": {"enum": ["IPv4"]}, "type": {"pattern": form::ICMP_V4}}},
            {"required": ["family"], "properties": {"family": {"enum": ["IPv6"]}, "type": {"pattern": form::ICMP_V6}}},
        ]}),
    );
}

/// The secret of a header has a name.
pub(crate) fn header_match(schema: &mut Schema) {
    require(
        schema,
        json!({"properties": {"secret": {"properties": {"name": {"minLength": 1}}}}}),
    );
}

/// At most so many ports, or ICMP types, as Cilium takes.
pub(crate) fn forty(schema: &mut Schema) {
    schema
        .ensure_object()
        .insert("maxItems".to_owned(), 40.into());
}

/// Names of servers: some, each once.
pub(crate) fn names(schema: &mut Schema) {
    let map = schema.ensure_object();
    map.insert("minItems".to_owned(), 1.into());
    map.insert("x-kubernetes-list-type".to_owned(), "set".into());
}

/// Conditions: one of each type, which is how several writers share the list.
pub(crate) fn conditions(schema: &mut Schema) {
    let map = schema.ensure_object();
    map.insert("x-kubernetes-list-type".to_owned(), "map".into());
    map.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    if let Some(items) = map.get_mut("items").and_then(Value::as_object_mut) {
        items.insert("required".to_owned(), json!(["type", "status"]));
    }
}

/// These fields must be there, though their types have a default for objects that nobody checked.
pub(crate) fn required(schema: &mut Schema, fields: &[&str]) {
    schema
        .ensure_object()
        .insert("required".to_owned(), json!(fields));
}

/// A group has its prefixes.
pub(crate) fn cidr_group(schema: &mut Schema) {
    required(schema, &["externalCIDRs"]);
}

/// Objects that are nothing without `spec`.
pub(crate) fn with_spec(schema: &mut Schema) {
    required(schema, &["metadata", "spec"]);
}

/// Objects of which only the name must be there.
pub(crate) fn with_metadata(schema: &mut Schema) {
    required(schema, &["metadata"]);
}

/// An identity is its labels.
pub(crate) fn identity(schema: &mut Schema) {
    required(schema, &["metadata", "security-labels"]);
}
