//! `make bench-cluster`: figures of a cluster that is up and has the agent installed.
#![expect(clippy::print_stdout, reason = "printing figures is what it does")]

use anyhow::Result;
use clap::Parser;
use oxilium_bench::cluster;
use oxilium_e2e::cluster::Cluster;

/// How soon a cluster does what it is told.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often a policy is changed
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// How many pods are started at once
    #[arg(long, default_value_t = 100)]
    pods: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cluster = Cluster::find()?;
    println!("{}", cluster::load()?);
    println!("{} changes of a policy over ten pods", arguments.changes);
    for line in cluster::change(&cluster, arguments.changes)? {
        println!("{line}");
    }
    println!("{} pods on one node", arguments.pods);
    for line in cluster::burst(&cluster, arguments.pods)? {
        println!("{line}");
    }
    println!("{}", cluster::load()?);
    Ok(())
}
