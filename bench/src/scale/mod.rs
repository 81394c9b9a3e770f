//! An agent that starts in a large cluster: how long until it is ready, beside a reader that throws the same lists
//! away, and what it takes then.

mod cluster;

use std::{fs, time::Instant};

use anyhow::{Context, Result};
use oxilium_e2e::{
    agent::{Agent, agent_command_of},
    apiserver::ApiServer,
    lab::Lab,
    pod::Pod,
};

use crate::{
    figures::Samples,
    report::{Goal, Line, Unit},
};
use cluster::{LARGE, Size};

/// Pods of the agent's own node.
const PODS: usize = 10;
/// Resident memory, in `/proc/PID/status`.
const RESIDENT: &str = "VmRSS:";
/// Changes of one endpoint elsewhere.
const CHANGES: usize = 50;

/// Starts the agent `rounds` times in a cluster of that size.
///
/// # Errors
/// If the lab, the API server, the agent or a pod fails.
pub fn run(rounds: usize) -> Result<Vec<Line>> {
    run_with(rounds, LARGE)
}

/// A pod that the API server knows, of the `number`th workload: one of the cluster's policies is for it.
fn pod(lab: &Lab, api: &ApiServer, number: usize) -> Result<Pod> {
    let (name, namespace) = (format!("bench-{number}"), cluster::namespace(number));
    let labels = cluster::workload(number);
    let builder = lab.pod(&name).namespace(&namespace);
    let builder = labels
        .iter()
        .fold(builder, |builder, (key, value)| builder.label(key, value));
    builder.prepare()?.known_to(api)?.add()
}

fn run_with(rounds: usize, size: Size) -> Result<Vec<Line>> {
    let lab = Lab::new()?;
    let api = ApiServer::start_in(&lab.master.netns, lab.master.ipv4.into())?;
    api.define()?;
    for node in [&lab.master, &lab.worker] {
        let file = lab
            .manifests
            .path()
            .join(format!("node-{}.yaml", node.name));
        api.apply(&fs::read_to_string(file)?)?;
    }
    cluster::make_namespaces(&api, &lab.master.netns)?;
    let mut agent = Agent::launch_as(&lab, agent_command_of(&lab, &api)?)?;
    agent.until_ready()?;
    let _pods: Vec<Pod> = (0..PODS)
        .map(|number| pod(&lab, &api, number))
        .collect::<Result<_>>()?;
    agent.process().crash()?;
    cluster::load(&api, &lab.master.netns, size)?;

    let (mut plain, mut ready, mut over, mut processor) = (vec![], vec![], vec![], vec![]);
    let (mut memory, mut peak, mut bytes) = (vec![], vec![], 0);
    // The server's own caches are filled by the first reader.
    cluster::read(&api, &lab.worker.netns)?;
    for round in 0..rounds {
        let read = cluster::read(&api, &lab.worker.netns)?;
        bytes = read.bytes;
        let began = Instant::now();
        agent = Agent::launch_as(&lab, agent_command_of(&lab, &api)?)?;
        agent.until_ready()?;
        let took = began.elapsed().as_secs_f64();
        plain.push(read.took);
        ready.push(took);
        over.push(took - read.took);
        let pid = agent.process().pid();
        processor.push(processor_time(pid)?);
        memory.push(status_of(pid, RESIDENT)?);
        peak.push(status_of(pid, "VmHWM:")?);
        if round + 1 < rounds {
            agent.process().crash()?;
        }
    }
    let changes = changes(&mut agent, &api)?;
    let settled = status_of(agent.process().pid(), RESIDENT)?;

    let samples = |values: Vec<f64>| Samples::new(values).context("nothing was measured");
    let (plain, ready, over) = (samples(plain)?, samples(ready)?, samples(over)?);
    let (processor, memory, peak) = (samples(processor)?, samples(memory)?, samples(peak)?);
    let changes = samples(changes)?;
    let lists = Unit::Bytes.show(f64::from(u32::try_from(bytes)?));
    Ok(vec![
        Line::absolute(
            "a reader of the same lists",
            plain.median(),
            Unit::Seconds,
            &format!(
                "{lists}: {} CiliumEndpoints, {} identities, {} policies",
                size.endpoints, size.identities, size.policies
            ),
            None,
        ),
        Line::absolute(
            "agent, start to ready",
            ready.median(),
            Unit::Seconds,
            "an API server on the same CPUs",
            Some(Goal::AtMost(3.0)),
        ),
        Line::absolute(
            "agent, start to ready, beyond the reader",
            over.median(),
            Unit::Seconds,
            "of the same round",
            None,
        ),
        Line::absolute(
            "agent, processor time until ready",
            processor.median(),
            Unit::Seconds,
            "",
            None,
        ),
        Line::absolute(
            "agent, resident when ready",
            memory.median(),
            Unit::Bytes,
            &format!(
                "{} at most before, {} after {CHANGES} changes",
                Unit::Bytes.show(peak.median()),
                Unit::Bytes.show(settled)
            ),
            Some(Goal::AtMost(100e6)),
        ),
        Line::absolute(
            "processor time for one changed endpoint",
            changes.median(),
            Unit::Seconds,
            &format!("P99 {}", Unit::Seconds.show(changes.percentile(99))),
            None,
        ),
    ])
}

/// An endpoint of another node gets another identity, again and again: processor time that each costs the agent.
fn changes(agent: &mut Agent, api: &ApiServer) -> Result<Vec<f64>> {
    let pid = agent.process().pid();
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let (before, known) = (processor_time(pid)?, agent.revision()?);
        let labels = format!(
            r#"{{"status":{{"networking":{{"addressing":[{{"ipv4":"10.99.0.{}"}}],"node":"172.16.0.1"}}}}}}"#,
            number + 1
        );
        api.kubectl(&[
            "--namespace=scale-0",
            "patch",
            "ciliumendpoint",
            "app-0-0",
            "--type=merge",
            &format!("--patch={labels}"),
        ])?;
        agent.until_revision_after(known)?;
        times.push(processor_time(pid)? - before);
    }
    Ok(times)
}

/// Of all threads, in user and kernel mode. In ticks of ten milliseconds on most machines, so finer by `schedstat`.
fn processor_time(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0_u64;
    let directory = format!("/proc/{pid}/task");
    for thread in fs::read_dir(&directory).with_context(|| directory.clone())? {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let first = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        nanoseconds += first.with_context(|| path.display().to_string())?;
    }
    Ok(std::time::Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// A field of `/proc/PID/status` that is in kibibytes, in bytes.
fn status_of(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: f64 = kibibytes.context(path)?.parse()?;
    Ok(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_taken_time_and_memory() {
        let pid = std::process::id();
        assert!(processor_time(pid).unwrap() > 0.0);
        // The peak is read last: in between it only grows.
        let resident = status_of(pid, RESIDENT).unwrap();
        assert!(status_of(pid, "VmHWM:").unwrap() >= resident);
    }
}
