use std::net::IpAddr;

use oxilium_crds::{CiliumEndpoint, ObjectMeta, Resource};
use oxilium_model::identity::{IdentityLabels, NumericIdentity};
use oxilium_model::node_state::IdentityRequest;
use oxilium_model::world::PodRef;

use super::*;
use crate::publish::kubernetes::news::News;
use crate::publish::kubernetes::wanted::EndpointWanted;

fn identity(number: u32) -> (Key, Wanted) {
    let request = IdentityRequest::Create(IdentityLabels::default());
    (
        Key::Identity(NumericIdentity(number)),
        Wanted::Identity(request),
    )
}

fn endpoint(name: &str, state: &str, shown: Shown) -> (Key, Wanted) {
    let mut object = CiliumEndpoint {
        api_version: CiliumEndpoint::API_VERSION.to_owned(),
        kind: CiliumEndpoint::KIND.to_owned(),
        metadata: ObjectMeta::default(),
        status: oxilium_crds::endpoint::EndpointStatus::default(),
    };
    object.status.state = Some(state.to_owned());
    let wanted = EndpointWanted {
        object,
        pod_uid: "uid".into(),
        shown,
    };
    (
        Key::Endpoint(PodRef::new("shop", name)),
        Wanted::Endpoint(Box::new(wanted)),
    )
}

fn ok(job: Job) -> Finished {
    let outcome = Ok(Outcome {
        uid: Some("object".to_owned()),
        facts: None,
    });
    Finished { job, outcome }
}

fn failed(job: Job) -> Finished {
    let outcome = Err(RequestError::Api("away".to_owned()));
    Finished { job, outcome }
}

fn ledger(all: impl IntoIterator<Item = (Key, Wanted)>, now: Instant) -> Ledger {
    let mut ledger = Ledger::new(Limits::default(), now);
    ledger.want(all.into_iter().collect(), now);
    ledger
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn identities_come_first_and_a_burst_is_spread_over_time() {
    let now = Instant::now();
    let pods = (0..30).map(|i| endpoint(&format!("pod-{i}"), "ready", Shown::Absent));
    let mut ledger = ledger(pods.chain([identity(256)]), now);
    let first = ledger.next(now).unwrap();
    assert_eq!(first.key, identity(256).0);
    let at_once = std::iter::from_fn(|| ledger.next(now)).count();
    assert_eq!(at_once, 20);
    let due = ledger.next_due(now).unwrap();
    assert!(due > now && due <= now + SECOND / 10);
    let later = std::iter::from_fn(|| ledger.next(now + SECOND)).count();
    assert_eq!(later, 10);
    assert_eq!(ledger.next_due(now), None, "all are under way");
}

#[test]
fn what_is_done_is_not_done_again_unless_the_watches_say_otherwise() {
    let now = Instant::now();
    let (key, absent) = endpoint("web", "ready", Shown::Absent);
    let shown = |shown| endpoint("web", "ready", shown).1;
    let mut ledger = ledger([(key.clone(), absent)], now);
    let job = ledger.next(now).unwrap();
    ledger.finished(ok(job), now);
    assert_eq!(ledger.next(now), None, "the watches are late");
    ledger.want([(key.clone(), shown(Shown::Same))].into(), now);
    assert_eq!((ledger.next(now), ledger.next_due(now)), (None, None));
    ledger.want([(key.clone(), shown(Shown::Other))].into(), now);
    let job = ledger.next(now).unwrap();
    assert_eq!(job.uid, None, "somebody else was there: look first");
    ledger.finished(ok(job), now);
    ledger.want([(key.clone(), shown(Shown::Same))].into(), now);
    let changed = endpoint("web", "waiting-for-identity", Shown::Other).1;
    ledger.want([(key, changed)].into(), now);
    let job = ledger.next(now).unwrap();
    assert_eq!(
        job.uid.as_deref(),
        Some("object"),
        "its own change: no look"
    );
}

#[test]
fn a_state_that_passes_is_no_news() {
    let now = Instant::now();
    let (key, ready) = endpoint("web", "ready", Shown::Same);
    let passing = endpoint("web", "regenerating", Shown::Same).1;
    let mut ledger = ledger([(key.clone(), ready.clone())], now);
    let job = ledger.next(now).unwrap();
    ledger.finished(ok(job), now);
    ledger.want([(key.clone(), passing.clone())].into(), now);
    assert_eq!(ledger.next(now), None);
    ledger.want([(key.clone(), ready)].into(), now);
    assert_eq!(ledger.next(now + PASSING), None);
    ledger.want([(key.clone(), passing.clone())].into(), now);
    ledger.want([(key, passing)].into(), now + SECOND);
    assert!(
        ledger.next(now + PASSING).is_some(),
        "but one that stays is"
    );
}

#[test]
fn a_failure_waits_longer_each_time_and_holds_up_nobody_else() {
    let now = Instant::now();
    let mut ledger = ledger([identity(256), identity(257)], now);
    let mut waits = Vec::new();
    let mut at = now;
    for _ in 0..10 {
        let job = ledger.next(at).unwrap();
        assert_eq!(job.key, identity(256).0);
        ledger.finished(failed(job), at);
        let until = ledger.entries[&identity(256).0].wait_until.unwrap();
        waits.push(until - at);
        let other = ledger.next(at);
        if waits.len() == 1 {
            let other = other.unwrap();
            assert_eq!(other.key, identity(257).0);
            ledger.finished(ok(other), at);
            ledger.want([identity(256)].into(), at);
        }
        at = until;
    }
    for (wait, least) in waits
        .iter()
        .zip([200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000])
    {
        let least = Duration::from_millis(least);
        assert!(*wait >= least && *wait < least * 5 / 4, "{waits:?}");
    }
    let report = ledger.report();
    assert_eq!(report.failing[0].object, "CiliumIdentity 256");
    let job = ledger.next(at).unwrap();
    ledger.finished(ok(job), at);
    assert!(ledger.report().failing.is_empty());
}

#[test]
fn an_identity_is_asked_for_again_only_after_a_while() {
    let now = Instant::now();
    let mut ledger = ledger([identity(256)], now);
    let job = ledger.next(now).unwrap();
    ledger.finished(ok(job), now);
    assert_eq!(ledger.next(now + SECOND), None);
    assert!(ledger.next(now + ASK_AGAIN).is_some());
}

#[test]
fn what_nobody_wants_any_more_is_forgotten_once_it_is_not_under_way() {
    let now = Instant::now();
    let mut ledger = ledger([identity(256)], now);
    let job = ledger.next(now).unwrap();
    ledger.want(BTreeMap::new(), now);
    assert_eq!(ledger.entries.len(), 1);
    ledger.finished(failed(job), now);
    assert!(ledger.entries.is_empty());
}

#[test]
fn an_endpoint_that_this_agent_had_is_told_from_one_of_an_earlier_run() {
    let now = Instant::now();
    let (key, wanted) = endpoint("web", "ready", Shown::Same);
    let mut ledger = ledger([(key.clone(), wanted)], now);
    assert!(ledger.had_endpoint(&key, "uid"));
    assert!(!ledger.had_endpoint(&key, "later"));
    let node: IpAddr = "192.0.2.9".parse().unwrap();
    let gone = Wanted::NoEndpoint { live: None, node };
    ledger.want([(key.clone(), gone)].into(), now);
    assert!(ledger.had_endpoint(&key, "uid"));
    let unknown = endpoint("other", "ready", Shown::Same).0;
    assert!(!ledger.had_endpoint(&unknown, "uid"));
}

#[test]
fn news_of_a_pod_waits_whether_it_passes_and_then_comes_every_ten_minutes_whatever_it_says() {
    let event = |message: &str| {
        let news = News {
            pod_uid: "uid".into(),
            message: message.to_owned(),
            node: "worker".into(),
        };
        (
            Key::Event(PodRef::new("shop", "web"), "PolicyNotEnforced"),
            Wanted::Event(news),
        )
    };
    let now = Instant::now();
    let mut ledger = ledger([event("first")], now);
    ledger.want([event("second")].into(), now + SECOND);
    assert_eq!(ledger.next(now + PASSING * 4 / 5), None, "it may pass");
    let told = now + PASSING;
    let job = ledger.next(told).unwrap();
    assert_eq!(job.wanted, event("second").1);
    ledger.finished(ok(job), told);
    ledger.want([event("third")].into(), told + SECOND);
    assert_eq!(ledger.next(told + TELL_AGAIN * 99 / 100), None);
    let job = ledger.next(told + TELL_AGAIN).unwrap();
    assert_eq!(job.wanted, event("third").1);
    ledger.finished(ok(job), told + TELL_AGAIN);
    assert_eq!(
        ledger.next_due(told),
        Some(told + TELL_AGAIN + TELL_AGAIN),
        "it is still so"
    );
}
