//! `plan`: what would be written.

use std::io::Write;

use oxilium_agent::offline::OfflineNode;
use oxilium_api::{Client, call};
use oxilium_model::world::NodeConfig;

use crate::args::PlanArgs;
use crate::files;
use crate::output::{Out, Verdict};

pub(crate) fn run<W: Write>(
    client: &Client,
    args: &PlanArgs,
    out: &mut Out<W>,
) -> anyhow::Result<Verdict> {
    let files = files::read(&args.directory)?;
    let report = if args.offline {
        OfflineNode::new(&files, args.node_name.as_deref(), NodeConfig::default()).plan()?
    } else {
        client.call(call::Plan(files))?
    };
    out.print(&report, |text| {
        for refused in &report.refused {
            writeln!(text, "refused: {refused}")?;
        }
        write!(text, "{}", report.text)
    })?;
    Ok(Verdict::of(report.refused.is_empty()))
}
