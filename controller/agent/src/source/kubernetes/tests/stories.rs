//! One kind and what a server may say of it.

use std::sync::Arc;

use oxilium_manifest::LowerOptions;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::convert::{Content, Reading};
use super::super::follow::{Follower, Told};
use super::super::health::Health;
use super::super::requests::Requests;
use super::super::resource::Resource;
use super::server::{Answer, LONG, Server, definition, status};

const POLICIES: Resource = Resource::CiliumNetworkPolicies;

fn policy(name: &str, version: u32) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"endpointSelector": {}, "ingress": [{}]}})
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// What a follower tells, in words.
struct Story {
    told: mpsc::Receiver<Told>,
}

fn words(told: &Told) -> String {
    match told {
        Told::Listed(_, objects, definition) => {
            let names: Vec<&str> = objects
                .iter()
                .map(|change| change.id.name.as_str())
                .collect();
            let of = definition
                .as_ref()
                .map(|found| format!(" of {}", found.uid));
            format!("listed {}{}", names.join(","), of.unwrap_or_default())
        }
        Told::Changed(_, change) => match &change.content {
            Content::Refused(_) => format!("refused {}", change.id.name),
            _ => format!("changed {}", change.id.name),
        },
        Told::Deleted(_, ids) => {
            let names: Vec<&str> = ids.iter().map(|id| id.name.as_str()).collect();
            format!("deleted {}", names.join(","))
        }
        Told::Server(_) | Told::GivenUp(_) => "the heart beats".to_owned(),
        Told::Health(_, health) => match health {
            Health::Forbidden { verb, resource, .. } => format!("forbidden {verb} {resource}"),
            Health::Away { .. } => "away".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        },
    }
}

impl Story {
    fn of(server: &Server, resource: Resource) -> Self {
        let requests = Requests::new(server.client.clone(), "n1");
        let reading = Arc::new(Reading::new("n1", LowerOptions::default()));
        let (sender, told) = mpsc::channel(16);
        tokio::spawn(Follower::new(resource, requests, reading, sender).run());
        Self { told }
    }

    async fn next(&mut self) -> String {
        let told = timeout(LONG, self.told.recv()).await;
        words(
            &told
                .expect("something is told")
                .expect("the follower lives"),
        )
    }

    async fn tells(&mut self, expected: &[&str]) {
        for words in expected {
            assert_eq!(self.next().await, *words);
        }
    }

    /// Whatever comes before `words` may come.
    async fn until(&mut self, words: &str) {
        while self.next().await != words {}
    }
}

#[tokio::test]
async fn a_list_in_pages_then_changes() {
    let server = Server::start().await;
    let path = POLICIES.path();
    let page = |token: &str, name: &str| json!({"metadata": {"resourceVersion": "10", "continue": token}, "items": [policy(name, 1)]});
    server.answer(&path, Answer::Object(200, page("more", "a")));
    server.answer(
        &format!("{path}?continue=more"),
        Answer::Object(200, page("", "b")),
    );
    server.defines(POLICIES, &json!({"uid": "u1"}));
    let events = server.watches(POLICIES);
    let mut story = Story::of(&server, POLICIES);
    story.tells(&["listed a,b of u1", "connected"]).await;
    events.send(event("ADDED", &policy("c", 11))).unwrap();
    events.send(event("MODIFIED", &json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": "12"}, "spec": 5}))).unwrap();
    events.send(event("MODIFIED", &policy("b", 13))).unwrap();
    events.send(event("DELETED", &policy("b", 14))).unwrap();
    story
        .tells(&["changed c", "refused a", "changed b", "deleted b"])
        .await;
    // The watch ends, as each does: it goes on from where it was.
    drop(events);
    let events = server.watches(POLICIES);
    story.tells(&["connected"]).await;
    let asked = server.asked();
    let last = asked.iter().rfind(|target| target.contains("watch=true"));
    assert!(last.unwrap().contains("resourceVersion=14"), "{asked:#?}");
    let bookmark = json!({"kind": "CiliumNetworkPolicy", "apiVersion": "cilium.io/v2", "metadata": {"resourceVersion": "20"}});
    events.send(event("BOOKMARK", &bookmark)).unwrap();
    // The version is too old: everything is listed again.
    events
        .send(event("ERROR", &status(410, "too old")))
        .unwrap();
    server.lists(POLICIES, &[policy("d", 30)]);
    server.answer(
        &format!("{path}?continue=more"),
        Answer::Object(200, page("", "none")),
    );
    story.until("listed d of u1").await;
}

#[tokio::test]
async fn deletions_are_not_believed_while_the_definition_goes() {
    let server = Server::start().await;
    server.defines(POLICIES, &json!({"uid": "u1"}));
    let events = server.lists(POLICIES, &[policy("a", 1), policy("b", 2)]);
    let mut story = Story::of(&server, POLICIES);
    story.tells(&["listed a,b of u1", "connected"]).await;
    server.defines(
        POLICIES,
        &json!({"uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z"}),
    );
    events.send(event("DELETED", &policy("a", 11))).unwrap();
    events.send(event("DELETED", &policy("b", 12))).unwrap();
    story.tells(&["terminating"]).await;
    // While it goes, an empty list is no list: nobody asks for it.
    server.lists(POLICIES, &[]);
    server.is_asked_again(&definition(POLICIES)).await;
    // Then it is gone.
    let gone = Answer::Object(404, status(404, "not found"));
    server.answer(&definition(POLICIES), gone.clone());
    server.answer(&POLICIES.path(), gone);
    story.tells(&["missing"]).await;
    // And made anew, which whoever hears the list must know.
    server.defines(POLICIES, &json!({"uid": "u2"}));
    server.lists(POLICIES, &[]);
    story.until("listed  of u2").await;
}

#[tokio::test]
async fn a_deletion_waits_for_a_look_that_does_not_come() {
    let server = Server::start().await;
    server.defines(POLICIES, &json!({"uid": "u1"}));
    let events = server.lists(POLICIES, &[policy("a", 1)]);
    let mut story = Story::of(&server, POLICIES);
    story.tells(&["listed a of u1", "connected"]).await;
    let refused = Answer::Object(403, status(403, "no"));
    server.answer(&definition(POLICIES), refused);
    events.send(event("DELETED", &policy("a", 11))).unwrap();
    story
        .tells(&["forbidden get customresourcedefinitions.apiextensions.k8s.io"])
        .await;
    let events = server.watches(POLICIES);
    server.defines(POLICIES, &json!({"uid": "u1"}));
    story.until("deleted a").await;
    drop(events);
}

#[tokio::test]
async fn what_is_wrong_is_told_apart() {
    let cases = [
        (401, "unauthorized"),
        (403, "forbidden list services"),
        (404, "missing"),
        (500, "away"),
        (503, "away"),
    ];
    for (code, words) in cases {
        let server = Server::start().await;
        let answer = Answer::Object(code, status(code, "no"));
        server.answer(&Resource::Services.path(), answer);
        let mut story = Story::of(&server, Resource::Services);
        assert_eq!(story.next().await, words, "{code}");
        // Put right, it goes on by itself.
        let events = server.lists(Resource::Services, &[]);
        story.until("listed ").await;
        story.tells(&["connected"]).await;
        drop(events);
    }
}

#[tokio::test]
async fn only_this_nodes_pods_are_asked_for() {
    let server = Server::start().await;
    let _events = server.lists(Resource::Pods, &[]);
    let mut story = Story::of(&server, Resource::Pods);
    story.tells(&["listed ", "connected"]).await;
    for target in server.asked() {
        assert!(
            target.contains("fieldSelector=spec.nodeName%3Dn1"),
            "{target}"
        );
    }
}
