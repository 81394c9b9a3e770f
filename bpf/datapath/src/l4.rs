//! The L4 header.

use oxilium_abi::{Be16, DropReason};
use zerocopy::FromBytes;

use crate::{
    address::Address,
    facts::{ACK, Class, FIN, Facts, Fragment, RST, SCTP, SYN, TCP, UDP},
    packet::Packet,
};

#[derive(FromBytes)]
#[repr(C)]
struct TcpHeader {
    source: Be16,
    destination: Be16,
    sequence: u32,
    acknowledgement: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
}

/// Ports and length of UDP; type and code, checksum, id and sequence of an ICMP echo.
#[derive(FromBytes)]
#[repr(C)]
struct EightBytes {
    words: [Be16; 4],
}

const TCP_HEADER: u32 = 20;
const TCP_HEADER_MAX: u16 = 60;
const UDP_HEADER: u32 = 8;
const SCTP_HEADER: u32 = 12;
const ICMP_HEADER: u32 = 8;

/// Reads the L4 header at `facts.l4`; of a later fragment, checks that it lies behind that header.
#[inline(always)]
pub(crate) fn parse<A: Address, P: Packet>(
    packet: P,
    facts: &mut Facts<A>,
) -> Result<(), DropReason> {
    facts.class = class_of::<A>(facts.protocol);
    if facts.fragment == Fragment::Later {
        // The first fragment may have had TCP options: no datagram cuts inside the longest header.
        let header = match facts.protocol {
            TCP => TCP_HEADER_MAX,
            UDP => UDP_HEADER as u16,
            SCTP => SCTP_HEADER as u16,
            icmp if icmp == A::ICMP => ICMP_HEADER as u16,
            _ => 0,
        };
        return if facts.fragment_offset < header {
            Err(DropReason::FragmentOverlap)
        } else {
            Ok(())
        };
    }
    match facts.protocol {
        TCP => tcp(packet, facts),
        UDP => udp(packet, facts),
        SCTP => {
            fits(facts, SCTP_HEADER)?;
            ports(packet, facts).map(|_| ())
        }
        icmp if icmp == A::ICMP => {
            fits(facts, ICMP_HEADER)?;
            let header = eight(packet, facts)?;
            facts.source_port = header[0];
            facts.class = A::icmp_class(facts.icmp_type());
            if matches!(facts.class, Class::EchoRequest | Class::EchoReply) {
                facts.destination_port = header[2];
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads what an ICMP error quotes of an L4 header: eight bytes at least.
#[inline(always)]
pub(crate) fn parse_quoted<A: Address, P: Packet>(
    packet: P,
    facts: &mut Facts<A>,
) -> Result<(), DropReason> {
    facts.class = class_of::<A>(facts.protocol);
    if facts.class == Class::Other {
        return Ok(());
    }
    fits(facts, 8)?;
    if facts.class == Class::Query {
        let header = eight(packet, facts)?;
        facts.source_port = header[0];
        facts.destination_port = header[2];
        facts.class = A::icmp_class(facts.icmp_type());
        return Ok(());
    }
    ports(packet, facts).map(|_| ())
}

/// The class that a protocol number alone tells.
#[inline(always)]
pub(crate) fn class_of<A: Address>(protocol: u8) -> Class {
    match protocol {
        TCP => Class::Tcp,
        UDP | SCTP => Class::Ports,
        icmp if icmp == A::ICMP => Class::Query,
        _ => Class::Other,
    }
}

#[inline(always)]
fn fits<A>(facts: &Facts<A>, size: u32) -> Result<(), DropReason> {
    if facts.l4 + size <= facts.end {
        Ok(())
    } else {
        Err(short(facts))
    }
}

#[inline(always)]
fn short<A>(facts: &Facts<A>) -> DropReason {
    if facts.fragment == Fragment::First {
        DropReason::FragmentHeader
    } else {
        DropReason::CtTruncated
    }
}

#[inline(always)]
fn eight<A, P: Packet>(packet: P, facts: &Facts<A>) -> Result<[Be16; 4], DropReason> {
    packet
        .load::<EightBytes>(facts.l4)
        .map(|header| header.words)
        .ok_or(DropReason::CtTruncated)
}

#[inline(always)]
fn ports<A, P: Packet>(packet: P, facts: &mut Facts<A>) -> Result<[Be16; 4], DropReason> {
    let header = eight(packet, facts)?;
    facts.source_port = header[0];
    facts.destination_port = header[1];
    Ok(header)
}

#[inline(always)]
fn tcp<A, P: Packet>(packet: P, facts: &mut Facts<A>) -> Result<(), DropReason> {
    fits(facts, TCP_HEADER)?;
    let header = packet
        .load::<TcpHeader>(facts.l4)
        .ok_or(DropReason::CtTruncated)?;
    let length = (header.data_offset >> 4) as u32 * 4;
    if length < TCP_HEADER {
        return Err(DropReason::InvalidPacket);
    }
    fits(facts, length)?;
    let flags = header.flags;
    if flags & SYN != 0 && flags & (FIN | RST) != 0 {
        return Err(DropReason::InvalidPacket);
    }
    facts.source_port = header.source;
    facts.destination_port = header.destination;
    facts.tcp_flags = flags;
    Ok(())
}

#[inline(always)]
fn udp<A, P: Packet>(packet: P, facts: &mut Facts<A>) -> Result<(), DropReason> {
    fits(facts, UDP_HEADER)?;
    let header = ports(packet, facts)?;
    // A first fragment's length is the datagram's; a superpacket's may be its segments'.
    if facts.fragment == Fragment::Whole && !packet.is_gso() {
        let length = header[2].get() as u32;
        if length < UDP_HEADER || facts.l4 + length > facts.end {
            return Err(DropReason::InvalidPacket);
        }
    }
    Ok(())
}

/// What a later fragment counts as: in the middle of a stream.
pub(crate) const LATER_FRAGMENT_FLAGS: u8 = ACK;

/// Checks the size of a fragment, `more` to follow, of `payload` bytes.
#[inline(always)]
pub(crate) fn check_fragment(offset: u16, payload: u32, more: bool) -> Result<(), DropReason> {
    if payload == 0 || (more && !payload.is_multiple_of(8)) || offset as u32 + payload > 0xFFFF {
        Err(DropReason::InvalidPacket)
    } else {
        Ok(())
    }
}
