//! Answers of an agent.

use std::collections::BTreeMap;

use oxilium_api::{
    Addressing, Alternative, ApiIdentity, BpfEndpoint, BpfMetric, BpfPolicyTable, ComponentState,
    ComponentStatus, Condition, ConfigurationStatus, ConntrackFlow, ConntrackTalker,
    DirectionStatus, Endpoint, EndpointHealth, EndpointPolicy, EndpointState, EndpointStatus,
    ExplainReport, ExplainSide, Explained, ExternalIdentifiers, FailingObject, HealthState,
    IpcacheEntry, KernelWrites, LbBackend, LbFrontend, LbService, LoadBalancing, MapStatus,
    MonitorEvent, MonitorKind, MonitorVerdict, Networking, Policies, PolicyEnabled, PolicyEntry,
    PolicyEntryType, PolicyMode, PolicyObject, RealizedPolicy, ReconcileStatus, SourceStatus,
    StagedChange, StagedExample, StagedReport, StatusLogEntry, StatusReport, UnsupportedKey,
};

fn text(text: &str) -> String {
    text.to_owned()
}

fn labels() -> Vec<String> {
    vec![
        text("k8s:app=web"),
        text("k8s:io.kubernetes.pod.namespace=default"),
    ]
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        id: 34,
        status: EndpointStatus {
            external_identifiers: ExternalIdentifiers {
                container_id: text("c0ffee"),
                container_interface_name: text("eth0"),
                k8s_namespace: text("default"),
                k8s_pod_name: text("web"),
                k8s_pod_uid: Some(text("1-2-3")),
            },
            identity: Some(ApiIdentity {
                id: 11747,
                labels: labels(),
            }),
            networking: Networking {
                addressing: vec![Addressing {
                    ipv4: Some(text("10.244.1.2")),
                    ipv6: Some(text("fd00::2")),
                }],
                host_mac: text("02:00:00:00:00:01"),
                interface_index: 7,
                interface_name: text("veth7"),
                mac: text("02:00:00:00:00:02"),
            },
            policy: EndpointPolicy {
                realized: RealizedPolicy {
                    policy_enabled: PolicyEnabled::Ingress,
                    ingress: DirectionStatus::Enabled,
                    egress: DirectionStatus::Disabled,
                    table: 2,
                    entries: 3,
                    policy_revision: 5,
                },
            },
            state: EndpointState::Ready,
            health: None,
            log: Vec::new(),
        },
    }
}

/// One whose programs the kernel refuses.
pub(crate) fn failing_endpoint() -> Endpoint {
    let mut failing = endpoint();
    let entry = |second: u8, state: &str, message: &str| StatusLogEntry {
        timestamp: format!("2026-03-01T12:00:0{second}.000000Z"),
        state: text(state),
        message: text(message),
    };
    failing.status.health = Some(EndpointHealth {
        bpf: HealthState::Failure,
        policy: HealthState::Pending,
        connected: true,
        overall_health: HealthState::Failure,
        failing: Some(text(
            "attach from_container to interface 7: out of memory (tried 3 times since 2026-03-01T12:00:02Z)",
        )),
    });
    failing.status.log = vec![
        entry(0, "waiting-for-identity", "endpoint requested"),
        entry(1, "ready", "identity 11747 assigned"),
        entry(1, "ready", "policy computed: 3 entries"),
    ];
    failing
}

pub(crate) fn fresh_endpoint() -> Endpoint {
    let mut fresh = endpoint();
    fresh.id = 35;
    fresh.status.identity = None;
    fresh.status.networking.addressing.clear();
    fresh.status.state = EndpointState::WaitingForIdentity;
    let realized = &mut fresh.status.policy.realized;
    (realized.ingress, realized.egress) = (DirectionStatus::Unknown, DirectionStatus::Unknown);
    fresh
}

pub(crate) fn identities() -> Vec<ApiIdentity> {
    vec![
        ApiIdentity {
            id: 1,
            labels: vec![text("reserved:host")],
        },
        ApiIdentity {
            id: 11747,
            labels: labels(),
        },
    ]
}

pub(crate) fn policies() -> Policies {
    let condition = |kind: &str| Condition {
        kind: text(kind),
        status: text("True"),
        reason: text(kind),
        message: String::new(),
    };
    let policies = vec![
        PolicyObject {
            kind: text("CiliumNetworkPolicy"),
            namespace: Some(text("default")),
            name: text("l4-rule"),
            origin: Some(text("l4-rule.yaml:7")),
            mode: PolicyMode::Enforce,
            rules: 1,
            endpoints: 2,
            conditions: vec![condition("Valid")],
            staged: None,
        },
        PolicyObject {
            kind: text("CiliumClusterwideNetworkPolicy"),
            namespace: None,
            name: text("l7-rule"),
            origin: None,
            mode: PolicyMode::Enforce,
            rules: 1,
            endpoints: 0,
            conditions: vec![condition("Valid"), condition("NotEnforced")],
            staged: None,
        },
        PolicyObject {
            kind: text("CiliumNetworkPolicy"),
            namespace: Some(text("default")),
            name: text("lock-down"),
            origin: Some(text("lock-down.yaml:1")),
            mode: PolicyMode::Audit,
            rules: 1,
            endpoints: 2,
            conditions: vec![condition("Valid"), condition("Staged")],
            staged: Some(staged()),
        },
    ];
    Policies {
        revision: 7,
        policies,
    }
}

fn staged() -> StagedReport {
    let denied = StagedExample {
        time: text("2026-03-01T12:00:01.000000Z"),
        change: StagedChange::NewlyDenied,
        direction: text("ingress"),
        endpoint: 34,
        source: text("192.0.2.7:51324"),
        source_identity: 9,
        source_name: Some(text("world-ipv4")),
        destination: text("10.1.2.3:80"),
        destination_identity: 11747,
        destination_name: Some(text("default/web")),
        destination_port: 80,
        protocol: 6,
    };
    let allowed = StagedExample {
        time: text("2026-03-01T12:00:00.000000Z"),
        change: StagedChange::NewlyAllowed,
        source: text("10.1.2.9"),
        source_identity: 11750,
        source_name: None,
        destination: text("10.1.2.3"),
        destination_port: 8,
        protocol: 1,
        ..denied.clone()
    };
    StagedReport {
        since: text("2026-03-01T11:00:00.000000Z"),
        newly_denied: 12,
        newly_allowed: 1,
        not_counted: 0,
        events_lost: 3,
        examples: vec![denied, allowed],
        conditions: Vec::new(),
    }
}

pub(crate) fn table() -> BpfPolicyTable {
    let entry = |direction: &str, identity, port, port_prefix, protocol| PolicyEntry {
        kind: PolicyEntryType::Allow,
        direction: text(direction),
        identity,
        labels: if identity == 11747 {
            labels()
        } else {
            Vec::new()
        },
        port,
        port_prefix,
        protocol,
        proxy_port: 0,
        auth: 0,
        precedence: 0xFFFF_FF01,
        packets: if identity == 0 { 0 } else { 12 },
        bytes: if identity == 0 { 0 } else { 888 },
        origins: vec![text(
            "CiliumNetworkPolicy default/l4-rule spec.ingress[0] (l4-rule.yaml:7)",
        )],
    };
    let mut deny = entry("Ingress", 0, 8080, 14, 6);
    deny.kind = PolicyEntryType::Deny;
    BpfPolicyTable {
        endpoint: 34,
        table: 2,
        entries: vec![
            entry("Ingress", 11747, 80, 16, 6),
            deny,
            entry("Egress", 16_777_217, 0, 0, 17),
            entry("Egress", 0, 0, 0, 0),
        ],
    }
}

pub(crate) fn ipcache() -> Vec<IpcacheEntry> {
    let entry = |cidr: &str, identity, labels: &[String]| IpcacheEntry {
        cidr: text(cidr),
        identity,
        labels: labels.to_vec(),
        tunnelendpoint: text("0.0.0.0"),
    };
    vec![
        entry("0.0.0.0/0", 9, &[]),
        entry("10.244.1.2/32", 11747, &labels()),
    ]
}

pub(crate) fn services() -> LoadBalancing {
    let service = |frontend: &str, id, affinity_seconds, slots: &[u32]| LbService {
        frontend: text(frontend),
        id,
        service: (id == 1).then(|| text("kube-system/kube-dns")),
        affinity_seconds,
        slots: slots.to_vec(),
    };
    let backend = |id, address: &str, frontend, state: &str| LbBackend {
        id,
        address: text(address),
        frontend,
        state: text(state),
    };
    let frontend = |id, address: &str, state: &str| LbFrontend {
        id,
        address: text(address),
        state: text(state),
    };
    LoadBalancing {
        services: vec![
            service("10.96.0.10:53/UDP", 1, 0, &[1, 2]),
            service("[fd00::a]:80/TCP", 2, 10_800, &[]),
        ],
        backends: vec![
            backend(1, "10.244.1.2:53/UDP", 1, "active"),
            backend(2, "10.244.2.3:53/UDP", 1, "active"),
            backend(3, "10.244.2.9:53/UDP", 1, "resting"),
        ],
        reverse_nat: vec![
            frontend(1, "10.96.0.10:53/UDP", "active"),
            frontend(2, "[fd00::a]:80/TCP", "active"),
        ],
    }
}

pub(crate) fn talkers() -> Vec<ConntrackTalker> {
    let flood = ConntrackTalker {
        endpoint: 34,
        pod: Some(text("default/flood")),
        identity: 9,
        labels: Vec::new(),
        answered: 0,
        unanswered: 32_768,
        denied: 0,
        packets: 32_768,
        bytes: 1_966_080,
    };
    let web = ConntrackTalker {
        endpoint: 35,
        pod: None,
        identity: 11_747,
        labels: vec![
            text("k8s:app=web"),
            text("k8s:io.kubernetes.pod.namespace=shop"),
        ],
        answered: 2,
        unanswered: 0,
        denied: 1,
        packets: 120,
        bytes: 98_304,
    };
    vec![flood, web]
}

pub(crate) fn flows() -> Vec<ConntrackFlow> {
    let flow = |direction: &str, verdict: &str, flags| ConntrackFlow {
        endpoint: 34,
        protocol: 6,
        direction: text(direction),
        local: text("10.244.1.2:80"),
        remote: text("10.244.1.3:40000"),
        verdict: text(verdict),
        stamp: 4,
        expires: 1000,
        remaining: 20,
        rx_packets: 3,
        rx_bytes: 300,
        tx_packets: 2,
        tx_bytes: 200,
        rx_flags_seen: 0x12,
        tx_flags_seen: 0x1B,
        last_rx_report: 990,
        last_tx_report: 991,
        flags,
        remote_identity: 22373,
        rev_nat: 0,
        backend_id: 0,
    };
    let to_service = ConntrackFlow {
        rev_nat: 3,
        backend_id: 17,
        ..flow("OUT", "allowed", 0b1000)
    };
    vec![
        flow("IN", "allowed", 0b1100),
        flow("OUT", "denied", 0),
        to_service,
    ]
}

pub(crate) fn metrics() -> Vec<BpfMetric> {
    let metric = |reason: &str, direction: &str, packets| BpfMetric {
        reason: text(reason),
        direction: text(direction),
        packets,
        bytes: packets * 60,
    };
    vec![
        metric("Policy denied", "ingress", 3),
        metric("Success", "egress", 1200),
        metric("Success", "ingress", 1100),
    ]
}

pub(crate) fn bpf_endpoints() -> Vec<BpfEndpoint> {
    vec![BpfEndpoint {
        addresses: vec![text("10.244.1.2"), text("fd00::2")],
        id: 34,
        ifindex: 7,
        identity: 11747,
        mac: text("02:00:00:00:00:02"),
        table: 2,
        epoch: 5,
        birth: 3,
    }]
}

pub(crate) fn status(state: ComponentState) -> StatusReport {
    let well = state == ComponentState::Ok;
    let failing = |object: &str, reason: &str| FailingObject {
        object: text(object),
        reason: text(reason),
    };
    let only_if_bad = |objects: Vec<FailingObject>| if well { Vec::new() } else { objects };
    StatusReport {
        cilium: ComponentStatus {
            state,
            msg: text(if well { "0.1.0" } else { "2 things fail" }),
        },
        version: text("0.1.0"),
        node: text("worker"),
        sources: vec![SourceStatus {
            name: text("Manifests"),
            synced: well,
            status: ComponentStatus {
                state: ComponentState::Ok,
                msg: text("/etc/oxilium/manifests: 12 objects"),
            },
        }],
        attach_mode: text("TCX"),
        cni_chaining: text("generic-veth"),
        policy_enforcement: text("default"),
        reconcile: ReconcileStatus {
            input_revision: 12,
            plan_revision: 12,
            applied_revision: if well { 12 } else { 11 },
            last_writes: 7,
            last_sweep_seconds: 4,
            last_sweep_millis: 2,
            drift_repaired: 0,
            hooks_drifted: 0,
            pins_restored: 0,
            last_hooks_micros: 240,
            hooks_without_link: 4,
            hooks_without_link_seconds: 2,
            failing: only_if_bad(vec![failing("tables", "the policy table is full")]),
        },
        endpoints: BTreeMap::from([(text("ready"), 2), (text("disconnecting"), 1)]),
        identities: 14,
        policies: 3,
        not_enforced: only_if_bad(vec![failing(
            "CiliumNetworkPolicy default/l7-rule",
            "NotEnforced: toPorts.rules.http",
        )]),
        refused: only_if_bad(vec![failing(
            "CiliumNetworkPolicy default/bad (bad.yaml)",
            "refused; bad.yaml:9:5: unknown field",
        )]),
        monitor_readers: 0,
        events_lost: 0,
        flows_evicted: 0,
        choices_evicted: 0,
        latest_choices_evicted: 0,
        maps: vec![MapStatus {
            name: text("ox_policy"),
            max_entries: 524_288,
            entries: Some(12),
            memory_bytes: Some(8_389_000),
        }],
        kernel_writes: KernelWrites {
            total: 9,
            by_table: BTreeMap::from([(text("policy/update"), 9)]),
        },
        configuration: ConfigurationStatus {
            unsupported: vec![UnsupportedKey {
                key: text("enable-hubble"),
                value: text("true"),
                origin: text("file /tmp/cilium/config-map/enable-hubble"),
                reason: text("there is no Hubble server yet"),
            }],
            unknown: vec![text("enable-hubbel")],
        },
    }
}

pub(crate) fn events() -> Vec<MonitorEvent> {
    let drop = MonitorEvent {
        time: text("2026-03-01T12:00:00.000001Z"),
        kind: MonitorKind::Drop,
        reason: Some(133),
        reason_desc: Some(text("Policy denied")),
        verdict: None,
        matched: None,
        state: None,
        direction: text("ingress"),
        endpoint: 34,
        peer_endpoint: None,
        pod: Some(text("default/web")),
        ifindex: 7,
        source_identity: 22373,
        destination_identity: 11747,
        source_name: Some(text("default/other")),
        destination_name: Some(text("default/web")),
        source: text("10.244.1.3"),
        destination: text("10.244.1.2"),
        frontend: None,
        backend: None,
        service: None,
        destination_port: 8,
        protocol: 1,
        summary: text("EchoRequest"),
        length: 98,
    };
    let verdict = MonitorEvent {
        kind: MonitorKind::PolicyVerdict,
        reason: None,
        reason_desc: None,
        verdict: Some(MonitorVerdict::Allow),
        matched: Some(text("L3-L4")),
        source: text("10.244.1.3:40000"),
        destination: text("10.244.1.2:80"),
        destination_port: 80,
        protocol: 6,
        summary: text("tcp SYN"),
        ..drop.clone()
    };
    let trace = MonitorEvent {
        kind: MonitorKind::Trace,
        verdict: None,
        matched: None,
        state: Some(text("reply")),
        direction: text("egress"),
        source_identity: 11747,
        destination_identity: 22373,
        ..verdict.clone()
    };
    let to_service = MonitorEvent {
        state: Some(text("new")),
        destination: text("10.96.0.10:53"),
        destination_port: 53,
        frontend: Some(text("10.96.0.10:53")),
        backend: Some(text("10.244.2.9:5353")),
        service: Some(text("kube-system/kube-dns")),
        ..trace.clone()
    };
    let outside = MonitorEvent {
        source_identity: 9,
        source_name: Some(text("world-ipv4")),
        source: text("192.0.2.1"),
        ..drop.clone()
    };
    vec![drop, verdict, trace, to_service, outside]
}

pub(crate) fn explanation(allowed: bool) -> ExplainReport {
    let (verdict, reason) = if allowed {
        (Explained::Allow, "a rule allows it")
    } else {
        (
            Explained::NotAllowed,
            "policy selects default/b for ingress, and no rule allows this",
        )
    };
    ExplainReport {
        allowed,
        packet: text("default/a (identity 300) -> default/b (identity 400) 80/TCP"),
        service: None,
        egress: None,
        ingress: Some(ExplainSide {
            subject: text("default/b"),
            subject_identity: 400,
            remote: text("default/a"),
            remote_identity: 300,
            enforced: true,
            verdict,
            reason: text(reason),
            entry: None,
            rules: Vec::new(),
            otherwise: vec![Alternative {
                entry: text("allow"),
                rules: vec![text(
                    "CiliumNetworkPolicy default/l4 spec.ingress[0] (l4.yaml:8)",
                )],
                why_not: text("the port or protocol is not among its ports"),
            }],
            programs: Vec::new(),
        }),
    }
}
