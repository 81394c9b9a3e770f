//! Cilium's kinds on an API server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::ApiServer;
use crate::wait;

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
