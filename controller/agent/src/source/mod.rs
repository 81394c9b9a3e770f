//! Where inputs come from.

mod delivery;
mod manifests;
mod tombstones;

pub use delivery::{Delivery, SourceReport};
pub use manifests::{ManifestSource, objects};
pub use tombstones::{TombstoneWatch, Tombstones};
