//! Pods that run before the agent does, made by a chain of plugins that does not know it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test are tests too"
)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use oxilium_e2e::{
    agent::Agent,
    lab::Lab,
    pod::Pod,
    probe,
    require::require,
    scenario::{NEEDS, policy, sockets},
    server::{self, TcpServer},
    wait,
};

const FROM_FRIEND: &str =
    "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";

/// A connection to a server that sends back what it gets.
struct Echo {
    what: String,
    stream: TcpStream,
}

impl Echo {
    fn open(from: &Pod, to: SocketAddr) -> Self {
        let limit = Duration::from_secs(5);
        let stream = server::connect(&from.netns, to, limit).unwrap();
        let mut echo = Self {
            what: format!("{} to {to}", from.name()),
            stream,
        };
        assert!(echo.answers(wait::LONG), "{}", echo.what);
        echo
    }

    /// Sends a byte and waits for one. What was lost is sent again by the kernel, so a flow that is let go on answers.
    fn answers(&mut self, limit: Duration) -> bool {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        self.stream.write_all(b"o").unwrap();
        match self.stream.read_exact(&mut [0]) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{}: {error}", self.what),
        }
    }

    fn goes_on(&mut self) {
        assert!(self.answers(wait::LONG), "{} stopped", self.what);
    }

    fn is_stopped(&mut self) {
        assert!(
            !self.answers(Duration::from_secs(1)),
            "{} goes on",
            self.what
        );
    }
}

/// Connections from one pod to another, by each family.
fn connections(from: &Pod, to: &Pod) -> Vec<Echo> {
    sockets(to, 80)
        .into_iter()
        .map(|address| Echo::open(from, address))
        .collect()
}

fn reaches(from: &Pod, to: &Pod) -> bool {
    let [v4, v6] =
        sockets(to, 80).map(|address| probe::tcp(&from.netns, address).unwrap().is_answered());
    assert_eq!(v4, v6, "the families differ");
    v4
}

/// Names and ids of the endpoints that are enforced.
fn endpoints(agent: &Agent) -> Vec<(String, u64)> {
    let list = agent.cli().json(&["endpoint", "list"]).unwrap();
    let mut found: Vec<_> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter(|endpoint| endpoint["status"]["state"] == "ready")
        .map(|endpoint| {
            let ids = &endpoint["status"]["external-identifiers"];
            let name = ids["k8s-pod-name"].as_str().unwrap_or_default().to_owned();
            (name, endpoint["id"].as_u64().unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn policy_holds_for_pods_that_ran_before_the_agent_and_for_their_connections() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::without_oxilium().unwrap();
    let pod = |name: &str| {
        let mut pod = lab.pod(name).label("app", name).start().unwrap();
        pod.publish_addresses().unwrap();
        pod
    };
    let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
    let _servers = [&subject, &stranger].map(|pod| TcpServer::echo(&pod.netns, 80).unwrap());
    let mut admitted = connections(&friend, &subject);
    let mut denied = connections(&stranger, &subject);
    // The subject asked: what it may be asked has no say in the answers.
    admitted.extend(connections(&subject, &stranger));
    lab.manifests
        .put("rule.yaml", &policy("rule", FROM_FRIEND))
        .unwrap();

    let mut agent = Agent::start(&lab).unwrap();
    agent.until_policy("rule", true).unwrap();
    let adopted = endpoints(&agent);
    let names: Vec<&str> = adopted.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["friend", "stranger", "subject"]);
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));
    admitted.iter_mut().for_each(Echo::goes_on);
    denied.iter_mut().for_each(Echo::is_stopped);

    // Nor does it need to see them again.
    agent.process().crash().unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    assert_eq!(endpoints(&agent), adopted);
    admitted.iter_mut().for_each(Echo::goes_on);
    denied.iter_mut().for_each(Echo::is_stopped);
    assert!(reaches(&friend, &subject) && !reaches(&stranger, &subject));

    // One that such a chain makes while the agent runs is another of these.
    let late = pod("late");
    wait::until("the late pod is adopted", wait::LONG, || {
        let found = endpoints(&agent);
        Ok(found.iter().any(|(name, _)| name == "late").then_some(()))
    })
    .unwrap();
    assert!(!reaches(&late, &subject));

    // What was stopped was stopped by that policy and by nothing else.
    lab.manifests.remove("rule.yaml").unwrap();
    agent.until_policy("rule", false).unwrap();
    denied.iter_mut().for_each(Echo::goes_on);

    // A pod that ends takes its endpoint along.
    late.delete().unwrap();
    wait::until("the endpoint is gone", wait::LONG, || {
        Ok((endpoints(&agent) == adopted).then_some(()))
    })
    .unwrap();
    agent.until_ready().unwrap();
}
