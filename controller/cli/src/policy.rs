//! `policy get|check`.

use std::io::{self, Write};
use std::path::PathBuf;

use oxilium_api::{Client, PolicyObject, call};
use oxilium_manifest::check::check as check_path;
use oxilium_manifest::directory::Settings;

use crate::output::{Out, Verdict};

pub(crate) fn get<W: Write>(client: &Client, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let policies = client.call(call::PolicyGet)?;
    out.print(&policies, |table| {
        writeln!(
            table,
            "KIND\tNAMESPACE\tNAME\tRULES\tENDPOINTS\tSTATUS\tFROM"
        )?;
        policies.iter().try_for_each(|policy| row(table, policy))
    })?;
    Ok(Verdict::Yes)
}

fn row(table: &mut dyn Write, policy: &PolicyObject) -> io::Result<()> {
    let others: Vec<&str> = policy
        .conditions
        .iter()
        .filter(|condition| condition.kind != "Valid")
        .map(|condition| condition.kind.as_str())
        .collect();
    let status = if others.is_empty() {
        "Valid".to_owned()
    } else {
        others.join(",")
    };
    writeln!(
        table,
        "{}\t{}\t{}\t{}\t{}\t{status}\t{}",
        policy.kind,
        policy.namespace.as_deref().unwrap_or("-"),
        policy.name,
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
