//! Services joined with their EndpointSlices, as frontends and backends.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use oxilium_manifest::LowerConfig;
use oxilium_manifest::inputs::fill;
use oxilium_manifest::object::{Object, admit};
use oxilium_manifest::tree::Node;
use oxilium_model::world::{Service, ServiceRef, Services, World};
use serde_json::{Value, json};

const NODE: &str = "worker";

fn object(value: &Value) -> Object {
    let root = Node::from_json(value);
    admit(&root, None, NODE, &LowerConfig::default()).unwrap()
}

fn services(values: &[Value]) -> Services {
    let objects: Vec<Object> = values.iter().map(object).collect();
    let mut world = World::default();
    fill(&mut world, NODE, &objects);
    world.services
}

fn service(spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "dns", "namespace": "kube-system"},
        "spec": spec,
    })
}

fn slice(name: &str, labels: &Value, ports: &Value, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "kube-system", "labels": labels},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

fn of_dns() -> Value {
    json!({"kubernetes.io/service-name": "dns"})
}

fn dns(values: &[Value]) -> Arc<Service> {
    let services = services(values);
    Arc::clone(&services[&ServiceRef::new("kube-system", "dns")])
}

/// Port → backends, each with its conditions: `r`eady, `s`erving, `l`ocal.
fn shown(service: &Service) -> Vec<String> {
    let mut lines = Vec::new();
    for port in &service.ports {
        lines.push(format!("{} {}/{}", port.name, port.port, port.protocol));
        for (backend, condition) in &port.backends {
            let flag = |set, letter| if set { letter } else { "-" };
            lines.push(format!(
                "  {} {} {}{}{}",
                backend.address,
                backend.port,
                flag(condition.ready, "r"),
                flag(condition.serving, "s"),
                flag(condition.local, "l"),
            ));
        }
    }
    lines
}

#[test]
fn ports_are_matched_by_name_and_protocol_and_have_their_own_numbers() {
    let values = [
        service(&json!({"clusterIPs": ["10.96.0.10"], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "dns-tcp", "port": 53},
            {"name": "metrics", "port": 9153},
        ]})),
        slice(
            "dns-a",
            &of_dns(),
            &json!([
                {"name": "dns", "port": 5353, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 5354},
                // Of another protocol than the service's port, and without a number.
                {"name": "metrics", "port": 1, "protocol": "UDP"},
                {"name": "metrics"},
            ]),
            &json!([
                {"addresses": ["10.244.1.2"], "nodeName": NODE},
                {"addresses": ["10.244.2.3"], "conditions": {"ready": false}},
            ]),
        ),
    ];
    assert_eq!(
        shown(&dns(&values)),
        [
            "dns 53/17",
            "  10.244.1.2 5353 rsl",
            "  10.244.2.3 5353 ---",
            "dns-tcp 53/6",
            "  10.244.1.2 5354 rsl",
            "  10.244.2.3 5354 ---",
            "metrics 9153/6",
        ]
    );
}

#[test]
fn a_backend_that_is_in_two_slices_is_one_and_as_good_as_the_better() {
    let ports = json!([{"port": 53}]);
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]});
    let ending = json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    let gone =
        json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false, "serving": false}}]);
    let values = [
        service(&spec),
        slice("a", &of_dns(), &ports, &ending),
        slice("b", &of_dns(), &ports, &gone),
    ];
    assert_eq!(shown(&dns(&values)), [" 53/6", "  10.244.1.2 53 -s-"]);
}

#[test]
fn what_pods_do_not_reach_by_a_clusterip_of_ours_is_no_service() {
    let ports = json!([{"port": 53}]);
    let mut of_other_proxy = service(&json!({"clusterIP": "10.96.0.10", "ports": ports}));
    of_other_proxy["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
    for value in [
        service(&json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports})),
        service(&json!({"type": "ExternalName", "externalName": "example.com"})),
        service(&json!({"ports": ports})),
        of_other_proxy,
    ] {
        assert!(services(std::slice::from_ref(&value)).is_empty(), "{value}");
    }
}

#[test]
fn slices_of_other_services_and_addresses_that_are_no_backend_are_left_out() {
    let ports = json!([{"port": 53}]);
    let here = json!([{"addresses": ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "10.244.1.2", "name"]}]);
    let other = json!([{"addresses": ["10.244.9.9"]}]);
    let of_other = json!({"kubernetes.io/service-name": "web"});
    let headless =
        json!({"kubernetes.io/service-name": "dns", "service.kubernetes.io/headless": ""});
    let values = [
        slice("a", &of_dns(), &ports, &here),
        slice("b", &of_other, &ports, &other),
        slice("c", &headless, &ports, &other),
        slice("d", &json!({}), &ports, &other),
        service(&json!({"clusterIP": "10.96.0.10", "ports": ports})),
    ];
    assert_eq!(shown(&dns(&values)), [" 53/6", "  10.244.1.2 53 rs-"]);
}

#[test]
fn affinity_and_internal_traffic_policy_are_heeded() {
    let ports = json!([{"port": 53}]);
    let with = |more: &Value| {
        let mut spec = json!({"clusterIPs": ["10.96.0.10", "fd00::a"], "ports": ports});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let service = dns(&[service(&spec)]);
        (
            service.affinity,
            service.local_only,
            service.addresses.len(),
        )
    };
    assert_eq!(with(&json!({})), (None, false, 2));
    assert_eq!(
        with(&json!({"sessionAffinity": "ClientIP"})),
        (Some(10_800), false, 2)
    );
    let config = json!({
        "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}},
    });
    assert_eq!(with(&config), (Some(30), true, 2));
}

#[test]
fn what_did_not_change_is_the_same_allocation() {
    let value = service(&json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}));
    let mut world = World::default();
    fill(&mut world, NODE, &[object(&value)]);
    let before = world.services.clone();
    fill(&mut world, NODE, &[object(&value)]);
    assert!(world.services.is_same(&before));
}
