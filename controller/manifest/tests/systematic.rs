//! What Cilium 1.20.2 says of thousands of small variations: every form of every field, and every pair of peers.
//!
//! `documents/systematic.jsonl` has one line each: name, refused (by the agent's parser or the resource definition,
//! both called as a library), then whether it is cluster-wide, the agent's options and the `spec` (or the whole
//! object, for `struct`, `meta`, `knp` and `kcnp`). Names of two columns are variations of the document `rich`: a value put in its
//! place (`conf`), a field taken away (`del`), an unknown field put in (`unk`, `unk2`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use oxilium_manifest::tree::Node;
use oxilium_manifest::{LowerConfig, lower_policy};
use serde_json::{Value, json};

/// Where we refuse what the reference takes, and why. The text is the start of the name, up to what varies.
const STRICTER: [(&str, &str); 6] = [
    (
        "icmp",
        "types outside 0…255 are dead entries or stand for every type",
    ),
    ("conf/ingress/1/icmps", "the same"),
    ("exceptgrp", "leading zeros: to some readers octal"),
    (
        "gkey",
        "a source other than cidrgroup: selects pods where prefixes are meant",
    ),
    ("skey", "a key that no label can have selects nothing"),
    ("meta", "a name with '/' is no part of a path"),
];
/// Where we take what the reference refuses: `status` is the server's, whatever a file says of it is dropped.
const MORE_LENIENT: &str = r#"struct/{"status""#;

fn put(mut at: &mut Value, path: &[&str], value: Option<Value>) {
    let Some((last, before)) = path.split_last() else {
        *at = value.unwrap();
        return;
    };
    for name in before {
        at = match at {
            Value::Array(items) => &mut items[name.parse::<usize>().unwrap()],
            other => &mut other[*name],
        };
    }
    match (at, value) {
        (Value::Array(items), Some(value)) => items[last.parse::<usize>().unwrap()] = value,
        (Value::Array(items), None) => drop(items.remove(last.parse().unwrap())),
        (other, Some(value)) => other[*last] = value,
        (other, None) => drop(other.as_object_mut().unwrap().remove(*last)),
    }
}

/// The document `rich`, varied as the name says.
fn varied(rich: &Value, name: &str) -> Value {
    let mut spec = rich.clone();
    let mut path: Vec<&str> = name
        .split('/')
        .skip(1)
        .filter(|part| !part.is_empty())
        .collect();
    match name.split('/').next().unwrap() {
        "conf" => {
            let value = serde_json::from_str(path.pop().unwrap()).unwrap();
            put(&mut spec, &path, Some(value));
        }
        "del" => put(&mut spec, &path, None),
        kind => {
            path.push("zzz");
            put(
                &mut spec,
                &path,
                Some(if kind == "unk" { json!(1) } else { json!({}) }),
            );
        }
    }
    spec
}

fn object(row: &Value, rich: &Value) -> Value {
    let name = row[0].as_str().unwrap();
    let spec = if row.as_array().unwrap().len() == 2 {
        varied(rich, name)
    } else {
        row[4].clone()
    };
    if ["struct/", "meta/", "knp/", "kcnp/"]
        .iter()
        .any(|whole| name.starts_with(whole))
    {
        return spec;
    }
    let clusterwide = row[2].as_bool().unwrap_or(false);
    let kind = if clusterwide {
        "CiliumClusterwideNetworkPolicy"
    } else {
        "CiliumNetworkPolicy"
    };
    json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
}

#[test]
fn agrees_with_cilium_on_every_form_of_every_field() {
    let rows: Vec<Value> = include_str!("documents/systematic.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let rich = rows.iter().find(|row| row[0] == "rich").unwrap()[4].clone();
    let mut families: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut failures = Vec::new();
    for row in &rows {
        let flag = |name: &str| row[3][name].as_bool().unwrap_or(false);
        let config = LowerConfig {
            l7_proxy: !flag("disableL7Proxy"),
            node_selector_labels: flag("nodeSelectorLabels"),
            extended_protocols: flag("extendedIPProtocols"),
            ..LowerConfig::default()
        };
        let name = row[0].as_str().unwrap();
        let result = lower_policy(&Node::from_json(&object(row, &rich)), None, &config);
        let counts = families
            .entry(name.split('/').next().unwrap().to_owned())
            .or_default();
        counts[1] += 1;
        let refused = row[1].as_bool().unwrap();
        if result.is_err() == refused {
            counts[0] += 1;
            continue;
        }
        counts[2] += 1;
        let on_purpose = if refused {
            name.starts_with(MORE_LENIENT)
        } else {
            STRICTER.iter().any(|(start, _)| name.starts_with(start))
        };
        if !on_purpose {
            let errors: Vec<String> = result
                .err()
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect();
            failures.push(format!("{name}: {errors:?}"));
        }
    }
    for (family, [agree, all, purpose]) in &families {
        println!("{family:<12} {agree}/{all}, {purpose} different on purpose");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
