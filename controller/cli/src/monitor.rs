//! `monitor`: events in the lines that users of Cilium know.

use std::io::Write;

use oxilium_api::{Client, ClientError, MonitorEvent, MonitorFilter, MonitorKind, MonitorVerdict};
use oxilium_model::identity::NumericIdentity;
use serde_json::json;

use crate::args::MonitorArgs;
use crate::output::{Format, Out, Verdict};

pub(crate) fn run<W: Write>(
    client: &Client,
    args: &MonitorArgs,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let filter = MonitorFilter {
        kinds: args.kinds.iter().map(|kind| (*kind).into()).collect(),
        from: args.from.clone(),
        to: args.to.clone(),
        related_to: args.related_to.clone(),
    };
    let format = out.format.clone();
    for event in client.monitor(filter)? {
        match event {
            Ok(event) => match &format {
                _ if args.json => out.line(&serde_json::to_string(&event)?)?,
                None => out.line(&line(&event, args))?,
                Some(Format::Json) => out.line(&serde_json::to_string(&event)?)?,
                Some(format @ Format::Yaml) => {
                    out.line("---")?;
                    out.structured(format, &event)?;
                }
                Some(format @ Format::JsonPath(_)) => {
                    out.structured(format, &event)?;
                    out.line("")?;
                }
            },
            // Lost events: the stream goes on.
            Err(ClientError::Agent(error)) if error.retryable => {
                let lost = json!({"type": "lost", "message": error.message});
                match &format {
                    _ if args.json => out.line(&lost.to_string())?,
                    Some(Format::Json) => out.line(&lost.to_string())?,
                    Some(format @ Format::Yaml) => {
                        out.line("---")?;
                        out.structured(format, &lost)?;
                    }
                    None | Some(Format::JsonPath(_)) => out.line(&format!("! {error}"))?,
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("the agent ended, and the events with it")
}

/// An event as `cilium-dbg monitor` prints it. Flow hash and source file, which it also has, mean nothing here.
fn line(event: &MonitorEvent, args: &MonitorArgs) -> String {
    let ingress = event.direction == "ingress";
    let sender = identity(event.source_identity, event.source_name.as_deref(), args);
    let receiver = identity(
        event.destination_identity,
        event.destination_name.as_deref(),
        args,
    );
    let identities = format!("{sender}->{receiver}");
    let packet = format!(
        "{} -> {} {}{}",
        event.source,
        event.destination,
        event.summary,
        service(event)
    );
    match event.kind {
        MonitorKind::Drop => {
            let way = if ingress { "to" } else { "from" };
            format!(
                "xx drop ({}) flow 0x0 {way} endpoint {}, ifindex {}, , identity {identities}: {packet}",
                event.reason_desc.as_deref().unwrap_or("unknown"),
                event.endpoint,
                event.ifindex,
            )
        }
        MonitorKind::PolicyVerdict => {
            let remote = if ingress { sender } else { receiver };
            let action = match event.verdict {
                Some(MonitorVerdict::Allow) => "allow",
                Some(MonitorVerdict::Deny) | None => "deny",
            };
            format!(
                "Policy verdict log: flow 0x0 local EP ID {}, remote ID {remote}, dst port {}, proto {}, ingress {ingress}, action {action}, match {}, {packet}",
                event.endpoint,
                event.destination_port,
                event.protocol,
                event.matched.as_deref().unwrap_or("none"),
            )
        }
        MonitorKind::Trace => {
            let way = if ingress { "->" } else { "<-" };
            format!(
                "{way} endpoint {} flow 0x0 , identity {identities} state {} ifindex {} orig-ip 0.0.0.0: {packet}",
                event.endpoint,
                event.state.as_deref().unwrap_or("unknown"),
                event.ifindex,
            )
        }
    }
}

/// Where the packet belongs to a flow to a service: which one, and its backend.
fn service(event: &MonitorEvent) -> String {
    match (&event.frontend, &event.backend) {
        (Some(frontend), Some(backend)) => {
            let name = event.service.as_deref().unwrap_or("unknown");
            format!(", service {name}: {frontend} => {backend}")
        }
        _ => String::new(),
    }
}

/// Who it is, where that is known: the reserved name as Cilium has it, or a pod, or labels; with `--verbose` its number too,
/// and who has a reserved one.
fn identity(number: u32, name: Option<&str>, args: &MonitorArgs) -> String {
    if args.numeric {
        return number.to_string();
    }
    match (NumericIdentity(number).name(), name) {
        (Some(reserved), Some(name)) if args.verbose && name != reserved => {
            format!("{reserved} ({name})")
        }
        (Some(reserved), _) => reserved.to_owned(),
        (None, Some(name)) if args.verbose => format!("{number} ({name})"),
        (None, Some(name)) => name.to_owned(),
        (None, None) => number.to_string(),
    }
}
