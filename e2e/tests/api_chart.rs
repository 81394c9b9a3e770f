//! The chart on a real API server: every object is admitted as it is, no field unknown.

use oxilium_e2e::{
    apiserver::ApiServer,
    helm,
    require::{Need, require},
};

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
