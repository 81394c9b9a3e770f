//! Documents with the verdict of Cilium 1.20.2's own validation (agent and resource definitions): ours must agree.
//!
//! `documents/invalid.json` was computed with Cilium as a library; only its results are here.

use std::collections::BTreeMap;

use oxilium_manifest::tree::Node;
use oxilium_manifest::{Admission, LowerConfig, lower_policy};
use serde_json::Value;

/// Where we refuse what the reference takes, and why.
const STRICTER: [(&str, &str); 2] = [
    (
        "icmp/type-negative",
        "the reference lets it stand for every ICMP type",
    ),
    ("icmp/type-256", "the reference makes a dead entry of it"),
];

fn config(case: &Value) -> LowerConfig<'_> {
    let flag = |name: &str| case["config"][name].as_bool().unwrap_or(false);
    LowerConfig {
        admission: Admission::Schema,
        cluster: (!flag("policyAnyCluster"))
            .then(|| case["config"]["clusterName"].as_str().unwrap_or("default")),
        l7_proxy: !flag("disableL7Proxy"),
        node_selector_labels: flag("nodeSelectorLabels"),
        extended_protocols: flag("extendedIPProtocols"),
        non_default_deny: !flag("disableNonDefaultDeny"),
        ..LowerConfig::default()
    }
}

#[test]
fn agrees_with_cilium_on_what_is_valid() {
    let file: Value = serde_json::from_str(include_str!("documents/invalid.json")).unwrap();
    let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let result = lower_policy(&Node::from_json(&case["doc"]), None, &config(case));
        let expected = !case["crdError"].is_null()
            || !case["parseError"].is_null()
            || STRICTER.iter().any(|(stricter, _)| *stricter == name);
        let family = families.entry(name.split('/').next().unwrap()).or_default();
        family.1 += 1;
        if result.is_err() == expected {
            family.0 += 1;
        } else {
            let ours = result
                .err()
                .map(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
            failures.push(format!(
                "{name}: ours {ours:?}, Cilium's {} {}",
                case["crdError"], case["parseError"]
            ));
        }
    }
    for (family, (passed, all)) in &families {
        println!("{family:<12} {passed}/{all}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_refusal_names_object_field_value_and_what_is_allowed() {
    let file: Value = serde_json::from_str(include_str!("documents/invalid.json")).unwrap();
    let mut shown = String::new();
    for case in file["cases"].as_array().unwrap() {
        let result = lower_policy(&Node::from_json(&case["doc"]), None, &config(case));
        let errors = result.err().unwrap_or_default();
        if errors.is_empty() {
            continue;
        }
        shown.extend([case["name"].as_str().unwrap(), "\n"]);
        for error in errors {
            shown.extend(["    ", &error.to_string(), "\n"]);
        }
    }
    insta::assert_snapshot!("refusals", shown);
}
