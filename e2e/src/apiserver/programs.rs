//! Where the API server's programs are, or the cluster that is used in their place.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::process;

/// The environment's word for what the tests run on.
pub const CHOICE: &str = "OXILIUM_API_SERVER";

const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// What an API server is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder with the programs.
    Programs(PathBuf),
    /// A cluster that is there.
    Kubeconfig {
        /// The client.
        kubectl: PathBuf,
        /// Its administrator's configuration.
        config: PathBuf,
    },
}

/// Where the programs are.
///
/// # Errors
/// If there are none: with the way to them.
pub fn find() -> Result<Source> {
    match env::var(CHOICE).as_deref() {
        Err(_) | Ok("" | "own") => programs().map(Source::Programs),
        Ok("kubeconfig") => {
            let config = env::var_os("KUBECONFIG")
                .with_context(|| format!("{CHOICE}=kubeconfig, but KUBECONFIG is not set"))?;
            let kubectl = process::find_program("kubectl")
                .or_else(|| programs().ok().map(|folder| folder.join("kubectl")))
                .context("no kubectl on the path")?;
            Ok(Source::Kubeconfig {
                kubectl,
                config: config.into(),
            })
        }
        Ok(other) => bail!("{CHOICE}={other}: it is `own` or `kubeconfig`"),
    }
}

fn programs() -> Result<PathBuf> {
    let folder = match env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(folder) => folder.into(),
        None => built_folder().context("neither XDG_CACHE_HOME nor HOME is set")?,
    };
    match PROGRAMS.iter().find(|name| !folder.join(name).is_file()) {
        None => Ok(folder),
        Some(name) => bail!(
            "no {name} in {} (`make apiserver` builds it)",
            folder.display()
        ),
    }
}

/// Where `scripts/apiserver.sh` puts what it builds: a folder of their versions in the user's cache.
fn built_folder() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    let kubernetes = version(
        include_str!("../../../scripts/apiserver/kubernetes/go.mod"),
        "k8s.io/kubernetes",
    )?;
    let etcd = version(
        include_str!("../../../scripts/apiserver/etcd/go.mod"),
        "go.etcd.io/etcd/server/v3",
    )?;
    Some(cache.join(format!("oxilium/kubernetes-{kubernetes}-etcd-{etcd}")))
}

/// The version that a `go.mod` requires of `module`, without its `v`.
fn version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let line = line.trim_start();
        let mut words = line
            .strip_prefix("require ")
            .unwrap_or(line)
            .split_whitespace();
        if words.next()? != module {
            return None;
        }
        words.next()?.strip_prefix('v')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_modules() {
        let text = "module a\ntool k8s.io/b/cmd/c\nrequire (\n\tk8s.io/b v1.2.3 // indirect\n)\nrequire k8s.io/d v0.1.0\n";
        assert_eq!(version(text, "k8s.io/b"), Some("1.2.3"));
        assert_eq!(version(text, "k8s.io/d"), Some("0.1.0"));
        assert_eq!(version(text, "k8s.io/e"), None);
    }

    #[test]
    fn the_modules_name_both() {
        let folder = built_folder().unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name.starts_with("kubernetes-1.") && name.contains("-etcd-3."),
            "{name}"
        );
    }
}
