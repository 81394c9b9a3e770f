//! Links and addresses.

use std::net::IpAddr;

use super::Netlink;
use super::wire::{Message, Request, address, attributes, flag, i32_at, kind, string, u32_at};
use crate::count::{Action, Target, WriteCounter};
use crate::error::NetlinkError;
use crate::port::{AddressInfo, AddressScope, LinkInfo};

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;
/// Length of `struct ifaddrmsg`.
const IFADDR: usize = 8;
const IFF_UP: u32 = 1;

/// `IFLA_*`.
mod link_attribute {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const TX_QUEUE_LEN: u16 = 13;
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const LINK_NETNSID: u16 = 37;
    /// Inside `LINK_INFO`.
    pub(super) const INFO_KIND: u16 = 1;
}

impl Netlink {
    /// All links of the socket's namespace.
    pub(crate) fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        let request = Request::new(kind::GET_LINK, flag::DUMP, &[0; IFINFO]);
        self.dump("links", request, link)
    }

    /// Sets how many packets a queue of the link may hold.
    pub(crate) fn set_tx_queue_len(
        &mut self,
        ifindex: u32,
        packets: u32,
        counter: &WriteCounter,
    ) -> Result<(), NetlinkError> {
        let mut fixed = [0; IFINFO];
        fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let request = Request::new(kind::SET_LINK, flag::ACK, &fixed)
            .with(link_attribute::TX_QUEUE_LEN, &packets.to_ne_bytes());
        self.change(
            "set txqueuelen",
            request,
            counter,
            Target::Devices,
            Action::Replace,
        )
    }

    /// All addresses of the socket's namespace.
    pub(crate) fn addresses(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        let request = Request::new(kind::GET_ADDRESS, flag::DUMP, &[0; IFADDR]);
        self.dump("addresses", request, address_of)
    }
}

fn link(message: &Message<'_>) -> Option<LinkInfo> {
    use link_attribute::{
        ADDRESS, INFO_KIND, LINK, LINK_INFO, LINK_NETNSID, MASTER, MTU, NAME, TX_QUEUE_LEN,
    };
    if message.kind != kind::NEW_LINK {
        return None;
    }
    let body = message.body;
    let mut link = LinkInfo {
        ifindex: u32_at(body, 4)?,
        name: String::new(),
        kind: String::new(),
        mac: None,
        peer: None,
        netns_id: None,
        master: None,
        up: u32_at(body, 8)? & IFF_UP != 0,
        mtu: 0,
        tx_queue_len: 0,
    };
    for (attribute, value) in attributes(body.get(IFINFO..)?) {
        match attribute {
            ADDRESS => link.mac = value.try_into().ok(),
            NAME => link.name = string(value),
            MTU => link.mtu = u32_at(value, 0)?,
            LINK => link.peer = u32_at(value, 0).filter(|&index| index != 0),
            MASTER => link.master = u32_at(value, 0),
            TX_QUEUE_LEN => link.tx_queue_len = u32_at(value, 0)?,
            LINK_NETNSID => link.netns_id = i32_at(value, 0),
            LINK_INFO => {
                link.kind = attributes(value)
                    .find(|(inner, _)| *inner == INFO_KIND)
                    .map(|(_, kind)| string(kind))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn address_of(message: &Message<'_>) -> Option<AddressInfo> {
    /// `IFA_ADDRESS`: on a point-to-point link the peer's.
    const ADDRESS: u16 = 1;
    /// `IFA_LOCAL`: its own, where the two differ.
    const LOCAL: u16 = 2;
    const SCOPE_LINK: u8 = 253;
    const SCOPE_HOST: u8 = 254;
    if message.kind != kind::NEW_ADDRESS {
        return None;
    }
    let body = message.body;
    let (mut own, mut local): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    for (attribute, value) in attributes(body.get(IFADDR..)?) {
        match attribute {
            ADDRESS => own = address(value),
            LOCAL => local = address(value),
            _ => {}
        }
    }
    Some(AddressInfo {
        ifindex: u32_at(body, 4)?,
        address: local.or(own)?,
        prefix_len: *body.get(1)?,
        scope: match *body.get(3)? {
            SCOPE_LINK => AddressScope::Link,
            scope if scope >= SCOPE_HOST => AddressScope::Host,
            _ => AddressScope::Global,
        },
    })
}
