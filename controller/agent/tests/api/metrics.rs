//! What Prometheus reads of an agent, and that docs/metrics.md says the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;
use oxilium_abi::{COUNTER_FORWARDED, Counter, Direction, DropReason};
use oxilium_agent::http::Answer;

use crate::node::{self, Node, attach};

/// A node with one enforced pod, of which packets were let through and dropped.
fn node() -> Node {
    let node = Node::ready();
    let counter = |packets, bytes| Counter { packets, bytes };
    let denied = DropReason::PolicyDenied as u8;
    node.kernel
        .count(Direction::Ingress, denied, counter(3, 180));
    node.kernel
        .count(Direction::Egress, COUNTER_FORWARDED, counter(5, 600));
    let path = "/api/v1/namespaces/shop/pods/web-0";
    let calls = &node.instruments().api_calls;
    calls.answered(
        "10.96.0.1:443",
        &Method::GET,
        path,
        Some(200),
        Duration::from_millis(3),
    );
    node
}

fn page(node: &Node) -> String {
    match node.metrics() {
        Answer::Metrics(page) => page,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_scrape_tells_what_is_enforced_and_what_was_dropped() {
    let node = node();
    node.client().call(attach()).unwrap();
    let page = page(&node);
    let expected = [
        "oxilium_ready 1",
        "cilium_endpoint 1",
        "cilium_endpoint_state{endpoint_state=\"ready\"} 1",
        "cilium_policy_endpoint_enforcement_status{enforcement=\"ingress\"} 1",
        "cilium_policy 1",
        "cilium_identity{type=\"cluster_local\"} 1",
        "cilium_controllers_failing 0",
        "cilium_drop_count_total{reason=\"Policy denied\",direction=\"INGRESS\"} 3",
        "cilium_drop_bytes_total{reason=\"Policy denied\",direction=\"INGRESS\"} 180",
        "cilium_forward_count_total{direction=\"EGRESS\"} 5",
        "cilium_forward_bytes_total{direction=\"EGRESS\"} 600",
        "oxilium_endpoint_ready_duration_seconds_count 1",
        "cilium_policy_implementation_delay_count 1",
        "cilium_policy_change_total{outcome=\"success\"} 1",
        "cilium_policy_change_total{outcome=\"fail\"} 0",
        "cilium_services_events_total{action=\"add\"} 0",
        "cilium_endpoint_regenerations_total{outcome=\"success\"} 1",
        "cilium_endpoint_regenerations_total{outcome=\"fail\"} 0",
        "cilium_endpoint_regeneration_time_stats_seconds_count{scope=\"total\",status=\"success\"} 1",
        "cilium_bpf_map_pressure{map_name=\"services\"} 0.0",
        "cilium_bpf_map_ops_total{map_name=\"interfaces\",operation=\"update\",outcome=\"success\"} 1",
        "cilium_bpf_map_ops_total{map_name=\"interfaces\",operation=\"update\",outcome=\"fail\"} 0",
        "oxilium_service_choices_evicted_total{flows=\"answered\"} 0",
        "cilium_k8s_client_api_calls_total{host=\"10.96.0.1:443\",method=\"GET\",return_code=\"200\"} 1",
        "cilium_k8s_client_api_latency_time_seconds_count{path=\"/api/v1/namespaces/{namespace}/pods/{name}\",method=\"GET\"} 1",
    ];
    for line in expected {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn what_changes_for_an_endpoint_later_is_regenerated_and_is_no_second_start() {
    const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{port: 80, protocol: TCP}]
";
    let node = node();
    node.client().call(attach()).unwrap();
    let opened = node::PODS.replace("ingress: [{}]", "ingress: [{fromEntities: [world]}]");
    node.manifests(&format!("{opened}{SERVICE}"));
    let expected = [
        "cilium_policy_change_total{outcome=\"success\"} 2",
        "cilium_services_events_total{action=\"add\"} 1",
        "cilium_endpoint_regenerations_total{outcome=\"success\"} 2",
        "cilium_endpoint_regeneration_time_stats_seconds_count{scope=\"total\",status=\"success\"} 2",
        "oxilium_endpoint_ready_duration_seconds_count 1",
    ];
    crate::until(|| {
        let page = page(&node);
        let lines: Vec<&str> = page.lines().collect();
        expected.iter().all(|line| lines.contains(line))
    });
}

/// Name, type and meaning of each family of a page.
fn families(page: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut families: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
        {
            families.entry(name).or_default().1 = help;
        }
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            families.entry(name).or_default().0 = kind;
        }
    }
    families
}

#[test]
fn the_page_in_docs_lists_all_metrics() {
    let node = node();
    node.client().call(attach()).unwrap();
    let page = page(&node);
    let mut table = "| Metric | Type | Meaning |\n|---|---|---|\n".to_owned();
    for (name, (kind, help)) in families(&page) {
        let total = if kind == "counter" { "_total" } else { "" };
        let help = help.trim_end_matches('.');
        writeln!(table, "| `{name}{total}` | {kind} | {help} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- metrics -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of metrics -->\n").unwrap();
    let wanted = format!("{before}<!-- metrics -->\n{table}<!-- end of metrics -->\n{after}");
    if std::env::var_os("OXILIUM_UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(
        text == wanted,
        "docs/metrics.md is stale: OXILIUM_UPDATE_DOCS=1 cargo test -p oxilium-agent --test api"
    );
}
