//! `identity list|get`.

use std::io::{self, Write};

use anyhow::Context;
use oxilium_api::{ApiIdentity, Client, call};

use crate::output::{Out, Verdict};

pub(crate) fn list<W: Write>(
    client: &Client,
    no_headers: bool,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let identities = client.call(call::IdentityList)?;
    print(&identities, !no_headers, out)
}

pub(crate) fn get<W: Write>(
    client: &Client,
    what: &str,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let number = what
        .parse()
        .with_context(|| format!("{what:?} is no identity; give its number"))?;
    let identity = client.call(call::IdentityGet(number))?;
    print(&[identity], true, out)
}

fn print<W: Write>(
    identities: &[ApiIdentity],
    headers: bool,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    out.print(&identities, |table| {
        if headers {
            writeln!(table, "ID\tLABELS")?;
        }
        identities
            .iter()
            .try_for_each(|identity| row(table, identity))
    })?;
    Ok(Verdict::Yes)
}

fn row(table: &mut dyn Write, identity: &ApiIdentity) -> io::Result<()> {
    let mut labels = identity.labels.iter();
    let first = labels.next().map_or("", String::as_str);
    writeln!(table, "{}\t{first}", identity.id)?;
    labels.try_for_each(|label| writeln!(table, "\t{label}"))
}
