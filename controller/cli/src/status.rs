//! `status`: the lines that users of Cilium know, where they mean something here.

use std::collections::BTreeMap;
use std::io::{self, Write};

use oxilium_api::{Client, ComponentState, ComponentStatus, FailingObject, StatusReport, call};

use crate::args::StatusArgs;
use crate::output::{Out, Verdict};

pub(crate) fn run<W: Write>(
    client: &Client,
    args: &StatusArgs,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let report = client.call(call::Status)?;
    out.print(&report, |table| {
        if args.brief {
            return writeln!(table, "{}", brief(&report.cilium));
        }
        show(table, &report, args.verbose)
    })?;
    Ok(Verdict::of(report.cilium.state == ComponentState::Ok))
}

fn brief(status: &ComponentStatus) -> String {
    match status.state {
        ComponentState::Ok => "OK".to_owned(),
        state => format!("{}: {}", state.as_str(), status.msg),
    }
}

fn show(table: &mut dyn Write, report: &StatusReport, verbose: bool) -> io::Result<()> {
    for source in &report.sources {
        let synced = if source.synced { "" } else { " (not read yet)" };
        component(table, &source.name, &source.status, synced)?;
    }
    writeln!(table, "CNI Chaining:\t{}", report.cni_chaining)?;
    component(table, "Cilium", &report.cilium, "")?;
    writeln!(
        table,
        "NodeMonitor:\t{}, {} events lost",
        match report.monitor_readers {
            0 => "Disabled".to_owned(),
            readers => format!("{readers} readers"),
        },
        report.events_lost
    )?;
    writeln!(
        table,
        "Conntrack:\t{} answered flows evicted for want of room",
        report.flows_evicted
    )?;
    writeln!(
        table,
        "Services:\t{} choices of answered flows evicted for want of room, {} of the latest",
        report.choices_evicted, report.latest_choices_evicted
    )?;
    writeln!(table, "Attach Mode:\t{}", report.attach_mode)?;
    writeln!(table, "Policy Enforcement:\t{}", report.policy_enforcement)?;
    writeln!(table, "Endpoints:\t{}", counts(&report.endpoints))?;
    writeln!(table, "Identities:\t{}", report.identities)?;
    writeln!(table, "Policies:\t{}", report.policies)?;
    reconcile(table, report)?;
    list(table, "Not Enforced", &report.not_enforced)?;
    list(table, "Not In Force", &report.refused)?;
    configuration(table, report, verbose)?;
    writeln!(table, "Global Identity Range:\tmin 256, max 65535")?;
    if verbose {
        details(table, report)?;
    }
    Ok(())
}

fn component(
    table: &mut dyn Write,
    name: &str,
    status: &ComponentStatus,
    suffix: &str,
) -> io::Result<()> {
    let state = status.state.as_str();
    writeln!(table, "{name}:\t{state}   {}{suffix}", status.msg)
}

fn counts(counts: &BTreeMap<String, usize>) -> String {
    let total: usize = counts.values().sum();
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if parts.is_empty() {
        return "0".to_owned();
    }
    format!("{total} ({})", parts.join(", "))
}

fn reconcile(table: &mut dyn Write, report: &StatusReport) -> io::Result<()> {
    let state = &report.reconcile;
    writeln!(
        table,
        "Revision:\tinput {}, planned {}, applied {} (last plan: {} writes)",
        state.input_revision, state.plan_revision, state.applied_revision, state.last_writes
    )?;
    writeln!(
        table,
        "Last Sweep:\t{} s ago, took {} ms, {} writes of drift repaired so far, {} pins set again",
        state.last_sweep_seconds,
        state.last_sweep_millis,
        state.drift_repaired,
        state.pins_restored
    )?;
    if state.hooks_without_link > 0 {
        writeln!(
            table,
            "Links To Come:\t{} hooks, enforced by filters, since {} s",
            state.hooks_without_link, state.hooks_without_link_seconds
        )?;
    }
    list(table, "Failing", &state.failing)
}

fn list(table: &mut dyn Write, name: &str, objects: &[FailingObject]) -> io::Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    writeln!(table, "{name}:\t{}", objects.len())?;
    objects
        .iter()
        .try_for_each(|object| writeln!(table, "  {}: {}", object.object, object.reason))
}

fn configuration(table: &mut dyn Write, report: &StatusReport, verbose: bool) -> io::Result<()> {
    let told = &report.configuration;
    if !told.unsupported.is_empty() {
        let count = told.unsupported.len();
        writeln!(table, "Configuration:\t{count} keys not supported yet")?;
    }
    if verbose {
        for key in &told.unsupported {
            let (name, value, origin) = (&key.key, &key.value, &key.origin);
            writeln!(table, "  {name}={value} ({origin}): {}", key.reason)?;
        }
    }
    if !told.unknown.is_empty() {
        writeln!(table, "Unknown Keys:\t{}", told.unknown.join(", "))?;
    }
    Ok(())
}

fn details(table: &mut dyn Write, report: &StatusReport) -> io::Result<()> {
    writeln!(table, "BPF Maps:\t{}", report.maps.len())?;
    for map in &report.maps {
        let entries = map
            .entries
            .map_or_else(|| "-".to_owned(), |entries| entries.to_string());
        let memory = map.memory_bytes.map_or_else(
            || "-".to_owned(),
            |bytes| format!("{} KiB", bytes.div_ceil(1024)),
        );
        writeln!(
            table,
            "  {}:\t{entries}/{}\t{memory}",
            map.name, map.max_entries
        )?;
    }
    writeln!(table, "Kernel Writes:\t{}", report.kernel_writes.total)?;
    report
        .kernel_writes
        .by_table
        .iter()
        .try_for_each(|(what, count)| writeln!(table, "  {what}:\t{count}"))
}
