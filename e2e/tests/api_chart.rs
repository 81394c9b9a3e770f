//! The chart on a real API server: every object is admitted as it is, no field unknown.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use oxilium_e2e::{
    apiserver::ApiServer,
    helm,
    require::{Need, require},
};
use serde_json::Value;

#[test]
fn an_api_server_admits_what_the_chart_comes_to() {
    if !require(&[Need::Helm, Need::ApiServer]) {
        return;
    }
    let api = ApiServer::shared().unwrap();
    let variants = [
        &[][..],
        &[
            "cni.customConf=true",
            "cni.configMap=cni-configuration",
            "cni.uninstall=true",
            "securityContext.privileged=true",
            "k8sServiceHost=10.0.0.1",
            "k8sServicePort=6443",
        ],
    ];
    for values in variants {
        let manifests = helm::render(values).unwrap();
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let told = api.kubectl_with(&apply, &manifests).unwrap();
        for object in [
            "daemonset.apps/cilium created",
            "deployment.apps/cilium-operator created",
            "configmap/cilium-config created",
            "serviceaccount/cilium created",
        ] {
            assert!(told.contains(object), "{told}");
        }
    }
}

/// One that is the test's alone: somebody's cluster may run what this would replace and take away.
fn own_server() -> Option<ApiServer> {
    if !require(&[Need::Helm, Need::ApiServer]) {
        return None;
    }
    let api = ApiServer::start().unwrap();
    api.signal(Signal::SIGCONT).is_ok().then_some(api)
}

/// Those of the objects in a manifest that the server has, as `kubectl -o name` calls them.
fn present(api: &ApiServer, manifest: &str) -> BTreeSet<String> {
    let get = ["get", "--ignore-not-found", "-o", "name", "-f", "-"];
    let names = api.kubectl_with(&get, manifest).unwrap();
    names.lines().map(str::to_owned).collect()
}

fn is_operators(name: &str) -> bool {
    name.ends_with("/cilium-operator")
}

/// The key `enable-policy` of the ConfigMap, and what starts the agents anew.
fn configured(api: &ApiServer) -> (Value, Value) {
    let get = |what: &str| {
        let get = ["-n", "kube-system", "get", what, "-o", "json"];
        serde_json::from_str::<Value>(&api.kubectl(&get).unwrap()).unwrap()
    };
    let template = get("daemonset/cilium")["spec"]["template"]["metadata"].take();
    (
        get("configmap/cilium-config")["data"]["enable-policy"].take(),
        template["annotations"]["oxilium.io/configuration"].clone(),
    )
}

/// There are no controllers: what helm does to the objects is what is seen, no pod ever runs.
#[test]
fn helm_installs_upgrades_and_uninstalls() {
    let Some(api) = own_server() else { return };
    let chart = helm::chart();
    let chart = chart.to_str().unwrap();
    let helm = |args: &[&str]| helm::on(&api, args).unwrap();

    helm(&["install", "oxilium", chart]);
    let manifest = helm(&["get", "manifest", "oxilium"]);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&manifest).unwrap();
    let installed = present(&api, &manifest);
    assert_eq!(installed.len(), documents.len(), "{installed:?}");
    assert!(installed.iter().any(|name| is_operators(name)));
    let (policy, start) = configured(&api);
    assert_eq!(policy, "default");
    let notes = helm(&["get", "notes", "oxilium"]);

    helm(&[
        "upgrade",
        "oxilium",
        chart,
        "--set=policyEnforcementMode=always,operator.enabled=false,cni.customConf=true,cni.uninstall=true",
    ]);
    let (policy, start_anew) = configured(&api);
    assert_eq!(policy, "always");
    assert_ne!(
        start_anew, start,
        "agents read the ConfigMap when they start"
    );
    let upgraded = present(&api, &manifest);
    let gone: BTreeSet<_> = installed.difference(&upgraded).cloned().collect();
    let operators = installed.iter().filter(|name| is_operators(name));
    assert_eq!(gone, operators.cloned().collect());
    let notes_then = helm(&["get", "notes", "oxilium"]);
    insta::assert_snapshot!("notes", format!("{notes}\n----\n{notes_then}"));

    helm(&["uninstall", "oxilium"]);
    assert_eq!(present(&api, &manifest), BTreeSet::new());
}

/// Whoever may change any definition may take every object of a cluster away.
#[test]
fn definitions_that_are_not_ours_are_out_of_reach() {
    let Some(api) = own_server() else { return };
    api.apply(&helm::render(&[]).unwrap()).unwrap();
    let may = |account: &str, verb: &str, name: &str| {
        let output = api
            .kubectl_command()
            .args(["auth", "can-i", verb])
            .arg(format!("customresourcedefinitions/{name}"))
            .arg(format!("--as=system:serviceaccount:kube-system:{account}"))
            .output()
            .unwrap();
        output.status.success()
    };
    let (ours, theirs) = ("ciliumnetworkpolicies.cilium.io", "widgets.example.com");
    for (account, verb, name, expected) in [
        ("cilium", "get", ours, true),
        ("cilium", "watch", ours, true),
        ("cilium", "update", ours, false),
        ("cilium", "get", theirs, false),
        ("cilium-operator", "update", ours, true),
        ("cilium-operator", "delete", ours, false),
        ("cilium-operator", "get", theirs, false),
        ("cilium-operator", "update", theirs, false),
    ] {
        assert_eq!(
            may(account, verb, name),
            expected,
            "{account} {verb} {name}"
        );
    }
    // As the agent asks: a field selector counts as the name.
    let watch = |name: &str| {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let query = format!("?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3D{name}");
        let account = "--as=system:serviceaccount:kube-system:cilium";
        api.kubectl(&["get", account, "--raw", &format!("{path}{query}")])
    };
    watch(ours).unwrap();
    let error = format!("{:#}", watch(theirs).unwrap_err());
    assert!(error.contains("forbidden"), "{error}");
}
