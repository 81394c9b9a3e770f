//! `bpf policy|ipcache|ct|metrics|endpoint`: what the kernel holds.

use std::io::{self, Write};

use anyhow::{Context, bail};
use oxilium_api::{BpfPolicyTable, Client, ConntrackFlow, PolicyEntry, PolicyEntryType, call};

use crate::args::{BpfPolicy, BpfPolicyGet};
use crate::output::{Out, Verdict, protocol};

pub(crate) fn policy<W: Write>(
    client: &Client,
    args: &BpfPolicy,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let (endpoint, numeric) = match args.get {
        BpfPolicyGet::Get {
            endpoint,
            all,
            numeric,
        } => (endpoint.filter(|_| !all), numeric),
        BpfPolicyGet::List {
            endpoint, numeric, ..
        } => (endpoint, numeric),
    };
    let all = endpoint.is_none();
    let tables = client.call(call::BpfPolicy(endpoint))?;
    out.print(&tables, |table| {
        tables.iter().try_for_each(|policy| {
            if all {
                writeln!(table, "Endpoint ID: {}", policy.endpoint)?;
            }
            policy_table(table, policy, numeric)?;
            if all {
                writeln!(table)?;
            }
            Ok(())
        })
    })?;
    Ok(Verdict::Yes)
}

fn policy_table(table: &mut dyn Write, policy: &BpfPolicyTable, numeric: bool) -> io::Result<()> {
    if policy.entries.is_empty() {
        return writeln!(table, "Nothing is allowed: the table has no entries");
    }
    let who = if numeric {
        "IDENTITY"
    } else {
        "LABELS (source:key[=value])"
    };
    writeln!(
        table,
        "POLICY\tDIRECTION\t{who}\tPORT/PROTO\tPROXY PORT\tAUTH TYPE\tBYTES\tPACKETS\tPREFIX\tCOOKIE\tRULES"
    )?;
    policy
        .entries
        .iter()
        .try_for_each(|entry| policy_row(table, entry, numeric))
}

/// One row a label, as Cilium prints it.
fn policy_row(table: &mut dyn Write, entry: &PolicyEntry, numeric: bool) -> io::Result<()> {
    let kind = match entry.kind {
        PolicyEntryType::Allow => "Allow",
        PolicyEntryType::Deny => "Deny",
    };
    let labels: Vec<String> = match (entry.identity, numeric) {
        (0, false) => vec!["ANY".to_owned()],
        (_, false) if !entry.labels.is_empty() => entry.labels.clone(),
        (identity, _) => vec![identity.to_string()],
    };
    let proxy = match entry.proxy_port {
        0 => "NONE".to_owned(),
        port => port.to_string(),
    };
    let auth = match entry.auth {
        0 => "disabled".to_owned(),
        1 => "spire".to_owned(),
        2 => "test-always-fail".to_owned(),
        other => other.to_string(),
    };
    let prefix = match entry.protocol {
        0 => 0,
        _ => 8 + entry.port_prefix,
    };
    writeln!(
        table,
        "{kind}\t{}\t{}\t{}\t{proxy}\t{auth}\t{}\t{}\t{prefix}\t-\t{}",
        entry.direction,
        labels.first().map_or("", String::as_str),
        ports(entry),
        counted(entry.bytes),
        counted(entry.packets),
        entry.origins.join("; "),
    )?;
    labels
        .iter()
        .skip(1)
        .try_for_each(|label| writeln!(table, "\t\t{label}\t\t\t\t\t\t\t\t"))
}

/// A dash where nothing was counted.
fn counted(number: u64) -> String {
    if number == 0 {
        "-".to_owned()
    } else {
        number.to_string()
    }
}

/// `80/TCP`, `8080-8083/TCP`, `TCP`, `ANY`.
fn ports(entry: &PolicyEntry) -> String {
    let name = protocol(entry.protocol);
    if entry.protocol == 0 || entry.port_prefix == 0 {
        return name;
    }
    let last = entry.port | u16::MAX.checked_shr(entry.port_prefix.into()).unwrap_or(0);
    if last == entry.port {
        format!("{}/{name}", entry.port)
    } else {
        format!("{}-{last}/{name}", entry.port)
    }
}

pub(crate) fn ipcache<W: Write>(client: &Client, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let entries = client.call(call::BpfIpcache)?;
    out.print(&entries, |table| {
        writeln!(table, "IP PREFIX/ADDRESS\tIDENTITY")?;
        entries.iter().try_for_each(|entry| {
            write!(
                table,
                "{}\tidentity={} encryptkey=0 tunnelendpoint={} flags=<none>",
                entry.cidr, entry.identity, entry.tunnelendpoint
            )?;
            match &entry.labels[..] {
                [] => writeln!(table),
                labels => writeln!(table, " labels={}", labels.join(",")),
            }
        })
    })?;
    Ok(Verdict::Yes)
}

pub(crate) fn conntrack<W: Write>(
    client: &Client,
    scope: &str,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let endpoint = match scope {
        "global" => None,
        id => Some(
            id.parse()
                .with_context(|| format!("{id:?} is neither `global` nor an endpoint id"))?,
        ),
    };
    let flows = client.call(call::BpfConntrack(endpoint))?;
    if endpoint.is_some_and(|id| flows.iter().any(|flow| flow.endpoint != id)) {
        bail!("the agent answered with flows of other endpoints");
    }
    out.print(&flows, |table| {
        flows.iter().try_for_each(|flow| flow_line(table, flow))
    })?;
    Ok(Verdict::Yes)
}

pub(crate) fn conntrack_top<W: Write>(
    client: &Client,
    number: usize,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let mut talkers = client.call(call::BpfConntrackTop)?;
    if number > 0 {
        talkers.truncate(number);
    }
    out.print(&talkers, |table| {
        writeln!(
            table,
            "ENDPOINT\tPOD\tPEERS\tFLOWS\tANSWERED\tUNANSWERED\tDENIED\tPACKETS\tBYTES"
        )?;
        talkers.iter().try_for_each(|talker| {
            let peers = if talker.labels.is_empty() {
                talker.identity.to_string()
            } else {
                talker.labels.join(",")
            };
            writeln!(
                table,
                "{}\t{}\t{peers}\t{}\t{}\t{}\t{}\t{}\t{}",
                talker.endpoint,
                talker.pod.as_deref().unwrap_or("-"),
                talker.flows(),
                talker.answered,
                talker.unanswered,
                talker.denied,
                talker.packets,
                talker.bytes,
            )
        })
    })?;
    Ok(Verdict::Yes)
}

fn flow_line(table: &mut dyn Write, flow: &ConntrackFlow) -> io::Result<()> {
    const FLAGS: [(u16, &str); 5] = [
        (1 << 0, "TxClosing"),
        (1 << 1, "RxClosing"),
        (1 << 2, "SeenNonSyn"),
        (1 << 3, "Answered"),
        (1 << 4, "Adopted"),
    ];
    let (from, to) = if flow.direction == "IN" {
        (&flow.remote, &flow.local)
    } else {
        (&flow.local, &flow.remote)
    };
    let flags: Vec<String> = FLAGS
        .iter()
        .filter(|(bit, _)| flow.flags & bit != 0)
        .map(|(_, name)| format!("{name} "))
        .collect();
    writeln!(
        table,
        "{} {} {from} -> {to} expires={} Packets={} Bytes={} RxFlagsSeen={:#04x} LastRxReport={} TxFlagsSeen={:#04x} \
         LastTxReport={} Flags={:#06x} [ {}] RevNAT={} SourceSecurityID={} BackendID={} Verdict={} Endpoint={}",
        protocol(flow.protocol),
        flow.direction,
        flow.expires,
        flow.rx_packets + flow.tx_packets,
        flow.rx_bytes + flow.tx_bytes,
        flow.rx_flags_seen,
        flow.last_rx_report,
        flow.tx_flags_seen,
        flow.last_tx_report,
        flow.flags,
        flags.concat(),
        flow.rev_nat,
        flow.remote_identity,
        flow.backend_id,
        flow.verdict,
        flow.endpoint,
    )
}

pub(crate) fn metrics<W: Write>(client: &Client, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let metrics = client.call(call::BpfMetrics)?;
    out.print(&metrics, |table| {
        // Lines and files of sources, which Cilium has as well, mean nothing here.
        writeln!(table, "REASON\tDIRECTION\tPACKETS\tBYTES")?;
        metrics.iter().try_for_each(|metric| {
            let direction = metric.direction.to_uppercase();
            let (reason, packets, bytes) = (&metric.reason, metric.packets, metric.bytes);
            writeln!(table, "{reason}\t{direction}\t{packets}\t{bytes}")
        })
    })?;
    Ok(Verdict::Yes)
}

pub(crate) fn endpoints<W: Write>(client: &Client, out: &mut Out<W>) -> anyhow::Result<Verdict> {
    let endpoints = client.call(call::BpfEndpoints)?;
    out.print(&endpoints, |table| {
        writeln!(table, "IP ADDRESS\tLOCAL ENDPOINT INFO")?;
        for endpoint in &endpoints {
            for address in &endpoint.addresses {
                writeln!(
                    table,
                    "{address}\tid={} sec_id={} ifindex={} mac={} table={} epoch={} birth={}",
                    endpoint.id,
                    endpoint.identity,
                    endpoint.ifindex,
                    endpoint.mac,
                    endpoint.table,
                    endpoint.epoch,
                    endpoint.birth
                )?;
            }
        }
        Ok(())
    })?;
    Ok(Verdict::Yes)
}
