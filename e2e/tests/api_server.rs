//! The API server that other tests stand on.

use oxilium_e2e::{
    apiserver::ApiServer,
    require::{Need, require},
};

const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: accounts}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads, namespace: accounts}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads}
subjects:
- {kind: ServiceAccount, name: reader, namespace: accounts}
";

#[test]
fn a_service_account_may_do_what_its_role_says() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::shared().unwrap();
    api.namespace("accounts").unwrap();
    let config = api.service_account("accounts", "reader").unwrap();
    let config = config.to_str().unwrap();
    let list = [
        "-n",
        "accounts",
        "get",
        "configmaps",
        "--kubeconfig",
        config,
    ];
    let refused = format!("{:#}", api.kubectl(&list).unwrap_err());
    assert!(
        refused.contains("system:serviceaccount:accounts:reader"),
        "{refused}"
    );
    api.apply(ROLE).unwrap();
    api.kubectl(&list).unwrap();
    let create = [
        "-n",
        "accounts",
        "create",
        "configmap",
        "a",
        "--kubeconfig",
        config,
    ];
    assert!(api.kubectl(&create).is_err());
}

#[test]
fn a_pod_is_as_the_test_writes_it() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let api = ApiServer::shared().unwrap();
    api.namespace("pods").unwrap();
    api.apply("{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: pods}, spec: {containers: [{name: c, image: i}]}}")
        .unwrap();
    api.kubectl(&[
        "-n", "pods", "patch", "pod", "web", "--subresource=status",
        "--patch={\"status\": {\"phase\": \"Running\", \"podIP\": \"192.0.2.1\", \"podIPs\": [{\"ip\": \"192.0.2.1\"}]}}",
    ])
    .unwrap();
    let shown = api
        .kubectl(&["-n", "pods", "get", "pod", "web", "-o", "wide"])
        .unwrap();
    assert!(shown.contains("192.0.2.1"), "{shown}");
}

#[test]
fn what_a_stopped_server_stored_is_there_when_it_comes_back() {
    if !require(&[Need::ApiServer]) {
        return;
    }
    let mut api = ApiServer::start().unwrap();
    api.kubectl(&["create", "configmap", "kept"]).unwrap();
    api.stop().unwrap();
    assert!(api.kubectl(&["get", "configmaps"]).is_err());
    api.resume().unwrap();
    api.kubectl(&["get", "configmap", "kept"]).unwrap();
}
