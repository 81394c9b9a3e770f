//! The worlds, made up the same at each run.

use serde_json::{Value, json};

/// A world: identities with labels, policies as JSON texts, subjects, and the two edits that are measured.
pub(crate) struct World {
    pub(crate) identities: Vec<(u32, Vec<String>)>,
    pub(crate) policies: Vec<String>,
    pub(crate) subjects: Vec<u32>,
    pub(crate) new_identity: (u32, Vec<String>),
    pub(crate) changed_policy: String,
}

/// A small generator: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(limit)).unwrap()
    }
}

fn labels(namespace: &str, own: &[(&str, String)]) -> Vec<String> {
    let mut labels: Vec<String> = own
        .iter()
        .map(|(key, value)| format!("k8s:{key}={value}"))
        .collect();
    labels.push(format!("k8s:io.kubernetes.pod.namespace={namespace}"));
    labels.push(format!(
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name={namespace}"
    ));
    labels.push("k8s:io.cilium.k8s.policy.cluster=default".into());
    labels.push("k8s:io.cilium.k8s.policy.serviceaccount=default".into());
    labels.sort();
    labels
}

fn policy(namespace: &str, name: &str, spec: &Value) -> String {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    .to_string()
}

fn port(port: u32, protocol: &str) -> Value {
    json!([{"ports": [{"port": port.to_string(), "protocol": protocol}]}])
}

fn admits(subject: &Value, peer: &Value, ports: &Value) -> Value {
    json!({"endpointSelector": {"matchLabels": subject},
        "ingress": [{"fromEndpoints": [{"matchLabels": peer}], "toPorts": ports}]})
}

impl World {
    /// The world of that name.
    pub(crate) fn named(name: &str) -> Self {
        let random = Random(7);
        match name {
            "dense" => Self::dense(random),
            "cluster" => Self::cluster(random),
            _ => Self::nomatch(),
        }
    }

    /// 3,000 policies that all select one subject, 1,000 identities; each policy admits about 10 of them on one port.
    fn dense(mut random: Random) -> Self {
        let identities = (0..1000)
            .map(|i| {
                let own = [
                    ("app", format!("app{i}")),
                    ("group", format!("g{}", i % 100)),
                    ("tier", format!("t{}", i % 7)),
                ];
                (1000 + i, labels("default", &own))
            })
            .collect();
        let app0 = json!({"app": "app0"});
        let policies = (0..3000)
            .map(|n| {
                let group = format!("g{}", random.below(100));
                let spec = admits(
                    &app0,
                    &json!({"group": group}),
                    &port(1000 + n % 500, "TCP"),
                );
                policy("default", &format!("p{n}"), &spec)
            })
            .collect();
        let fresh = [
            ("app", "fresh".into()),
            ("group", "g7".into()),
            ("tier", "t1".into()),
        ];
        Self {
            identities,
            policies,
            subjects: vec![1000],
            new_identity: (5000, labels("default", &fresh)),
            changed_policy: policy(
                "default",
                "p17",
                &admits(&app0, &json!({"group": "g3"}), &port(9999, "TCP")),
            ),
        }
    }

    /// 10,000 identities in 200 namespaces, 1,000 policies of the usual kinds, 100 subjects on the node.
    fn cluster(mut random: Random) -> Self {
        let mut identities = Vec::new();
        for n in 0..200_u32 {
            for a in 0..50_u32 {
                let own = [
                    ("app", format!("app{a}")),
                    ("tier", ["front", "back", "data"][a as usize % 3].into()),
                    ("team", format!("team{}", n % 20)),
                    ("env", ["prod", "dev"][n as usize % 2].into()),
                ];
                identities.push((1000 + n * 50 + a, labels(&format!("ns{n}"), &own)));
            }
        }
        let policies = (0..1000)
            .map(|i| {
                let spec = usual(i / 200, &mut random);
                policy(&format!("ns{}", i % 200), &format!("p{i}"), &spec)
            })
            .collect();
        let fresh = [
            ("app", "fresh".into()),
            ("tier", "front".into()),
            ("team", "team5".into()),
            ("env", "dev".into()),
        ];
        let changed = admits(
            &json!({"tier": "data"}),
            &json!({"tier": "back"}),
            &port(7777, "TCP"),
        );
        Self {
            identities,
            policies,
            subjects: (0..100).map(|k| 1000 + (k * 97) % 10000).collect(),
            new_identity: (60000, labels("ns5", &fresh)),
            changed_policy: policy("ns5", "p805", &changed),
        }
    }

    /// 20,000 policies of which none selects the subject.
    fn nomatch() -> Self {
        let identities = (0..100)
            .map(|i| (1000 + i, labels("default", &[("app", format!("app{i}"))])))
            .collect();
        let policies: Vec<String> = (0..20000)
            .map(|n| {
                let other = json!({"app": format!("other{n}")});
                let peer = json!({"app": format!("app{}", n % 100)});
                policy(
                    "default",
                    &format!("p{n}"),
                    &admits(&other, &peer, &port(1000 + n % 500, "TCP")),
                )
            })
            .collect();
        let changed = admits(
            &json!({"app": "other17"}),
            &json!({"app": "app18"}),
            &port(1017, "TCP"),
        );
        Self {
            identities,
            policies,
            subjects: vec![1000],
            new_identity: (5000, labels("default", &[("app", "fresh".into())])),
            changed_policy: policy("default", "p17", &changed),
        }
    }
}

/// One of the five usual kinds of policy.
fn usual(kind: u32, random: &mut Random) -> Value {
    let app = json!({"matchLabels": {"app": format!("app{}", random.below(50))}});
    let namespace = |n: u32| json!({"k8s:io.kubernetes.pod.namespace": format!("ns{n}")});
    match kind {
        0 => json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}],
            "egress": [{"toEndpoints": [{}]}, {"toEntities": ["kube-apiserver"]},
                {"toEndpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "ns0", "app": "app1"}}], "toPorts": port(53, "ANY")}]}),
        1 => {
            let number = [80, 443, 8080, 9090][random.below(4) as usize];
            admits(
                &json!({"tier": "back"}),
                &json!({"tier": "front"}),
                &port(number, "TCP"),
            )
        }
        2 => {
            let teams = [
                format!("team{}", random.below(20)),
                format!("team{}", random.below(20)),
            ];
            json!({"endpointSelector": app, "ingress": [{"fromEndpoints": [{"matchExpressions": [
                    {"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"},
                    {"key": "team", "operator": "In", "values": teams}]}],
                "toPorts": port(1024 + random.below(3072), "TCP")}]})
        }
        3 => json!({"endpointSelector": app, "egress": [
            {"toCIDRSet": [{"cidr": format!("10.{}.0.0/16", random.below(200))}]},
            {"toEntities": ["world"], "toPorts": port(443, "TCP")}]}),
        _ => {
            let mut denied = namespace(random.below(200));
            denied["env"] = "dev".into();
            json!({"endpointSelector": {"matchLabels": {"tier": "data"}},
                "ingress": [{"fromEndpoints": [{"matchLabels": namespace(random.below(200))}],
                    "toPorts": [{"ports": [{"port": "5000", "endPort": 5999, "protocol": "TCP"}]}]}],
                "ingressDeny": [{"fromEndpoints": [{"matchLabels": denied}]}]})
        }
    }
}
