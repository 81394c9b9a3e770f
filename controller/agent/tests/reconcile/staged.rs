//! Staged policies: what is counted, what is told, and that nothing else changes.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxilium_abi::{
    Be16, CtEntry, CtWord, Direction, DropReason, Epoch, Event, EventKind, FlowKind,
};
use oxilium_agent::reconcile::Input;
use oxilium_agent::staged::{Auditor, StagedReports};
use oxilium_api::{StagedChange, StagedReport};
use oxilium_kernel::port::{CtTable, Flow};

use crate::lab::Lab;
use crate::two_pods;

const ENFORCED: &str = "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: enforced, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
";

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A staged policy that denies one address and one that allows a prefix nobody else names.
const STAGED: &str = "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: staged-deny
  namespace: default
  annotations: {policy.oxilium.io/enforcement: audit}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingressDeny:
  - fromCIDR: [192.0.2.7/32]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: staged-allow
  namespace: default
  annotations: {policy.oxilium.io/enforcement: audit}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [198.51.100.0/24]
    toPorts:
    - ports: [{port: \"80\", protocol: TCP}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: staged-lock-down
  namespace: default
  annotations: {policy.oxilium.io/enforcement: audit}
spec:
  endpointSelector: {matchLabels: {app: db}}
  egress: [{}]
";

fn entry(endpoint: u16, direction: Direction, remote: &str, ports: (u16, u16)) -> Flow {
    Flow {
        table: CtTable::Answered,
        local: "10.1.0.7".parse().unwrap(),
        remote: remote.parse().unwrap(),
        local_port: ports.0,
        remote_port: ports.1,
        endpoint,
        protocol: 6,
        kind: Some(FlowKind::Plain),
        entry: CtEntry {
            word: CtWord::new(Epoch::new(3), 0, direction, true).0,
            ..CtEntry::default()
        },
        remaining: 100,
    }
}

fn dropped(endpoint: u16, remote: [u8; 4], ports: (u16, u16), tcp_flags: u8) -> Event {
    let wide = |address: [u8; 4]| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        bytes
    };
    Event {
        kind: EventKind::Drop as u8,
        reason: DropReason::PolicyDenied as u8,
        direction: Direction::Ingress as u8,
        endpoint,
        ether_type: Be16::new(0x0800),
        protocol: 6,
        tcp_flags,
        source: wide(remote),
        destination: wide([10, 1, 0, 7]),
        source_port: Be16::new(ports.0),
        destination_port: Be16::new(ports.1),
        remote_identity: 9,
        ..Event::default()
    }
}

fn report<'a>(reports: &'a StagedReports, name: &str) -> &'a StagedReport {
    let found = reports
        .iter()
        .find(|(reference, _)| &*reference.name == name);
    found.unwrap().1
}

fn counts(reports: &StagedReports, name: &str) -> (u64, u64) {
    let report = report(reports, name);
    (report.newly_denied, report.newly_allowed)
}

/// Both pods, the enforced policy and the staged ones; an auditor that knows them.
fn audited() -> (Lab, Auditor, [u16; 2]) {
    let mut lab = Lab::with(&(two_pods() + ENFORCED + STAGED));
    let endpoints = [lab.pod("web", 7).endpoint, lab.pod("db", 8).endpoint];
    let mut auditor = Auditor::default();
    auditor.look(lab.view());
    (lab, auditor, endpoints)
}

#[test]
fn staged_policies_take_no_part_in_what_the_kernel_holds() {
    let tables = |manifests: &str| {
        let mut lab = Lab::with(manifests);
        lab.pod("web", 7);
        lab.pod("db", 8);
        let tables = lab.kernel.tables();
        (tables.policy, tables.ipcache, tables.shapes)
    };
    let without = two_pods() + ENFORCED;
    assert_eq!(tables(&(without.clone() + STAGED)), tables(&without));

    let mut lab = Lab::with(&without);
    lab.pod("web", 7);
    lab.kernel.clear_history();
    lab.manifests(&(without + STAGED));
    lab.settle();
    assert_eq!(lab.writes(), [], "staging a policy writes nothing");
}

#[test]
fn a_flow_that_passes_and_would_not_is_counted_once_however_often_it_is_seen() {
    let (_lab, mut auditor, [web, db]) = audited();
    let now = Instant::now();
    let flows = [
        entry(web, Direction::Ingress, "192.0.2.7", (80, 40000)),
        entry(web, Direction::Ingress, "192.0.2.7", (80, 40001)),
        entry(web, Direction::Ingress, "192.0.2.8", (80, 40000)),
        entry(db, Direction::Egress, "203.0.113.1", (40000, 443)),
        // What db receives is not the staged policy's.
        entry(db, Direction::Ingress, "203.0.113.1", (5432, 40000)),
    ];
    auditor.flows(&flows, now);
    auditor.flows(&flows, now + Duration::from_secs(5));
    let reports = auditor.reports();
    assert_eq!(counts(&reports, "staged-deny"), (2, 0));
    assert_eq!(counts(&reports, "staged-allow"), (0, 0));
    assert_eq!(counts(&reports, "staged-lock-down"), (1, 0));
    let examples = &report(&reports, "staged-deny").examples;
    assert_eq!(examples.len(), 1, "ports of clients make no other example");
    let example = &examples[0];
    assert_eq!(example.change, StagedChange::NewlyDenied);
    assert_eq!(
        (example.source.as_str(), example.destination.as_str()),
        ("192.0.2.7:40001", "10.1.0.7:80")
    );
    assert_eq!(example.destination_name.as_deref(), Some("default/web"));

    let later = now + Duration::from_mins(10);
    auditor.flows(&[], later);
    auditor.flows(&flows[..1], later);
    assert_eq!(
        counts(&auditor.reports(), "staged-deny"),
        (3, 0),
        "after a long silence it is another flow"
    );
}

#[test]
fn a_flow_that_is_dropped_and_would_pass_is_counted_by_its_first_packets() {
    let (_lab, mut auditor, [web, _]) = audited();
    let now = Instant::now();
    let cases = [
        ([198, 51, 100, 1], (40000, 80), SYN, 1, "the staged prefix"),
        ([198, 51, 100, 1], (40000, 80), SYN, 1, "the SYN again"),
        (
            [198, 51, 100, 1],
            (40001, 80),
            ACK,
            1,
            "no beginning of a flow",
        ),
        ([198, 51, 100, 1], (40002, 81), SYN, 1, "another port"),
        ([203, 0, 113, 1], (40000, 80), SYN, 1, "another prefix"),
        ([198, 51, 100, 2], (40000, 80), SYN, 2, "another client"),
    ];
    for (remote, ports, flags, expected, why) in cases {
        auditor.event(&dropped(web, remote, ports, flags), now);
        assert_eq!(
            counts(&auditor.reports(), "staged-allow"),
            (0, expected),
            "{why}"
        );
    }
    let other = Event {
        reason: DropReason::InvalidSourceIp as u8,
        ..dropped(web, [198, 51, 100, 3], (40000, 80), SYN)
    };
    auditor.event(&other, now);
    assert_eq!(
        counts(&auditor.reports(), "staged-allow"),
        (0, 2),
        "no policy dropped it"
    );
}

#[test]
fn a_policy_that_changed_counts_anew_and_one_in_force_is_gone_from_the_reports() {
    let (mut lab, mut auditor, [web, _]) = audited();
    let now = Instant::now();
    let flow = [entry(web, Direction::Ingress, "192.0.2.7", (80, 40000))];
    auditor.flows(&flow, now);
    let changed = STAGED.replace("192.0.2.7/32", "192.0.2.8/32");
    lab.manifests(&(two_pods() + ENFORCED + &changed));
    lab.settle();
    auditor.look(lab.view());
    auditor.flows(&flow, now);
    assert_eq!(counts(&auditor.reports(), "staged-deny"), (0, 0));

    let enforced = STAGED.replace("audit}", "enforce}");
    lab.manifests(&(two_pods() + ENFORCED + &enforced));
    lab.settle();
    auditor.look(lab.view());
    assert_eq!(auditor.reports(), StagedReports::default());
}

#[test]
fn reports_are_in_the_status_directory_and_losses_with_them() {
    let (mut lab, mut auditor, [web, _]) = audited();
    let remote: IpAddr = "192.0.2.7".parse().unwrap();
    let flow = entry(web, Direction::Ingress, &remote.to_string(), (80, 40000));
    auditor.flows(&[flow], Instant::now());
    auditor.lost(5);
    lab.take(Input::Staged(Arc::new(auditor.reports())));
    lab.settle();
    let file = "status/Policy/CiliumNetworkPolicy_default_staged-deny.yaml";
    let text = fs::read_to_string(lab.directory.path().join(file)).unwrap();
    // Long messages are folded.
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    for line in [
        "type: Staged",
        "it would newly deny 1 and newly allow 0 flows",
        "newlyDenied: 1",
        "eventsLost: 5",
        "192.0.2.7:40000",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}
