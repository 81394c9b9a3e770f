//! What the API server says, and what the agent takes from it.

mod server;
mod store;
mod stories;
mod whole;
