//! What the API server admits, and what the agent does: every document of the policy engine's tests.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use oxilium_manifest::tree::Node;
use oxilium_manifest::{LowerConfig, lower_policy};
use serde_json::Value;

use crate::server::{client, collection, refusal, server};

#[path = "../../../controller/manifest/tests/documents/systematic.rs"]
mod systematic;

/// Requests that are under way at once.
const AT_ONCE: usize = 16;

/// Where the server admits what the agent refuses (and then says so in a condition): a part of what the agent says, and
/// why no definition can say it. A rule in CEL, which could, is counted for the largest list that fits into a request, and
/// lists of rules have no limit.
const AGENT_ONLY: [(&str, &str); 5] = [
    (
        "null is nothing",
        "to a server null is an absent field; in a file it is asked what was meant",
    ),
    (
        "write a label key",
        "a schema says nothing of the names in a mapping",
    ),
    ("write a prefix within", "it needs CEL"),
    (
        "write a regular expression",
        "no pattern describes patterns",
    ),
    (
        "DNS rules do not go with a range of ports",
        "it compares the number in a text with another number",
    ),
];

/// Where the server refuses what the agent takes: a part of the document's name, a part of what the server says, and why.
const SERVER_ONLY: [(&str, &str, &str); 7] = [
    (
        "/knp/",
        "NetworkPolicy",
        "Kubernetes' own validation, which is stricter than Cilium's agent",
    ),
    (
        "/meta/",
        "metadata.",
        "names and labels as the server has them",
    ),
    (
        "/struct/",
        "unknown field \"status.",
        "whatever a file says of the status is dropped",
    ),
    (
        "/tls/",
        "Duplicate value",
        "a name given twice, of which the agent only warns",
    ),
    (
        "/port/1_000/",
        "must validate at least one schema",
        "a number as in Go's source: nobody writes it, and it looks like the name of a port",
    ),
    (
        "/port/0x_1/",
        "must validate at least one schema",
        "the same",
    ),
    (
        "/port/0b_1/",
        "must validate at least one schema",
        "the same",
    ),
];

/// What is wrong with a document whatever the agent's options are. Empty: nothing.
fn refused_by_agent(document: &Value) -> Vec<String> {
    let config = LowerConfig {
        l7_proxy: true,
        node_selector_labels: true,
        extended_protocols: true,
        ..LowerConfig::default()
    };
    let errors = lower_policy(&Node::from_json(document), None, &config).err();
    let errors = errors.iter().flatten();
    errors.map(ToString::to_string).collect()
}

/// Documents by name, of kinds that the server knows.
fn documents() -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    let (rows, rich) = systematic::rows();
    for row in &rows {
        let name = format!("systematic/{}", row[0].as_str().unwrap());
        documents.push((name, systematic::object(row, &rich)));
    }
    for (set, text) in [
        (
            "hand",
            include_str!("../../../controller/manifest/tests/data/hand.json"),
        ),
        (
            "random",
            include_str!("../../../controller/manifest/tests/data/random.json"),
        ),
        (
            "invalid",
            include_str!("../../../controller/manifest/tests/documents/invalid.json"),
        ),
    ] {
        let file: Value = serde_json::from_str(text).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let name = format!("{set}/{}", case["name"].as_str().unwrap());
            let policies = case["policies"].as_array().into_iter().flatten();
            for document in policies.chain(case.get("doc")) {
                documents.push((name.clone(), document.clone()));
            }
        }
    }
    documents.retain(|(_, document)| {
        document["kind"].as_str().and_then(collection).is_some() && document["metadata"].is_object()
    });
    documents
}

/// The reasons why the two differ on a document; None: there is none.
fn reasons(name: &str, server: Option<&str>, agent: &[String]) -> Option<Vec<&'static str>> {
    match server {
        None => agent
            .iter()
            .map(|error| {
                AGENT_ONLY
                    .iter()
                    .find(|(part, _)| error.contains(part))
                    .map(|(part, _)| *part)
            })
            .collect(),
        Some(message) => SERVER_ONLY
            .iter()
            .find(|(part, said, _)| name.contains(part) && message.contains(said))
            .map(|(part, _, _)| vec![*part]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_admits_what_the_agent_does() {
    let Some(api) = server() else { return };
    let client = &client(api).await;
    let answers: Vec<_> = futures_util::stream::iter(documents())
        .map(|(name, document)| async move { (refusal(client, &document).await, name, document) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut failures = Vec::new();
    for (server, name, document) in &answers {
        let agent = refused_by_agent(document);
        let what = match (server, agent.is_empty()) {
            (None, true) => "admitted by both",
            (Some(_), false) => "refused by both",
            (None, false) => "refused by the agent alone",
            (Some(_), true) => "refused by the server alone",
        };
        *counts.entry(what).or_default() += 1;
        if server.is_none() == agent.is_empty() {
            continue;
        }
        match reasons(name, server.as_deref(), &agent) {
            Some(reasons) => used.extend(reasons),
            None => failures.push(format!("{name}: server {server:?}, agent {agent:?}")),
        }
    }
    println!("{counts:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // A reason that is none any more would hide the next difference.
    let all = AGENT_ONLY.map(|(part, _)| part).into_iter();
    let all: BTreeSet<&str> = all.chain(SERVER_ONLY.map(|(part, _, _)| part)).collect();
    assert_eq!(
        used, all,
        "differences that there are, and those that are told of"
    );
}
