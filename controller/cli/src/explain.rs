//! `explain FROM TO PORT/PROTO`.

use std::io::{self, Write};

use oxilium_agent::offline::OfflineNode;
use oxilium_api::{
    Client, ExplainBackend, ExplainQuery, ExplainReport, ExplainService, ExplainSide, Explained,
    ProgramVerdict, call,
};
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
        None if args.packet => client.call(call::ExplainPacket(query))?,
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
    Ok(if report.contradicts_itself() {
        Verdict::Contradiction
    } else {
        Verdict::of(report.allowed)
    })
}

fn show(text: &mut dyn Write, report: &ExplainReport) -> io::Result<()> {
    let verdict = if report.allowed { "allowed" } else { "denied" };
    writeln!(text, "{}: {verdict}", report.packet)?;
    if report.contradicts_itself() {
        writeln!(
            text,
            "CONTRADICTION: the programs do not do what the tables say (see below); the kernel does what the programs say"
        )?;
    }
    if let Some(service) = &report.service {
        show_service(text, service)?;
    }
    if let Some(side) = &report.egress {
        show_side(text, "egress", side)?;
    }
    if let Some(side) = &report.ingress {
        show_side(text, "ingress", side)?;
    }
    Ok(())
}

fn show_service(text: &mut dyn Write, service: &ExplainService) -> io::Result<()> {
    if service.backends.is_empty() {
        writeln!(text, "  {} has no backend: dropped", service.name)?;
    }
    for backend in &service.backends {
        let ExplainBackend { name, identity, .. } = backend;
        let verdict = match (backend.itself, backend.allowed) {
            (true, _) => "itself, which policy does not concern",
            (false, true) => "allowed",
            (false, false) => "denied",
        };
        writeln!(
            text,
            "  => {} {name} (identity {identity}): {verdict}",
            backend.backend
        )?;
    }
    for asked in &service.programs {
        show_program(text, asked)?;
    }
    Ok(())
}

fn show_side(text: &mut dyn Write, direction: &str, side: &ExplainSide) -> io::Result<()> {
    let verdict = words(side.verdict);
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
    for asked in &side.programs {
        show_program(text, asked)?;
    }
    Ok(())
}

const fn words(verdict: Explained) -> &'static str {
    match verdict {
        Explained::Allow => "allow",
        Explained::Deny => "deny",
        Explained::NotAllowed => "not allowed",
        Explained::Redirect => "dropped: redirect",
        Explained::Auth => "dropped: authentication required",
        Explained::NoRoom => "dropped: no room for who that is",
    }
}

fn show_program(text: &mut dyn Write, asked: &ProgramVerdict) -> io::Result<()> {
    let verdict = match &asked.reason {
        None => "pass".to_owned(),
        Some(reason) => format!("drop: {reason}"),
    };
    let ProgramVerdict {
        program, packet, ..
    } = asked;
    writeln!(text, "  {program} on {packet}: {verdict}")?;
    if !asked.agrees {
        writeln!(
            text,
            "  CONTRADICTION: of this packet (identity {}) the table says: {}",
            asked.remote_identity,
            words(asked.table)
        )?;
    }
    Ok(())
}
