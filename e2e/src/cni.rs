//! The CNI chain, executed as a container runtime executes it.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::netns::Netns;

/// Where distributions keep CNI plugins.
const PLUGIN_DIRECTORIES: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// The plugin's file, from `OXILIUM_CNI_PATH` (colon-separated) or the usual directories.
pub fn find_plugin(name: &str) -> Option<PathBuf> {
    let own = env::var_os("OXILIUM_CNI_PATH").unwrap_or_default();
    env::split_paths(&own)
        .chain(PLUGIN_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// What a runtime asks for: one interface of one container.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
}

/// A network configuration list on a node.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The list as it would lie in `/etc/cni/net.d`.
    pub conflist: Value,
    /// Searched for plugins, in this order.
    pub path: Vec<PathBuf>,
    /// Where the plugins run.
    pub node: Netns,
}

impl Chain {
    /// ADD through all plugins in order; the last one's result.
    ///
    /// # Errors
    /// What the failing plugin said. As a runtime does, nothing is undone: DEL is the caller's.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value> {
        let mut result = None;
        for plugin in self.plugins()? {
            let config = self.config(plugin, result.as_ref())?;
            result = self.call(plugin, "ADD", Some(sandbox), &config)?;
        }
        result.context("the list has no plugin")
    }

    /// DEL through all plugins in reverse order.
    ///
    /// # Errors
    /// What the failing plugin said.
    pub fn del(&self, sandbox: &Sandbox, added: Option<&Value>) -> Result<()> {
        for plugin in self.plugins()?.iter().rev() {
            let config = self.config(plugin, added)?;
            self.call(plugin, "DEL", Some(sandbox), &config)?;
        }
        Ok(())
    }

    /// CHECK through all plugins in order.
    ///
    /// # Errors
    /// What the failing plugin said.
    pub fn check(&self, sandbox: &Sandbox, added: &Value) -> Result<()> {
        for plugin in self.plugins()? {
            let config = self.config(plugin, Some(added))?;
            self.call(plugin, "CHECK", Some(sandbox), &config)?;
        }
        Ok(())
    }

    /// One command to one plugin of the list, by its type, with `extra` merged into its configuration.
    ///
    /// # Errors
    /// If the list has no such plugin; or what the plugin said.
    pub fn call_one(
        &self,
        kind: &str,
        command: &str,
        sandbox: Option<&Sandbox>,
        extra: &Value,
    ) -> Result<Option<Value>> {
        let plugin = self
            .plugins()?
            .iter()
            .find(|plugin| plugin["type"] == kind)
            .with_context(|| format!("the list has no plugin {kind}"))?;
        let mut config = self.config(plugin, None)?;
        if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
            config.extend(extra.clone());
        }
        self.call(plugin, command, sandbox, &config)
    }

    fn plugins(&self) -> Result<&[Value]> {
        self.conflist["plugins"]
            .as_array()
            .map(Vec::as_slice)
            .context("the list has no \"plugins\"")
    }

    /// A plugin's stdin: its own stanza, with the list's name and version and the result so far.
    fn config(&self, plugin: &Value, previous: Option<&Value>) -> Result<Value> {
        let mut config: Map<String, Value> = plugin
            .as_object()
            .cloned()
            .context("a plugin is an object")?;
        config.insert("cniVersion".to_owned(), self.conflist["cniVersion"].clone());
        config.insert("name".to_owned(), self.conflist["name"].clone());
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        Ok(Value::Object(config))
    }

    fn call(
        &self,
        plugin: &Value,
        verb: &str,
        sandbox: Option<&Sandbox>,
        config: &Value,
    ) -> Result<Option<Value>> {
        let kind = plugin["type"].as_str().context("a plugin has a type")?;
        let program = self
            .path
            .iter()
            .map(|directory| directory.join(kind))
            .find(|candidate| candidate.exists())
            .with_context(|| format!("no plugin {kind} in {:?}", self.path))?;
        let output = self
            .node
            .enter(|| execute(&program, verb, &self.path, sandbox, config))??;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let told = serde_json::from_str::<Value>(&stdout).map_or_else(
                |_| {
                    anyhow!(
                        "{}: {stdout}{}",
                        output.status,
                        String::from_utf8_lossy(&output.stderr)
                    )
                },
                |error| {
                    anyhow!(
                        "code {}: {} {}",
                        error["code"],
                        error["msg"].as_str().unwrap_or_default(),
                        error["details"].as_str().unwrap_or_default()
                    )
                },
            );
            return Err(told.context(format!("{kind} {verb}")));
        }
        if stdout.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&stdout)
            .map(Some)
            .with_context(|| format!("{kind} {verb} answered {stdout}"))
    }
}

fn execute(
    program: &Path,
    verb: &str,
    path: &[PathBuf],
    sandbox: Option<&Sandbox>,
    config: &Value,
) -> Result<std::process::Output> {
    let mut command = Command::new(program);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", env::join_paths(path)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(sandbox) = sandbox {
        command
            .env("CNI_CONTAINERID", &sandbox.container_id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", &sandbox.interface)
            .env("CNI_ARGS", &sandbox.args);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let Some(mut stdin) = child.stdin.take() else {
        bail!("{} has no stdin", program.display());
    };
    // A plugin that fails early closes its stdin; its answer says why.
    match stdin.write_all(config.to_string().as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e.into()),
        _ => drop(stdin),
    }
    Ok(child.wait_with_output()?)
}

/// The chain of the field: a plugin that makes a veth on a bridge, then ours, unless `judged` is false.
pub fn generic_veth(subnets: &[String], data_dir: &Path, judged: bool) -> Value {
    let ranges: Vec<Value> = subnets
        .iter()
        .map(|subnet| json!([{ "subnet": subnet }]))
        .collect();
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "hairpinMode": true,
        "isDefaultGateway": true,
        "ipam": { "type": "host-local", "ranges": ranges, "dataDir": data_dir },
    });
    let mut plugins = vec![bridge];
    if judged {
        plugins.push(json!({ "type": "cilium-cni" }));
    }
    json!({ "name": "generic-veth", "cniVersion": "0.3.1", "plugins": plugins })
}
