//! `uninstall`: everything that an agent ever made on this host goes, and what `cni install` did.

use std::io::Write;
use std::path::Path;

use oxilium_agent::uninstall::{Removed, uninstall};
use oxilium_cni::install::{self, Directories};
use oxilium_model::world::PodRef;

use crate::args::Uninstall;
use crate::output::{Out, Verdict};

pub(crate) fn run<W: Write>(
    options: &Uninstall,
    socket: &Path,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let directories = Directories {
        programs: options.cni_bin_dir.clone(),
        configurations: options.cni_conf_dir.clone(),
    };
    let report = uninstall(&options.agent, socket, |pods| plugin(&directories, pods))?;
    out.print(&report, |text| {
        for line in &report.removed {
            writeln!(text, "removed: {line}")?;
        }
        for line in &report.restored {
            writeln!(text, "{line}")?;
        }
        for line in &report.left {
            writeln!(text, "left: {line}")?;
        }
        if report == Removed::default() {
            writeln!(text, "nothing of an agent is on this host")?;
        }
        Ok(())
    })?;
    Ok(Verdict::of(report.left.is_empty()))
}

/// What the installer's line about a file begins with that it removed.
const REMOVED: &str = "removed ";

/// The program stays as long as there are pods: without it no runtime could delete them.
fn plugin(directories: &Directories, pods: &[PodRef]) -> anyhow::Result<Removed> {
    let done = install::uninstall(directories, pods.is_empty())?;
    let (removed, restored): (Vec<_>, Vec<_>) =
        done.into_iter().partition(|line| line.starts_with(REMOVED));
    let removed = removed
        .iter()
        .filter_map(|line| line.strip_prefix(REMOVED))
        .map(str::to_owned)
        .collect();
    let left = match (pods, install::program(directories)) {
        ([first, ..], Some(program)) => vec![format!(
            "{}: {} pods are deleted with it, first {first}; when they are gone: oxilium cni uninstall --programs",
            program.display(),
            pods.len()
        )],
        _ => Vec::new(),
    };
    Ok(Removed {
        removed,
        restored,
        left,
    })
}
