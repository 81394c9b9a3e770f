//! Ethernet and ARP.

use oxilium_abi::{Be16, Direction, DropReason, InterfaceConfig, InterfaceFlags};
use zerocopy::FromBytes;

use crate::{
    address::{Address, V4},
    hook::Hook,
    packet::Packet,
};

/// Length of the Ethernet header.
pub(crate) const HEADER: u32 = 14;
pub(crate) const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_SERVICE_VLAN: u16 = 0x88A8;
const ETHER_TYPE_OLD_SERVICE_VLAN: u16 = 0x9100;

const ARP_ETHERNET: u16 = 1;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

#[derive(FromBytes)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) destination: [u16; 3],
    pub(crate) source: [u16; 3],
    pub(crate) ether_type: Be16,
}

#[derive(FromBytes)]
#[repr(C)]
struct Arp {
    hardware: Be16,
    protocol: Be16,
    hardware_length: u8,
    protocol_length: u8,
    operation: Be16,
    sender_mac: [u16; 3],
    sender_ip: [[u8; 2]; 2],
    target_mac: [u16; 3],
    target_ip: [[u8; 2]; 2],
}

/// Compares without a call: BPF has no memcmp.
#[inline(always)]
pub(crate) fn same_mac(words: [u16; 3], mac: [u8; 6]) -> bool {
    let [a, b, c, d, e, f] = mac;
    let [x, y, z] = words;
    x == u16::from_ne_bytes([a, b])
        && y == u16::from_ne_bytes([c, d])
        && z == u16::from_ne_bytes([e, f])
}

/// Rules of the link layer that come before every protocol.
#[inline(always)]
pub(crate) fn check<P: Packet, H: Hook>(
    packet: P,
    header: &Header,
    config: &InterfaceConfig,
) -> Result<(), DropReason> {
    if packet.vlan_present()
        || matches!(
            header.ether_type.get(),
            ETHER_TYPE_VLAN | ETHER_TYPE_SERVICE_VLAN | ETHER_TYPE_OLD_SERVICE_VLAN
        )
    {
        return Err(DropReason::Vlan);
    }
    if H::DIRECTION == Direction::Egress
        && config.flags & InterfaceFlags::ALLOW_SPOOFING == 0
        && !same_mac(header.source, config.mac)
    {
        return Err(DropReason::InvalidSourceMac);
    }
    Ok(())
}

/// ARP is outside policy; a pod speaks there only for itself.
#[inline(always)]
pub(crate) fn judge_arp<P: Packet, H: Hook>(
    packet: P,
    config: &InterfaceConfig,
) -> Result<(), DropReason> {
    let arp = packet.load::<Arp>(HEADER).ok_or(DropReason::ArpMalformed)?;
    let operation = arp.operation.get();
    if arp.hardware.get() != ARP_ETHERNET
        || arp.protocol.get() != V4::ETHER_TYPE
        || arp.hardware_length != 6
        || arp.protocol_length != 4
        || !(operation == ARP_REQUEST || operation == ARP_REPLY)
    {
        return Err(DropReason::ArpMalformed);
    }
    if H::DIRECTION == Direction::Ingress || config.flags & InterfaceFlags::ALLOW_SPOOFING != 0 {
        return Ok(());
    }
    if !same_mac(arp.sender_mac, config.mac) {
        return Err(DropReason::ArpSenderMac);
    }
    let [[a, b], [c, d]] = arp.sender_ip;
    let sender = V4::from_bytes([a, b, c, d]);
    let probe = sender == V4(0) && operation == ARP_REQUEST;
    if probe || sender.is_own(config) {
        Ok(())
    } else {
        Err(DropReason::ArpSenderIp)
    }
}
