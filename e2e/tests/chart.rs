//! The chart: what it comes to, what it refuses, and that each of its values does something.

use std::{collections::BTreeSet, fs, process::Command};

use oxilium_e2e::{
    helm,
    require::{Need, require},
};
use serde_json::Value;

fn refused(value: &str) -> String {
    format!("{:#}", helm::render(&[value]).expect_err("it is refused"))
}

#[test]
fn helm_has_nothing_to_say_against_it() {
    if !require(&[Need::Helm]) {
        return;
    }
    let output = Command::new(helm::find().unwrap())
        .args(["lint", "--strict"])
        .arg(helm::chart())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn as_it_is() {
    if !require(&[Need::Helm]) {
        return;
    }
    insta::assert_snapshot!(helm::render(&[]).unwrap());
}

/// As Cilium's documentation installs it behind another plugin: the whole configuration is given.
#[test]
fn with_a_cni_configuration_of_one_s_own() {
    if !require(&[Need::Helm]) {
        return;
    }
    let rendered = helm::render(&[
        "cni.chainingMode=generic-veth",
        "cni.customConf=true",
        "cni.configMap=cni-configuration",
        "cni.uninstall=true",
        "routingMode=native",
        "enableIPv4Masquerade=false",
        "enableIPv6Masquerade=false",
        "operator.enabled=false",
        "securityContext.privileged=true",
        "k8sServiceHost=10.0.0.1",
        "k8sServicePort=6443",
        "policyEnforcementMode=always",
        "labels=k8s:app k8s:!team",
        "image.tag=v1",
    ]);
    insta::assert_snapshot!(rendered.unwrap());
}

#[test]
fn what_is_no_value_or_not_done_is_refused() {
    if !require(&[Need::Helm]) {
        return;
    }
    let cases = [
        ("cni.exlusive=false", "'exlusive' not allowed"),
        (
            "policyEnforcmentMode=always",
            "'policyEnforcmentMode' not allowed",
        ),
        (
            "policyEnforcementMode=sometimes",
            "'default', 'always', 'never'",
        ),
        ("cni.chainingMode=none", "value must be 'generic-veth'"),
        ("hubble.enabled=true", "value must be false"),
        ("encryption.enabled=true", "value must be false"),
        ("hostFirewall.enabled=true", "value must be false"),
        ("policyAuditMode=true", "value must be false"),
        ("kubeProxyReplacement=true", "/kubeProxyReplacement"),
        ("routingMode=tunnel", "value must be 'native'"),
        ("ipv4.enabled=false", "value must be true"),
        ("ipam.mode=cluster-pool", "value must be 'delegated-plugin'"),
        ("endpointRoutes.enabled=true", "value must be false"),
        (
            "agentNotReadyTaintKey=a/b",
            "value must be 'node.cilium.io/agent-not-ready'",
        ),
        ("policyCIDRMatchMode=nodes", "/policyCIDRMatchMode"),
        ("rollOutCiliumPods=false", "value must be true"),
        ("cluster.id=256", "maximum"),
        (
            "operator.identityGCInterval=often",
            "does not match pattern",
        ),
        ("extraConfig.debug=true", "has a value of its own"),
    ];
    for (value, expected) in cases {
        let error = refused(value);
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn with_metrics_for_prometheus_and_its_operator() {
    if !require(&[Need::Helm]) {
        return;
    }
    let rendered = helm::render(&[
        "prometheus.enabled=true",
        "prometheus.port=9964",
        "prometheus.serviceMonitor.enabled=true",
        "prometheus.serviceMonitor.labels.release=monitoring",
        "prometheus.rules.enabled=true",
        "dashboards.enabled=true",
        "dashboards.namespace=monitoring",
    ])
    .unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    let of_kind = |kind: &'static str| {
        documents
            .iter()
            .filter(move |document| document["kind"] == kind)
    };
    let config = of_kind("ConfigMap").find(|map| map["metadata"]["name"] == "cilium-config");
    assert_eq!(config.unwrap()["data"]["prometheus-serve-addr"], ":9964");
    let monitor = of_kind("ServiceMonitor").next().unwrap();
    assert_eq!(monitor["metadata"]["labels"]["release"], "monitoring");
    let daemon_set = &of_kind("DaemonSet").next().unwrap()["spec"]["template"];
    let annotations = daemon_set["metadata"]["annotations"].as_object().unwrap();
    assert!(
        !annotations.contains_key("prometheus.io/scrape"),
        "two ways would count twice"
    );
    let rules = of_kind("PrometheusRule").next().unwrap();
    let alerts = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert!(
        alerts.iter().all(|alert| alert["alert"].is_string()),
        "{alerts:?}"
    );
    let dashboard = of_kind("ConfigMap").find(|map| map["metadata"]["name"] == "cilium-dashboard");
    let dashboard = dashboard.unwrap()["data"]["cilium-dashboard.json"]
        .as_str()
        .unwrap();
    serde_json::from_str::<Value>(dashboard).unwrap();
    let service = of_kind("Service").find(|service| service["metadata"]["name"] == "cilium-agent");
    assert_eq!(service.unwrap()["spec"]["clusterIP"], "None");
}

/// Words of a text that look like names of metrics.
fn metric_names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            ["cilium_", "oxilium_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .map(|word| word.trim_end_matches("_bucket"))
        .collect()
}

#[test]
fn alerts_and_dashboard_speak_of_metrics_that_there_are() {
    let chart = helm::chart();
    let documented = fs::read_to_string(chart.join("../../docs/metrics.md")).unwrap();
    let documented = metric_names(&documented);
    for file in ["files/alerts.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(chart.join(file)).unwrap();
        let used = metric_names(&text);
        assert!(!used.is_empty(), "{file}");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

/// Dotted names of all values; an empty map or a list is a value, too.
fn leaves(value: &Value, name: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                leaves(value, &name, into);
            }
        }
        _ => {
            into.insert(name.to_owned());
        }
    }
}

/// The schema of a dotted name.
fn schema_of<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let mut at = schema;
    for part in name.split('.') {
        match at.get("properties") {
            Some(properties) => at = properties.get(part)?,
            // A map of which the schema does not know the keys.
            None => return (at["type"] == "object").then_some(at),
        }
    }
    Some(at)
}

#[test]
fn each_value_is_in_the_schema_and_does_something_or_can_only_be_what_is_done() {
    if !require(&[Need::Helm]) {
        return;
    }
    let chart = helm::chart();
    let schema = fs::read_to_string(chart.join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let mut templates = String::new();
    for folder in [
        "templates",
        "templates/agent",
        "templates/monitoring",
        "templates/operator",
    ] {
        for entry in fs::read_dir(chart.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                templates.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut names = BTreeSet::new();
    leaves(&values, "", &mut names);
    for name in names {
        let schema = schema_of(&schema, &name);
        let schema = schema.unwrap_or_else(|| panic!("{name} is not in values.schema.json"));
        let fixed = schema.get("const").is_some() || schema.get("description").is_some();
        // A map may be taken as a whole.
        let mut part = Some(name.as_str());
        let mut used = false;
        while let Some(name) = part {
            used |= templates
                .split(&format!(".Values.{name}"))
                .skip(1)
                .any(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '.'));
            part = name.rsplit_once('.').map(|(whole, _)| whole);
        }
        assert!(used || fixed, "{name} is used by no template");
    }
}

/// For people without helm: `OXILIUM_UPDATE_DEPLOY=1 cargo test -p oxilium-e2e --test chart` writes it.
#[test]
fn the_manifest_for_kubectl_is_what_the_chart_comes_to() {
    if !require(&[Need::Helm]) {
        return;
    }
    let path = helm::chart().join("../../examples/install/oxilium.yaml");
    let head = "# What charts/oxilium comes to with its own values: `kubectl apply -f` installs it in kube-system.\n";
    let rendered = format!("{head}{}", helm::render(&[]).unwrap());
    if std::env::var_os("OXILIUM_UPDATE_DEPLOY").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &rendered).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert!(
        written == rendered,
        "{} is stale: OXILIUM_UPDATE_DEPLOY=1 cargo test -p oxilium-e2e --test chart",
        path.display()
    );
}
