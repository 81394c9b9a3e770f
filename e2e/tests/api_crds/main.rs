//! Cilium's resources on a real API server: their definitions, what is admitted of them, and what kubectl shows.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod columns;
mod corpus;
mod pruned;
mod server;
