//! Netlink messages as bytes: what is asked is built, what is answered is taken apart, and
//! attributes that nobody asked for are passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// `NLA_TYPE_MASK`: without the bits for nesting and byte order.
const TYPE_MASK: u16 = 0x3FFF;

/// Types of messages (linux/rtnetlink.h, linux/netlink.h).
pub(super) mod kind {
    pub(crate) const ERROR: u16 = 2;
    pub(crate) const DONE: u16 = 3;
    pub(crate) const NEW_LINK: u16 = 16;
    pub(crate) const DEL_LINK: u16 = 17;
    pub(crate) const GET_LINK: u16 = 18;
    pub(crate) const SET_LINK: u16 = 19;
    pub(crate) const NEW_ADDRESS: u16 = 20;
    pub(crate) const DEL_ADDRESS: u16 = 21;
    pub(crate) const GET_ADDRESS: u16 = 22;
    pub(crate) const NEW_QDISC: u16 = 36;
    pub(crate) const DEL_QDISC: u16 = 37;
    pub(crate) const GET_QDISC: u16 = 38;
    pub(crate) const NEW_FILTER: u16 = 44;
    pub(crate) const DEL_FILTER: u16 = 45;
    pub(crate) const GET_FILTER: u16 = 46;
    pub(crate) const NEW_NSID: u16 = 88;
    pub(crate) const GET_NSID: u16 = 90;
}

/// Flags of messages.
pub(super) mod flag {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
}

/// A message that is being built.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of this type, with the fixed header that its type has.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value);
        self
    }

    /// Adds attributes inside an attribute.
    pub(super) fn with_nested(mut self, kind: u16, inner: &[(u16, &[u8])]) -> Self {
        let mut nested = Self { bytes: Vec::new() };
        for (kind, value) in inner {
            nested.attribute(*kind, value);
        }
        self.attribute(kind, &nested.bytes);
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Values here are names and numbers, far below the 64 KiB that the length field holds.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// The bytes to be sent under a sequence number.
    pub(super) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// The messages of a datagram; an error ends them.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, String>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some(length) = u32_at(bytes, 0)
            .map(|length| length as usize)
            .filter(|length| (HEADER..=bytes.len()).contains(length))
        else {
            let left = bytes.len();
            bytes = &[];
            return Some(Err(format!(
                "a message's length does not fit its {left} bytes"
            )));
        };
        let message = Message {
            kind: u16_at(bytes, 4).unwrap_or_default(),
            flags: u16_at(bytes, 6).unwrap_or_default(),
            sequence: u32_at(bytes, 8).unwrap_or_default(),
            body: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    })
}

/// Attributes that stand one after another. One whose length makes no sense ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

pub(super) fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

/// A string that ends with a zero.
pub(super) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_taken_apart() {
        let mut request = Request::new(kind::GET_LINK, flag::DUMP, &[7; 16])
            .with(3, b"eth0\0")
            .with_nested(18, &[(1, b"veth\0"), (2, &[1, 2, 3])]);
        let bytes = request.finish(9).to_vec();
        let all: Vec<_> = messages(&bytes).collect();
        let [Ok(message)] = all.as_slice() else {
            unreachable!("one message was built, {all:?} came out");
        };
        assert_eq!((message.kind, message.sequence), (kind::GET_LINK, 9));
        assert_eq!(message.flags, flag::DUMP | flag::REQUEST);
        let outer: Vec<_> = attributes(&message.body[16..]).collect();
        assert_eq!(outer[0], (3, b"eth0\0".as_slice()));
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!(
            inner,
            [(1, b"veth\0".as_slice()), (2, [1, 2, 3].as_slice())]
        );
    }

    #[test]
    fn bytes_that_are_no_messages_end_with_an_error_and_not_beyond_them() {
        let short = [1_u8; 7];
        let mut length_beyond = vec![0_u8; HEADER];
        length_beyond[..4].copy_from_slice(&100_u32.to_ne_bytes());
        let mut length_too_small = vec![0_u8; HEADER];
        length_too_small[..4].copy_from_slice(&3_u32.to_ne_bytes());
        for bytes in [short.as_slice(), &length_beyond, &length_too_small] {
            let all: Vec<_> = messages(bytes).collect();
            assert!(matches!(all.as_slice(), [Err(_)]), "{all:?}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
    }
}
