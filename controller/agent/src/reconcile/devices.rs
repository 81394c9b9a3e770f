//! Which device each attachment has now.
//!
//! What a pod may change from inside (its addresses and its MAC address) is taken from the attachment,
//! as it was before the pod's first process started; only what the node alone decides is read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use oxilium_kernel::Node;
use oxilium_kernel::port::LinkInfo;
use oxilium_model::world::{Attachment, AttachmentId, Device};

use crate::disk::AttachmentRecord;

/// The node's links, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links(BTreeMap<u32, LinkInfo>);

impl Links {
    pub(crate) fn new(links: Vec<LinkInfo>) -> Self {
        Self(links.into_iter().map(|link| (link.ifindex, link)).collect())
    }

    /// There is a link of this index.
    pub(crate) fn has(&self, ifindex: u32) -> bool {
        self.0.contains_key(&ifindex)
    }

    /// The attachment with the device that it has now.
    pub(crate) fn attachment(&self, record: &AttachmentRecord, node: &mut impl Node) -> Attachment {
        let device = self
            .device_of(record, node)
            .map(|link| device(record, link));
        Attachment {
            id: record.id.clone(),
            pod: record.pod.clone(),
            pod_uid: record.pod_uid.as_str().into(),
            boot_id: record.boot_id.as_str().into(),
            lifecycle: record.lifecycle,
            device,
        }
    }

    /// The link that is the node's end of the attachment's veth. An index alone proves nothing: the kernel
    /// gives it to the next device at once.
    fn device_of(&self, record: &AttachmentRecord, node: &mut impl Node) -> Option<&LinkInfo> {
        let link = self.0.get(&record.host.ifindex)?;
        let fits = link.kind == "veth"
            && link.netns_id.is_some()
            && link.peer == Some(record.container.ifindex);
        if !fits {
            return None;
        }
        if link.mac.map(mac_text).as_deref() == Some(record.host.mac.as_str()) {
            return Some(link);
        }
        // Another device at this index, or somebody gave ours another MAC address: the pod's end tells.
        let inside = node
            .pod_interface(Path::new(&record.netns), &record.id.interface)
            .ok()?;
        let same = inside.peer == Some(link.ifindex)
            && Some(inside.netns_id) == link.netns_id
            && inside.ifindex == record.container.ifindex
            && mac_text(inside.mac) == record.container.mac;
        same.then_some(link)
    }
}

fn device(record: &AttachmentRecord, link: &LinkInfo) -> Device {
    let mac = parse_mac(&record.container.mac).unwrap_or_default();
    let mut addresses = BTreeSet::new();
    let mut link_local = None;
    for address in &record.container.addresses {
        match address {
            IpAddr::V6(six) if six.is_unicast_link_local() => {
                if *six != eui64(mac) {
                    link_local = Some(*six);
                }
            }
            other => {
                addresses.insert(*other);
            }
        }
    }
    Device {
        ifindex: link.ifindex,
        name: link.name.as_str().into(),
        host_mac: link.mac.unwrap_or_default(),
        mac,
        addresses,
        link_local,
        ipv6_prefix_length: record.container.ipv6_prefix_length,
        netns_id: link.netns_id,
    }
}

/// The link-local address that RFC 4291, appendix A, makes of a MAC address.
fn eui64(mac: [u8; 6]) -> Ipv6Addr {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&[0xFE, 0x80]);
    address[8..11].copy_from_slice(&mac[..3]);
    address[8] ^= 2;
    address[11..13].copy_from_slice(&[0xFF, 0xFE]);
    address[13..].copy_from_slice(&mac[3..]);
    Ipv6Addr::from(address)
}

/// `aa:bb:cc:dd:ee:ff`.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The MAC address of that text.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// The node's own addresses: every one that a packet of the node's can have as its source on the way to a
/// pod. Loopback addresses never leave the node.
pub(crate) fn local_addresses(
    node: &mut impl Node,
) -> Result<BTreeSet<IpAddr>, oxilium_kernel::NetlinkError> {
    Ok(node
        .addresses()?
        .into_iter()
        .map(|info| info.address)
        .filter(|address| !address.is_loopback())
        .collect())
}

/// Attachments whose device is gone: CNI need not say so, a veth does not come back.
pub(crate) fn gone(
    attachments: &BTreeMap<AttachmentId, std::sync::Arc<Attachment>>,
) -> Vec<AttachmentId> {
    attachments
        .values()
        .filter(|attachment| attachment.device.is_none())
        .map(|attachment| attachment.id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_read_as_it_is_written() {
        let mac = [2, 0, 0xAB, 0, 0, 0xFF];
        assert_eq!(parse_mac(&mac_text(mac)), Some(mac));
        for text in [
            "",
            "02:00:ab:00:00",
            "02:00:ab:00:00:ff:01",
            "2:0:ab:0:0:ff",
            "zz:00:00:00:00:00",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn the_link_local_address_of_a_mac_turns_its_universal_bit() {
        assert_eq!(
            eui64([0x52, 0x54, 0, 0x12, 0x34, 0x56]).to_string(),
            "fe80::5054:ff:fe12:3456"
        );
    }
}
