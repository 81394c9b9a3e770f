//! `operator`: the process, its log, its probes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use kube::api::DynamicObject;
use oxilium_agent::http::{self, Answer, OptionalAddress, Pages};
use oxilium_agent::kubernetes::{Component, connect};
use oxilium_operator::metrics::Metrics;
use oxilium_operator::{Health, OperatorOptions};
use serde_json::json;
use tokio::sync::watch;

use crate::output::Verdict;

struct Probes(watch::Receiver<Health>);

impl Pages for Probes {
    async fn page(&self, path: &str) -> Answer {
        match (path, &*self.0.borrow()) {
            ("/healthz", Health::Waiting) => Answer::Well(json!({"leader": false}).to_string()),
            ("/healthz", Health::Leading) => Answer::Well(json!({"leader": true}).to_string()),
            ("/healthz", Health::Failing(reason)) => {
                Answer::Unwell(json!({"leader": true, "msg": reason}).to_string())
            }
            _ => Answer::NoSuchPage,
        }
    }
}

/// `/metrics`, and nothing else.
struct Scrapes {
    metrics: Metrics,
    health: watch::Receiver<Health>,
}

impl Pages for Scrapes {
    async fn page(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                let is_leader = *self.health.borrow() != Health::Waiting;
                Answer::Metrics(self.metrics.page(is_leader))
            }
            _ => Answer::NoSuchPage,
        }
    }
}

pub(crate) fn run(options: &OperatorOptions) -> anyhow::Result<Verdict> {
    let metrics = Metrics::default();
    let counted = metrics.log_lines.clone();
    oxilium_agent::log_to_stderr(options.debug, options.log_format, Some(counted));
    let terms = options.terms().map_err(|error| anyhow!(error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let client = connect(Component::Operator, &options.kubernetes, &metrics.api_calls)
            .await?
            .client;
        let (told, seen) = watch::channel(Health::Waiting);
        let listener = http::listen(
            options.operator_api_serve_addr.into(),
            "operator-api-serve-addr",
        )
        .await?;
        tokio::spawn(http::serve(listener, Arc::new(Probes(seen.clone()))));
        if let OptionalAddress(Some(address)) = options.operator_prometheus_serve_addr {
            let listener = http::listen(address, "operator-prometheus-serve-addr").await?;
            let scrapes = Scrapes {
                metrics: metrics.clone(),
                health: seen,
            };
            tokio::spawn(http::serve(listener, Arc::new(scrapes)));
        }
        let name = name(options)?;
        let definitions = match &options.crds_dir {
            Some(directory) => definitions(directory)?,
            None => oxilium_crds::definition::all()
                .into_iter()
                .map(serde_json::from_value)
                .collect::<Result<_, _>>()
                .context("the definitions that this program brings cannot be read")?,
        };
        let seen_by = (&told, &metrics);
        oxilium_operator::run(client, options, (name, terms), &definitions, seen_by).await?;
        Ok(Verdict::Yes)
    })
}

/// The resource definitions in a directory, one a file.
fn definitions(directory: &Path) -> anyhow::Result<Vec<DynamicObject>> {
    let failed = |path: &Path| format!("cannot read the definition {}", path.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| failed(directory))? {
        paths.push(entry.with_context(|| failed(directory))?.path());
    }
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml" || extension == "json")
    });
    paths.sort();
    if paths.is_empty() {
        bail!(
            "no *.yaml in {}: --crds-dir names the folder of the definitions",
            directory.display()
        );
    }
    let read = paths.iter().map(|path| {
        let text = fs::read_to_string(path).with_context(|| failed(path))?;
        serde_saphyr::from_str(&text).with_context(|| failed(path))
    });
    read.collect()
}

/// Nobody else's, not that of an earlier run either.
fn name(options: &OperatorOptions) -> anyhow::Result<String> {
    const RANDOM: &str = "/proc/sys/kernel/random/uuid";
    let name = match &options.pod_name {
        Some(name) => name.clone(),
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host name; give --pod-name")?,
    };
    let random = fs::read_to_string(RANDOM).with_context(|| format!("cannot read {RANDOM}"))?;
    Ok(format!("{}_{}", name.trim(), random.trim()))
}
