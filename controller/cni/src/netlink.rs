//! The three questions that this plugin asks rtnetlink: a link, a link's addresses, a namespace's id.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

// Numbers of linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h and net_namespace.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETNSID: u16 = 90;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const DUMP_TRIES: u32 = 5;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `bridge`, …; empty for hardware.
    pub(crate) kind: String,
    pub(crate) mac: Vec<u8>,
    /// Index of the interface that it hangs on; of a veth: its other end.
    pub(crate) peer: Option<u32>,
    /// Id of the namespace that the other end is in; none when it is in this one.
    pub(crate) peer_netns: Option<i32>,
}

/// Which link is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    Name(&'a str),
    Index(u32),
}

/// A socket in the network namespace of the thread that made it.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The link, if there is one.
    pub(crate) fn link(&mut self, which: Which<'_>) -> io::Result<Option<Link>> {
        let mut body = vec![0; LINK_HEADER];
        match which {
            Which::Index(index) => body[4..8].copy_from_slice(&index.to_ne_bytes()),
            Which::Name(name) => {
                let mut value = name.as_bytes().to_vec();
                value.push(0);
                attribute(&mut body, IFLA_IFNAME, &value);
            }
        }
        match self.ask(RTM_GETLINK, 0, &body) {
            Ok(replies) => Ok(replies.first().and_then(|reply| parse_link(reply))),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Addresses of the link, link-local ones included.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<IpAddr>> {
        for _ in 0..DUMP_TRIES {
            match self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEADER]) {
                Ok(replies) => {
                    return Ok(replies
                        .iter()
                        .filter_map(|reply| parse_address(reply, index))
                        .collect());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(
            "the addresses changed each time while they were read",
        ))
    }

    /// The id that this namespace has for another; none if it has given it none.
    pub(crate) fn netns_id(&mut self, netns: impl AsFd) -> io::Result<Option<i32>> {
        let mut body = vec![0; 4];
        let fd = netns.as_fd().as_raw_fd();
        attribute(&mut body, NETNSA_FD, &fd.to_ne_bytes());
        let replies = self.ask(RTM_GETNSID, 0, &body)?;
        Ok(replies
            .first()
            .and_then(|reply| reply.get(4..))
            .and_then(|attributes| find(attributes, NETNSA_NSID))
            .and_then(number)
            .filter(|id| *id >= 0))
    }

    /// Sends a request and collects the replies' bodies. `Interrupted` for a dump that is not of one moment.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let received = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..received];
            while let Some((header, body, after)) = split_message(rest) {
                rest = after;
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_ERROR => {
                        let code = body.get(..4).and_then(number).unwrap_or_default();
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_DONE => return Ok(replies),
                    _ => replies.push(body.to_vec()),
                }
                if flags & NLM_F_DUMP == 0 {
                    return Ok(replies);
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// Header and body of the first message, and what comes after it.
fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let header = Header {
        kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
        flags: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
        sequence: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
    };
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((header, body, after))
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Attributes here are a name or a number: far below 64 KiB.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Value of the first attribute of this kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const TYPE_MASK: u16 = 0x3FFF;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let this = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = attributes.get(4..length)?;
        if this == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(value: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let attributes = body.get(LINK_HEADER..)?;
    Some(Link {
        index,
        name: find(attributes, IFLA_IFNAME).map(text).unwrap_or_default(),
        kind: find(attributes, IFLA_LINKINFO)
            .and_then(|info| find(info, IFLA_INFO_KIND))
            .map(text)
            .unwrap_or_default(),
        mac: find(attributes, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        peer: find(attributes, IFLA_LINK)
            .and_then(number)
            .and_then(|index| u32::try_from(index).ok()),
        peer_netns: find(attributes, IFLA_LINK_NETNSID).and_then(number),
    })
}

fn parse_address(body: &[u8], index: u32) -> Option<IpAddr> {
    if u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?) != index {
        return None;
    }
    let attributes = body.get(ADDRESS_HEADER..)?;
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let value = find(attributes, IFA_LOCAL).or_else(|| find(attributes, IFA_ADDRESS))?;
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_by_name_and_by_index() {
        let mut netlink = Netlink::open().unwrap();
        let by_name = netlink.link(Which::Name("lo")).unwrap().unwrap();
        assert_eq!(
            netlink.link(Which::Index(by_name.index)).unwrap(),
            Some(by_name.clone())
        );
        assert_eq!((by_name.peer, by_name.kind.as_str()), (None, ""));
    }

    #[test]
    fn a_link_that_is_not_there_is_none_and_no_error() {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link(Which::Name("no-such-link")).unwrap(), None);
        assert_eq!(netlink.link(Which::Index(0x7FFF_FFFF)).unwrap(), None);
    }

    #[test]
    fn malformed_messages_are_read_as_nothing() {
        for bytes in [&[][..], &[0; 3], &[255; 16], &[0; 16]] {
            assert!(split_message(bytes).is_none_or(|(_, body, _)| body.is_empty()));
            assert!(find(bytes, 77).is_none());
            assert!(parse_address(bytes, 1).is_none());
        }
    }
}
