//! What the server takes away of an object before anybody sees it, and how that is noticed.

use oxilium_e2e::apiserver::ApiServer;
use oxilium_e2e::wait;
use oxilium_manifest::pruned;
use oxilium_manifest::tree::Node;

use crate::server::server;

fn found(api: &ApiServer, namespace: &str, name: &str) -> Vec<String> {
    let text = api
        .kubectl(&[
            "-n",
            namespace,
            "get",
            "cnp",
            name,
            "-o",
            "json",
            "--show-managed-fields",
        ])
        .unwrap();
    let object = Node::from_json(&serde_json::from_str(&text).unwrap());
    let found = pruned::fields(&object);
    found.iter().map(ToString::to_string).collect()
}

fn policy(namespace: &str, rule: &str) -> String {
    format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, namespace: {namespace}}}, \
         spec: {{endpointSelector: {{}}, description: d, ingress: [{rule}]}}}}"
    )
}

#[test]
fn a_field_that_the_server_does_not_know_is_named() {
    let Some(api) = server() else { return };
    api.namespace("pruned").unwrap();
    let typo = policy(
        "pruned",
        "{fromEndpoint: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: '80'}]}]}",
    );
    let refused = format!("{:#}", api.apply(&typo).unwrap_err());
    assert!(
        refused.contains("unknown field \"spec.ingress[0].fromEndpoint\""),
        "{refused}"
    );
    api.kubectl_with(&["apply", "--validate=ignore", "-f", "-"], &typo)
        .unwrap();
    assert_eq!(
        found(api, "pruned", "p"),
        ["spec.ingress[0].fromEndpoint was applied and is not in the object"]
    );
    // A label is no reason to forget it; the field put right is.
    api.kubectl(&["-n", "pruned", "label", "cnp", "p", "a=b"])
        .unwrap();
    assert_eq!(found(api, "pruned", "p").len(), 1);
    api.apply(&policy(
        "pruned",
        "{fromEndpoints: [{matchLabels: {app: web}}]}",
    ))
    .unwrap();
    assert!(found(api, "pruned", "p").is_empty());
}

#[test]
fn a_field_that_an_older_definition_lacks_is_named() {
    if server().is_none() {
        return;
    }
    // Its own server: the definition changes.
    let api = ApiServer::start().unwrap();
    api.define().unwrap();
    let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    api.kubectl_with(&apply, &policy("default", "{}")).unwrap();
    assert!(found(&api, "default", "p").is_empty());
    api.kubectl(&[
        "patch", "crd", "ciliumnetworkpolicies.cilium.io", "--type=json",
        r#"--patch=[{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/description"}]"#,
    ])
    .unwrap();
    wait::until("the definition is in force", wait::LONG, || {
        let found = found(&api, "default", "p");
        Ok((!found.is_empty()).then_some(found))
    })
    .map(|found| assert_eq!(found, ["spec.description was set and is not in the object"]))
    .unwrap();
}
