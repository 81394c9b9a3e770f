//! Which of several operators leads.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::require::{Need, require};
use oxilium_operator::OperatorError;
use oxilium_operator::lease::{Candidate, Election, NAME, Terms};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{client, json_of, shared};

fn terms() -> Terms {
    let [lease, renew, retry] = [3000, 1500, 200].map(Duration::from_millis);
    Terms::new(lease, renew, retry).unwrap()
}

fn candidate(client: &Client, namespace: &str, name: &str) -> Candidate {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    Candidate::new(api, Election::new(name.to_owned(), terms()))
}

fn holder(api: &ApiServer, namespace: &str) -> Value {
    let lease = json_of(api, &["-n", namespace, "get", "lease", NAME]);
    lease["spec"]["holderIdentity"].clone()
}

#[test]
fn of_two_candidates_one_leads_and_when_it_is_killed_the_other_takes_over() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("election").unwrap();
    runtime.block_on(async {
        let (mut a, mut b) = (
            candidate(&client, "election", "a"),
            candidate(&client, "election", "b"),
        );
        a.acquire().await;
        let leads = tokio::spawn(async move { a.hold().await });
        // It waits for longer than a lease lasts, and in vain: the leader renews it.
        let waited = tokio::time::timeout(2 * Duration::from_secs(3), b.acquire()).await;
        assert!(waited.is_err(), "two lead at once");
        assert!(!leads.is_finished());
        assert_eq!(holder(api, "election"), "a");
        leads.abort();
        b.acquire().await;
        assert_eq!(holder(api, "election"), "b");
        let lease = json_of(api, &["-n", "election", "get", "lease", NAME]);
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
    });
}

#[test]
fn a_lease_that_is_given_up_need_not_run_out() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("released").unwrap();
    runtime.block_on(async {
        let mut a = candidate(&client, "released", "a");
        a.acquire().await;
        a.release().await;
        assert_eq!(holder(api, "released"), "");
        candidate(&client, "released", "b").acquire().await;
        // Somebody else's is not given up.
        a.release().await;
        assert_eq!(holder(api, "released"), "b");
    });
}

#[test]
fn a_leader_whose_lease_another_took_stops() {
    let Some((api, runtime, client)) = shared() else {
        return;
    };
    api.namespace("taken").unwrap();
    runtime.block_on(async {
        let mut a = candidate(&client, "taken", "a");
        a.acquire().await;
        let patch = r#"{"spec": {"holderIdentity": "b"}}"#;
        api.kubectl(&[
            "-n",
            "taken",
            "patch",
            "lease",
            NAME,
            "--type=merge",
            "-p",
            patch,
        ])
        .unwrap();
        let lost = a.hold().await;
        assert!(
            matches!(&lost, OperatorError::LeaseLost(why) if why.contains("somebody else")),
            "{lost}"
        );
    });
}

/// The server takes requests and answers none: no error tells the leader, only the time.
#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::start().unwrap();
    if api.signal(nix::sys::signal::Signal::SIGCONT).is_err() {
        // Somebody's cluster: it is not ours to stop.
        return;
    }
    let runtime = Runtime::new().unwrap();
    let client = client(&runtime, api.kubeconfig().to_owned());
    runtime.block_on(async {
        let mut a = candidate(&client, "default", "a");
        a.acquire().await;
        api.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
        let lost = a.hold().await;
        api.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
        assert!(
            matches!(&lost, OperatorError::LeaseLost(why) if why.contains("not renewed")),
            "{lost}"
        );
        // It still is its own: nobody has had the time to take it.
        assert_eq!(holder(&api, "default"), "a");
    });
}
