//! `make e2e`: what a cluster's users do, on a cluster that is up and has the agent installed.
//!
//! Each scenario says what is done, what was expected and what was seen, and removes what it made; the exit status is 0
//! only when all agree. `oxilium-e2e-cluster NAME…` runs those that are named; `oxilium-e2e-cluster install` installs the
//! chart for them, and `uninstall` takes it away.
#![expect(clippy::print_stdout, reason = "printing is what this program does")]

mod agents;
mod changes;
mod chart;
mod collected;
mod nodes;
mod outages;
mod permissions;
mod policies;
mod seed;
mod stage;
mod trio;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use oxilium_e2e::cluster::Cluster;

use stage::Stage;

/// Something that a user relies on.
struct Scenario {
    name: &'static str,
    /// It needs the machine that the cluster runs on.
    own_machine: bool,
    play: fn(&mut Stage<'_>) -> Result<()>,
}

const fn anywhere(name: &'static str, play: fn(&mut Stage<'_>) -> Result<()>) -> Scenario {
    Scenario {
        name,
        own_machine: false,
        play,
    }
}

const fn here(name: &'static str, play: fn(&mut Stage<'_>) -> Result<()>) -> Scenario {
    Scenario {
        name,
        own_machine: true,
        play,
    }
}

/// In this order: the last ones take things away.
const SCENARIOS: &[Scenario] = &[
    anywhere("what-users-see", seed::what_users_see),
    anywhere("seed-policies", seed::policies),
    anywhere(
        "enforced-before-the-first-packet",
        changes::before_the_first_packet,
    ),
    anywhere("labels-of-a-running-pod", changes::pod_labels),
    anywhere("labels-of-a-namespace", changes::namespace_labels),
    anywhere("cluster-ip-under-default-deny", changes::cluster_ip),
    anywhere("unused-objects-are-collected", collected::unused),
    anywhere("identity-marked-for-deletion", collected::marked_identity),
    anywhere("endpoint-of-a-former-life", collected::former_life),
    anywhere("older-definition-is-upgraded", collected::older_definition),
    anywhere("taint-until-the-agent-is-ready", collected::taint),
    anywhere("agent-killed-under-traffic", outages::agent_killed),
    here("agent-upgraded-in-place", agents::upgraded),
    here("api-server-away", outages::api_server_away),
    anywhere("crd-deleted-by-mistake", outages::crd_deleted),
    anywhere("pods-that-run-already", agents::come_late),
    here("node-deleted", nodes::deleted),
    // Of all that was asked before.
    here("permissions-as-used", permissions::as_used),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<bool> {
    if wanted == ["install"] {
        return chart::install(&Cluster::find()?, &[]).map(|()| true);
    }
    if wanted == ["uninstall"] {
        return chart::uninstall(&Cluster::find()?).map(|()| true);
    }
    for name in wanted {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            anyhow::bail!("no scenario {name}; there are: {}", names.join(", "));
        }
    }
    let cluster = Cluster::find()?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == scenario.name) {
            continue;
        }
        if scenario.own_machine && !cluster.is_own() {
            println!(
                "\n{}: skipped, the cluster is not this machine's own",
                scenario.name
            );
            skipped += 1;
            continue;
        }
        println!("\n{}", scenario.name);
        let began = Instant::now();
        let mut stage = Stage::set(&cluster, scenario.name)?;
        let result = (scenario.play)(&mut stage).and_then(|()| stage.clear());
        if let Err(error) = &result {
            println!("  cannot go on: {error:#}");
        }
        let differences = stage.differences();
        let seconds = began.elapsed().as_secs_f64();
        if result.is_ok() && differences == 0 {
            passed += 1;
            println!("  as expected, in {seconds:.1} s");
        } else {
            failed += 1;
            println!("  FAILED: {differences} differences, in {seconds:.1} s");
        }
    }
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed > 0)
}
