//! On a cluster: `kubectl apply` until the kernel enforces, beside the API server's own share; pods in a burst.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use oxilium_e2e::{
    cluster::{Cluster, LONG, Spot},
    process, wait,
};
use serde_json::Value;

use crate::{
    change::Published,
    cni::life,
    figures::{Pairs, Samples},
    report::{Goal, Line, Unit},
};

const NAMESPACE: &str = "bench-cluster";
const AGENTS: &str = "k8s-app=cilium";
/// An image that starts at once and that every node has.
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// A namespace of the bench's own; what an earlier run left goes first.
fn set(cluster: &Cluster) -> Result<()> {
    clear(cluster)?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    let account = ["--namespace", NAMESPACE, "get", "serviceaccount", "default"];
    wait::until("the default service account", LONG, || {
        let found = cluster.try_kubectl(&account)?.status.success();
        Ok(found.then_some(()))
    })
}

/// Without patience for what the pods might still do.
fn clear(cluster: &Cluster) -> Result<()> {
    let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found"];
    cluster.kubectl(&delete).map(drop)
}

fn pods(node: &str, prefix: &str, count: usize) -> String {
    let pod = |number: usize| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {prefix}-{number}, labels: {{app: bench}}}}\nspec:\n  \
             nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  automountServiceAccountToken: false\n  \
             containers:\n  - {{name: main, image: \"{PAUSE}\", imagePullPolicy: Never}}\n"
        )
    };
    (0..count).map(pod).collect()
}

fn until_ready(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until(&format!("{count} ready pods"), LONG * 5, || {
        let ready = cluster.ready_pods(NAMESPACE, "app=bench")?.len();
        Ok((ready >= count).then_some(()))
    })
}

/// A policy over the bench's pods; each number another port.
fn policy(number: usize) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: bench, namespace: {NAMESPACE}}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: bench}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: \
         bench}}}}]\n    toPorts: [{{ports: [{{port: \"{}\", protocol: TCP}}]}}]\n",
        1000 + number
    )
}

/// A client that does nothing but watch the policies of the namespace: curl, which passes on what comes.
struct Watch {
    curl: Child,
    seen: Receiver<Instant>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Result<Self> {
        let path = format!(
            "/apis/cilium.io/v2/namespaces/{NAMESPACE}/ciliumnetworkpolicies?watch=1&resourceVersion=0"
        );
        let mut curl = cluster
            .script("watch")?
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the watch")?;
        let lines = BufReader::new(curl.stdout.take().context("the watch has no output")?);
        let (tell, seen) = channel();
        thread::spawn(move || {
            for line in lines.lines() {
                // Either side ends with the bench.
                if line.is_err() || tell.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { curl, seen })
    }

    /// When the first event after `began` came. What came before is of an earlier change: its condition, for one, which the
    /// operator writes.
    fn next(&self, began: Instant) -> Result<Instant> {
        loop {
            let seen = self.seen.recv_timeout(LONG);
            let seen = seen.context("the watch shows no event")?;
            if seen >= began {
                return Ok(seen);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.curl.kill());
        drop(self.curl.wait());
    }
}

/// The BPF file system that the agent of a node pins in, as this process sees it.
fn bpf_root(cluster: &Cluster, node: &str) -> Result<PathBuf> {
    let number = node.trim_start_matches('n');
    let pid = process::run(cluster.script("node-pid")?.arg(number))?;
    // proc(5): the root of a process, its mounts included.
    let root = Path::new("/proc").join(pid.trim()).join("root");
    Ok(root.join("sys/fs/bpf"))
}

/// When the programs of a node were first seen to judge by another revision than `before`.
fn published(node: &Published, before: u64) -> Result<Instant> {
    let deadline = Instant::now() + LONG;
    while node.get()? <= before {
        anyhow::ensure!(Instant::now() < deadline, "not enforced within {LONG:?}");
        // Other than a yield it leaves the CPUs to those who are measured; a part of a millisecond is all it adds.
        thread::sleep(Duration::from_micros(100));
    }
    Ok(Instant::now())
}

/// Applies a policy `changes` times.
///
/// # Errors
/// If the cluster is not this machine's own, or something fails.
pub fn change(cluster: &Cluster, changes: usize) -> Result<Vec<Line>> {
    set(cluster)?;
    let node = cluster.nodes()?.into_iter().next().context("no node")?;
    cluster.apply(NAMESPACE, &pods(&node, "changed", 10))?;
    until_ready(cluster, 10)?;
    let words = Published::open(&bpf_root(cluster, &node)?)?;
    // Pods have come: what still follows of that would be taken for a change.
    quiet(&words)?;
    let watch = Watch::start(cluster)?;
    let (mut server, mut whole, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..changes {
        let before = words.get()?;
        let began = Instant::now();
        let (applied, enforced) = thread::scope(|scope| -> Result<_> {
            let enforced = scope.spawn(|| published(&words, before));
            let applied = cluster.apply(NAMESPACE, &policy(number));
            let enforced = enforced
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            Ok((applied, enforced))
        })?;
        applied?;
        let (seen, enforced) = (watch.next(began)?, enforced?);
        let seconds = |moment: Instant| moment.duration_since(began).as_secs_f64();
        server.push(seconds(seen));
        whole.push(seconds(enforced));
        ours.push(seconds(enforced) - seconds(seen));
        quiet(&words)?;
    }
    let pairs: Vec<_> = whole.iter().copied().zip(server.iter().copied()).collect();
    let pairs = Pairs::new(&pairs).context("nothing was changed")?;
    let ours = Samples::new(ours).context("nothing was changed")?;
    clear(cluster)?;
    let figures = |samples: &Samples| format!("P99 {}", Unit::Seconds.show(samples.percentile(99)));
    Ok(vec![
        Line::absolute(
            "kubectl apply → a plain client's watch",
            pairs.baseline.median(),
            Unit::Seconds,
            &figures(&pairs.baseline),
            None,
        ),
        Line::absolute(
            "kubectl apply → published to the programs",
            pairs.subject.median(),
            Unit::Seconds,
            &figures(&pairs.subject),
            None,
        ),
        Line::ratio("the second to the first", &pairs, Unit::Seconds, None),
        Line::absolute(
            "the second less the first, P99",
            ours.percentile(99),
            Unit::Seconds,
            &format!("median {}", Unit::Seconds.show(ours.median())),
            Some(Goal::AtMost(0.020)),
        ),
    ])
}

/// Waits until nothing has been published for a second.
fn quiet(words: &Published) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(1);
    let (mut last, mut since) = (words.get()?, Instant::now());
    wait::until("no more news of pods", LONG, || {
        let now = words.get()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= QUIET).then_some(()))
    })
}

/// Starts `count` pods on one node at once.
///
/// # Errors
/// If something fails.
pub fn burst(cluster: &Cluster, count: usize) -> Result<Vec<Line>> {
    set(cluster)?;
    let node = cluster
        .nodes()?
        .into_iter()
        .next_back()
        .context("no node")?;
    let agent = cluster.pod_on("kube-system", AGENTS, &node)?;
    let began = Instant::now();
    cluster.apply(NAMESPACE, &pods(&node, "burst", count))?;
    until_ready(cluster, count)?;
    let all = began.elapsed().as_secs_f64();
    let times: Vec<f64> = (0..count)
        .map(|number| agent_time(cluster, &agent, &format!("{NAMESPACE}/burst-{number}")))
        .collect::<Result<_>>()?;
    clear(cluster)?;
    let times = Samples::new(times).context("no pod")?;
    Ok(vec![
        Line::absolute(
            &format!("agent time of an ADD, burst of {count}, P99"),
            times.percentile(99),
            Unit::Seconds,
            &format!("median {}", Unit::Seconds.show(times.median())),
            Some(Goal::AtMost(0.050)),
        ),
        Line::absolute(
            "until all are ready",
            all,
            Unit::Seconds,
            "kubelet and containerd included",
            None,
        ),
    ])
}

/// Seconds between a pod's request and its enforcement, as its agent logged them.
fn agent_time(cluster: &Cluster, agent: &Spot, pod: &str) -> Result<f64> {
    let get = ["oxilium", "endpoint", "get", pod, "--output=json"];
    let (status, text) = agent.exec(cluster, &get)?;
    anyhow::ensure!(
        status == 0,
        "endpoint get {pod} on {agent}: status {status}"
    );
    let endpoint: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    life(&endpoint).with_context(|| format!("no times in {endpoint}"))
}

/// Load of the machine, which a figure is to be read with.
///
/// # Errors
/// If the system does not tell.
pub fn load() -> Result<String> {
    process::run(&mut Command::new("uptime")).map(|text| text.trim().to_owned())
}
