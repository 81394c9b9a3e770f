//! Cilium's kinds on an API server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::ApiServer;
use crate::wait;

/// ClusterNetworkPolicy, a kind that agents read where it is defined, as an add-on may bring it: without a schema.
pub const CLUSTER_NETWORK_POLICY: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: policy.networking.k8s.io
  scope: Cluster
  names: {kind: ClusterNetworkPolicy, listKind: ClusterNetworkPolicyList, plural: clusternetworkpolicies, singular: clusternetworkpolicy}
  versions:
  - name: v1alpha2
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

impl ApiServer {
    /// Makes the kinds of `crds/yaml`, as `kubectl apply -f crds/yaml` does, and waits until all are served.
    ///
    /// # Errors
    /// If the directory cannot be read, or the API server refuses a definition.
    pub fn define(&self) -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        let files = fs::read_dir(&directory)
            .with_context(|| directory.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        let directory = directory
            .to_str()
            .context("a directory whose name is text")?;
        self.kubectl(&["apply", "--validate=strict", "--filename", directory])?;
        for file in files {
            let name = file.file_stem().and_then(|stem| stem.to_str());
            let (group, plural) = name
                .and_then(|name| name.split_once('_'))
                .with_context(|| format!("{}: no GROUP_PLURAL.yaml", file.display()))?;
            let path = format!("/apis/{group}/v2/{plural}");
            wait::until(&path, wait::LONG, || {
                self.kubectl(&["get", "--raw", &path]).map(Some)
            })?;
        }
        Ok(())
    }
}
