//! The API server that the tests share, with the definitions.

use std::sync::OnceLock;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::require::{Need, require};
use serde_json::Value;

/// The shared server, with every definition established; none where the machine has none, which has been said then.
pub(crate) fn server() -> Option<&'static ApiServer> {
    static DEFINED: OnceLock<()> = OnceLock::new();
    if !require(&[Need::ApiServer]) {
        return None;
    }
    let api = ApiServer::shared().unwrap();
    DEFINED.get_or_init(|| {
        api.define().unwrap();
        api.namespace("vectors").unwrap();
    });
    Some(api)
}

/// A client of it, as its administrator.
pub(crate) async fn client(api: &ApiServer) -> Client {
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Where objects of a kind are, in the namespace `vectors` if they have one.
pub(crate) fn collection(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "CiliumNetworkPolicy" => "/apis/cilium.io/v2/namespaces/vectors/ciliumnetworkpolicies",
        "CiliumClusterwideNetworkPolicy" => "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies",
        "CiliumCIDRGroup" => "/apis/cilium.io/v2/ciliumcidrgroups",
        "NetworkPolicy" => "/apis/networking.k8s.io/v1/namespaces/vectors/networkpolicies",
        _ => return None,
    })
}

/// What the server says of creating `object`, which it does not do: unknown fields are errors. None: nothing against it.
pub(crate) async fn refusal(client: &Client, object: &Value) -> Option<String> {
    let kind = object["kind"].as_str().unwrap();
    let path = collection(kind).unwrap();
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if path.contains("/namespaces/") {
            metadata.insert("namespace".to_owned(), "vectors".into());
        } else {
            metadata.remove("namespace");
        }
    }
    let request = Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(&object).unwrap())
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Some(status.message),
        Err(error) => panic!("{kind}: {error}"),
    }
}
