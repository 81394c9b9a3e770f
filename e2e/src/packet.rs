//! Frames made by hand, for what no socket would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Mac;

/// Ethertypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flags.
pub mod tcp_flag {
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// An Ethernet frame.
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same frame with an 802.1Q tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(ethertype::VLAN.to_be_bytes());
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// An IP packet to be built: addresses of one family, a protocol and what it carries.
#[derive(Clone, Debug)]
pub struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: Vec<u8>,
    /// TTL or hop limit.
    hops: u8,
    /// Identification, offset in units of eight bytes, more fragments.
    fragment: Option<(u16, u16, bool)>,
}

impl Ip {
    /// A packet with TTL 64.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            payload,
            hops: 64,
            fragment: None,
        }
    }

    /// With another TTL or hop limit: neighbour discovery wants 255, MLD 1.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// As one fragment of the packet `id`: the payload begins at `offset` bytes, a multiple of eight.
    #[must_use]
    pub fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        self.fragment = Some((id, offset / 8, more));
        self
    }

    /// The ethertype and the bytes.
    pub fn bytes(&self) -> (u16, Vec<u8>) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (ethertype::IPV4, self.v4(source, destination))
            }
            (source, destination) => (ethertype::IPV6, self.v6(as_v6(source), as_v6(destination))),
        }
    }

    /// In an Ethernet frame.
    pub fn frame(&self, destination: Mac, source: Mac) -> Vec<u8> {
        let (ethertype, bytes) = self.bytes();
        ethernet(destination, source, ethertype, &bytes)
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let (id, offset, more) = self.fragment.unwrap_or((1, 0, false));
        let mut header = vec![0x45, 0];
        header.extend(length(20 + self.payload.len()).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend((offset | u16::from(more) << 13).to_be_bytes());
        header.extend([self.hops, self.protocol, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(&self.payload);
        header
    }

    fn v6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let (next, extension) = match self.fragment {
            None => (self.protocol, Vec::new()),
            Some((id, offset, more)) => {
                let mut header = vec![self.protocol, 0];
                header.extend((offset << 3 | u16::from(more)).to_be_bytes());
                header.extend(u32::from(id).to_be_bytes());
                (protocol::FRAGMENT, header)
            }
        };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length(extension.len() + self.payload.len()).to_be_bytes());
        packet.extend([next, self.hops]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(extension);
        packet.extend(&self.payload);
        packet
    }
}

/// A UDP packet.
pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), payload: &[u8]) -> Ip {
    let mut datagram = ports(source.1, destination.1);
    datagram.extend(length(8 + payload.len()).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    seal(source.0, destination.0, protocol::UDP, datagram, 6)
}

/// A TCP packet with the given flags, sequence and acknowledgement numbers.
pub fn tcp(
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    flags: u8,
    numbers: (u32, u32),
    payload: &[u8],
) -> Ip {
    let mut segment = ports(source.1, destination.1);
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    seal(source.0, destination.0, protocol::TCP, segment, 16)
}

/// An SCTP packet with one INIT chunk: how an association begins.
pub fn sctp_init(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Ip {
    let mut chunk = vec![1, 0, 0, 20];
    chunk.extend(0x1234_5678_u32.to_be_bytes());
    chunk.extend(65_535_u32.to_be_bytes());
    chunk.extend([0, 10, 0, 10]);
    chunk.extend(1_u32.to_be_bytes());
    sctp(source, destination, 0, &chunk)
}

/// An SCTP packet with the given verification tag and chunks.
pub fn sctp(source: (IpAddr, u16), destination: (IpAddr, u16), tag: u32, chunks: &[u8]) -> Ip {
    let mut packet = ports(source.1, destination.1);
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunks);
    let sum = crc32c(&packet);
    // RFC 9260, appendix A: the least significant byte goes first.
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    Ip::new(source.0, destination.0, protocol::SCTP, packet)
}

/// An ICMP message of the family of the addresses: type, code, the second word, and the rest.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: (u8, u8), word: [u8; 4], rest: &[u8]) -> Ip {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend(word);
    message.extend(rest);
    let number = if source.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    seal(source, destination, number, message, 2)
}

/// An echo request of the family of the addresses.
pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16, sequence: u16) -> Ip {
    let kind = if source.is_ipv4() { 8 } else { 128 };
    let [a, b] = id.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    icmp(source, destination, (kind, 0), [a, b, c, d], b"oxilium!")
}

/// Operation, sender's and target's hardware and protocol addresses of an ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        packet.extend(mac.0);
        packet.extend(address.octets());
    }
    packet
}

/// A neighbour solicitation for `target`, with the source link-layer option unless the source is `::`.
pub fn neighbour_solicitation(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    link: Mac,
) -> Ip {
    let mut rest = target.octets().to_vec();
    if !source.is_unspecified() {
        rest.extend([1, 1]);
        rest.extend(link.0);
    }
    icmp(source.into(), destination.into(), (135, 0), [0; 4], &rest).hops(255)
}

/// An unsolicited neighbour advertisement that says `target` is at `link`.
pub fn neighbour_advertisement(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    link: Mac,
) -> Ip {
    const OVERRIDE: u8 = 0x20;
    let mut rest = target.octets().to_vec();
    rest.extend([2, 1]);
    rest.extend(link.0);
    let word = [OVERRIDE, 0, 0, 0];
    icmp(source.into(), destination.into(), (136, 0), word, &rest).hops(255)
}

/// A router advertisement that offers itself as default router for half an hour.
pub fn router_advertisement(source: Ipv6Addr, destination: Ipv6Addr) -> Ip {
    let [high, low] = 1800_u16.to_be_bytes();
    let word = [64, 0, high, low];
    icmp(source.into(), destination.into(), (134, 0), word, &[0; 8]).hops(255)
}

/// The group of all nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The group that answers for `address` in neighbour discovery.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// Fills in the checksum at `at`, over the pseudo header where the protocol has one.
fn seal(source: IpAddr, destination: IpAddr, number: u8, mut bytes: Vec<u8>, at: usize) -> Ip {
    let pseudo = match (source, destination) {
        _ if number == protocol::ICMP => Vec::new(),
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = [source.octets(), destination.octets()].concat();
            header.extend([0, number]);
            header.extend(length(bytes.len()).to_be_bytes());
            header
        }
        (source, destination) => {
            let mut header = [as_v6(source).octets(), as_v6(destination).octets()].concat();
            header.extend(u32::from(length(bytes.len())).to_be_bytes());
            header.extend([0, 0, 0, number]);
            header
        }
    };
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ip::new(source, destination, number, bytes)
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// A length field; frames made by hand are far below its limit.
fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    !folded
}

fn crc32c(bytes: &[u8]) -> u32 {
    const CASTAGNOLI_REFLECTED: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (CASTAGNOLI_REFLECTED & (crc & 1).wrapping_neg());
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_agree_with_published_values() {
        // RFC 1071, section 3.
        assert_eq!(
            !checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]),
            0xddf2
        );
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_sealed_packet_sums_to_zero() {
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let (_, packet) = echo_request(here.into(), there.into(), 7, 1).bytes();
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(checksum(&[&packet[20..]]), 0);
    }

    #[test]
    fn a_solicited_node_group_ends_with_the_address() {
        let group = solicited_node("fd00::1:2345:6789".parse().unwrap());
        assert_eq!(group.to_string(), "ff02::1:ff45:6789");
    }
}
