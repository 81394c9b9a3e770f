//! What the operator takes away, and what it puts in place.

use anyhow::Result;
use oxilium_e2e::cluster::LONG;
use oxilium_e2e::wait;

use crate::stage::{AGENTS, Stage, client, say};

const AGENT_NOT_READY: &str = "node.cilium.io/agent-not-ready";
/// The label that says which version of Cilium's schemas a definition has.
const SCHEMA_VERSION: &str = "io.cilium.k8s.crd.schema.version";

/// A CiliumIdentity of labels that no pod has, and a CiliumEndpoint of a pod that is none.
fn orphans(namespace: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: \"65000\"}}\nsecurity-labels: {{\"k8s:app\": \
         nobody, \"k8s:io.kubernetes.pod.namespace\": {namespace}}}\n---\napiVersion: cilium.io/v2\nkind: \
         CiliumEndpoint\nmetadata: {{name: nobody, namespace: {namespace}}}\n"
    )
}

/// Identities and endpoints without users go; those with users stay.
pub(crate) fn unused(stage: &mut Stage<'_>) -> Result<()> {
    let [_] = stage.pods(
        ["somebody"],
        &client("somebody", "app: somebody", &stage.node(0)),
    )?;
    stage.apply(&orphans(&stage.namespace))?;
    let is_there = |arguments: &[&str]| {
        let place = [
            "--namespace",
            &stage.namespace,
            "get",
            "--ignore-not-found",
            "--output=name",
        ];
        Ok::<_, anyhow::Error>(
            !stage
                .cluster
                .kubectl(&[&place[..], arguments].concat())?
                .is_empty(),
        )
    };
    let kept = [["ciliumidentity", "65000"], ["ciliumendpoint", "nobody"]].map(|orphan| {
        let gone = wait::until(orphan[0], LONG, || Ok((!is_there(&orphan)?).then_some(())));
        (orphan[0], gone.is_err())
    });
    let used = is_there(&["ciliumendpoint", "somebody"])?;
    for (kind, kept) in kept {
        stage.compare(
            &format!("a {kind} that nobody uses is there"),
            &false,
            &kept,
        );
    }
    stage.compare("the CiliumEndpoint of a pod is there", &true, &used);
    Ok(())
}

/// A definition of an older version is brought up to date by the next leader.
pub(crate) fn older_definition(stage: &mut Stage<'_>) -> Result<()> {
    const DEFINITION: &str = "ciliumcidrgroups.cilium.io";
    let version = |definition: &serde_json::Value| {
        definition["metadata"]["labels"][SCHEMA_VERSION]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    };
    let get = ["get", "crd", DEFINITION];
    let before = version(&stage.cluster.json(&get)?);
    let older = format!("{SCHEMA_VERSION}=1.0.0");
    stage
        .cluster
        .kubectl(&["label", "crd", DEFINITION, &older, "--overwrite"])?;
    let restart = [
        "--namespace",
        "kube-system",
        "rollout",
        "restart",
        "deployment/cilium-operator",
    ];
    stage.cluster.kubectl(&restart)?;
    stage
        .cluster
        .rolled_out("kube-system", "deployment/cilium-operator")?;
    let mut now = String::new();
    let upgraded = wait::until("the definition to be upgraded", LONG, || {
        now = version(&stage.cluster.json(&get)?);
        Ok((now == before).then_some(()))
    });
    if upgraded.is_err() {
        say("the leader did not write it");
    }
    stage.compare("version of the definition", &before, &now);
    Ok(())
}

/// Pods that need policy wait by a taint for the node's agent, which takes it away.
pub(crate) fn taint(stage: &mut Stage<'_>) -> Result<()> {
    let node = stage.node(1);
    let taint = format!("{AGENT_NOT_READY}=:NoSchedule");
    let agent = stage.cluster.pod_on("kube-system", AGENTS, &node)?;
    stage.cluster.kubectl(&["taint", "node", &node, &taint])?;
    let restart = ["--namespace", "kube-system", "delete", "pod", &agent.name];
    stage.cluster.kubectl(&restart)?;
    stage.cluster.pod_on("kube-system", AGENTS, &node)?;
    let tainted = wait::until("the taint to go", LONG, || {
        let taints = stage.cluster.json(&["get", "node", &node])?["spec"]["taints"].clone();
        Ok((!taints.to_string().contains(AGENT_NOT_READY)).then_some(()))
    })
    .is_err();
    stage.compare("the node has the taint", &false, &tainted);
    Ok(())
}

/// An identity that somebody marked for deletion is used by a new pod all the same, and loses its mark.
pub(crate) fn marked_identity(stage: &mut Stage<'_>) -> Result<()> {
    const NUMBER: &str = "65001";
    const MARK: &str = "io.cilium.heartbeat";
    let namespace = &stage.namespace;
    stage.apply(&format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: \"{NUMBER}\", annotations: {{{MARK}: \
         \"2026-01-01T00:00:00Z\"}}}}\nsecurity-labels:\n  k8s:app: wanted\n  \
         k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: {namespace}\n  \
         k8s:io.cilium.k8s.policy.cluster: default\n  k8s:io.cilium.k8s.policy.serviceaccount: default\n  \
         k8s:io.kubernetes.pod.namespace: {namespace}\n"
    ))?;
    let [_] = stage.pods(["wanted"], &client("wanted", "app: wanted", &stage.node(0)))?;
    let endpoint = ["--namespace", namespace, "get", "ciliumendpoint", "wanted"];
    let endpoint = wait::until("the CiliumEndpoint", LONG, || {
        let endpoint = stage.cluster.json(&endpoint)?;
        Ok((endpoint["status"]["state"] == "ready").then_some(endpoint))
    })?;
    let number = endpoint["status"]["identity"]["id"].to_string();
    stage.compare("identity of the pod", NUMBER, &number);
    let marked = wait::until("the mark to go", LONG, || {
        let identity = stage.cluster.json(&["get", "ciliumidentity", NUMBER])?;
        Ok(identity["metadata"]["annotations"][MARK]
            .is_null()
            .then_some(()))
    })
    .is_err();
    stage.compare("it is marked for deletion", &false, &marked);
    Ok(())
}

/// An agent that starts finds the CiliumEndpoint of another pod where its own pod's belongs, as after a StatefulSet's pod
/// moved: it asks the API server whose it is before it takes it away.
pub(crate) fn former_life(stage: &mut Stage<'_>) -> Result<()> {
    let namespace = stage.namespace.clone();
    let pods = client("former", "app: former", &stage.node(1))
        + &client("next", "app: next", &stage.node(0));
    let [_, next] = stage.pods(["former", "next"], &pods)?;
    let uid = |name: &str| -> Result<String> {
        let get = ["--namespace", &namespace, "get", "pod", name];
        let pod = stage.cluster.json(&get)?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        Ok(uid.to_owned())
    };
    let (wanted, other) = (uid("next")?, uid("former")?);
    let get = ["--namespace", &namespace, "get", "ciliumendpoint", "next"];
    wait::until("its CiliumEndpoint", LONG, || {
        Ok(stage.cluster.json(&get).ok())
    })?;
    let agent = stage.cluster.pod_on("kube-system", AGENTS, &next.node)?;
    // It is gone once its process has ended; the next one's first container puts files in place before it starts.
    let end = ["--namespace", "kube-system", "delete", "pod", &agent.name];
    stage.cluster.kubectl(&[&end[..], &["--wait"]].concat())?;
    let patch = serde_json::json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "former", "uid": other},
    ]}});
    let patch = patch.to_string();
    let place = ["--namespace", &namespace, "patch", "ciliumendpoint", "next"];
    let change = ["--type=merge", "--patch", &patch];
    stage.cluster.kubectl(&[&place[..], &change].concat())?;
    let mut owner = String::new();
    let came = wait::until("its own CiliumEndpoint", LONG, || {
        // For a moment there is none.
        let endpoint = stage.cluster.json(&get)?;
        let owners = &endpoint["metadata"]["ownerReferences"];
        owners[0]["uid"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut owner);
        Ok((owner == wanted).then_some(()))
    });
    if came.is_err() {
        say("the other pod's is still there");
    }
    stage.compare("owner of the CiliumEndpoint", &wanted, &owner);
    Ok(())
}
