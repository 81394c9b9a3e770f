//! `systematic.jsonl` has one line each: name, refused (by the agent's parser or the resource definition,
//! both called as a library), then whether it is cluster-wide, the agent's options and the `spec` (or the whole
//! object, for `struct`, `meta`, `knp` and `kcnp`). Names of two columns are variations of the document `rich`: a value put in its
//! place (`conf`), a field taken away (`del`), an unknown field put in (`unk`, `unk2`).

use serde_json::{Value, json};

/// All rows, and the document `rich`.
pub(crate) fn rows() -> (Vec<Value>, Value) {
    let rows: Vec<Value> = include_str!("systematic.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let rich = rows.iter().find(|row| row[0] == "rich").unwrap()[4].clone();
    (rows, rich)
}

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

/// The object of a row, whole.
pub(crate) fn object(row: &Value, rich: &Value) -> Value {
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
