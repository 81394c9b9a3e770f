//! A node with one pod, and calls of the plugin there.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use oxilium_e2e::netns::Netns;
use serde_json::Value;

use crate::agent::FakeAgent;

/// A call of the plugin.
pub(crate) struct Call {
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
    input: String,
    netns: Option<Netns>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) output: String,
}

impl Call {
    pub(crate) fn new(command: &str) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_oxilium-cni").into(),
            variables: vec![("CNI_COMMAND", command.to_owned())],
            input: String::new(),
            netns: None,
        }
    }

    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Later values win.
    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    pub(crate) fn key(self) -> Self {
        self.env("CNI_CONTAINERID", "c0ffee")
            .env("CNI_IFNAME", "eth0")
    }

    pub(crate) fn input(self, conf: &Value) -> Self {
        self.input_text(&conf.to_string())
    }

    pub(crate) fn input_text(mut self, conf: &str) -> Self {
        conf.clone_into(&mut self.input);
        self
    }

    pub(crate) fn run(self) -> Outcome {
        match &self.netns {
            Some(netns) => netns.enter(|| self.run_here()).unwrap(),
            None => self.run_here(),
        }
    }

    fn run_here(&self) -> Outcome {
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that fails early may not read it all.
        let written = child.stdin.take().unwrap().write_all(self.input.as_bytes());
        drop(written);
        let output = child.wait_with_output().unwrap();
        Outcome {
            success: output.status.success(),
            output: String::from_utf8(output.stdout).unwrap(),
        }
    }
}

/// Two namespaces with a veth between them: `veth0` on the node, `eth0` in the pod; and a veth that begins
/// and ends in the pod.
pub(crate) struct Node {
    node: Netns,
    pod: Netns,
}

impl Node {
    pub(crate) fn with_veth(name: &str) -> Self {
        let prefix = format!("oxcni{}-{name}", std::process::id());
        let node = Node {
            node: Netns::create(&format!("{prefix}-node")).unwrap(),
            pod: Netns::create(&format!("{prefix}-pod")).unwrap(),
        };
        // Unequal indexes on both sides, so that one cannot pass for the other.
        node.node.ip("link add spare type bridge").unwrap();
        let add = format!(
            "link add veth0 type veth peer name eth0 netns {}",
            node.pod.name()
        );
        node.node.ip(&add).unwrap();
        node.pod.ip("address add 10.9.0.2/24 dev eth0").unwrap();
        node.pod
            .ip("address add fd00:9::2/64 dev eth0 nodad")
            .unwrap();
        node.pod
            .ip("link add inner type veth peer name other")
            .unwrap();
        node
    }

    pub(crate) fn pod_path(&self) -> String {
        self.pod.path().to_str().unwrap().to_owned()
    }

    /// A call with all that a runtime sets.
    pub(crate) fn call(&self, command: &str, _agent: &FakeAgent) -> Call {
        let mut call = Call::new(command)
            .key()
            .env("CNI_NETNS", &self.pod_path())
            .env(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=app;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=1-2-3",
            );
        call.netns = Some(self.node.clone());
        call
    }

    pub(crate) fn add(&self, agent: &FakeAgent) -> Call {
        self.call("ADD", agent)
    }

    /// Configuration with the previous result spliced in as text: byte by byte what the runtime sends.
    pub(crate) fn conf(agent: &FakeAgent, version: &str, previous: Option<&str>) -> String {
        let text = agent.conf(version).to_string();
        match previous {
            None => text,
            Some(previous) => {
                format!(
                    "{},\"prevResult\":{previous}}}",
                    text.strip_suffix('}').unwrap()
                )
            }
        }
    }

    pub(crate) fn links(&self) -> String {
        self.node.ip("-o link").unwrap()
    }

    pub(crate) fn host_index(&self) -> u32 {
        self.node_link()["ifindex"]
            .as_u64()
            .unwrap()
            .try_into()
            .unwrap()
    }

    pub(crate) fn host_mac(&self) -> String {
        self.node_link()["address"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pod_mac(&self) -> String {
        let text = self.pod.ip("-j link show eth0").unwrap();
        let links: Value = serde_json::from_str(&text).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    }

    fn node_link(&self) -> Value {
        let links: Value =
            serde_json::from_str(&self.node.ip("-j link show veth0").unwrap()).unwrap();
        links[0].clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for netns in [&self.pod, &self.node] {
            let deleted = netns.delete();
            assert!(deleted.is_ok() || std::thread::panicking(), "{deleted:?}");
        }
    }
}
