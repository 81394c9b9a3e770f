//! Which device each attachment has now.
//!
//! What a pod may change from inside (its addresses and its MAC address) is taken from the attachment,
//! as it was before the pod's first process started; only what the node alone decides is read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use oxilium_kernel::port::LinkInfo;
use oxilium_kernel::{NetlinkError, Node};
use oxilium_model::observed::Place;
use oxilium_model::world::{Attachment, AttachmentId, Claims, Device, Table};

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

    /// All attachments with the devices that they have now. Of those that could not be looked at the device stays as
    /// it was before, and the reason is told: then none may be taken for gone.
    pub(crate) fn attachments<'r>(
        &self,
        records: impl Iterator<Item = &'r AttachmentRecord>,
        known: Known<'_>,
        node: &mut impl Node,
    ) -> (Vec<Attachment>, Option<NetlinkError>) {
        let looked: Vec<_> = records
            .map(|record| (record, self.device_of(record, node)))
            .collect();
        let taken: BTreeSet<u32> = looked
            .iter()
            .filter_map(|(_, found)| found.as_ref().ok()?.map(|link| link.ifindex))
            .collect();
        let (mut attachments, mut unsure) = (Vec::new(), None);
        for (record, found) in looked {
            let link = match found {
                Ok(Some(link)) => Some(link),
                Ok(None) => self.marked(record, &taken, known.claims, node),
                Err(error) => {
                    unsure = Some(error);
                    self.marked(record, &taken, known.claims, node)
                        .or_else(|| self.before(record, known.attachments))
                }
            };
            attachments.push(Attachment {
                id: record.id.clone(),
                pod: record.pod.clone(),
                pod_uid: record.pod_uid.as_str().into(),
                boot_id: record.boot_id.as_str().into(),
                lifecycle: record.lifecycle,
                device: link.map(|link| device(record, link)),
            });
        }
        (attachments, unsure)
    }

    /// The link that is the node's end of the attachment's veth. An index alone proves nothing: the kernel
    /// gives it to the next device at once.
    fn device_of(
        &self,
        record: &AttachmentRecord,
        node: &mut impl Node,
    ) -> Result<Option<&LinkInfo>, NetlinkError> {
        let Some(link) = self.veth(record) else {
            return Ok(None);
        };
        if link.peer != Some(record.container.ifindex) {
            return Ok(None);
        }
        if has_host_mac(link, record) {
            return Ok(Some(link));
        }
        // Another device at this index, or somebody gave ours another MAC address: the pod's end tells.
        let inside = match node.pod_interface(Path::new(&record.netns), &record.id.interface) {
            Ok(inside) => inside,
            Err(error) if tells_of_another(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = inside.peer == Some(link.ifindex)
            && Some(inside.netns_id) == link.netns_id
            && inside.ifindex == record.container.ifindex
            && mac_text(inside.mac) == record.container.mac;
        Ok(same.then_some(link))
    }

    /// The link at the record's index, if its other end is in another namespace.
    fn veth(&self, record: &AttachmentRecord) -> Option<&LinkInfo> {
        let link = self.0.get(&record.host.ifindex)?;
        (link.kind == "veth" && link.netns_id.is_some()).then_some(link)
    }

    /// The link that bears our mark: a pod may give its end another index (moving it through a namespace of its own),
    /// but not take our programs off the node's end. These go with their device, so no later one of the index has them.
    fn marked(
        &self,
        record: &AttachmentRecord,
        taken: &BTreeSet<u32>,
        claims: &Claims,
        node: &mut impl Node,
    ) -> Option<&LinkInfo> {
        let link = self.veth(record)?;
        // Some plugins give all their links one address: then another attachment may have it.
        if !has_host_mac(link, record) || taken.contains(&link.ifindex) {
            return None;
        }
        let mut claimed = claims.endpoints.iter();
        let (endpoint, _) = claimed.find(|(_, claim)| claim.owner == record.id)?;
        let hooks = BTreeMap::from([(link.ifindex, *endpoint)]);
        let there = node.attachments(&hooks).ok()?;
        let marked = there
            .values()
            .any(|program| program.place != Place::Misplaced);
        marked.then_some(link)
    }

    /// The device that the attachment had before, if there is still one like it.
    fn before(
        &self,
        record: &AttachmentRecord,
        attachments: &Table<AttachmentId, Arc<Attachment>>,
    ) -> Option<&LinkInfo> {
        let had = attachments.get(&record.id)?.device.as_ref()?;
        let link = self.veth(record)?;
        (had.ifindex == link.ifindex && *had.name == *link.name).then_some(link)
    }
}

/// What was known before this look.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// All attachments.
    pub(crate) attachments: &'a Table<AttachmentId, Arc<Attachment>>,
    /// Whose endpoint id is which.
    pub(crate) claims: &'a Claims,
}

fn has_host_mac(link: &LinkInfo, record: &AttachmentRecord) -> bool {
    link.mac.map(mac_text).as_deref() == Some(record.host.mac.as_str())
}

/// The namespace, or the interface in it, is not there any more or not what it was. All other errors say nothing of it.
fn tells_of_another(error: &NetlinkError) -> bool {
    let NetlinkError::Namespace { source, .. } = error else {
        return false;
    };
    // Invalid input: what is mounted there is no namespace any more.
    matches!(
        source.kind(),
        ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::InvalidInput
    )
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

/// The device on which kube-proxy, in its IPVS mode, puts the address of every Service: these are not the node's.
const SERVICES: &str = "kube-ipvs0";

/// The node's own addresses: every one that a packet of the node's can have as its source on the way to a
/// pod. Loopback addresses never leave the node.
pub(crate) fn local_addresses(
    node: &mut impl Node,
    links: &Links,
) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let of_services = |ifindex| {
        let link = links.0.get(&ifindex);
        link.is_some_and(|link| link.name == SERVICES && link.kind == "dummy")
    };
    Ok(node
        .addresses()?
        .into_iter()
        .filter(|info| !of_services(info.ifindex) && !info.address.is_loopback())
        .map(|info| info.address)
        .collect())
}

/// Attachments whose device is gone: CNI need not say so, a veth does not come back.
pub(crate) fn gone(attachments: &Table<AttachmentId, Arc<Attachment>>) -> Vec<AttachmentId> {
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
