//! What a cluster needs one of, whichever of its operators is the leader:
//!
//! - [`definitions`]: the resource definitions, installed where they are missing and upgraded where they are older
//! - [`identities`]: CiliumIdentities that nobody uses are marked, and removed after a while
//! - [`endpoints`]: CiliumEndpoints whose pod is gone are removed
//! - [`policies`]: what is to be said of policies is said
//! - [`lease`]: who is the leader
//! - [`metrics`]: what is counted
//!
//! What is decided is decided by pure functions over lists; what is done is done to the version of an object that was
//! looked at, so that whoever changes it meanwhile wins.

pub mod definitions;
pub mod endpoints;
mod error;
pub mod identities;
pub mod lease;
mod list;
pub mod metrics;
mod options;
pub mod policies;
mod run;

pub use error::OperatorError;
pub use options::OperatorOptions;
pub use run::{Health, run};
