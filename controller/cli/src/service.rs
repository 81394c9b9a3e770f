//! `service list` and `bpf lb list`: services as the kernel holds them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use oxilium_api::{Client, LbService, LoadBalancing, call};

use crate::args::LbList;
use crate::output::{Out, Verdict};

/// `service list`: what a person wants to know of each frontend.
pub(crate) fn list<W: Write>(
    client: &Client,
    no_headers: bool,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let tables = client.call(call::BpfServices)?;
    let addresses = addresses(&tables);
    out.print(&tables, |table| {
        if !no_headers {
            writeln!(table, "ID\tFrontend\tService Type\tBackend\tService")?;
        }
        tables
            .services
            .iter()
            .try_for_each(|service| row(table, service, &addresses))
    })?;
    Ok(Verdict::Yes)
}

fn addresses(tables: &LoadBalancing) -> BTreeMap<u32, (&str, &str)> {
    tables
        .backends
        .iter()
        .map(|backend| (backend.id, (&*backend.address, &*backend.state)))
        .collect()
}

fn row(
    table: &mut dyn Write,
    service: &LbService,
    addresses: &BTreeMap<u32, (&str, &str)>,
) -> io::Result<()> {
    let mut backends = service.slots.iter().enumerate().map(|(index, id)| {
        let (address, state) = addresses.get(id).copied().unwrap_or(("?", "missing"));
        format!("{} => {address} ({state})", index + 1)
    });
    writeln!(
        table,
        "{}\t{}\tClusterIP\t{}\t{}",
        service.id,
        service.frontend,
        backends.next().unwrap_or_default(),
        service.service.as_deref().unwrap_or_default(),
    )?;
    backends.try_for_each(|backend| writeln!(table, "\t\t\t{backend}\t"))
}

/// `bpf lb list`: the tables themselves.
pub(crate) fn tables<W: Write>(
    client: &Client,
    args: &LbList,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let tables = client.call(call::BpfServices)?;
    if args.revnat {
        out.print(&tables.reverse_nat, |table| {
            writeln!(table, "ID\tFRONTEND ADDRESS\tSTATE")?;
            tables.reverse_nat.iter().try_for_each(|frontend| {
                let (id, address) = (frontend.id, &frontend.address);
                writeln!(table, "{id}\t{address}\t{}", frontend.state)
            })
        })?;
    } else if args.backends {
        out.print(&tables.backends, |table| {
            writeln!(table, "ID\tBACKEND ADDRESS (REVNAT_ID)\tSTATE")?;
            tables.backends.iter().try_for_each(|backend| {
                let (id, address, frontend) = (backend.id, &backend.address, backend.frontend);
                writeln!(table, "{id}\t{address} ({frontend})\t{}", backend.state)
            })
        })?;
    } else {
        out.print(&tables, |table| slots(table, &tables, args.frontends))?;
    }
    Ok(Verdict::Yes)
}

fn slots(table: &mut dyn Write, tables: &LoadBalancing, only_frontends: bool) -> io::Result<()> {
    let addresses = addresses(tables);
    writeln!(table, "SERVICE ADDRESS\tBACKEND ADDRESS (REVNAT_ID) (SLOT)")?;
    for service in &tables.services {
        let (frontend, id) = (&service.frontend, service.id);
        let none = if frontend.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let affinity = match service.affinity_seconds {
            0 => "",
            _ => ", sessionAffinity",
        };
        writeln!(
            table,
            "{frontend} (0)\t{none} ({id}) (0) [ClusterIP, non-routable{affinity}]"
        )?;
        if only_frontends {
            continue;
        }
        for (slot, backend) in (1..).zip(&service.slots) {
            let (address, _) = addresses.get(backend).copied().unwrap_or(("?", "missing"));
            writeln!(table, "{frontend} ({slot})\t{address} ({id}) ({slot})")?;
        }
    }
    Ok(())
}
