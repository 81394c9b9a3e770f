//! What Prometheus reads, under Cilium's names where it has one for it (prefix `cilium_`), else under ours
//! (prefix `oxilium_`): docs/metrics.md lists all.
//!
//! [`Instruments`] are counted in as things happen. Everything else is read off one picture of the agent at each scrape:
//! nothing is counted twice, and nothing is kept up to date for nobody. No map of flows is walked for a scrape.

mod api_calls;
mod changes;
mod instruments;
mod picture;
mod process;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub use api_calls::ApiCalls;
pub use changes::{Changes, Differences};
pub use instruments::{CountLogLines, Instruments, LogLines, Phase};
pub use picture::{Kernel, Picture};
pub use process::Process;

/// The page of one scrape, in the OpenMetrics text format.
pub fn page(instruments: &Instruments, picture: Picture, process: Option<Process>) -> String {
    let mut registry = Registry::default();
    instruments.register(&mut registry);
    registry.register_collector(Box::new(picture));
    if let Some(process) = process {
        registry.register_collector(Box::new(process));
    }
    let mut page = String::new();
    // Writing to a String cannot fail, and every descriptor here has a text form.
    if let Err(error) = encode(&mut page, &registry) {
        tracing::error!(%error, "metrics cannot be written");
    }
    page
}
