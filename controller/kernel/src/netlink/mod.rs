//! netlink: what netfilter does with services; rtnetlink: links, addresses, network namespaces, clsact filters, and news of changes.

pub(crate) mod filters;
mod links;
mod monitor;
mod netfilter;
mod netns;
mod socket;
mod wire;

pub use monitor::{Changes, Monitor, MonitorError};
pub(crate) use netfilter::bridge_netfilter;
pub(crate) use socket::Netlink;
