//! IPv6 headers and extension headers.

use oxilium_abi::{Be16, DropReason};
use zerocopy::FromBytes;

use crate::{
    address::V6,
    facts::{Facts, Fragment},
    l4,
    packet::Packet,
};

const HEADER: u32 = 40;
/// Every extension header that RFC 8200 names, once.
const EXTENSIONS_MAX: u32 = 7;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const ROUTING_TYPE_0: u8 = 0;

#[derive(FromBytes)]
#[repr(C)]
struct Header {
    version: u8,
    flow: [u8; 3],
    payload_length: Be16,
    next: u8,
    hop_limit: u8,
    source: Words,
    destination: Words,
}

/// An address. A list would be copied through memory, from the stack to the stack.
#[derive(FromBytes)]
#[repr(C)]
struct Words {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
}

impl Words {
    #[inline(always)]
    const fn address(&self) -> V6 {
        V6([self.a, self.b, self.c, self.d])
    }
}

#[derive(FromBytes)]
#[repr(C)]
struct Extension {
    next: u8,
    length: u8,
    /// Of a fragment header: offset and flags; of a routing header: type and segments left.
    third: Be16,
    id: [u8; 4],
}

/// Reads the header at `offset` of a packet that ends at `end`, and the L4 header.
#[inline(always)]
pub(crate) fn parse<P: Packet>(
    packet: P,
    facts: &mut Facts<V6>,
    offset: u32,
    end: u32,
) -> Result<(), DropReason> {
    let header = read(packet, facts, offset)?;
    let payload = header.payload_length.get() as u32;
    facts.end = if payload == 0 && end - offset > HEADER + 0xFFFF {
        // A jumbogram, as BIG TCP makes them.
        end
    } else if offset + HEADER + payload > end {
        return Err(DropReason::InvalidPacket);
    } else {
        offset + HEADER + payload
    };
    if is_extension(facts.protocol) {
        skip_extensions(packet, facts)?;
    }
    l4::parse(packet, facts)
}

/// Reads the header that an ICMP error quotes; false where its ports cannot be known.
#[inline(always)]
pub(crate) fn parse_quoted<P: Packet>(
    packet: P,
    facts: &mut Facts<V6>,
    offset: u32,
    end: u32,
) -> Result<bool, DropReason> {
    if offset + HEADER > end {
        return Err(DropReason::CtTruncated);
    }
    read(packet, facts, offset)?;
    facts.end = end;
    if is_extension(facts.protocol) {
        skip_extensions(packet, facts)?;
        if facts.fragment == Fragment::Later {
            return Ok(false);
        }
    }
    l4::parse_quoted(packet, facts).map(|()| true)
}

#[inline(always)]
fn read<P: Packet>(packet: P, facts: &mut Facts<V6>, offset: u32) -> Result<Header, DropReason> {
    let header = packet
        .load::<Header>(offset)
        .ok_or(DropReason::CtTruncated)?;
    if header.version >> 4 != 6 {
        return Err(DropReason::InvalidPacket);
    }
    facts.source = header.source.address();
    facts.destination = header.destination.address();
    facts.protocol = header.next;
    facts.hop_limit = header.hop_limit;
    facts.l4 = offset + HEADER;
    Ok(header)
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

/// Goes over the extension headers; leaves `protocol` and `l4` behind the last.
#[inline(never)]
fn skip_extensions<P: Packet>(packet: P, facts: &mut Facts<V6>) -> Result<(), DropReason> {
    let mut next = facts.protocol;
    let mut at = facts.l4;
    for position in 0..=EXTENSIONS_MAX {
        if !is_extension(next) {
            facts.protocol = next;
            facts.l4 = at;
            return Ok(());
        }
        if position == EXTENSIONS_MAX || (next == HOP_BY_HOP && position != 0) {
            return Err(DropReason::InvalidExtensionHeader);
        }
        if at + 8 > facts.end {
            return Err(DropReason::CtTruncated);
        }
        let header = packet
            .load_in_loop::<Extension>(at)
            .ok_or(DropReason::CtTruncated)?;
        let mut length = (header.length as u32 + 1) * 8;
        match next {
            AUTHENTICATION => length = (header.length as u32 + 2) * 4,
            ROUTING => {
                // With segments left the destination is not the one that policy is about.
                let [kind, segments_left] = header.third.get().to_be_bytes();
                if kind == ROUTING_TYPE_0 || segments_left != 0 {
                    return Err(DropReason::IpOptions);
                }
            }
            FRAGMENT => {
                length = 8;
                fragment(&header, facts, at + 8)?;
            }
            _ => {}
        }
        next = header.next;
        at += length;
        if at > facts.end {
            return Err(DropReason::InvalidExtensionHeader);
        }
    }
    Err(DropReason::InvalidExtensionHeader)
}

#[inline(always)]
fn fragment(header: &Extension, facts: &mut Facts<V6>, payload: u32) -> Result<(), DropReason> {
    // Once, and with nothing between it and L4: what is behind is not there in later fragments.
    if facts.fragment_protocol != 0 || is_extension(header.next) {
        return Err(DropReason::InvalidExtensionHeader);
    }
    facts.fragment_protocol = header.next;
    facts.fragment_id = header.id;
    facts.fragment_offset = header.third.get() & 0xFFF8;
    let more = header.third.get() & 1 != 0;
    if facts.fragment_offset != 0 {
        facts.fragment = Fragment::Later;
    } else if more {
        facts.fragment = Fragment::First;
    } else {
        return Ok(());
    }
    l4::check_fragment(facts.fragment_offset, facts.end - payload, more)
}
