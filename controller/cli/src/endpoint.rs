//! `endpoint list|get|log|health`.

use std::io::{self, Write};

use oxilium_api::{Client, Endpoint, HealthState, call};

use crate::output::{Format, Out, Verdict};

pub(crate) fn list<W: Write>(
    client: &Client,
    no_headers: bool,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let endpoints = client.call(call::EndpointList)?;
    out.print(&endpoints, |table| {
        if !no_headers {
            writeln!(
                table,
                "ENDPOINT\tPOLICY (ingress)\tPOLICY (egress)\tIDENTITY\tLABELS (source:key[=value])\tIPv6\tIPv4\tSTATUS"
            )?;
            writeln!(table, "\tENFORCEMENT\tENFORCEMENT\t\t\t\t\t")?;
        }
        endpoints.iter().try_for_each(|endpoint| row(table, endpoint))
    })?;
    Ok(Verdict::Yes)
}

/// One row a label, as Cilium prints it.
fn row(table: &mut dyn Write, endpoint: &Endpoint) -> io::Result<()> {
    let status = &endpoint.status;
    let policy = &status.policy.realized;
    let identity = status.identity.as_ref();
    let labels: &[String] = identity.map_or(&[], |identity| &identity.labels);
    let number = identity.map_or_else(|| "<no label id>".to_owned(), |i| i.id.to_string());
    let address = status.networking.addressing.first();
    let or_empty = |text: Option<&String>| text.cloned().unwrap_or_default();
    writeln!(
        table,
        "{}\t{}\t{}\t{number}\t{}\t{}\t{}\t{}",
        endpoint.id,
        policy.ingress.as_str(),
        policy.egress.as_str(),
        labels.first().map_or("no labels", String::as_str),
        or_empty(address.and_then(|pair| pair.ipv6.as_ref())),
        or_empty(address.and_then(|pair| pair.ipv4.as_ref())),
        status.state.as_str(),
    )?;
    labels
        .iter()
        .skip(1)
        .try_for_each(|label| writeln!(table, "\t\t\t\t{label}\t\t\t"))
}

pub(crate) fn get<W: Write>(
    client: &Client,
    what: &str,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let endpoint = client.call(call::EndpointGet(what.to_owned()))?;
    // As Cilium's: JSON unless asked otherwise.
    let format = out.format.clone().unwrap_or(Format::Json);
    out.structured(&format, &endpoint)?;
    Ok(Verdict::Yes)
}

/// What happened to it, under Cilium's headers.
pub(crate) fn log<W: Write>(
    client: &Client,
    what: &str,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let endpoint = client.call(call::EndpointGet(what.to_owned()))?;
    out.print(&endpoint.status.log, |table| {
        writeln!(table, "Timestamp\tState\tMessage")?;
        endpoint.status.log.iter().try_for_each(|entry| {
            writeln!(
                table,
                "{}\t{}\t{}",
                entry.timestamp, entry.state, entry.message
            )
        })
    })?;
    Ok(Verdict::Yes)
}

/// Whether it works, and what is tried again.
pub(crate) fn health<W: Write>(
    client: &Client,
    what: &str,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let endpoint = client.call(call::EndpointGet(what.to_owned()))?;
    let health = endpoint.status.health.ok_or_else(|| {
        anyhow::anyhow!(
            "the agent does not tell an endpoint's health: it is older than this command"
        )
    })?;
    out.print(&health, |table| {
        writeln!(table, "Overall Health:\t{}", health.overall_health.as_str())?;
        writeln!(table, "BPF Health:\t{}", health.bpf.as_str())?;
        writeln!(table, "Policy Health:\t{}", health.policy.as_str())?;
        let connected = if health.connected { "yes" } else { "no" };
        writeln!(table, "Connected:\t{connected}")?;
        match &health.failing {
            Some(failing) => writeln!(table, "Failing:\t{failing}"),
            None => Ok(()),
        }
    })?;
    Ok(Verdict::of(health.overall_health == HealthState::Ok))
}
