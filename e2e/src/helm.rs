//! The helm that `scripts/helm.sh` built, and the chart.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::apiserver::ApiServer;
use crate::process;

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/oxilium")
}

/// The program, if it is built.
///
/// # Errors
/// If it is not, with what builds it.
pub fn find() -> Result<PathBuf> {
    let modules = include_str!("../../scripts/helm/go.mod");
    let version = modules
        .lines()
        .find_map(|line| line.trim().strip_prefix("helm.sh/helm/v4 v"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("unknown");
    // The same place as in scripts/helm.sh.
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let path = cache.join(format!("oxilium/helm-{version}/helm"));
    if !path.is_file() {
        bail!("no helm {version} (`scripts/helm.sh` builds it)");
    }
    Ok(path)
}

/// What the chart comes to with these values (`key=value`), in the namespace `kube-system`.
///
/// # Errors
/// If helm refuses.
pub fn render(values: &[&str]) -> Result<String> {
    let mut command = Command::new(find()?);
    command
        .args(["template", "oxilium"])
        .arg(chart())
        .args(["--namespace", "kube-system"]);
    for value in values {
        command.args(["--set", value]);
    }
    process::run(&mut command)
}

/// `helm ARGS` in the namespace `kube-system` of that API server.
///
/// # Errors
/// If helm refuses.
pub fn on(api: &ApiServer, args: &[&str]) -> Result<String> {
    let mut command = Command::new(find()?);
    command
        .args(args)
        .args(["--namespace", "kube-system", "--kubeconfig"])
        .arg(api.kubeconfig());
    process::run(&mut command)
}
