//! The agent on the worker, and the command line that asks it.

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    apiserver::ApiServer,
    lab::Lab,
    netns::Netns,
    process::{Process, built_binary},
    trace::Trace,
    wait,
};

/// The agent's command line for `lab`, to be run in the worker's namespace.
///
/// # Errors
/// If the binary's place is not known, or the lab's directory on the BPF file system cannot be made.
pub fn agent_command(lab: &Lab) -> Result<Command> {
    command(lab, ["--manifests".as_ref(), lab.manifests.path().as_ref()])
}

/// The same for an agent that follows an API server.
///
/// # Errors
/// As for [`agent_command`].
pub fn agent_command_of(lab: &Lab, api: &ApiServer) -> Result<Command> {
    let kubeconfig = api.kubeconfig().as_ref();
    command(lab, ["--k8s-kubeconfig-path".as_ref(), kubeconfig])
}

fn command(lab: &Lab, source: [&OsStr; 2]) -> Result<Command> {
    let pins = lab.bpf_root();
    fs::create_dir_all(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
    let mut command = Command::new(built_binary("oxilium")?);
    command
        .arg("--socket")
        .arg(lab.socket())
        .arg("agent")
        .args(source)
        .arg("--state-dir")
        .arg(lab.directory().join("state"))
        .arg("--bpf-root")
        .arg(&pins)
        .arg("--tombstones")
        .arg(lab.tombstones())
        .arg("--node-name")
        .arg(&lab.worker.name);
    Ok(command)
}

/// A running agent. Dropping it kills it, which is what a crash is to a node; what it enforced stays enforced.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    cli: Cli,
}

impl Agent {
    /// Starts it on the worker and waits until `status` is content.
    ///
    /// # Errors
    /// If it ends, or is not content in time: with its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut agent = Self::launch(lab)?;
        agent.until_ready()?;
        Ok(agent)
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(lab: &Lab) -> Result<Self> {
        Self::launch_as(lab, agent_command(lab)?)
    }

    /// Starts it by a command line of the caller's ([`agent_command`] with more options) and does not wait.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch_as(lab: &Lab, mut command: Command) -> Result<Self> {
        let log = lab.directory().join("agent.log");
        let process = lab
            .worker
            .netns
            .enter(|| Process::spawn("agent", &mut command, log))??;
        Ok(Self {
            process,
            cli: Cli::new(lab)?,
        })
    }

    /// Starts it with every write seen, and does not wait. `trace` may be told before when it is to die.
    ///
    /// # Errors
    /// If it cannot be started or traced.
    pub fn launch_traced(lab: &Lab, command: &Command, trace: &Trace) -> Result<Self> {
        let log = lab.directory().join("agent.log");
        let process = lab
            .worker
            .netns
            .enter(|| Process::spawn_traced("agent", command, log, trace.clone()))??;
        Ok(Self {
            process,
            cli: Cli::new(lab)?,
        })
    }

    /// Waits until `oxilium status` ends with 0.
    ///
    /// # Errors
    /// If the agent ends, or is not content in time: with its log.
    pub fn until_ready(&mut self) -> Result<()> {
        wait::until("the agent is ready", wait::LONG, || {
            if let Some(status) = self.process.ended()? {
                bail!("the agent ended: {status}");
            }
            let output = self.cli.output(&["status"])?;
            if !output.status.success() {
                bail!("{}", both(&output));
            }
            Ok(Some(()))
        })
        .with_context(|| self.process.log())
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The command line that speaks to it.
    pub fn cli(&self) -> &Cli {
        &self.cli
    }

    /// Waits until the policy in force by this name is there, or gone, and what the agent knows is applied.
    ///
    /// # Errors
    /// If it is not so in time.
    pub fn until_policy(&self, name: &str, there: bool) -> Result<()> {
        let what = format!("policy {name} {}", if there { "in force" } else { "gone" });
        wait::until(&what, wait::LONG, || {
            let policies = self.cli.policies()?;
            let found = policies.iter().any(|policy| policy["name"] == name);
            Ok((found == there).then_some(()))
        })?;
        self.until_applied()
    }

    /// Waits until all that the agent knows at this moment is applied.
    ///
    /// # Errors
    /// If it is not in time.
    pub fn until_applied(&self) -> Result<()> {
        let wanted = self.revision()?;
        self.until(wanted)
    }

    /// Waits until no program is on its hook for the time being only. A hook gets its link in several writes; that the
    /// last one is made only the agent knows.
    ///
    /// # Errors
    /// If some have no link in time.
    pub fn until_linked(&self) -> Result<()> {
        wait::until("all programs have their links", wait::LONG, || {
            let waiting = &self.cli.status()?["reconcile"]["hooks-without-link"];
            Ok((*waiting == 0).then_some(()))
        })
    }

    /// The revision of the inputs that the agent knows.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn revision(&self) -> Result<u64> {
        self.reconciled("input-revision")
    }

    /// Waits until there is a later revision than `before`, and it is applied.
    ///
    /// # Errors
    /// If it is not so in time.
    pub fn until_revision_after(&self, before: u64) -> Result<()> {
        let what = format!("a revision after {before}");
        let later = wait::until(&what, wait::LONG, || {
            let known = self.revision()?;
            Ok((known > before).then_some(known))
        })?;
        self.until(later)
    }

    fn until(&self, wanted: u64) -> Result<()> {
        wait::until(&format!("revision {wanted} is applied"), wait::LONG, || {
            Ok((self.reconciled("applied-revision")? >= wanted).then_some(()))
        })
    }

    fn reconciled(&self, field: &str) -> Result<u64> {
        let status = self.cli.status()?;
        status["reconcile"][field]
            .as_u64()
            .with_context(|| format!("no {field} in {status}"))
    }

    /// The endpoint of a pod in namespace `default`, as `endpoint list` shows it.
    ///
    /// # Errors
    /// If there is none.
    pub fn endpoint(&self, pod: &str) -> Result<Value> {
        let list = self.cli.json(&["endpoint", "list"])?;
        list.as_array()
            .into_iter()
            .flatten()
            .find(|endpoint| endpoint["status"]["external-identifiers"]["k8s-pod-name"] == pod)
            .cloned()
            .with_context(|| format!("no endpoint of {pod} in {list}"))
    }
}

/// The command line, aimed at one agent.
#[derive(Clone, Debug)]
pub struct Cli {
    binary: PathBuf,
    socket: PathBuf,
    node: Netns,
}

impl Cli {
    /// For the lab's agent, whether it runs or not.
    ///
    /// # Errors
    /// If the binary's place is not known.
    pub fn new(lab: &Lab) -> Result<Self> {
        Ok(Self {
            binary: built_binary("oxilium")?,
            socket: lab.socket(),
            node: lab.worker.netns.clone(),
        })
    }

    /// `oxilium --socket … ARGS`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).args(args);
        command
    }

    /// Runs it on the worker, whatever its status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        self.node.output(&mut self.command(args))
    }

    /// Runs it on the worker; what it printed.
    ///
    /// # Errors
    /// If its status is not 0: with what it wrote to stderr.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        self.node.run(&mut self.command(args))
    }

    /// The same with `-o json`, parsed.
    ///
    /// # Errors
    /// As [`Cli::text`], or if it is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.text(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text}"))
    }

    /// The policies in force, as `policy get` tells of them.
    ///
    /// # Errors
    /// As [`Cli::json`], or if there is no list of them in the answer.
    pub fn policies(&self) -> Result<Vec<Value>> {
        let answer = self.json(&["policy", "get"])?;
        let policies = answer["policies"].as_array().cloned();
        policies.with_context(|| format!("no policies in {answer}"))
    }

    /// `status -o json`, which may say that not all is well.
    ///
    /// # Errors
    /// If there is no agent, or the answer is not JSON.
    pub fn status(&self) -> Result<Value> {
        let output = self.output(&["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| both(&output))
    }

    /// Starts `monitor` with JSON lines and waits until the agent counts it as a reader.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn monitor(&self, lab: &Lab, args: &[&str]) -> Result<Monitor> {
        let before = self.monitor_readers()?;
        let log = lab.directory().join(format!("monitor-{before}.jsonl"));
        let mut command = self.command(&[&["monitor", "-o", "json"], args].concat());
        let process = self
            .node
            .enter(|| Process::spawn("monitor", &mut command, log))??;
        let monitor = Monitor { process };
        wait::until("the monitor reads", wait::LONG, || {
            Ok((self.monitor_readers()? > before).then_some(()))
        })
        .with_context(|| monitor.process.log())?;
        Ok(monitor)
    }

    fn monitor_readers(&self) -> Result<u64> {
        self.status()?["monitor-readers"]
            .as_u64()
            .context("status tells how many monitors read")
    }
}

/// A running `oxilium monitor`.
#[derive(Debug)]
pub struct Monitor {
    process: Process,
}

impl Monitor {
    /// All events so far.
    ///
    /// # Errors
    /// If a whole line is not JSON.
    pub fn events(&self) -> Result<Vec<Value>> {
        let log = self.process.log();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// Waits for an event that `wanted` accepts.
    ///
    /// # Errors
    /// If none comes: with all that came.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, Duration::from_secs(5), || {
            Ok(self.events()?.into_iter().find(|event| wanted(event)))
        })
        .with_context(|| format!("the monitor told only: {:?}", self.process.log()))
    }
}

fn both(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
