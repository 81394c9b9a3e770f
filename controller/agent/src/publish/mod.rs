//! Outputs: what goes to people, programs and, as YAML, to the status directory. Nothing here feeds a decision.

mod book;
mod directory;
mod event;
mod hub;
mod kubernetes;
mod objects;

pub use book::AddressBook;
pub use directory::StatusDirectory;
pub use event::{Names, describe};
pub use hub::{Hub, Received, Subscription};
pub use kubernetes::{FIELD_MANAGER, Limits, PublishReport, Publishing, publish};
pub use objects::{FIELDS_PRUNED, address_pairs, policy_conditions};
