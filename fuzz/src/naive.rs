//! A second reader of frames: plain, slow, over slices, sharing no code with the datapath. And the policy of a list of
//! entries, asked one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_abi::Direction;
use oxilium_datapath::testing::{PolicyEntry, World};

/// What a frame is about. None of [`read`] where it is not an IP packet whose headers are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Identification and place of a fragment; none for a whole packet.
    pub fragment: Option<(u32, bool)>,
    /// What the L4 header says.
    pub content: Content,
}

/// What the L4 header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// TCP, UDP, SCTP: both ports; whether it is a SYN without ACK.
    Ports(u16, u16, bool),
    /// ICMP: type, code, id, and what follows the first eight bytes.
    Icmp(u8, u8, u16, Vec<u8>),
    /// A later fragment: what it carries is not known from it.
    Later,
    /// Another protocol.
    Other,
}

/// True for ICMP of the address's family.
pub fn is_icmp(seen: &Seen) -> bool {
    seen.protocol == if seen.source.is_ipv4() { 1 } else { 58 }
}

/// Reads what follows the link-layer header.
pub fn read(ether_type: u16, packet: &[u8]) -> Option<Seen> {
    match ether_type {
        0x0800 => v4(packet),
        0x86DD => v6(packet),
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<Seen> {
    let length = usize::from(packet.first()? & 0xF) * 4;
    let header = packet.get(..length).filter(|header| header.len() >= 20)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let flags = word(6);
    let (offset, more) = (flags & 0x1FFF, flags & 0x2000 != 0);
    let fragment = (offset != 0 || more).then(|| (u32::from(word(4)), offset != 0));
    Some(Seen {
        source: address(12)?,
        destination: address(16)?,
        protocol: header[9],
        hops: header[8],
        fragment,
        content: content(header[9], 1, offset != 0, packet.get(length..)?)?,
    })
}

fn v6(packet: &[u8]) -> Option<Seen> {
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..)?);
    let mut fragment = None;
    loop {
        let length = match next {
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            51 => (usize::from(*rest.get(1)?) + 2) * 4,
            44 => {
                let flags = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]);
                let id = u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?);
                if flags & 0xFFF9 != 0 {
                    fragment = Some((id, flags & 0xFFF8 != 0));
                }
                8
            }
            _ => break,
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
        if fragment.is_some_and(|(_, later)| later) {
            break;
        }
    }
    let later = fragment.is_some_and(|(_, later)| later);
    Some(Seen {
        source: address(8)?,
        destination: address(24)?,
        protocol: next,
        hops: *packet.get(7)?,
        fragment,
        content: content(next, 58, later, rest)?,
    })
}

fn content(protocol: u8, icmp: u8, later: bool, bytes: &[u8]) -> Option<Content> {
    if later {
        return Some(Content::Later);
    }
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    Some(match protocol {
        6 | 17 | 132 => {
            let opens = protocol == 6 && bytes.get(13).is_some_and(|flags| flags & 0x12 == 0x02);
            Content::Ports(word(0)?, word(2)?, opens)
        }
        _ if protocol == icmp => Content::Icmp(
            *bytes.first()?,
            *bytes.get(1)?,
            word(4)?,
            bytes.get(8..)?.to_vec(),
        ),
        _ => Content::Other,
    })
}

/// Whether a list of entries allows a flow: the highest precedence, then the longest port prefix, then the most specific
/// identity decides. Nothing that matches: no.
pub fn allows(
    entries: &[PolicyEntry],
    direction: Direction,
    identity: u32,
    protocol: u8,
    port: u16,
) -> bool {
    let aggregate = match identity {
        100..=0xFFFF => 11,
        0x0100_0000..=0x01FF_FFFF => 13,
        _ => 0,
    };
    let matching = entries.iter().filter(|entry| {
        let who = entry.identity == 0
            || entry.identity == identity
            || aggregate != 0 && entry.identity == aggregate;
        let what = match entry.prefix {
            None => true,
            Some(bits) => {
                let differs = u32::from(entry.port ^ port) >> (16 - u32::from(bits));
                entry.protocol == protocol && differs == 0
            }
        };
        entry.direction == direction && who && what
    });
    let rank = |entry: &&PolicyEntry| {
        let kind = match entry.identity {
            0 => 0,
            11..=14 => 1,
            _ => 2,
        };
        let length = entry.prefix.map_or(0, |bits| bits + 1);
        (entry.precedence, length, kind)
    };
    matching
        .max_by_key(rank)
        .is_some_and(|entry| entry.precedence & 0xFF == 1 && entry.proxy_port == 0)
}

/// The identity of a peer, where a packet from it came through another interface or not.
pub fn identity(address: IpAddr, from_outside: bool) -> u32 {
    let is = |v4: [u8; 4], v6: [u8; 16]| match address {
        IpAddr::V4(address) => address.octets() == v4,
        IpAddr::V6(address) => address.octets() == v6,
    };
    let link_local =
        matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xFFC0 == 0xFE80);
    let world = if address.is_ipv4() { 9 } else { 10 };
    if is(World::PEER4, World::PEER6) {
        World::PEER
    } else if is(World::HOST4, World::HOST6) || link_local {
        if from_outside { world } else { 1 }
    } else {
        world
    }
}
