//! Where inputs come from.

mod manifests;
mod tombstones;

pub use manifests::{Delivery, ManifestReport, ManifestSource, objects};
pub use tombstones::{TombstoneWatch, Tombstones};
