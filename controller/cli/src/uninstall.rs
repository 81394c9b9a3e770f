//! `uninstall`: everything that an agent ever made on this host goes.

use std::io::Write;
use std::path::Path;

use oxilium_agent::uninstall::{UninstallOptions, uninstall};

use crate::output::{Out, Verdict};

pub(crate) fn run<W: Write>(
    options: &UninstallOptions,
    socket: &Path,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let report = uninstall(options, socket)?;
    out.print(&report, |text| {
        for line in &report.removed {
            writeln!(text, "removed: {line}")?;
        }
        for line in &report.left {
            writeln!(text, "left: {line}")?;
        }
        if report.removed.is_empty() && report.left.is_empty() {
            writeln!(text, "nothing of an agent is on this host")?;
        }
        Ok(())
    })?;
    Ok(Verdict::of(report.left.is_empty()))
}
