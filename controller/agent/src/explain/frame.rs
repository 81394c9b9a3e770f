//! Frames for packets that are tried and never sent: the first of a flow, in either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_model::identity::Protocol;

/// Source port of tried packets, and id of echo requests: one that no sender picks, so that no flow of
/// a pod has the same tuple.
const SOURCE: u16 = 1;
const TTL: u8 = 64;
/// Types of echo requests.
const ECHO: u16 = 8;
const ECHO6: u16 = 128;

/// Who a frame says that it is from and to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) source_mac: [u8; 6],
    pub(super) destination_mac: [u8; 6],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

/// Such a packet can be made in this family.
pub(super) const fn can_be_made(protocol: Protocol, port: u16, ipv4: bool) -> bool {
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => true,
        Protocol::ICMP => ipv4 && port == ECHO,
        Protocol::ICMPV6 => !ipv4 && port == ECHO6,
        _ => false,
    }
}

/// The frame: a TCP SYN, a UDP datagram, an SCTP INIT or an ICMP echo request; none where the families
/// do not agree or [`can_be_made`] says no. L4 checksums are zero: nobody on the way looks at them.
pub(super) fn first_of_flow(ends: &Ends, protocol: Protocol, port: u16) -> Option<Vec<u8>> {
    if !can_be_made(protocol, port, ends.source.is_ipv4()) {
        return None;
    }
    let payload = l4(protocol, port);
    let length = u16::try_from(payload.len()).ok()?;
    let (ether_type, header) = match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (0x0800_u16, ipv4(source, destination, protocol.0, length))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (0x86DD, ipv6(source, destination, protocol.0, length))
        }
        _ => return None,
    };
    Some(
        [
            &ends.destination_mac[..],
            &ends.source_mac,
            &ether_type.to_be_bytes(),
            &header,
            &payload,
        ]
        .concat(),
    )
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: u16) -> Vec<u8> {
    let length = (20 + payload).to_be_bytes();
    let mut header = vec![
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, TTL, protocol, 0, 0,
    ];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum: u32 = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    let folded = (folded & 0xFFFF) + (folded >> 16);
    let [.., high, low] = (!folded).to_be_bytes();
    header[10] = high;
    header[11] = low;
    header
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: u16) -> Vec<u8> {
    let length = payload.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, TTL];
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

fn l4(protocol: Protocol, port: u16) -> Vec<u8> {
    let [from, to] = [SOURCE.to_be_bytes(), port.to_be_bytes()];
    let ports = [from, to].concat();
    let rest: &[u8] = match protocol {
        // Sequence, acknowledgement; header of 5 words, SYN, window; checksum, urgent pointer.
        Protocol::TCP => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xFF, 0xFF, 0, 0, 0, 0],
        Protocol::UDP => &[0, 8, 0, 0],
        // Tag, checksum; INIT of 20 bytes: tag 1, window, one stream each way, first TSN.
        Protocol::SCTP => &[
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xFF, 0xFF, 0, 1, 0, 1, 0, 0, 0,
            1,
        ],
        _ => {
            // Type and code, checksum, id, sequence.
            let [_, kind] = port.to_be_bytes();
            return [[kind, 0], [0, 0], from, [0, 1]].concat();
        }
    };
    [&ports, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(protocol: Protocol, port: u16, ipv4: bool) -> Option<Vec<u8>> {
        let text = if ipv4 {
            ["10.0.0.1", "10.0.0.2"]
        } else {
            ["fd00::1", "fd00::2"]
        };
        let [source, destination] = text.map(|text| text.parse().expect("an address"));
        let ends = Ends {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source,
            destination,
        };
        first_of_flow(&ends, protocol, port)
    }

    #[test]
    fn a_frame_is_as_long_as_its_headers_say() {
        for (protocol, port, ipv4, l4) in [
            (Protocol::TCP, 80, true, 20),
            (Protocol::TCP, 80, false, 20),
            (Protocol::UDP, 53, true, 8),
            (Protocol::UDP, 53, false, 8),
            (Protocol::SCTP, 3868, true, 32),
            (Protocol::ICMP, 8, true, 8),
            (Protocol::ICMPV6, 128, false, 8),
        ] {
            let frame = made(protocol, port, ipv4).expect("it can be made");
            let at = if ipv4 { 16 } else { 18 };
            let said = usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            let fixed = if ipv4 { 14 } else { 54 };
            assert_eq!(frame.len(), fixed + said, "{protocol}");
            assert_eq!(frame.len(), 14 + l4 + if ipv4 { 20 } else { 40 });
        }
    }

    #[test]
    fn an_ipv4_header_adds_up() {
        let frame = made(Protocol::TCP, 80, true).expect("it can be made");
        let sum: u32 = frame[14..34]
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xFFFF) + (sum >> 16), 0xFFFF);
    }

    #[test]
    fn of_icmp_only_echo_requests_of_their_own_family_are_made() {
        for (protocol, port, ipv4) in [
            (Protocol::ICMP, 8, false),
            (Protocol::ICMP, 3, true),
            (Protocol::ICMPV6, 128, true),
            (Protocol::ICMPV6, 135, false),
            (Protocol(47), 0, true),
        ] {
            assert_eq!(made(protocol, port, ipv4), None, "{protocol} {port}");
        }
    }
}
