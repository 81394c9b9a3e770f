//! What our plugin adds to the start of a pod: beside the `bridge` plugin, alone and in a burst.

use std::{thread, time::Instant};

use anyhow::{Context, Result, anyhow};
use oxilium_e2e::{
    agent::Agent,
    lab::Lab,
    pod::{PodBuilder, PreparedPod},
};
use serde_json::{Value, json};

use crate::{
    figures::{Pairs, Samples},
    report::{Goal, Line, Unit},
};

/// Pods that are started at once.
const BURST: usize = 100;

/// Our ADD against `bridge`'s ADD of the same pod, `rounds` pods one after the other; then a burst.
///
/// # Errors
/// If the lab, the agent or a plugin fails.
pub fn run(rounds: usize) -> Result<Vec<Line>> {
    let lab = Lab::new()?;
    let agent = Agent::start(&lab)?;
    let pairs: Vec<(f64, f64)> = (0..rounds)
        .map(|number| {
            let pod = prepare(lab.pod(&format!("alone-{number}")))?;
            let (result, bridge) = timed(|| add(&pod, "bridge", &json!({})))?;
            let (_, ours) = timed(|| add(&pod, "cilium-cni", &json!({ "prevResult": result })))?;
            Ok((ours, bridge))
        })
        .collect::<Result<_>>()?;
    let alone = Pairs::new(&pairs).context("no pod was added")?;

    let pods: Vec<PreparedPod> = (0..BURST)
        .map(|number| prepare(lab.pod(&format!("burst-{number}"))))
        .collect::<Result<_>>()?;
    let made = at_once(&pods, |pod| add(pod, "bridge", &json!({})))?;
    let with_result: Vec<_> = pods.iter().zip(made).collect();
    let plugin = at_once(&with_result, |(pod, (result, _))| {
        add(pod, "cilium-cni", &json!({ "prevResult": result }))
    })?;
    let plugin = Samples::new(plugin.into_iter().map(|(_, seconds)| seconds).collect())
        .context("no pod in the burst")?;
    let inside = Samples::new(agent_times(&agent)?).context("no endpoint tells its times")?;
    Ok(vec![
        Line::ratio(
            "CNI ADD, alone",
            &alone,
            Unit::Seconds,
            Some(Goal::AtMost(1.0)),
        ),
        Line::absolute(
            "agent time of an ADD, burst of 100, P99",
            inside.percentile(99),
            Unit::Seconds,
            &format!("median {}", Unit::Seconds.show(inside.median())),
            Some(Goal::AtMost(0.050)),
        ),
        Line::absolute(
            "whole plugin in that burst, P99",
            plugin.percentile(99),
            Unit::Seconds,
            &format!(
                "median {}; a hundred processes on {} CPUs",
                Unit::Seconds.show(plugin.median()),
                thread::available_parallelism()?,
            ),
            None,
        ),
    ])
}

fn prepare(builder: PodBuilder<'_>) -> Result<PreparedPod> {
    builder.label("app", "bench").prepare()
}

fn add(pod: &PreparedPod, kind: &str, extra: &Value) -> Result<Value> {
    pod.chain
        .call_one(kind, "ADD", Some(&pod.sandbox), extra)?
        .with_context(|| format!("{kind} gave no result"))
}

/// What `work` gives, and how many seconds it took.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let began = Instant::now();
    let value = work()?;
    Ok((value, began.elapsed().as_secs_f64()))
}

/// Works on all items at the same time; results and seconds in the items' order.
fn at_once<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<(T, f64)>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || timed(|| work(item))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

/// From each endpoint's log of the burst: seconds between the request and its enforcement.
fn agent_times(agent: &Agent) -> Result<Vec<f64>> {
    (0..BURST)
        .map(|number| {
            let name = format!("default/burst-{number}");
            let endpoint = agent.cli().json(&["endpoint", "get", &name])?;
            life(&endpoint).with_context(|| format!("no times in {endpoint}"))
        })
        .collect()
}

/// Seconds from the first line of an endpoint's log to the first that says that a revision is enforced.
pub(crate) fn life(endpoint: &Value) -> Option<f64> {
    let log = endpoint["status"]["log"].as_array()?;
    let requested = seconds_of_day(log.first()?["timestamp"].as_str()?)?;
    let enforced = |line: &&Value| {
        line["message"]
            .as_str()
            .is_some_and(|message| message.ends_with(" enforced"))
    };
    let ready = seconds_of_day(log.iter().find(enforced)?["timestamp"].as_str()?)?;
    // A burst over midnight.
    Some(if ready < requested {
        ready + 86_400.0 - requested
    } else {
        ready - requested
    })
}

/// Of an RFC 3339 time in UTC: seconds since midnight, fractions included.
fn seconds_of_day(timestamp: &str) -> Option<f64> {
    let (_, time) = timestamp.split_once('T')?;
    let mut parts = time.strip_suffix('Z')?.splitn(3, ':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_life_is_from_the_request_to_ready() {
        let endpoint = |requested: &str, ready: &str| {
            json!({"status": {"log": [
                {"timestamp": requested, "state": "waiting-for-identity", "message": "endpoint requested"},
                {"timestamp": requested, "state": "ready", "message": "identity 300 assigned"},
                {"timestamp": ready, "state": "ready", "message": "revision 7 enforced"},
            ]}})
        };
        for (requested, ready, seconds) in [
            ("2026-11-23T06:00:00.250Z", "2026-11-23T06:00:01.000Z", 0.75),
            ("2026-11-23T23:59:59.5Z", "2026-11-24T00:00:00.25Z", 0.75),
        ] {
            let life = life(&endpoint(requested, ready)).unwrap();
            assert!((life - seconds).abs() < 1e-6, "{life}");
        }
        assert_eq!(life(&json!({"status": {"log": []}})), None);
    }

    #[test]
    fn all_items_are_worked_on_and_an_error_is_told() {
        let items = [1, 2, 3];
        let doubled = at_once(&items, |item| Ok(item * 2)).unwrap();
        let values: Vec<i32> = doubled.into_iter().map(|(value, _)| value).collect();
        assert_eq!(values, [2, 4, 6]);
        assert!(
            at_once(&items, |item| if *item == 2 {
                Err(anyhow!("no"))
            } else {
                Ok(())
            })
            .is_err()
        );
    }
}
