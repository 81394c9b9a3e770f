//! IPv4 headers.

use oxilium_abi::{Be16, Direction, DropReason};
use zerocopy::FromBytes;

use crate::{
    address::{Address, V4},
    facts::{Facts, Fragment},
    hook::Hook,
    l4,
    maps::Maps,
    packet::Packet,
};

const HEADER: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1FFF;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

const ICMP_REDIRECT: u8 = 5;
const ICMP_ROUTER_ADVERTISEMENT: u8 = 9;

#[derive(FromBytes)]
#[repr(C)]
struct Header {
    version_length: u8,
    service: u8,
    total_length: Be16,
    id: [u8; 2],
    fragment: Be16,
    ttl: u8,
    protocol: u8,
    checksum: Be16,
    source: u32,
    destination: u32,
}

/// Reads the header at `offset` of a packet that ends at `end`, and the L4 header.
#[inline(always)]
pub(crate) fn parse<P: Packet, M: Maps>(
    packet: P,
    maps: M,
    facts: &mut Facts<V4>,
    offset: u32,
    end: u32,
) -> Result<(), DropReason> {
    let header = read(packet, facts, offset)?;
    let total = header.total_length.get() as u32;
    let header_length = facts.l4 - offset;
    facts.end = if total == 0 && packet.is_gso() {
        // BIG TCP: the length does not fit the field.
        end
    } else if total < header_length || offset + total > end {
        return Err(DropReason::InvalidPacket);
    } else {
        offset + total
    };
    let fragment = header.fragment.get();
    if fragment & (MORE_FRAGMENTS | OFFSET) != 0 {
        // At most 8191 * 8.
        facts.fragment_offset = (fragment & OFFSET) << 3;
        facts.fragment = if facts.fragment_offset == 0 {
            Fragment::First
        } else {
            Fragment::Later
        };
        let payload = facts.end - facts.l4;
        l4::check_fragment(
            facts.fragment_offset,
            payload,
            fragment & MORE_FRAGMENTS != 0,
        )?;
        facts.fragment_id = [header.id[0], header.id[1], 0, 0];
        facts.fragment_protocol = header.protocol;
    }
    if header_length > HEADER {
        let refused = maps.check_options(offset + HEADER, facts.l4);
        if refused != 0 {
            return Err(DropReason::from_number(refused as u8).unwrap_or(DropReason::InvalidPacket));
        }
    }
    l4::parse(packet, facts)
}

/// Reads the header that an ICMP error quotes; it may be cut off after eight bytes of L4.
#[inline(always)]
pub(crate) fn parse_quoted<P: Packet>(
    packet: P,
    facts: &mut Facts<V4>,
    offset: u32,
    end: u32,
) -> Result<bool, DropReason> {
    if offset + HEADER > end {
        return Err(DropReason::CtTruncated);
    }
    let header = read(packet, facts, offset)?;
    facts.end = end;
    if header.fragment.get() & OFFSET != 0 {
        return Ok(false);
    }
    l4::parse_quoted(packet, facts).map(|()| true)
}

#[inline(always)]
fn read<P: Packet>(packet: P, facts: &mut Facts<V4>, offset: u32) -> Result<Header, DropReason> {
    let header = packet
        .load::<Header>(offset)
        .ok_or(DropReason::CtTruncated)?;
    let length = (header.version_length & 0xF) as u32 * 4;
    if header.version_length >> 4 != 4 || length < HEADER {
        return Err(DropReason::InvalidPacket);
    }
    facts.source = V4(header.source);
    facts.destination = V4(header.destination);
    facts.protocol = header.protocol;
    facts.hop_limit = header.ttl;
    facts.l4 = offset + length;
    Ok(header)
}

/// Looks through the IPv4 options from `at` to `end`: 0, or the number of the reason why a source route
/// or a malformed option is refused.
#[inline(always)]
pub fn check_options<P: Packet>(packet: P, at: u32, end: u32) -> u32 {
    match walk_options(packet, at, end) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn walk_options<P: Packet>(packet: P, mut at: u32, end: u32) -> Result<(), DropReason> {
    // An option is a byte at least, and there are 40 at most.
    for _ in 0..=40 {
        if at >= end {
            return Ok(());
        }
        // The last option's second byte is the first of what follows, which a packet always has.
        let [kind, length] = packet
            .load_in_loop::<[u8; 2]>(at)
            .ok_or(DropReason::CtTruncated)?;
        match kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => at += 1,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => {
                return Err(DropReason::IpOptions);
            }
            _ => {
                if length < 2 || at + length as u32 > end {
                    return Err(DropReason::InvalidPacket);
                }
                at += length as u32;
            }
        }
    }
    Err(DropReason::InvalidPacket)
}

/// Router advertisements and redirects: a pod sends none, and takes none but its host's.
#[inline(always)]
pub(crate) fn link_rules<P: Packet, H: Hook>(
    packet: P,
    facts: &Facts<V4>,
) -> Result<(), DropReason> {
    if facts.protocol != V4::ICMP || facts.fragment == Fragment::Later {
        return Ok(());
    }
    let from_host = H::DIRECTION == Direction::Ingress && packet.ingress_ifindex() == 0;
    match facts.icmp_type() {
        ICMP_REDIRECT if !from_host => Err(DropReason::IcmpRedirect),
        ICMP_ROUTER_ADVERTISEMENT if !from_host => Err(DropReason::RouterAdvertisement),
        _ => Ok(()),
    }
}
