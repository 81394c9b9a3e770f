//! Attachments: interfaces that belong to pods.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::PodRef;

/// Names an attachment, as CNI does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// Container id.
    pub container: Arc<str>,
    /// Name of the interface in the container.
    pub interface: Arc<str>,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.interface)
    }
}

/// Whether CNI still wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// ADD was asked.
    #[default]
    Added,
    /// DEL was asked. The endpoint stays enforced while its device lives; whoever keeps the
    /// attachments drops this one once the device is gone.
    Deleted,
}

/// An interface that a CNI request gave to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name.
    pub id: AttachmentId,
    /// The pod.
    pub pod: PodRef,
    /// The pod's UID, as CNI said or as the Pod object had it at ADD.
    pub pod_uid: Arc<str>,
    /// The boot in which it was made.
    pub boot_id: Arc<str>,
    /// Whether CNI still wants it.
    pub lifecycle: Lifecycle,
    /// What is observed of it now; `None` when the host's device is gone.
    pub device: Option<Device>,
}

/// The host's end of a pod's veth and what was found behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Index of the host's end, as observed now: never remembered.
    pub ifindex: u32,
    /// Name of the host's end, for people.
    pub name: Arc<str>,
    /// MAC address of the host's end.
    pub host_mac: [u8; 6],
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's addresses on it; at most [`oxilium_abi::ADDRESSES_PER_FAMILY`] of each family are served.
    pub addresses: BTreeSet<IpAddr>,
    /// A link-local address that was seen in the pod, other than the EUI-64 one of its MAC.
    pub link_local: Option<Ipv6Addr>,
    /// Length of the subnet of its IPv6 addresses; none where nobody said.
    #[serde(default)]
    pub ipv6_prefix_length: Option<u8>,
    /// The veth's link-netnsid.
    pub netns_id: Option<i32>,
}
