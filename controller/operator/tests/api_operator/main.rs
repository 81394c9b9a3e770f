//! The operator on a real API server.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod definitions;
mod identities;
mod lease;
mod policies;

use std::path::PathBuf;

use kube::Client;
use oxilium_agent::kubernetes::{Component, KubernetesOptions, connect};
use oxilium_agent::metrics::ApiCalls;
use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::require::{Need, require};
use serde_json::Value;
use tokio::runtime::Runtime;

/// One runtime and one client of the shared server.
fn client(runtime: &Runtime, kubeconfig: PathBuf) -> Client {
    let options = KubernetesOptions {
        k8s_kubeconfig_path: Some(kubeconfig),
        k8s_api_server: None,
    };
    let calls = ApiCalls::default();
    let connected = runtime.block_on(connect(Component::Operator, &options, &calls));
    connected.unwrap().client
}

fn shared() -> Option<(&'static ApiServer, Runtime, Client)> {
    require(&[Need::ApiServer]).then(|| {
        let api = ApiServer::shared().unwrap();
        let runtime = Runtime::new().unwrap();
        let client = client(&runtime, api.kubeconfig().to_owned());
        (api, runtime, client)
    })
}

fn json_of(api: &ApiServer, arguments: &[&str]) -> Value {
    let text = api
        .kubectl(&[arguments, &["--output=json"]].concat())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}
