//! The API socket.

mod answers;
mod dumps;
mod flows;
mod health;
mod monitor;
mod netfilter;
mod server;
mod services;
mod status;
mod talkers;

pub use answers::condition_of;
pub use health::Metrics;
pub use monitor::Monitors;
pub use server::{Server, Service, SocketError};
