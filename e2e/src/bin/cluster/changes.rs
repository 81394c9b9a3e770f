//! What changes while pods run or start.

use anyhow::Result;
use oxilium_e2e::cluster::{LONG, Verdict};
use oxilium_e2e::wait;

use crate::stage::{AGENTS, MULTITOOL, Stage, client, say, server};

/// Takes traffic on port 80 from pods that `peer` selects, and nothing else.
fn ingress_from(name: &str, peer: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {{{peer}}}\n    toPorts:\n    \
         - ports: [{{port: \"80\", protocol: TCP}}]\n"
    )
}

/// A pod whose first act is a request; it goes on asking, and writes down the number of each request that is over.
fn eager_pod(name: &str, node: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{role: eager}}}}\nspec:\n  nodeName: \
         {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {MULTITOOL}\n    \
         imagePullPolicy: IfNotPresent\n    command: [sh, -c, \"n=0; while true; do curl -s -o /dev/null \
         --connect-timeout 1 -m 2 http://{address}/{name}/$n; echo $n; n=$((n+1)); sleep 0.2; done\"]\n"
    )
}

/// A policy comes while pods start: those that begin once every agent knows it get no packet past it, and those that were
/// there before get none any more.
pub(crate) fn before_the_first_packet(stage: &mut Stage<'_>) -> Result<()> {
    const EACH: usize = 8;
    const SILENT: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: silent}\nspec:\n  \
                          endpointSelector: {matchLabels: {role: eager}}\n  egress: [{}]\n";
    let pods = server("target", "app: target", &stage.node(0))
        + &client("free", "app: free", &stage.node(1));
    let [target, free] = stage.pods(["target", "free"], &pods)?;
    let early: Vec<String> = (0..EACH).map(|number| format!("early-{number}")).collect();
    let late: Vec<String> = (0..EACH).map(|number| format!("late-{number}")).collect();
    let manifest = |names: &[String]| -> String {
        let pod = |(number, name): (usize, &String)| {
            eager_pod(name, &stage.node(number), &target.address)
        };
        names.iter().enumerate().map(pod).collect()
    };
    say(
        "Pods labelled role=eager begin with a request; while they start it is said that they may send nothing.",
    );
    stage.apply(&manifest(&early))?;
    let address = target.address.clone();
    wait::until("the first request of an eager pod", LONG, || {
        let log = log_of(stage, "target")?;
        Ok(log.contains("GET /early-").then_some(()))
    })?;
    stage.apply(SILENT)?;
    for agent in stage.cluster.ready_pods("kube-system", AGENTS)? {
        wait::until(&format!("{agent} to know the policy"), LONG, || {
            let policies = agent.exec(stage.cluster, &["oxilium", "policy", "get"])?.1;
            let has = |line: &str, word: &str| line.split_whitespace().any(|other| other == word);
            let is = |line: &str| has(line, &stage.namespace) && has(line, "silent");
            Ok(policies.lines().any(is).then_some(()))
        })?;
    }
    stage.apply(&manifest(&late))?;
    let mark = |number: usize| -> Result<()> {
        let url = format!("{address}/marker-{number}");
        let status = free
            .exec(stage.cluster, &["curl", "-s", "-m", "3", &url])?
            .0;
        anyhow::ensure!(
            status == 0,
            "the free pod gets no answer: curl says {status}"
        );
        Ok(())
    };
    // Each has begun a request, and ended it, that it began after all agents had applied the policy.
    let two_more = |names: &[String]| -> Result<()> {
        let mut before = Vec::new();
        for name in names {
            let asked = wait::until(&format!("{name} to ask"), LONG, || {
                let asked = log_of(stage, name).unwrap_or_default().lines().count();
                Ok((asked > 0).then_some(asked))
            })?;
            before.push(asked);
        }
        for (name, before) in names.iter().zip(before) {
            wait::until(&format!("{name} to ask again"), LONG, || {
                Ok((log_of(stage, name)?.lines().count() >= before + 2).then_some(()))
            })?;
        }
        Ok(())
    };
    two_more(&late)?;
    mark(1)?;
    two_more(&early)?;
    mark(2)?;
    let log = log_of(stage, "target")?;
    let position = |text: &str| log.lines().position(|line| line.contains(text));
    let marks = [position("GET /marker-1"), position("GET /marker-2")];
    let [Some(first), Some(second)] = marks else {
        anyhow::bail!("the free pod's requests are not in the log:\n{log}");
    };
    let count = |from, to, text: &str| {
        let lines = log.lines().skip(from).take(to - from);
        lines.filter(|line| line.contains(text)).count()
    };
    say(&format!(
        "requests that came before the policy: {}",
        count(0, first, "GET /early-")
    ));
    stage.compare(
        "requests of pods that began after it",
        &0,
        &count(0, second, "GET /late-"),
    );
    stage.compare(
        "requests, once it is enforced, of those that began before",
        &0,
        &count(first, second, "GET /early-"),
    );
    stage.delete(SILENT)?;
    let ask = ["curl", "-s", "-o", "/dev/null", "-m", "1", &address];
    wait::until("a late pod to get through without the policy", LONG, || {
        let pods = stage.cluster.ready_pods(&stage.namespace, "role=eager")?;
        let Some(pod) = pods.iter().find(|pod| pod.name == late[0]) else {
            return Ok(None);
        };
        Ok((pod.exec(stage.cluster, &ask)?.0 == 0).then_some(()))
    })
}

fn log_of(stage: &Stage<'_>, pod: &str) -> Result<String> {
    let logs = ["--namespace", &stage.namespace, "logs", pod];
    stage.cluster.kubectl(&logs)
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
