//! The agent on a real API server: what is applied is enforced, and what the API server cannot say changes nothing.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use anyhow::Context;
use oxilium_e2e::{
    agent::{Agent, agent_command_of},
    apiserver::ApiServer,
    lab::Lab,
    pod::Pod,
    probe,
    require::{Need, require},
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    wait,
};

const DENY: &str = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
const CNP: &str = "ciliumnetworkpolicies.cilium.io";

/// A node with an agent that listens to an API server on the other node. The agent goes first.
struct Cluster {
    agent: Agent,
    lab: Lab,
    api: ApiServer,
}

impl Cluster {
    fn start() -> Option<Self> {
        let needs: Vec<Need> = NEEDS.into_iter().chain([Need::ApiServer]).collect();
        if !require(&needs) {
            return None;
        }
        let lab = Lab::new().unwrap();
        let api = ApiServer::start_in(&lab.master.netns, lab.master.ipv4.into()).unwrap();
        api.define().unwrap();
        for node in [&lab.master, &lab.worker] {
            let file = lab
                .manifests
                .path()
                .join(format!("node-{}.yaml", node.name));
            api.apply(&std::fs::read_to_string(file).unwrap()).unwrap();
        }
        let mut agent = Agent::launch_as(&lab, agent_command_of(&lab, &api).unwrap()).unwrap();
        agent.until_ready().unwrap();
        Some(Self { agent, lab, api })
    }

    /// A pod that the API server knows, under the UID that it gave it.
    fn pod(&self, name: &str) -> Pod {
        let prepared = self.lab.pod(name).label("app", name).prepare().unwrap();
        prepared.known_to(&self.api).unwrap().add().unwrap()
    }

    fn enforce(&self, name: &str) {
        self.api.apply(&policy(name, DENY)).unwrap();
        self.agent.until_policy(name, true).unwrap();
    }

    /// Waits until the component says so.
    fn until_component(&self, name: &str, words: &str) {
        let mut said = String::new();
        let waited = wait::until(words, wait::LONG, || {
            let status = self.agent.cli().status()?;
            let sources = status["sources"].as_array().cloned().unwrap_or_default();
            let of_name = sources.iter().find(|source| source["name"] == name);
            let message = of_name.and_then(|source| source["status"]["msg"].as_str());
            message.unwrap_or("nothing").clone_into(&mut said);
            Ok(said.contains(words).then_some(()))
        });
        waited
            .with_context(|| format!("{name} says: {said}\n{}", self.agent.log()))
            .unwrap();
    }

    /// Kills the agent and starts another one; whether that becomes ready is another matter.
    fn restart(&mut self) {
        self.agent.process().crash().unwrap();
        let command = agent_command_of(&self.lab, &self.api).unwrap();
        self.agent = Agent::launch_as(&self.lab, command).unwrap();
    }
}

/// Whether the pod answers `from`, by each family.
fn answers(from: &Pod, to: &Pod) -> [bool; 2] {
    sockets(to, 80).map(|address| probe::tcp(&from.netns, address).unwrap().is_answered())
}

/// Whether the pod answers `from`, by both families.
fn reaches(from: &Pod, to: &Pod) -> bool {
    let [v4, v6] = answers(from, to);
    assert_eq!(v4, v6, "the families differ");
    v4
}

#[test]
fn what_is_applied_is_enforced_and_what_is_deleted_is_not() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let subject = cluster.pod("subject");
    let (friend, stranger) = (cluster.pod("friend"), cluster.pod("stranger"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    assert!(reaches(&stranger, &subject));
    cluster.enforce("rule");
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));
    // A stranger by another label is a friend.
    cluster
        .api
        .kubectl(&["label", "--overwrite", "pod", "stranger", "app=friend"])
        .unwrap();
    wait::until("the stranger is let in", wait::LONG, || {
        let [v4, v6] = answers(&stranger, &subject);
        Ok((v4 && v6).then_some(()))
    })
    .unwrap();
    cluster.api.kubectl(&["delete", CNP, "rule"]).unwrap();
    cluster.agent.until_policy("rule", false).unwrap();
    assert!(reaches(&friend, &subject));
}

#[test]
fn an_api_server_that_is_away_changes_nothing_not_even_for_an_agent_that_starts_meanwhile() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let subject = cluster.pod("subject");
    let (friend, stranger) = (cluster.pod("friend"), cluster.pod("stranger"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    cluster.enforce("rule");
    cluster.api.stop().unwrap();
    cluster.until_component("CiliumNetworkPolicy", "API server away since");
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));
    cluster.restart();
    cluster.until_component("CiliumNetworkPolicy", "API server away since");
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));
    cluster.api.resume().unwrap();
    cluster.agent.until_ready().unwrap();
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));
    cluster.api.kubectl(&["delete", CNP, "rule"]).unwrap();
    cluster.agent.until_policy("rule", false).unwrap();
    assert!(reaches(&stranger, &subject));
}

#[test]
fn a_definition_deleted_by_mistake_takes_no_policy_with_it() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let subject = cluster.pod("subject");
    let stranger = cluster.pod("stranger");
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    cluster.enforce("rule");
    cluster.api.kubectl(&["delete", "crd", CNP]).unwrap();
    cluster.until_component("CiliumNetworkPolicy", "no CustomResourceDefinition");
    assert!(!reaches(&stranger, &subject));
    // Made anew, e.g. by an operator, it has no objects: nobody said that the policy should go.
    cluster.api.define().unwrap();
    cluster.until_component("CiliumNetworkPolicy", "1 objects of before stay in force");
    assert!(!reaches(&stranger, &subject));
    // An agent that starts now does not know the policy any more, and knows that it does not.
    cluster.restart();
    cluster.until_component("CiliumNetworkPolicy", "what was enforced stays so");
    assert!(!reaches(&stranger, &subject));
    let give_up = "oxilium.io/give-up-former-objects=true";
    cluster
        .api
        .kubectl(&["annotate", "crd", CNP, give_up])
        .unwrap();
    cluster.agent.until_ready().unwrap();
    assert!(reaches(&stranger, &subject));
}
