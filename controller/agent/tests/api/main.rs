//! The agent's socket: who may open it, what it answers, what it does not fall for.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod metrics;
mod node;
mod status;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use node::{Node, PODS, attach};
use oxilium_abi::{
    Be16, COUNTER_EVENT_LOST, COUNTER_FORWARDED, Counter, CtEntry, Direction, DropReason, Event,
    EventKind, NatWord,
};
use oxilium_agent::api::{Server, SocketError};
use oxilium_api::{
    ClientError, ComponentState, Detach, ErrorCode, ExplainQuery, ManifestFile, MonitorFilter,
    MonitorKind, PolicyEnabled, PolicyMode, Ready, call, read_line,
};
use oxilium_kernel::port::{CtTable, Flow};

/// A service whose backend is 10.1.0.9:8080.
const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {type: ClusterIP, clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], selector: {app: db}, ports: [{port: 80, targetPort: 8080, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.9], conditions: {ready: true}}]
ports: [{name: '', port: 8080, protocol: TCP}]
";

#[test]
fn only_root_may_open_the_socket() {
    let node = Node::fresh();
    let mode = fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = node.socket().parent().unwrap().to_owned();
    let mode = fs::metadata(directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_socket_that_an_agent_left_is_replaced_and_anything_else_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    drop(Server::bind(&path).unwrap());
    assert!(path.exists());
    drop(Server::bind(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody's file").unwrap();
    assert!(matches!(Server::bind(&path), Err(SocketError::InTheWay(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's file");
}

#[test]
fn an_agent_that_has_read_nothing_is_not_ready() {
    let node = Node::fresh();
    let error = node.client().call(Ready).unwrap_err();
    assert!(error.retryable());
    let status = node.client().call(call::Status).unwrap();
    assert_eq!(status.cilium.state, ComponentState::Failure);
    assert!(
        status
            .cilium
            .msg
            .contains("waiting for the first full list")
    );
}

#[test]
fn a_pod_is_added_shown_and_deleted() {
    let node = Node::ready();
    let client = node.client();
    let attached = client.call(attach()).unwrap();
    client.call(Ready).unwrap();

    let endpoint = client
        .call(call::EndpointGet("default/web".to_owned()))
        .unwrap();
    assert_eq!(endpoint.id, attached.endpoint);
    assert_eq!(endpoint.status.state.as_str(), "ready");
    let realized = &endpoint.status.policy.realized;
    assert_eq!(realized.policy_enabled, PolicyEnabled::Ingress);
    let life: Vec<&str> = endpoint
        .status
        .log
        .iter()
        .map(|entry| {
            entry
                .message
                .split(|c: char| c.is_ascii_digit())
                .next()
                .unwrap()
                .trim()
        })
        .collect();
    assert_eq!(
        life,
        [
            "endpoint requested",
            "identity",
            "policy computed:",
            "programs attached",
            "revision"
        ]
    );

    let tables = client
        .call(call::BpfPolicy(Some(attached.endpoint)))
        .unwrap();
    assert_eq!(tables[0].table, realized.table);
    assert!(
        tables[0]
            .entries
            .iter()
            .all(|entry| !entry.origins.is_empty())
    );
    let ipcache = client.call(call::BpfIpcache).unwrap();
    assert!(
        ipcache
            .iter()
            .any(|entry| entry.cidr == "10.1.0.7/32" && entry.identity == attached.identity)
    );
    let interfaces = client.call(call::BpfEndpoints).unwrap();
    assert_eq!(
        (interfaces[0].ifindex, interfaces[0].id),
        (7, attached.endpoint)
    );
    let status = client.call(call::Status).unwrap();
    assert_eq!(status.cilium.state, ComponentState::Ok, "{status:?}");

    let key = attach().key;
    client.call(Detach { key }).unwrap();
    let endpoints = client.call(call::EndpointList).unwrap();
    assert_eq!(endpoints.len(), 1, "its device lives");
}

/// A flow of the pod's to `10.1.0.9:8080`.
fn flow(endpoint: u16, nat: NatWord) -> Flow {
    Flow {
        table: CtTable::Answered,
        local: [10, 1, 0, 7].into(),
        remote: [10, 1, 0, 9].into(),
        local_port: 40_000,
        remote_port: 8080,
        endpoint,
        protocol: 6,
        kind: None,
        entry: CtEntry {
            nat: nat.0,
            ..CtEntry::default()
        },
        remaining: 1,
    }
}

#[test]
fn a_flow_to_a_service_tells_its_frontend_and_backend() {
    let node = Node::ready();
    let client = node.client();
    let attached = client.call(attach()).unwrap();
    node.manifests(&(PODS.to_owned() + SERVICE));
    let tables = || client.call(call::BpfServices).unwrap();
    until(|| !tables().reverse_nat.is_empty());
    let tables = tables();
    let (frontend, backend) = (tables.reverse_nat[0].id, tables.backends[0].id);
    let to_service = flow(attached.endpoint, NatWord::new(frontend, 7));
    let gone = flow(attached.endpoint, NatWord::new(frontend + 1, 7));
    let direct = flow(attached.endpoint, NatWord::NONE);
    node.kernel.set_flows(vec![to_service, gone, direct]);
    let flows = client.call(call::BpfConntrack(None)).unwrap();
    let told: Vec<(u16, u32)> = flows.iter().map(|f| (f.rev_nat, f.backend_id)).collect();
    assert_eq!(told, [(frontend, backend), (frontend + 1, 0), (0, 0)]);
}

#[test]
fn what_the_programs_count_is_told_by_reason_and_direction() {
    let node = Node::ready();
    let counter = |packets| Counter {
        packets,
        bytes: packets * 60,
    };
    let denied = DropReason::PolicyDenied as u8;
    for (direction, reason, packets) in [
        (Direction::Egress, COUNTER_FORWARDED, 5),
        (Direction::Ingress, denied, 3),
        (Direction::Ingress, COUNTER_EVENT_LOST, 9),
    ] {
        node.kernel.count(direction, reason, counter(packets));
    }
    let metrics = node.client().call(call::BpfMetrics).unwrap();
    let told: Vec<_> = metrics
        .iter()
        .map(|m| (m.reason.as_str(), m.direction.as_str(), m.packets, m.bytes))
        .collect();
    assert_eq!(
        told,
        [
            ("Policy denied", "ingress", 3, 180),
            ("Success", "egress", 5, 300)
        ]
    );
}

#[test]
fn what_is_not_there_is_not_found() {
    let node = Node::ready();
    let client = node.client();
    let code = |error: ClientError| match error {
        ClientError::Agent(error) => error.code,
        other => panic!("{other}"),
    };
    let missing = call::EndpointGet("default/none".to_owned());
    assert_eq!(code(client.call(missing).unwrap_err()), ErrorCode::NotFound);
    let missing = call::IdentityGet(4711);
    assert_eq!(code(client.call(missing).unwrap_err()), ErrorCode::NotFound);
    let missing = call::BpfPolicy(Some(99));
    assert_eq!(code(client.call(missing).unwrap_err()), ErrorCode::NotFound);
}

#[test]
fn a_plan_says_what_would_be_written_and_writes_nothing() {
    let node = Node::ready();
    let client = node.client();
    client.call(attach()).unwrap();
    node.kernel.clear_history();
    let manifest = |content: &str| {
        vec![ManifestFile {
            name: "all.yaml".to_owned(),
            content: content.to_owned(),
        }]
    };
    let same = client.call(call::Plan(manifest(node::PODS))).unwrap();
    assert_eq!(
        (same.writes.len(), same.text.as_str()),
        (0, "nothing to do\n")
    );
    let without_policy = node::PODS.split("---").next().unwrap();
    let other = client.call(call::Plan(manifest(without_policy))).unwrap();
    assert!(other.totals["policy"] > 0);
    assert_eq!(node.kernel.history(), []);
}

#[test]
fn explain_answers_from_what_is_in_force() {
    let node = Node::ready();
    let client = node.client();
    client.call(attach()).unwrap();
    let query = |from: &str| ExplainQuery {
        from: from.to_owned(),
        to: "default/web".to_owned(),
        port: "80/TCP".to_owned(),
    };
    assert!(client.call(query("host")).unwrap().allowed);
    let report = client.call(query("192.0.2.1")).unwrap();
    assert!(!report.allowed);
    let rules = &report.ingress.unwrap().otherwise;
    assert!(
        rules
            .iter()
            .any(|other| other.rules[0].contains("all.yaml:")),
        "{rules:?}"
    );
}

#[test]
fn events_are_made_only_while_somebody_monitors_and_reach_everybody_who_does() {
    let node = Node::ready();
    let attached = node.client().call(attach()).unwrap();
    let event = |reason: DropReason| Event {
        kind: EventKind::Drop as u8,
        reason: reason as u8,
        direction: Direction::Ingress as u8,
        endpoint: attached.endpoint,
        ether_type: Be16::new(0x0800),
        protocol: 6,
        tcp_flags: 0x02,
        source: address([10, 1, 0, 9]),
        destination: address([10, 1, 0, 7]),
        source_port: Be16::new(40000),
        destination_port: Be16::new(80),
        remote_identity: 9,
        ..Event::default()
    };
    assert!(!node.kernel.emit(event(DropReason::PolicyDenied)));

    let readers = || node.client().call(call::Status).unwrap().monitor_readers;
    let all = node.client().monitor(MonitorFilter::default()).unwrap();
    until(|| readers() == 1);
    let only_other = MonitorFilter {
        related_to: vec![attached.endpoint + 1],
        ..MonitorFilter::default()
    };
    let other = node.client().monitor(only_other).unwrap();
    until(|| readers() == 2);
    assert!(node.kernel.emit(event(DropReason::PolicyDenied)));

    let mut all = all;
    let seen = all.next().unwrap().unwrap();
    assert_eq!(seen.kind, MonitorKind::Drop);
    assert_eq!(seen.reason_desc.as_deref(), Some("Policy denied"));
    assert_eq!(seen.pod.as_deref(), Some("default/web"));
    assert_eq!(
        (
            seen.source.as_str(),
            seen.destination.as_str(),
            seen.summary.as_str()
        ),
        ("10.1.0.9:40000", "10.1.0.7:80", "tcp SYN")
    );
    assert_eq!(
        (seen.source_identity, seen.destination_identity),
        (9, attached.identity)
    );
    assert_eq!(seen.source_name.as_deref(), Some("world-ipv4"));

    // Nobody known has the address.
    let unknown = Event {
        remote_identity: attached.identity,
        ..event(DropReason::PolicyDenied)
    };
    assert!(node.kernel.emit(unknown));
    let seen = all.next().unwrap().unwrap();
    let labels = seen.source_name.unwrap();
    assert!(labels.contains("k8s:app=web,"), "{labels}");
    drop((all, other));
    until(|| readers() == 0);
    until(|| !node.kernel.emit(event(DropReason::PolicyDenied)));
}

fn address(v4: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&v4);
    bytes
}

/// Asks until it is so; each question goes through the agent, so this does not spin.
fn until(mut so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !so() {
        assert!(std::time::Instant::now() < end, "it never came to be");
        std::thread::yield_now();
    }
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let node = Node::ready();
    let mut socket = UnixStream::connect(node.socket()).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    for (request, expected) in [
        ("nonsense", "\"code\":\"invalid-request\""),
        ("{}", "\"code\":\"unsupported-version\""),
        (
            "{\"version\":2,\"method\":\"status\"}",
            "\"code\":\"unsupported-version\"",
        ),
        (
            "{\"version\":1,\"method\":\"no-such\"}",
            "\"code\":\"invalid-request\"",
        ),
        (
            "{\"version\":1,\"method\":\"attach\",\"params\":{}}",
            "\"code\":\"invalid-request\"",
        ),
        ("{\"version\":1,\"method\":\"identity-list\"}", "\"ok\":["),
    ] {
        writeln!(socket, "{request}").unwrap();
        let line = read_line(&mut reader).unwrap().unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(expected), "{request}: {line}");
    }
}

#[test]
fn a_client_that_stops_in_the_middle_disturbs_nobody() {
    let node = Node::ready();
    let mut half = UnixStream::connect(node.socket()).unwrap();
    half.write_all(b"{\"version\":1,").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    half.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    node.client().call(attach()).unwrap();
}

#[test]
fn a_staged_policy_reads_events_without_a_monitor_and_its_counts_are_told() {
    let node = Node::ready();
    let attached = node.client().call(attach()).unwrap();
    let staged = "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: open
  namespace: default
  annotations: {policy.oxilium.io/enforcement: audit}
spec:
  endpointSelector: {}
  ingress:
  - fromCIDR: [10.1.0.9/32]
";
    node.manifests(&format!("{}{staged}", node::PODS));
    let event = Event {
        kind: EventKind::Drop as u8,
        reason: DropReason::PolicyDenied as u8,
        direction: Direction::Ingress as u8,
        endpoint: attached.endpoint,
        ether_type: Be16::new(0x0800),
        protocol: 6,
        tcp_flags: 0x02,
        source: address([10, 1, 0, 9]),
        destination: address([10, 1, 0, 7]),
        source_port: Be16::new(40000),
        destination_port: Be16::new(80),
        remote_identity: 9,
        ..Event::default()
    };
    until(|| node.kernel.emit(event));
    let policies = || node.client().call(call::PolicyGet).unwrap().policies;
    let counted = || {
        node.kernel.emit(event);
        let open = policies().into_iter().find(|policy| policy.name == "open");
        open.and_then(|policy| policy.staged)
            .is_some_and(|report| report.newly_allowed == 1)
    };
    until(counted);
    assert_eq!(
        policies()
            .iter()
            .map(|policy| (policy.name.as_str(), policy.mode))
            .collect::<Vec<_>>(),
        [
            ("deny-all", PolicyMode::Enforce),
            ("open", PolicyMode::Audit)
        ]
    );
    assert_eq!(
        node.client().call(call::Status).unwrap().monitor_readers,
        0,
        "it is no monitor"
    );

    node.manifests(node::PODS);
    until(|| !node.kernel.emit(event));
}
