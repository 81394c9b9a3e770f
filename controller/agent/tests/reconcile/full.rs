//! Tables without room: what was enforced stays, what is wrong is told, and all goes on when there is room again.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use oxilium_abi::{DropReason, IpcacheKey};
use oxilium_agent::explain::{explain, explain_packet};
use oxilium_agent::reconcile::Input;
use oxilium_api::{ErrorCode, ExplainQuery, ExplainReport, Explained};
use oxilium_model::condition::{Condition, Reason};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::Hook;
use oxilium_model::world::Capacities;

use crate::lab::{Lab, pod_yaml};
use crate::{DENY_ALL, LONG, two_pods};

/// A policy that lets everybody reach each of so many ports of `web`.
fn many_ports(ports: u16) -> String {
    let ports: Vec<String> = (1..=ports)
        .map(|port| format!("{{port: \"{}\", protocol: TCP}}", port * 2))
        .collect();
    format!(
        "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: many, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  ingress: [{{toPorts: [{{ports: [{}]}}]}}]
",
        ports.join(", ")
    )
}

/// A pod of another node, as its agent publishes it.
fn elsewhere(number: u8) -> String {
    format!(
        "---
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {{name: far-{number}, namespace: default}}
status:
  id: {number}
  state: ready
  identity: {{id: 5000, labels: [\"k8s:app=far\", \"k8s:io.kubernetes.pod.namespace=default\", \"k8s:io.cilium.k8s.policy.cluster=default\"]}}
  networking:
    node: 192.0.2.9
    addressing: [{{ipv4: 10.2.0.{number}}}]
"
    )
}

fn reasons(lab: &Lab) -> Vec<String> {
    let view = lab.view();
    view.failing.iter().map(|f| f.reason.clone()).collect()
}

/// The one thing that fails has this in its reason.
fn assert_told(lab: &Lab, expected: &str) {
    let reasons = reasons(lab);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains(expected), "{reasons:?}");
}

#[test]
fn what_a_policy_allows_is_left_out_where_the_policy_map_has_no_room_and_comes_when_it_has() {
    let small = Capacities {
        policy_entries: 30,
        ..Capacities::default()
    };
    let mut lab = Lab::of_size(small);
    lab.manifests(&(two_pods() + &many_ports(2)));
    lab.pod("web", 7);
    let allowed = |lab: &Lab| {
        let policy = lab.kernel.tables().policy;
        policy.keys().filter(|key| key.port.get() != 0).count()
    };
    assert_eq!(allowed(&lab), 2);
    lab.manifests(&(two_pods() + &many_ports(40)));
    lab.settle();
    assert_eq!(allowed(&lab), 0);
    let is_told = |condition: &Condition| matches!(&condition.reason, Reason::WouldOverflow { pod, .. } if &*pod.name == "web");
    assert!(lab.view().state.conditions.iter().any(is_told));

    lab.manifests(&(two_pods() + &many_ports(2)));
    lab.settle();
    assert_eq!(allowed(&lab), 2);
    assert_eq!(lab.view().state.conditions, []);
}

#[test]
fn a_pod_too_many_waits_until_another_has_gone_and_keeps_nobody_else_waiting() {
    let one = Capacities {
        interfaces: 1,
        ..Capacities::default()
    };
    let mut lab = Lab::of_size(one);
    lab.manifests(&two_pods());
    lab.pod("web", 7);
    lab.veth(8);
    let refuse = |lab: &mut Lab| {
        let refused = lab.add("db", 8, LONG).get().unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotReady);
        assert!(refused.retryable, "{refused:?}");
        lab.turn();
        assert_told(lab, "the table of interfaces is full, 1 of 1");
        assert!(lab.attached(7) && !lab.attached(8));
    };
    refuse(&mut lab);
    assert_eq!(lab.view().unwell, None, "those that are there are served");
    let mut again = lab.add("web", 7, LONG);
    lab.turn();
    assert!(again.get().is_ok(), "it has its place already");

    lab.manifests(&(two_pods() + DENY_ALL));
    lab.turn();
    let view = lab.view();
    assert_eq!(view.revisions.applied, view.revisions.input);
    let web = view.endpoint("default/web").unwrap();
    assert!(web.policy.ingress_enforced && view.endpoints[&web.id].ready);
    assert!(lab.check(7).is_ok());

    lab.del(7);
    refuse(&mut lab);
    lab.remove_veth(7);
    lab.settle();
    lab.pod("db", 8);
    assert!(lab.attached(8));
}

#[test]
fn pods_without_room_in_the_ipcache_are_told_of_and_come_when_there_is_room() {
    let everybody: String = (1..=40).map(elsewhere).collect();
    let small = Capacities {
        ipcache: 40,
        ..Capacities::default()
    };
    let mut lab = Lab::of_size(small);
    lab.manifests(&(two_pods() + &everybody));
    lab.turn();
    assert_told(&lab, "addresses of pods on other nodes have no entry");
    let unresolved = |lab: &Lab| {
        let values = lab.kernel.tables().ipcache;
        let identities = values.values().map(|value| value.identity(0));
        identities
            .filter(|identity| *identity == NumericIdentity::UNRESOLVED.0)
            .count()
    };
    assert_ne!(unresolved(&lab), 0);

    let few: String = (1..=9).map(elsewhere).collect();
    lab.manifests(&(two_pods() + &few));
    lab.settle();
    assert_eq!(unresolved(&lab), 0);
}

#[test]
fn a_pod_of_this_node_has_its_place_in_a_full_ipcache() {
    let everybody: String = (1..=40).map(elsewhere).collect();
    let small = Capacities {
        ipcache: 40,
        ..Capacities::default()
    };
    let mut lab = Lab::of_size(small);
    lab.manifests(&(pod_yaml("web", "{app: web}") + &everybody));
    lab.turn();
    lab.veth(7);
    let mut answer = lab.add("web", 7, Duration::from_mins(1));
    lab.until(|lab| lab.attached(7));
    assert!(answer.get().is_ok());
    assert_told(&lab, "addresses of pods on other nodes have no entry");
}

/// What the tables say and what the programs say of a packet from there to port 80 of `web`.
fn explained(lab: &mut Lab, from: &str, drop: Option<DropReason>) -> [ExplainReport; 2] {
    let query = ExplainQuery {
        from: from.to_owned(),
        to: "default/web".to_owned(),
        port: "80/TCP".to_owned(),
    };
    lab.kernel.set_verdict(Hook::ToContainer, drop);
    let (answer, answered) = mpsc::channel();
    lab.take(Input::Errand(Box::new(move |node, view| {
        let by_tables = explain(view.known(), &query).unwrap();
        let by_programs = explain_packet(node, view.known(), &query).unwrap();
        answer.send([by_tables, by_programs]).unwrap();
    })));
    answered.recv().unwrap()
}

#[test]
fn what_is_explained_of_an_address_without_room_is_what_the_programs_do() {
    let everybody: String = (1..=40).map(elsewhere).collect();
    let small = Capacities {
        ipcache: 40,
        ..Capacities::default()
    };
    let from_far = DENY_ALL.replace("[{}]", "[{fromEndpoints: [{matchLabels: {app: far}}]}]");
    let no_room = (Explained::NoRoom, Some(DropReason::NoRoomForIdentity));
    let may = (Explained::Allow, None);
    for (policy, of_left_out) in [("", may), (from_far.as_str(), no_room)] {
        let mut lab = Lab::of_size(small);
        lab.manifests(&(pod_yaml("web", "{app: web}") + policy + &everybody));
        lab.turn();
        lab.veth(7);
        let mut answer = lab.add("web", 7, LONG);
        lab.until(|lab| lab.attached(7));
        assert!(answer.get().is_ok());
        let ipcache = lab.kernel.tables().ipcache;
        let mut seen = BTreeSet::new();
        for number in 1..=40 {
            let has_room = ipcache.contains_key(&IpcacheKey::v4([10, 2, 0, number], 32));
            seen.insert(has_room);
            let (verdict, drop) = if has_room { may } else { of_left_out };
            let by_name = format!("default/far-{number}");
            for from in [format!("10.2.0.{number}"), by_name] {
                for report in explained(&mut lab, &from, drop) {
                    let side = report.ingress.as_ref().unwrap();
                    assert_eq!(side.verdict, verdict, "{policy} {report:?}");
                    assert_eq!(report.allowed, drop.is_none());
                    let expected = if has_room {
                        5000
                    } else {
                        NumericIdentity::UNRESOLVED.0
                    };
                    assert_eq!(side.remote_identity, expected, "{report:?}");
                    assert!(!report.contradicts_itself(), "{report:?}");
                }
            }
        }
        assert_eq!(seen, BTreeSet::from([false, true]));
    }
}
