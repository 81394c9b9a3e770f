//! The agent: sources feed an index of inputs, one loop brings the kernel to what they say, and what came
//! of it is published.
//!
//! - [`kubernetes`]: the client of the API server
//! - [`source`]: the manifest directory, word from the CNI plugin
//! - [`reconcile`]: the index, the loop, the writes
//! - [`publish`]: the status directory, the API server, events
//! - [`api`]: the socket
//! - [`http`], [`metrics`]: what probes and Prometheus read
//! - [`staged`]: what staged policies would change
//! - [`disk`]: what outlives the agent
//! - [`uninstall`]: the end of all of it
//! - [`offline`], [`explain`]: the pure core for people who ask what would be

pub mod api;
pub mod config;
pub mod disk;
pub mod explain;
pub mod http;
pub mod kubernetes;
pub mod metrics;
pub mod offline;
pub mod publish;
pub mod reconcile;
mod run;
pub mod source;
pub mod staged;
pub mod uninstall;

pub use config::AgentOptions;
pub use run::{log_to_stderr, run};
