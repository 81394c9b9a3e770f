//! `policy get|check`.

use std::io::{self, Write};
use std::path::PathBuf;

use oxilium_api::{Client, PolicyMode, PolicyObject, StagedExample, call};
use oxilium_manifest::check::check as check_path;
use oxilium_manifest::directory::Settings;

use crate::output::{Out, Verdict, protocol};

pub(crate) fn get<W: Write>(client: &Client, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let answer = client.call(call::PolicyGet)?;
    let policies = &answer.policies;
    out.print(&answer, |table| {
        writeln!(
            table,
            "KIND\tNAMESPACE\tNAME\tMODE\tRULES\tENDPOINTS\tSTATUS\tFROM"
        )?;
        policies.iter().try_for_each(|policy| row(table, policy))?;
        policies
            .iter()
            .filter(|policy| policy.mode == PolicyMode::Audit)
            .try_for_each(|policy| staged(table, policy))?;
        writeln!(table, "Revision: {}", answer.revision)
    })?;
    Ok(Verdict::Yes)
}

/// What a staged policy would change.
fn staged(table: &mut dyn Write, policy: &PolicyObject) -> io::Result<()> {
    let namespace = policy.namespace.as_deref();
    let namespace = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
    writeln!(
        table,
        "\nStaged: {} {namespace}{}",
        policy.kind, policy.name
    )?;
    let Some(report) = &policy.staged else {
        return writeln!(table, "  flows are not compared yet");
    };
    writeln!(
        table,
        "  would newly deny {} and newly allow {} flows, since {}",
        report.newly_denied, report.newly_allowed, report.since
    )?;
    if report.events_lost > 0 {
        writeln!(
            table,
            "  {} events were lost: newly allowed flows may be missing",
            report.events_lost
        )?;
    }
    if report.not_counted > 0 {
        writeln!(
            table,
            "  {} times a flow was not counted: too many at once",
            report.not_counted
        )?;
    }
    for condition in &report.conditions {
        writeln!(table, "  {}: {}", condition.kind, condition.message)?;
    }
    if !report.examples.is_empty() {
        writeln!(
            table,
            "  CHANGE\tDIRECTION\tSOURCE\tDESTINATION\tPORT\tTIME"
        )?;
    }
    report
        .examples
        .iter()
        .try_for_each(|example| example_row(table, example))
}

fn example_row(table: &mut dyn Write, example: &StagedExample) -> io::Result<()> {
    let side = |address: &str, identity: u32, name: Option<&str>| {
        let name = name.map_or_else(String::new, |name| format!("{name}, "));
        format!("{address} ({name}identity {identity})")
    };
    writeln!(
        table,
        "  {}\t{}\t{}\t{}\t{}/{}\t{}",
        example.change.as_str(),
        example.direction,
        side(
            &example.source,
            example.source_identity,
            example.source_name.as_deref()
        ),
        side(
            &example.destination,
            example.destination_identity,
            example.destination_name.as_deref()
        ),
        example.destination_port,
        protocol(example.protocol),
        example.time,
    )
}

fn row(table: &mut dyn Write, policy: &PolicyObject) -> io::Result<()> {
    let others: Vec<&str> = policy
        .conditions
        .iter()
        .filter(|condition| !["Valid", "Staged"].contains(&condition.kind.as_str()))
        .map(|condition| condition.kind.as_str())
        .collect();
    let status = if others.is_empty() {
        "Valid".to_owned()
    } else {
        others.join(",")
    };
    writeln!(
        table,
        "{}\t{}\t{}\t{}\t{}\t{}\t{status}\t{}",
        policy.kind,
        policy.namespace.as_deref().unwrap_or("-"),
        policy.name,
        policy.mode.as_str(),
        policy.rules,
        policy.endpoints,
        policy.origin.as_deref().unwrap_or("-"),
    )
}

pub(crate) fn check<W: Write>(paths: &[PathBuf], out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let settings = Settings::default();
    let mut good = true;
    for path in paths {
        let (report, _) = check_path(path, &settings)?;
        good &= report.ok;
        out.print(&report, |text| write!(text, "{report}"))?;
    }
    Ok(Verdict::of(good))
}
