//! A large cluster's objects, and plain readers of them.

use std::{collections::BTreeSet, path::Path, time::Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use oxilium_e2e::{apiserver::ApiServer, netns::Netns};
use serde_json::{Value, json};

/// How large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// CiliumEndpoints.
    pub(super) endpoints: usize,
    /// CiliumIdentities.
    pub(super) identities: usize,
    /// CiliumNetworkPolicies.
    pub(super) policies: usize,
}

/// What Cilium's report on scale has, and an issue of ours asks for.
pub(super) const LARGE: Size = Size {
    endpoints: 50_000,
    identities: 10_000,
    policies: 1_000,
};

const NAMESPACES: usize = 100;
const NODES: usize = 500;
/// The first number that a cluster gives to labels.
const FIRST_IDENTITY: usize = 256;
/// Requests of the loader under way.
const AT_ONCE: usize = 64;
/// Objects in one answer, as the agent asks for them.
const PAGE: usize = 500;

const KINDS: [&str; 3] = [
    "ciliumidentities",
    "ciliumendpoints",
    "ciliumnetworkpolicies",
];

pub(super) fn namespace(number: usize) -> String {
    format!("scale-{}", number % NAMESPACES)
}

/// Labels of a workload's pods.
pub(super) fn workload(number: usize) -> [(&'static str, String); 2] {
    [
        ("app", format!("app-{number}")),
        ("tier", format!("tier-{}", number % 7)),
    ]
}

/// Labels of an identity. Six, as pods of a Deployment have.
fn labels(number: usize) -> [(String, String); 6] {
    let label = |key: &str, value: String| (format!("k8s:{key}"), value);
    let [app, tier] = workload(number).map(|(key, value)| label(key, value));
    [
        app,
        tier,
        label(
            "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
            namespace(number),
        ),
        label("io.cilium.k8s.policy.cluster", "default".to_owned()),
        label("io.cilium.k8s.policy.serviceaccount", "default".to_owned()),
        label("io.kubernetes.pod.namespace", namespace(number)),
    ]
}

/// Which numbers the cluster's identities have. The node's own pods had theirs before, taken at random.
struct Numbers {
    taken: BTreeSet<usize>,
    size: Size,
}

impl Numbers {
    async fn new(client: &Client, size: Size) -> Result<Self> {
        let request = Request::get(format!("/apis/cilium.io/v2/{}", KINDS[0]));
        let answer = client.send(request.body(Body::empty())?).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        let list: Value = serde_json::from_slice(&body)?;
        let items = list["items"].as_array().context("a list of identities")?;
        let names = items
            .iter()
            .filter_map(|item| item["metadata"]["name"].as_str());
        Ok(Self {
            taken: names.map(str::parse).collect::<Result<_, _>>()?,
            size,
        })
    }

    fn of(&self, identity: usize) -> usize {
        let mut number = FIRST_IDENTITY + identity;
        while self.taken.contains(&number) {
            number += self.size.identities;
        }
        number
    }
}

fn identity(number: usize, numbers: &Numbers) -> Value {
    let labels: serde_json::Map<String, Value> = labels(number)
        .into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect();
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
        "metadata": {
            "name": numbers.of(number).to_string(),
            "labels": {"app": format!("app-{number}"), "io.kubernetes.pod.namespace": namespace(number)},
        },
        "security-labels": labels,
    })
}

/// The address of a pod on another node.
fn address(number: usize) -> String {
    let [.., a, b, c] = number.to_be_bytes();
    format!("10.{}.{b}.{c}", 64 + a)
}

fn endpoint(number: usize, numbers: &Numbers) -> Value {
    let identity = number % numbers.size.identities;
    let labels: Vec<String> = labels(identity)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let (name, namespace) = (format!("app-{identity}-{number}"), namespace(identity));
    let node = format!("172.16.{}.{}", number % NODES / 250, number % 250 + 1);
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app": format!("app-{identity}"), "tier": format!("tier-{}", identity % 7), "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": format!("00000000-0000-4000-8000-{number:012x}")}],
        },
        "status": {
            "id": 1 + number % 65_000,
            "state": "ready",
            "external-identifiers": {
                "cni-attachment-id": format!("{number:064x}:eth0"),
                "k8s-namespace": namespace, "k8s-pod-name": name, "pod-name": format!("{namespace}/{name}"),
            },
            "identity": {"id": numbers.of(identity), "labels": labels},
            "networking": {"addressing": [{"ipv4": address(number)}], "node": node},
            "named-ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "policy": {"ingress": {"enforcing": true, "state": "enforcing"}, "egress": {"enforcing": false, "state": "disabled"}},
        },
    })
}

fn policy(number: usize, size: Size) -> Value {
    let other = (number + 1) % size.identities;
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": namespace(number)},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": format!("app-{number}")}},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"app": format!("app-{other}"), "k8s:io.kubernetes.pod.namespace": namespace(other)}}],
                "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}],
            }],
        },
    })
}

/// A runtime that lives on the thread that makes it: its sockets are made in that thread's namespace.
fn inside<T: Send>(netns: &Netns, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    netns.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work())
    })?
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Makes the namespaces.
///
/// # Errors
/// If the API server refuses one.
pub(super) fn make_namespaces(api: &ApiServer, netns: &Netns) -> Result<()> {
    inside(netns, async || {
        let namespaces = (0..NAMESPACES).map(|number| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number)}});
            ("/api/v1/namespaces".to_owned(), object)
        });
        // No controller manager makes them, and without one no pod is admitted.
        let accounts = (0..NAMESPACES).map(|number| {
            let namespace = namespace(number);
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
            (format!("/api/v1/namespaces/{namespace}/serviceaccounts"), object)
        });
        let client = client(api.kubeconfig()).await?;
        create(&client, namespaces).await?;
        create(&client, accounts).await
    })
}

/// Makes everything else at the API server.
///
/// # Errors
/// If the API server refuses something.
pub(super) fn load(api: &ApiServer, netns: &Netns, size: Size) -> Result<()> {
    inside(netns, async || {
        let client = client(api.kubeconfig()).await?;
        let cilium = |object: &Value, plural: &str| {
            let namespace = object["metadata"]["namespace"].as_str();
            match namespace {
                Some(namespace) => format!("/apis/cilium.io/v2/namespaces/{namespace}/{plural}"),
                None => format!("/apis/cilium.io/v2/{plural}"),
            }
        };
        let numbers = Numbers::new(&client, size).await?;
        let identities = (0..size.identities).map(|number| (identity(number, &numbers), KINDS[0]));
        let endpoints = (0..size.endpoints).map(|number| (endpoint(number, &numbers), KINDS[1]));
        let policies = (0..size.policies).map(|number| (policy(number, size), KINDS[2]));
        let objects = identities.chain(endpoints).chain(policies);
        create(
            &client,
            objects.map(|(object, plural)| (cilium(&object, plural), object)),
        )
        .await
    })
}

async fn create(client: &Client, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
    stream::iter(objects.map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |(path, object): (String, Value)| {
            let request = Request::post(format!("{path}?fieldManager=oxilium-agent"))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(object.to_string().into_bytes()))?;
            let answer = client.send(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::ensure!(
                status == StatusCode::CREATED,
                "{path}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
            Ok(())
        })
        .await
}

/// What a reader came to that asks as the agent does and throws the answers away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    /// Seconds.
    pub(super) took: f64,
    /// Of the answers' bodies.
    pub(super) bytes: usize,
}

/// Reads all lists, each in pages one after the other, the kinds at once.
///
/// # Errors
/// If the API server does not answer.
pub(super) fn read(api: &ApiServer, netns: &Netns) -> Result<Plain> {
    inside(netns, async || {
        let client = client(api.kubeconfig()).await?;
        let began = Instant::now();
        let bytes = stream::iter(KINDS)
            .map(|plural| pages(&client, plural))
            .buffer_unordered(KINDS.len())
            .try_fold(0, async |sum, bytes| Ok(sum + bytes))
            .await?;
        Ok(Plain {
            took: began.elapsed().as_secs_f64(),
            bytes,
        })
    })
}

async fn pages(client: &Client, plural: &str) -> Result<usize> {
    let (mut bytes, mut more) = (0, String::new());
    loop {
        let uri = format!("/apis/cilium.io/v2/{plural}?limit={PAGE}&continue={more}");
        let answer = client.send(Request::get(uri).body(Body::empty())?).await?;
        anyhow::ensure!(
            answer.status().is_success(),
            "{plural}: {}",
            answer.status()
        );
        let body = answer.into_body().collect().await?.to_bytes();
        bytes += body.len();
        match continuation(&body).with_context(|| plural.to_owned())? {
            Some(token) => more = token.replace('=', "%3D"),
            None => return Ok(bytes),
        }
    }
}

/// The token for the next page: `metadata`, where it is, comes before or after all that is large.
fn continuation(body: &[u8]) -> Result<Option<String>> {
    const NAME: &[u8] = b"\"continue\":\"";
    let edge = 4096.min(body.len());
    let find = |part: &[u8]| {
        let start = part.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
        let rest = part.get(start..)?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        rest.get(..end).map(<[u8]>::to_vec)
    };
    let (first, last) = (&body[..edge], &body[body.len() - edge..]);
    let token = find(first).or_else(|| find(last)).unwrap_or_default();
    let token = String::from_utf8(token)?;
    Ok((!token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_one_address_or_name() {
        let all: std::collections::BTreeSet<String> = (0..LARGE.endpoints).map(address).collect();
        assert_eq!(all.len(), LARGE.endpoints);
    }

    #[test]
    fn a_page_says_where_the_next_one_begins() {
        let cases: [(&str, Option<&str>); 3] = [
            (
                r#"{"metadata":{"continue":"abc=","x":1},"items":[]}"#,
                Some("abc="),
            ),
            (r#"{"items":[],"metadata":{"continue":""}}"#, None),
            (r#"{"items":[],"metadata":{}}"#, None),
        ];
        for (body, expected) in cases {
            let found = continuation(body.as_bytes()).unwrap();
            assert_eq!(found.as_deref(), expected, "{body}");
        }
    }
}
