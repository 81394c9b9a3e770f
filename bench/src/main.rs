//! `make bench`: prints the figures, section by section. Needs root.
#![expect(clippy::print_stdout, reason = "printing figures is what it does")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use oxilium_bench::{change, cni, packet, report::Line, scale, traffic};

/// What Oxilium costs, against doing without.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these; without any, all but `scale`
    sections: Vec<Section>,
    /// How many pairs are measured of what is compared
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// TCP between two pods
    Traffic,
    /// One packet in each program
    Packet,
    /// The start of a pod
    Cni,
    /// A policy file changes; memory
    Change,
    /// The agent starts in a large cluster: an API server, minutes to fill it; only when asked for
    Scale,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Self::Traffic => "Two pods under policy, against the same pods with no program",
            Self::Packet => "One packet in each program, net of an empty program",
            Self::Cni => "The start of a pod, against the bridge plugin",
            Self::Scale => "The agent starts in a large cluster",
            Self::Change => "A policy over 100 endpoints changes, and what it all takes",
        }
    }

    fn run(self, arguments: &Arguments) -> Result<Vec<Line>> {
        match self {
            Self::Traffic => traffic::run(arguments.rounds),
            Self::Packet => packet::run(arguments.rounds),
            Self::Cni => cni::run(arguments.rounds * 3),
            Self::Change => change::run(arguments.rounds),
            Self::Scale => scale::run(arguments.rounds.min(3)),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = false;
    for section in Section::value_variants() {
        let is_asked_for = arguments.sections.contains(section);
        let by_itself = arguments.sections.is_empty() && *section != Section::Scale;
        if !is_asked_for && !by_itself {
            continue;
        }
        println!("{}", section.title());
        match section.run(&arguments) {
            Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
            Err(error) => {
                println!("  cannot be measured: {error:#}");
                failed = true;
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
