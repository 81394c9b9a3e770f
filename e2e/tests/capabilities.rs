//! What the chart lets the agent do: it is enough, and no capability is too many.

use std::{
    fs, iter,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::Result;
use oxilium_e2e::{
    agent::{Agent, agent_command},
    lab::Lab,
    pod::{Pod, host_interface},
    probe::{self, Outcome},
    require::require,
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    wait,
};

/// As `values.yaml` has them.
fn of_the_chart() -> Vec<String> {
    let values = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/oxilium/values.yaml");
    let text = fs::read_to_string(values).expect("the chart has values");
    let line = text.lines().map(str::trim);
    let mut lists = line.filter_map(|line| line.strip_prefix("ciliumAgent: ["));
    let list = lists.next().expect("securityContext.capabilities");
    list.trim_end_matches(']')
        .split(", ")
        .map(str::to_owned)
        .collect()
}

/// The agent with these capabilities and no others, as in a container that drops all and adds them.
fn command(lab: &Lab, capabilities: &[String]) -> Result<Command> {
    let set: Vec<String> = iter::once("-all".to_owned())
        .chain(
            capabilities
                .iter()
                .map(|name| format!("+{}", name.to_lowercase())),
        )
        .collect();
    let agent = agent_command(lab)?;
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--bounding-set={}", set.join(",")))
        .arg("--inh-caps=-all")
        .arg("--no-new-privs")
        .arg(agent.get_program())
        .args(agent.get_args());
    Ok(command)
}

/// Keeps a pod's network namespace, and has all capabilities, as a privileged container's first process.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends with its standard input as well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A pod whose namespace the runtime names by a process in it, as some do.
fn by_process(lab: &Lab) -> Result<(Keeper, Pod)> {
    let mut prepared = lab.pod("privileged").label("app", "subject").prepare()?;
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped()).stdout(Stdio::null());
    let keeper = Keeper(prepared.netns.enter(|| cat.spawn())??);
    prepared.sandbox.netns = format!("/proc/{}/ns/net", keeper.0.id()).into();
    Ok((keeper, prepared.add()?))
}

/// Only the pod's end of its link tells whose it is after this.
fn change_address(lab: &Lab, pod: &Pod) -> Result<()> {
    let link = host_interface(&pod.result)?;
    let change = format!("link set {link} address 02:00:00:00:00:77");
    lab.worker.netns.ip(&change).map(drop)
}

/// Waits until the agent's log has these words; `status` has them as well by then, where there is one.
fn until_said(agent: &Agent, words: &str) -> Result<()> {
    wait::until(words, wait::LONG, || {
        Ok(agent.log().contains(words).then_some(()))
    })
}

/// Those of the chart without one of them.
fn all_but(name: &str) -> Vec<String> {
    let (without, rest): (Vec<_>, Vec<_>) =
        of_the_chart().into_iter().partition(|other| other == name);
    assert_eq!(without, [name], "the chart gives it");
    rest
}

#[test]
fn what_the_chart_gives_is_what_is_looked_at_here() {
    assert_eq!(of_the_chart(), ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
}

#[test]
fn they_are_enough() -> Result<()> {
    if !require(&NEEDS) {
        return Ok(());
    }
    let lab = Lab::new()?;
    let start = || Agent::launch_as(&lab, command(&lab, &of_the_chart())?);
    let mut agent = start()?;
    agent.until_ready()?;
    let stranger = lab.pod("stranger").label("app", "stranger").start()?;
    let (_keeper, subject) = by_process(&lab)?;
    let _server = TcpServer::echo(&subject.netns, 80)?;
    let friends = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
    lab.manifests.put("rule.yaml", &policy("rule", friends))?;
    agent.until_policy("rule", true)?;
    agent.process().crash()?;
    change_address(&lab, &subject)?;
    let mut agent = start()?;
    agent.until_ready()?;
    for to in sockets(&subject, 80) {
        let outcome = probe::tcp(&stranger.netns, to)?;
        assert_eq!(outcome, Outcome::Silence, "{to}");
    }
    subject.delete()?;
    stranger.delete()?;
    agent.until_applied()
}

#[test]
fn without_net_admin_no_program_is_attached() -> Result<()> {
    if !require(&NEEDS) {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut agent = Agent::launch_as(&lab, command(&lab, &all_but("NET_ADMIN"))?)?;
    agent.until_ready()?;
    let pod = lab.pod("subject").prepare()?;
    let added = thread::scope(|scope| {
        let add = scope.spawn(|| pod.add());
        until_said(
            &agent,
            "CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN are needed",
        )?;
        // Nobody is there to wait for any more.
        agent.process().crash()?;
        Ok::<_, anyhow::Error>(add.join().expect("ADD ends").is_ok())
    })?;
    assert!(!added, "a pod that is not enforced is not connected");
    Ok(())
}

#[test]
fn without_sys_admin_the_agent_ends_and_says_why() -> Result<()> {
    if !require(&NEEDS) {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut agent = Agent::launch_as(&lab, command(&lab, &all_but("SYS_ADMIN"))?)?;
    agent.process().wait(wait::LONG)?;
    until_said(&agent, "what was enforced before still is")?;
    until_said(&agent, "not permitted")
}

#[test]
fn without_sys_ptrace_namespaces_that_are_named_by_process_stay_closed() -> Result<()> {
    if !require(&NEEDS) {
        return Ok(());
    }
    let lab = Lab::new()?;
    let start = || Agent::launch_as(&lab, command(&lab, &all_but("SYS_PTRACE"))?);
    let mut agent = start()?;
    agent.until_ready()?;
    let (keeper, subject) = by_process(&lab)?;
    agent.process().crash()?;
    change_address(&lab, &subject)?;
    let agent = start()?;
    let closed = format!("/proc/{}/ns/net: Permission denied", keeper.0.id());
    until_said(&agent, &closed)
}
