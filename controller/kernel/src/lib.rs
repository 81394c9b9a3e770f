//! The only code that touches the kernel: BPF maps, programs, links, rtnetlink.
//!
//! [`port::Node`] is what the agent sees. [`fake::FakeKernel`] offers the same without a kernel and
//! can fail. Every system call that changes something is counted ([`count`]).

pub mod count;
pub mod error;
pub mod events;
pub mod fake;
pub mod object;
pub mod port;
mod sys;
pub mod table;

pub use error::{ApplyError, NetlinkError, ObserveError, Retry};
pub use port::Node;
