//! The real node, beyond what the fake can show.

mod conntrack;
mod migrate;
mod network;
mod observe;
mod pins;

use std::time::Duration;

/// Longer than anything takes that works.
const DEADLINE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
