//! What changes while pods run or start.

use anyhow::Result;
use oxilium_e2e::cluster::{LONG, Verdict};

use crate::stage::{MULTITOOL, Stage, client, say, server};

/// Takes traffic on port 80 from pods that `peer` selects, and nothing else.
fn ingress_from(name: &str, peer: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{{peer}}}\n    toPorts:\n    \
         - ports: [{{port: \"80\", protocol: TCP}}]\n"
    )
}

/// A pod whose first act is a request.
fn eager_pod(number: usize, node: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: eager-{number}, labels: {{role: eager}}}}\nspec:\n  nodeName: \
         {node}\n  restartPolicy: Never\n  containers:\n  - name: main\n    image: {MULTITOOL}\n    imagePullPolicy: \
         IfNotPresent\n    command: [sh, -c, \"curl -s -m 2 http://{address}/eager; true\"]\n"
    )
}

/// A pod that starts under a policy does not get a single packet past it.
pub(crate) fn before_the_first_packet(stage: &mut Stage<'_>) -> Result<()> {
    const PODS: usize = 12;
    let [target] = stage.pods(["target"], &server("target", "app: target", &stage.node(0)))?;
    say("Pods labelled role=eager may send nothing; each begins with a request.");
    stage.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: silent}\nspec:\n  endpointSelector: \
         {matchLabels: {role: eager}}\n  egress: [{}]\n",
    )?;
    let eager: String = (0..PODS)
        .map(|number| eager_pod(number, &stage.node(number), &target.address))
        .collect();
    stage.apply(&eager)?;
    let limit = format!("--timeout={}s", LONG.as_secs());
    let wait = [
        "--namespace",
        &stage.namespace,
        "wait",
        "pod",
        "--selector=role=eager",
    ];
    let succeeded = ["--for=jsonpath={.status.phase}=Succeeded", &limit];
    stage.cluster.kubectl(&[&wait[..], &succeeded].concat())?;

    let [free] = stage.pods(["free"], &client("free", "app: free", &stage.node(1)))?;
    let marker = format!("{}/marker", target.address);
    let marked = free
        .exec(stage.cluster, &["curl", "-s", "-m", "3", &marker])?
        .0;
    stage.compare("a pod without policy gets through", &0, &marked);
    let log = stage
        .cluster
        .kubectl(&["--namespace", &stage.namespace, "logs", "target"])?;
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    stage.compare(
        "requests of the free pod in the log",
        &1,
        &count("GET /marker"),
    );
    stage.compare(
        "requests of eager pods in the log",
        &0,
        &count("GET /eager"),
    );
    Ok(())
}

/// A pod's label changes while it runs, and with it what it may do.
pub(crate) fn pod_labels(stage: &mut Stage<'_>) -> Result<()> {
    let pods =
        server("web", "app: web", &stage.node(0)) + &client("asker", "app: asker", &stage.node(1));
    let [web, asker] = stage.pods(["web", "asker"], &pods)?;
    stage.apply(&ingress_from("friends", "role: friend"))?;
    let curl = |cluster: &_| asker.curl(cluster, &web.address, 80);
    stage.becomes("a stranger", Verdict::Dropped, curl)?;
    let label = |change| {
        [
            "--namespace",
            &stage.namespace,
            "label",
            "pod",
            "asker",
            change,
        ]
    };
    stage.cluster.kubectl(&label("role=friend"))?;
    stage.becomes("labelled role=friend", Verdict::Works, curl)?;
    let label = [
        "--namespace",
        &stage.namespace,
        "label",
        "pod",
        "asker",
        "role-",
    ];
    stage.cluster.kubectl(&label)?;
    stage.becomes("without the label again", Verdict::Dropped, curl)
}

/// The labels of a namespace are labels of its pods.
pub(crate) fn namespace_labels(stage: &mut Stage<'_>) -> Result<()> {
    let pods =
        server("web", "app: web", &stage.node(0)) + &client("asker", "app: asker", &stage.node(1));
    let [web, asker] = stage.pods(["web", "asker"], &pods)?;
    stage.apply(&ingress_from(
        "team",
        "\"k8s:io.cilium.k8s.namespace.labels.team\": blue",
    ))?;
    let curl = |cluster: &_| asker.curl(cluster, &web.address, 80);
    stage.becomes("in a namespace without the label", Verdict::Dropped, curl)?;
    stage
        .cluster
        .kubectl(&["label", "namespace", &stage.namespace, "team=blue"])?;
    stage.becomes("in a namespace labelled team=blue", Verdict::Works, curl)?;
    stage
        .cluster
        .kubectl(&["label", "namespace", &stage.namespace, "team-"])?;
    stage.becomes("without the label again", Verdict::Dropped, curl)
}

/// Egress policy names pods; a pod reaches them by their services' addresses and names.
pub(crate) fn cluster_ip(stage: &mut Stage<'_>) -> Result<()> {
    let pods = server("web", "app: web", &stage.node(0))
        + &server("other", "app: other", &stage.node(0))
        + &client("asker", "app: asker", &stage.node(1));
    let [_, _, asker] = stage.pods(["web", "other", "asker"], &pods)?;
    let mut addresses = Vec::new();
    for name in ["web", "other"] {
        stage.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  \
             ports: [{{port: 80}}]\n"
        ))?;
        let service = ["--namespace", &stage.namespace, "get", "service", name];
        let service = stage.cluster.json(&service)?;
        addresses.push(
            service["spec"]["clusterIP"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    for address in &addresses {
        stage.becomes("no policy", Verdict::Works, |cluster| {
            asker.curl(cluster, address, 80)
        })?;
    }
    say("asker may ask kube-dns, and send to app=web");
    stage.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: narrow}\nspec:\n  endpointSelector: \
         {matchLabels: {app: asker}}\n  egress:\n  - toEndpoints: [{matchLabels: {app: web}}]\n  - toEndpoints:\n    \
         - matchLabels: {\"k8s:io.kubernetes.pod.namespace\": kube-system, k8s-app: kube-dns}\n    toPorts:\n    \
         - ports: [{port: \"53\", protocol: ANY}]\n",
    )?;
    stage.becomes("the other service", Verdict::Dropped, |cluster| {
        asker.curl(cluster, &addresses[1], 80)
    })?;
    stage.is("its own service by address", Verdict::Works, |cluster| {
        asker.curl(cluster, &addresses[0], 80)
    })?;
    let name = format!("web.{}.svc.cluster.local", stage.namespace);
    stage.is("its own service by name", Verdict::Works, |cluster| {
        asker.curl(cluster, &name, 80)
    })
}
