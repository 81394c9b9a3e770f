//! What a container runtime gives the CNI plugin: environment and stdin of an ADD.
//!
//! It answers with a result in the version that it was asked for, with the addresses that it was given; or with an error
//! as the specification writes it.

use arbitrary::{Arbitrary, Unstructured};
use oxilium_cni::{Environment, understand};
use serde_json::Value;

/// One call: some bytes for the environment, the rest is stdin.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(environment) = environment(&mut u) else {
        return;
    };
    let input = u.take_rest();
    let answer = understand(&environment, input);
    let text = match &answer {
        Ok(text) | Err(text) => text,
    };
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    assert!(value.is_object(), "no JSON object: {text}");
    assert!(value["cniVersion"].is_string(), "no version: {text}");
    if answer.is_err() {
        assert!(value["code"].as_u64().is_some_and(|code| code > 0));
        assert!(value["msg"].as_str().is_some_and(|msg| !msg.is_empty()));
        return;
    }
    // Bytes that are not UTF-8 are let through in fields that nobody reads.
    let asked: Value = serde_json::from_str(&String::from_utf8_lossy(input)).unwrap_or_default();
    assert_eq!(value["cniVersion"], asked["cniVersion"]);
    let previous = &asked["prevResult"];
    assert_eq!(addresses(&value), addresses(previous));
    assert_eq!(value["interfaces"], previous["interfaces"]);
    // What becomes part of a file's name cannot leave its directory.
    for part in [&environment.container_id, &environment.interface] {
        assert!(!part.contains('/') && part != ".." && !part.is_empty());
    }
}

/// Mostly what a runtime sets, so that what lies behind it is reached.
fn environment(u: &mut Unstructured<'_>) -> arbitrary::Result<Environment> {
    let mut or = |usual: &str| -> arbitrary::Result<String> {
        if u.ratio(7, 8)? {
            Ok(usual.to_owned())
        } else {
            String::arbitrary(u)
        }
    };
    Ok(Environment {
        command: "ADD".to_owned(),
        container_id: or("0a1b")?,
        netns: or("/run/netns/pod")?,
        interface: or("eth0")?,
        args: or("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c")?,
    })
}

fn addresses(result: &Value) -> Vec<&Value> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.map(|ip| &ip["address"]).collect()
}
