//! Begins to read the cluster's objects, from where the options say.

use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use kube::Client;
use oxilium_manifest::directory::{ManifestDirectory, Settings};
use oxilium_manifest::{Admission, LowerOptions};
use tokio::runtime::Runtime;

use super::{KubernetesSource, ManifestSource};
use crate::config::{AgentOptions, ObjectSource};
use crate::kubernetes::{self, Cluster, Component};
use crate::metrics::ApiCalls;
use crate::offline::lower_options;
use crate::reconcile::Input;

/// Begins to read objects for the node of that name. The client of the API server comes back, where there is one.
///
/// # Errors
/// When they cannot be read at all as the options stand. An API server that does not answer is no error: it is waited for.
pub(crate) fn start<N: Send + 'static>(
    options: &AgentOptions,
    node: &str,
    calls: &ApiCalls,
    inputs: Sender<Input<N>>,
    runtime: &Runtime,
) -> Result<Option<Client>> {
    match options.source() {
        ObjectSource::Manifests(directory) => {
            manifests(options, directory, node, inputs).map(|()| None)
        }
        ObjectSource::Kubernetes(cluster) => {
            let connected =
                runtime.block_on(kubernetes::connect(Component::Agent, cluster, calls))?;
            api(options, connected, node, inputs, runtime).map(Some)
        }
    }
}

fn manifests<N: Send + 'static>(
    options: &AgentOptions,
    directory: &Path,
    node: &str,
    inputs: Sender<Input<N>>,
) -> Result<()> {
    let settings = Settings {
        node: node.to_owned(),
        options: lower_options(options),
        ..Settings::default()
    };
    let admitted = options.state_dir.join("admitted");
    let directory = ManifestDirectory::open(directory, &admitted, settings)?;
    let source = ManifestSource::new(directory, node);
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || source.run(|delivery| inputs.send(Input::Objects(delivery)).is_ok()))
        .context("cannot start the manifests' thread")?;
    Ok(())
}

fn api<N: Send + 'static>(
    options: &AgentOptions,
    Cluster { client, url }: Cluster,
    node: &str,
    inputs: Sender<Input<N>>,
    runtime: &Runtime,
) -> Result<Client> {
    let reading = LowerOptions {
        admission: Admission::Agent,
        ..lower_options(options)
    };
    let source = KubernetesSource::start(client.clone(), &url, node, reading, &options.state_dir)?;
    runtime.spawn(source.run(move |delivery| inputs.send(Input::Objects(delivery)).is_ok()));
    Ok(client)
}
