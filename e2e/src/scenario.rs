//! A lab with a running agent: where most scenarios begin.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::{
    agent::{Agent, agent_command},
    lab::Lab,
    pod::Pod,
    require::{Need, require},
};

/// What a scenario with an agent needs of the machine.
pub const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Bpf,
    Need::Tools,
    Need::CniPlugins,
    Need::Binaries,
];

/// A lab and the agent on its worker. The agent goes first when it is dropped.
#[derive(Debug)]
pub struct Scenario {
    /// The agent.
    pub agent: Agent,
    /// The nodes.
    pub lab: Lab,
}

impl Scenario {
    /// A lab with an agent that is ready; none if the machine cannot have one, which has been said then.
    ///
    /// # Errors
    /// If the lab cannot be made or the agent does not become ready.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with(&[])
    }

    /// The same, with more options for the agent.
    ///
    /// # Errors
    /// As [`Scenario::start`].
    pub fn start_with(options: &[&str]) -> Result<Option<Self>> {
        if !require(&NEEDS) {
            return Ok(None);
        }
        let lab = Lab::new()?;
        let mut command = agent_command(&lab)?;
        command.args(options);
        let mut agent = Agent::launch_as(&lab, command)?;
        agent.until_ready()?;
        Ok(Some(Self { agent, lab }))
    }

    /// Puts a policy called `name` into the file `name.yaml` and waits until it is enforced.
    ///
    /// # Errors
    /// If it is not in time.
    pub fn enforce(&self, name: &str, yaml: &str) -> Result<()> {
        self.lab.manifests.put(&format!("{name}.yaml"), yaml)?;
        self.agent.until_policy(name, true)
    }

    /// Removes the file `name.yaml` and waits until its policy is not enforced any more.
    ///
    /// # Errors
    /// If it still is after the time.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        self.lab.manifests.remove(&format!("{name}.yaml"))?;
        self.agent.until_policy(name, false)
    }

    /// Withdraws what another word of the same policy replaces: waits until the policy's rules are those of `yaml`.
    ///
    /// # Errors
    /// If it is not so in time.
    pub fn replace(&self, name: &str, yaml: &str) -> Result<()> {
        // The directory gives every content a revision of its own: what is known after the file was read is applied.
        let before = self.agent.revision()?;
        self.lab.manifests.put(&format!("{name}.yaml"), yaml)?;
        self.agent.until_revision_after(before)
    }
}

/// A pod's addresses, one for each family, with a port.
pub fn sockets(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::from((IpAddr::from(pod.ipv4), port)),
        SocketAddr::from((IpAddr::from(pod.ipv6), port)),
    ]
}

/// A CiliumNetworkPolicy in namespace `default` for pods labelled `app=subject`, with the given body of `spec` (indented
/// by two blanks).
pub fn policy(name: &str, body: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  \
         endpointSelector:\n    matchLabels:\n      app: subject\n{body}"
    )
}
