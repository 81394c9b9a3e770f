//! The only code that touches the kernel: BPF maps, programs, links, rtnetlink.
//!
//! [`port::Node`] is what the agent sees. [`fake::FakeKernel`] offers the same without a kernel and
//! can fail. Every system call that changes something is counted ([`count`]).

#[cfg(test)]
extern crate self as oxilium_kernel;

mod attach;
pub mod bpffs;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
pub mod config;
pub mod count;
pub mod error;
pub mod events;
pub mod fake;
mod load;
pub mod memory;
pub mod netlink;
mod node;
pub mod object;
pub mod port;
mod sys;
pub mod table;
mod uninstall;

pub use attach::kernel_has_tcx;
pub use config::{KernelConfig, MapSizes, PolicyAsked};
pub use error::{ApplyError, NetlinkError, ObserveError, Retry};
pub use load::LoadError;
pub use netlink::{Changes, Monitor};
pub use node::KernelNode;
pub use port::{AttachMode, Node};
pub use uninstall::{PriorInterface, UninstallError, uninstall};
