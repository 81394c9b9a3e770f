//! What Cilium 1.20.2 says of thousands of small variations: every form of every field, and every pair of peers.
//!
//! The documents are told of in `documents/systematic.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use oxilium_manifest::tree::Node;
use oxilium_manifest::{LowerConfig, lower_policy};

#[path = "documents/systematic.rs"]
mod documents;

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

#[test]
fn agrees_with_cilium_on_every_form_of_every_field() {
    let (rows, rich) = documents::rows();
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
        let result = lower_policy(
            &Node::from_json(&documents::object(row, &rich)),
            None,
            &config,
        );
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
