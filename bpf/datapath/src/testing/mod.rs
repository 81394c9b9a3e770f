//! The datapath over memory: for tests, fuzzers and offline explain.
//!
//! [`MemoryMaps`] holds what the kernel's maps hold and is written by [`Write`]s, as a plan writes them.
//! [`stories`] are the lives of packets that the crate's tests tell here and the program tests tell to
//! the kernel.

mod frame;
mod maps;
pub mod stories;
mod world;

pub(crate) use frame::Changing;
pub use frame::{Frame, Ipv4, Ipv6, arp, ethernet, icmp, sctp, tcp, udp};
pub use maps::{Access, MemoryMaps, SocketRecord, Write};
pub use world::{PolicyEntry, World};
