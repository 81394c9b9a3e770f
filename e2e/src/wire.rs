//! Raw frames on an interface: sent as they are, and seen as they arrive.
//!
//! To know that something did **not** arrive, send it, then send a *marker* that must arrive by the same way: once the
//! marker is there ([`Tap::until`]), what was sent before it is there too, or never comes.

use std::{
    fmt,
    io::{Error, ErrorKind},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::netns::Netns;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// To everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group address of an IPv6 multicast group.
    pub fn of_group(group: std::net::Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

/// Reads `02:00:00:00:00:01`.
///
/// # Errors
/// If it is not six hexadecimal bytes.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text:?} is not an Ethernet address"))?;
    match bytes.try_into() {
        Ok(bytes) => Ok(Mac(bytes)),
        Err(_) => bail!("{text:?} is not an Ethernet address"),
    }
}

/// A packet socket bound to one interface: sends frames as they are and sees all that come in.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens it on `interface` in `netns`. Frames are seen from now on.
    ///
    /// # Errors
    /// If there is no such interface or no right to open a packet socket.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        netns
            .enter(|| Self::open_here(interface))?
            .with_context(|| format!("packet socket on {interface} in {}", netns.name()))
    }

    /// Opens it on `interface` in the network namespace of this thread.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn open_here(interface: &str) -> Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        // The kernel's own answer is a link address with its index: bound with it, the socket keeps its protocol.
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {interface}"))?;
        bind(socket.as_raw_fd(), &address)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        Ok(Self { socket })
    }

    /// Sends a frame, Ethernet header included.
    ///
    /// # Errors
    /// If the interface does not take it, as when it is longer than the MTU.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")?;
        Ok(())
    }

    /// The next frame, or none within 50 ms.
    ///
    /// # Errors
    /// If the interface has gone.
    pub fn next(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_536];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(count) => {
                buffer.truncate(count);
                Ok(Some(buffer))
            }
            Err(errno) => match Error::from(errno).kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
                _ => Err(errno).context("receiving a frame"),
            },
        }
    }

    /// Collects frames until `marker` accepts one (which is not among them).
    ///
    /// # Errors
    /// If none is accepted within `limit`.
    pub fn until(
        &self,
        limit: Duration,
        mut marker: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        let mut frames = Vec::new();
        while Instant::now() < deadline {
            if let Some(frame) = self.next()? {
                if marker(&frame) {
                    return Ok(frames);
                }
                frames.push(frame);
            }
        }
        bail!(
            "no marker within {limit:?}; {} other frames came",
            frames.len()
        )
    }
}

/// True if `needle` is somewhere in `frame`.
pub fn contains(frame: &[u8], needle: &[u8]) -> bool {
    frame.windows(needle.len()).any(|window| window == needle)
}
