//! Packets made by hand.

use std::cell::{Cell, RefCell};

use crate::Packet;
use zerocopy::FromBytes;

/// A packet at a hook, with what the kernel keeps beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the link-layer header on.
    pub bytes: Vec<u8>,
    /// Interface that the hook is on.
    pub ifindex: u32,
    /// Interface that it came in through; 0 for none.
    pub ingress_ifindex: u32,
    /// A VLAN tag beside the bytes.
    pub vlan: bool,
    /// To be cut into segments later.
    pub gso: bool,
    /// As it goes on: back to the pod that sent it.
    pub turned: bool,
}

impl Frame {
    /// With the checksum of its IPv4 header, if it has one.
    #[must_use]
    pub fn with_header_checksum(mut self) -> Self {
        if let Some(header) = self.l3().filter(|_| self.is_v4()).map(<[u8]>::len) {
            let length = usize::from(self.bytes[14] & 0xF) * 4;
            if length <= header {
                put_sum(&mut self.bytes, 14 + 10, 14..14 + length, 0);
            }
        }
        self
    }

    /// With the checksums of its IPv4 header, and of TCP, UDP or ICMP behind headers without options.
    #[must_use]
    pub fn with_checksums(self) -> Self {
        let mut frame = self.with_header_checksum();
        let (l4, protocol, addresses) = if frame.is_v4() {
            (34, frame.bytes[23], 26..34)
        } else {
            (54, frame.bytes[20], 22..54)
        };
        let offset = match protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return frame,
        };
        let mut pseudo = 0;
        if protocol != 1 {
            pseudo = sum(&frame.bytes[addresses])
                + u64::from(u16::from(protocol).to_be())
                + sum(&((frame.bytes.len() - l4) as u16).to_be_bytes());
        }
        let end = frame.bytes.len();
        put_sum(&mut frame.bytes, l4 + offset, l4..end, pseudo);
        frame
    }

    fn l3(&self) -> Option<&[u8]> {
        self.bytes.get(14..)
    }

    fn is_v4(&self) -> bool {
        self.bytes.get(12..14) == Some(&[0x08, 0x00])
    }
}

/// The sum of words as they stand.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|word| u64::from(u16::from_ne_bytes([word[0], *word.get(1).unwrap_or(&0)])))
        .sum()
}

/// Puts the checksum over `range`, in which it lies itself, and what was summed up before.
fn put_sum(bytes: &mut [u8], at: usize, range: core::ops::Range<usize>, before: u64) {
    bytes[at..at + 2].fill(0);
    let mut sum = before + sum(&bytes[range]);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_ne_bytes());
}

/// A packet while it is judged: its bytes may change.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    frame: Frame,
    bytes: RefCell<Vec<u8>>,
    received: Cell<bool>,
    /// Writes that succeed before one fails; none if all do.
    until_refused: Cell<Option<u32>>,
}

impl Changing {
    /// The write of the number `refused`, from 0 on, fails.
    pub(crate) fn new(frame: &Frame, refused: Option<u32>) -> Self {
        Self {
            frame: frame.clone(),
            bytes: RefCell::new(frame.bytes.clone()),
            received: Cell::new(false),
            until_refused: Cell::new(refused),
        }
    }

    /// Whether the next write fails.
    fn refuses(&self) -> bool {
        let left = self.until_refused.get();
        self.until_refused
            .set(left.and_then(|left| left.checked_sub(1)));
        left == Some(0)
    }

    pub(crate) fn into_frame(self) -> Frame {
        Frame {
            bytes: self.bytes.into_inner(),
            turned: self.received.get(),
            ..self.frame
        }
    }

    fn fix(&self, offset: u32, difference: u32) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let mut bytes = self.bytes.borrow_mut();
        let field = bytes.get_mut(start..start + 2)?;
        let old = u16::from_ne_bytes([field[0], field[1]]);
        let mut sum = u64::from(!old) + u64::from(difference);
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        field.copy_from_slice(&(!(sum as u16)).to_ne_bytes());
        Some(())
    }
}

impl Packet for &Changing {
    fn len(self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap_or(u32::MAX)
    }

    fn load<T: FromBytes>(self, offset: u32) -> Option<T> {
        let start = usize::try_from(offset).ok()?;
        T::read_from_prefix(self.bytes.borrow().get(start..)?)
            .ok()
            .map(|(value, _)| value)
    }

    fn store<const N: usize>(self, offset: u32, bytes: [u8; N]) -> bool {
        if self.refuses() {
            return false;
        }
        let start = offset as usize;
        let mut all = self.bytes.borrow_mut();
        all.get_mut(start..start + N)
            .map(|place| place.copy_from_slice(&bytes))
            .is_some()
    }

    fn fix_l3(self, offset: u32, difference: u32) -> bool {
        !self.refuses() && self.fix(offset, difference).is_some()
    }

    fn fix_l4(self, offset: u32, difference: u32, _pseudo: bool, udp: bool) -> bool {
        let Some(field) = self.load::<[u8; 2]>(offset).filter(|_| !self.refuses()) else {
            return false;
        };
        if udp && field == [0, 0] {
            return true;
        }
        let fixed = self.fix(offset, difference).is_some();
        if udp && self.load::<[u8; 2]>(offset) == Some([0, 0]) {
            let mut bytes = self.bytes.borrow_mut();
            bytes[offset as usize..][..2].fill(0xFF);
        }
        fixed
    }

    fn make_received(self) -> bool {
        let made = !self.refuses();
        self.received.set(made);
        made
    }

    fn ifindex(self) -> u32 {
        self.frame.ifindex
    }

    fn ingress_ifindex(self) -> u32 {
        self.frame.ingress_ifindex
    }

    fn vlan_present(self) -> bool {
        self.frame.vlan
    }

    fn is_gso(self) -> bool {
        self.frame.gso
    }
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(source: [u8; 6], destination: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination[..],
        &source,
        &ether_type.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// An IPv4 header.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Protocol of the payload.
    pub protocol: u8,
    /// Identification.
    pub id: u16,
    /// Flags and offset, as in the header.
    pub fragment: u16,
    /// Options, padded to words by the caller.
    pub options: Vec<u8>,
    /// Total length, where it is not the true one.
    pub total_length: Option<u16>,
    /// Version and header length, where they are not the true ones.
    pub version_length: Option<u8>,
}

impl Ipv4 {
    /// A header without options.
    #[must_use]
    pub const fn new(source: [u8; 4], destination: [u8; 4], protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            total_length: None,
            version_length: None,
        }
    }

    /// The packet.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = self
            .total_length
            .unwrap_or((header + payload.len()) as u16)
            .to_be_bytes();
        let version_length = self.version_length.unwrap_or(0x40 | (header / 4) as u8);
        let mut bytes = vec![version_length, 0, total[0], total[1]];
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        bytes.extend(&self.options);
        bytes.extend(payload);
        bytes
    }
}

/// An IPv6 header.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// What comes next.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Payload length, where it is not the true one.
    pub payload_length: Option<u16>,
    /// Version, where it is not 6.
    pub version: u8,
}

impl Ipv6 {
    /// A header.
    #[must_use]
    pub const fn new(source: [u8; 16], destination: [u8; 16], next: u8) -> Self {
        Self {
            source,
            destination,
            next,
            hop_limit: 64,
            payload_length: None,
            version: 6,
        }
    }

    /// The packet.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let length = self
            .payload_length
            .unwrap_or(payload.len() as u16)
            .to_be_bytes();
        let mut bytes = vec![self.version << 4, 0, 0, 0, length[0], length[1]];
        bytes.extend([self.next, self.hop_limit]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        bytes.extend(payload);
        bytes
    }
}

/// A TCP segment with these flags (1 FIN, 2 SYN, 4 RST, 16 ACK).
#[must_use]
pub fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// A UDP datagram.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// An SCTP packet.
#[must_use]
pub fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes
}

/// An ICMP message; `rest` is what follows the checksum: id and sequence, or four bytes and a quote.
#[must_use]
pub fn icmp(icmp_type: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![icmp_type, code, 0, 0];
    bytes.extend(rest);
    bytes
}

/// An ARP packet for Ethernet and IPv4.
#[must_use]
pub fn arp(operation: u16, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender_mac);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}
