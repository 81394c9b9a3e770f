//! Where inputs come from.

mod delivery;
mod kubernetes;
mod manifests;
mod start;
mod tombstones;

pub use delivery::{Delivery, SourceReport};
pub use kubernetes::KubernetesSource;
pub use manifests::{ManifestSource, objects};
pub(crate) use start::start;
pub use tombstones::{TombstoneWatch, Tombstones};
