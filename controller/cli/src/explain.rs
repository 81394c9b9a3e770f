//! `explain FROM TO PORT/PROTO`.

use std::io::{self, Write};

use oxilium_agent::offline::OfflineNode;
use oxilium_api::{Client, ExplainQuery, ExplainReport, ExplainSide, Explained};
use oxilium_model::world::NodeConfig;

use crate::args::ExplainArgs;
use crate::files;
use crate::output::{Out, Verdict};

pub(crate) fn run<W: Write>(
    client: &Client,
    args: &ExplainArgs,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let query = ExplainQuery {
        from: args.from.clone(),
        to: args.to.clone(),
        port: args.port.clone(),
    };
    let report = match &args.manifests {
        None => client.call(query)?,
        Some(directory) => {
            let files = files::read(directory)?;
            let config = NodeConfig::default();
            let node = OfflineNode::new(&files, args.node_name.as_deref(), config);
            anyhow::ensure!(
                node.refused.is_empty(),
                "manifests are refused, so nothing can be said of them:\n{}",
                node.refused.join("\n")
            );
            node.explain(&query)?
        }
    };
    out.print(&report, |text| show(text, &report))?;
    Ok(Verdict::of(report.allowed))
}

fn show(text: &mut dyn Write, report: &ExplainReport) -> io::Result<()> {
    let verdict = if report.allowed { "allowed" } else { "denied" };
    writeln!(text, "{}: {verdict}", report.packet)?;
    if let Some(side) = &report.egress {
        show_side(text, "egress", side)?;
    }
    if let Some(side) = &report.ingress {
        show_side(text, "ingress", side)?;
    }
    Ok(())
}

fn show_side(text: &mut dyn Write, direction: &str, side: &ExplainSide) -> io::Result<()> {
    let verdict = match side.verdict {
        Explained::Allow => "allow",
        Explained::Deny => "deny",
        Explained::NotAllowed => "not allowed",
        Explained::Redirect => "dropped: redirect",
        Explained::Auth => "dropped: authentication required",
    };
    writeln!(text)?;
    writeln!(text, "{direction} of {}: {verdict}", side.subject)?;
    writeln!(text, "  {}", side.reason)?;
    if let Some(entry) = &side.entry {
        writeln!(text, "  entry: {entry}")?;
    }
    for rule in &side.rules {
        writeln!(text, "  rule: {rule}")?;
    }
    for other in &side.otherwise {
        for rule in &other.rules {
            writeln!(text, "  not: {} by {rule}: {}", other.entry, other.why_not)?;
        }
    }
    Ok(())
}
