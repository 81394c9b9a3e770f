//! Policy objects made of an input's bytes: nearly valid, over few words, so that rules meet each other.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

/// Labels, `key` and `value`.
const LABELS: [(&str, &str); 5] = [
    ("app", "a"),
    ("app", "b"),
    ("tier", "front"),
    ("io.kubernetes.pod.namespace", "default"),
    ("io.kubernetes.pod.namespace", "other"),
];
const PORTS: [&str; 9] = ["0", "1", "53", "80", "81", "443", "8080", "65535", "http"];
const PROTOCOLS: [&str; 4] = ["TCP", "UDP", "SCTP", "ANY"];
const ENTITIES: [&str; 8] = [
    "all",
    "world",
    "world-ipv4",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "none",
];
const CIDRS: [&str; 6] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "fd00::/8",
];

/// Between one and four policy objects.
///
/// # Errors
/// When the bytes are used up.
pub fn policies(u: &mut Unstructured<'_>) -> Result<Vec<Value>> {
    let count = u.int_in_range(1..=4)?;
    (0..count).map(|number| policy(u, number)).collect()
}

/// A policy of which every rule denies.
///
/// # Errors
/// When the bytes are used up.
pub fn denial(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut spec = Map::new();
    spec.insert("endpointSelector".to_owned(), json!({}));
    for (section, peers) in [("ingressDeny", "from"), ("egressDeny", "to")] {
        if u.arbitrary()? {
            spec.insert(section.to_owned(), rules(u, peers, true)?);
        }
    }
    Ok(object("CiliumNetworkPolicy", "denial", &spec.into()))
}

fn policy(u: &mut Unstructured<'_>, number: u32) -> Result<Value> {
    let name = format!("p{number}");
    if u.ratio(1, 4)? {
        return Ok(object("NetworkPolicy", &name, &network_policy(u)?));
    }
    let kind = if u.ratio(1, 4)? {
        "CiliumClusterwideNetworkPolicy"
    } else {
        "CiliumNetworkPolicy"
    };
    Ok(object(kind, &name, &cilium(u)?))
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let version = match kind {
        "NetworkPolicy" => "networking.k8s.io/v1",
        _ => "cilium.io/v2",
    };
    let mut metadata = json!({ "name": name });
    if kind != "CiliumClusterwideNetworkPolicy" {
        metadata["namespace"] = "default".into();
    }
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec })
}

fn cilium(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut spec = Map::new();
    spec.insert("endpointSelector".to_owned(), selector(u)?);
    for (section, peers, deny) in [
        ("ingress", "from", false),
        ("ingressDeny", "from", true),
        ("egress", "to", false),
        ("egressDeny", "to", true),
    ] {
        if u.ratio(1, 2)? {
            spec.insert(section.to_owned(), rules(u, peers, deny)?);
        }
    }
    if u.ratio(1, 4)? {
        spec.insert(
            "enableDefaultDeny".to_owned(),
            json!({ "ingress": u.arbitrary::<bool>()?, "egress": u.arbitrary::<bool>()? }),
        );
    }
    Ok(spec.into())
}

fn rules(u: &mut Unstructured<'_>, prefix: &str, deny: bool) -> Result<Value> {
    let count = u.int_in_range(0..=3)?;
    (0..count)
        .map(|_| rule(u, prefix, deny))
        .collect::<Result<Vec<_>>>()
        .map(Value::from)
}

fn rule(u: &mut Unstructured<'_>, prefix: &str, deny: bool) -> Result<Value> {
    let mut rule = Map::new();
    let mut put = |field: &str, value: Value| rule.insert(format!("{prefix}{field}"), value);
    match u.int_in_range(0..=5)? {
        0 => {}
        1 => drop(put("Endpoints", many(u, selector)?)),
        2 => drop(put("Entities", many(u, |u| word(u, &ENTITIES))?)),
        3 => drop(put("CIDR", many(u, |u| word(u, &CIDRS))?)),
        4 => drop(put("CIDRSet", many(u, cidr_set)?)),
        _ => drop(put("Endpoints", json!([]))),
    }
    if u.ratio(2, 3)? {
        let ports = many(u, |u| port_rule(u, deny))?;
        rule.insert("toPorts".to_owned(), ports);
    } else if u.ratio(1, 3)? {
        let kind = u.int_in_range(0..=255_u32)?;
        let family = *u.choose(&["IPv4", "IPv6"])?;
        rule.insert(
            "icmps".to_owned(),
            json!([{ "fields": [{ "type": kind, "family": family }] }]),
        );
    }
    Ok(rule.into())
}

fn cidr_set(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut set = json!({ "cidr": word(u, &CIDRS)? });
    if u.arbitrary()? {
        set["except"] = many(u, |u| word(u, &CIDRS))?;
    }
    Ok(set)
}

fn port_rule(u: &mut Unstructured<'_>, deny: bool) -> Result<Value> {
    let mut rule = json!({ "ports": many(u, port)? });
    if !deny && u.ratio(1, 8)? {
        rule["rules"] = json!({ "http": [{ "method": "GET" }] });
    }
    Ok(rule)
}

fn port(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut port = json!({ "port": word(u, &PORTS)?, "protocol": word(u, &PROTOCOLS)? });
    if u.ratio(1, 3)? {
        port["endPort"] = u.int_in_range(1..=65_535_u32)?.into();
    }
    Ok(port)
}

fn network_policy(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut spec = json!({ "podSelector": selector(u)? });
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if !u.arbitrary::<bool>()? {
            continue;
        }
        let rule = |u: &mut Unstructured<'_>| -> Result<Value> {
            let mut rule = Map::new();
            if u.arbitrary()? {
                rule.insert(peers.to_owned(), many(u, network_peer)?);
            }
            if u.arbitrary()? {
                rule.insert("ports".to_owned(), many(u, network_port)?);
            }
            Ok(rule.into())
        };
        spec[section] = many(u, rule)?;
    }
    if u.arbitrary()? {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
    }
    Ok(spec)
}

fn network_peer(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=3)? {
        0 => json!({ "podSelector": selector(u)? }),
        1 => json!({ "namespaceSelector": selector(u)? }),
        2 => json!({ "namespaceSelector": {}, "podSelector": selector(u)? }),
        _ => json!({ "ipBlock": cidr_set(u)? }),
    })
}

fn network_port(u: &mut Unstructured<'_>) -> Result<Value> {
    let text = *u.choose(&PORTS)?;
    let number: Option<u32> = text.parse().ok();
    let mut port = json!({ "port": number.map_or(Value::from(text), Value::from) });
    if u.arbitrary()? {
        port["protocol"] = word(u, &PROTOCOLS)?;
    }
    if u.ratio(1, 3)? {
        port["endPort"] = u.int_in_range(1..=65_535_u32)?.into();
    }
    Ok(port)
}

fn selector(u: &mut Unstructured<'_>) -> Result<Value> {
    let (key, value) = *u.choose(&LABELS)?;
    Ok(match u.int_in_range(0..=4)? {
        0 => json!({}),
        1 | 2 => json!({ "matchLabels": { key: value } }),
        3 => {
            let operator = *u.choose(&["In", "NotIn"])?;
            json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": [value] }] })
        }
        _ => {
            let operator = *u.choose(&["Exists", "DoesNotExist"])?;
            json!({ "matchExpressions": [{ "key": key, "operator": operator }] })
        }
    })
}

fn word(u: &mut Unstructured<'_>, words: &[&'static str]) -> Result<Value> {
    Ok((*u.choose(words)?).into())
}

fn many(
    u: &mut Unstructured<'_>,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<Value>,
) -> Result<Value> {
    let count = u.int_in_range(0..=3)?;
    (0..count)
        .map(|_| one(u))
        .collect::<Result<Vec<_>>>()
        .map(Value::from)
}
