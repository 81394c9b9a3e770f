//! The agent's memory cgroup is at its limit: maps are charged there, and the kernel itself has no memory for their entries.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::net::SocketAddr;

use oxilium_e2e::{
    agent::{Agent, agent_command},
    cgroup::MemoryCgroup,
    lab::Lab,
    pod::Pod,
    probe::{self, Outcome},
    require::{Need, require},
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    wait,
};

/// More entries than what is left of the pages that the kernel has taken already.
const PREFIXES: usize = 1500;

struct Stage {
    agent: Agent,
    cgroup: MemoryCgroup,
    one: Pod,
    two: Pod,
    stranger: Pod,
    to: SocketAddr,
    _service: TcpServer,
    _subject: Pod,
    lab: Lab,
}

/// Who may speak to the subject, beside many prefixes.
fn allowing(friend: &str, prefixes: usize) -> String {
    let prefixes: Vec<String> = (0..prefixes)
        .map(|number| format!("198.18.{}.{}/32", number / 250, number % 250))
        .collect();
    let cidrs = if prefixes.is_empty() {
        String::new()
    } else {
        format!("    - fromCIDR: [{}]\n", prefixes.join(", "))
    };
    let friends =
        format!("  ingress:\n    - fromEndpoints:\n        - matchLabels: {{app: {friend}}}\n");
    policy("web", &(friends + &cidrs))
}

impl Stage {
    fn start() -> Option<Self> {
        if !require(&NEEDS) || !require(&[Need::MemoryCgroup]) {
            return None;
        }
        let lab = Lab::new().unwrap();
        let cgroup = MemoryCgroup::new(lab.prefix()).unwrap();
        let mut agent = launch(&lab, &cgroup);
        agent.until_ready().unwrap();
        let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
        let (subject, one, two) = (pod("subject"), pod("one"), pod("two"));
        let stranger = pod("stranger");
        lab.manifests.put("web.yaml", &allowing("one", 0)).unwrap();
        agent.until_policy("web", true).unwrap();
        agent.until_ready().unwrap();
        agent.until_linked().unwrap();
        Some(Self {
            agent,
            cgroup,
            one,
            two,
            stranger,
            to: sockets(&subject, 80)[0],
            _service: TcpServer::echo(&subject.netns, 80).unwrap(),
            _subject: subject,
            lab,
        })
    }

    fn answers(&self, from: &Pod) -> bool {
        probe::tcp(&from.netns, self.to).unwrap() == Outcome::Answered
    }

    /// What was in force before the change, or what is to be, or a part of both; and nothing that neither allows.
    fn is_safe(&self) {
        assert!(self.answers(&self.one) || self.answers(&self.two));
        assert!(!self.answers(&self.stranger));
    }

    /// The agent ends, or else tells that it lacks memory, or has found some.
    fn is_killed(&mut self) -> bool {
        wait::until("it is told of, done or ended", wait::LONG, || {
            if self.agent.process().ended()?.is_some() {
                return Ok(Some(true));
            }
            let output = self.agent.cli().output(&["status"])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let told = text.contains("raise the memory limit");
            Ok((told || self.answers(&self.two)).then_some(false))
        })
        .unwrap()
    }

    fn change(&self) {
        let text = allowing("two", PREFIXES);
        self.lab.manifests.put("web.yaml", &text).unwrap();
    }

    fn becomes_well(&mut self) {
        self.cgroup.thaw().unwrap();
        wait::until("it goes on", wait::LONG, || {
            Ok((self.answers(&self.two) && !self.answers(&self.one)).then_some(()))
        })
        .unwrap();
        self.agent.until_ready().unwrap();
    }
}

fn launch(lab: &Lab, cgroup: &MemoryCgroup) -> Agent {
    let command = cgroup.around(&agent_command(lab).unwrap());
    Agent::launch_as(lab, command).unwrap()
}

#[test]
fn entries_that_there_is_no_memory_for_are_told_of_and_made_when_there_is() {
    let Some(mut stage) = Stage::start() else {
        return;
    };
    // The maps stay charged to the cgroup that they were made in. Another agent is spared: what runs out is their memory
    // alone.
    stage.agent.process().crash().unwrap();
    stage.agent = Agent::start(&stage.lab).unwrap();
    stage.agent.until_linked().unwrap();
    stage.cgroup.freeze().unwrap();
    stage.change();
    wait::until("status tells it", wait::LONG, || {
        let output = stage.agent.cli().output(&["status"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text.contains("raise the memory limit of the agent's cgroup");
        anyhow::ensure!(!output.status.success() && told, "{text}");
        Ok(Some(()))
    })
    .unwrap();
    stage.is_safe();
    stage.becomes_well();
}

#[test]
fn an_agent_at_its_limit_is_killed_or_goes_on_and_nothing_is_allowed_by_that() {
    let Some(mut stage) = Stage::start() else {
        return;
    };
    stage.cgroup.freeze().unwrap();
    stage.change();
    // Whether the kernel refuses an entry first or kills the process is its own choice. One that is killed leaves room for
    // the next, which may do, or not.
    for _ in 0..3 {
        let killed = stage.is_killed();
        stage.is_safe();
        if !killed {
            break;
        }
        stage.agent = launch(&stage.lab, &stage.cgroup);
    }
    stage.cgroup.thaw().unwrap();
    if stage.agent.process().ended().unwrap().is_some() {
        stage.agent = launch(&stage.lab, &stage.cgroup);
    }
    stage.becomes_well();
}
