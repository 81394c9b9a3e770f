//! Asking rtnetlink: one request at a time, answers whole or not at all.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;

use super::wire::{Message, Request, flag, i32_at, kind, messages};
use crate::count::{Action, Target, WriteCounter};
use crate::error::NetlinkError;

/// How often an interrupted dump is begun anew before the caller is told.
const TRIES: u32 = 5;
const RECEIVE_BUFFER: usize = 1 << 20;

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

fn socket_error(action: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { action, source }
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Self::of(NETLINK_ROUTE)
    }

    /// One that netfilter answers.
    pub(super) fn open_netfilter() -> Result<Self, NetlinkError> {
        Self::of(NETLINK_NETFILTER)
    }

    fn of(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(socket_error("open"))?;
        socket.bind_auto().map_err(socket_error("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(socket_error("connect"))?;
        socket
            .set_rx_buf_sz(i32::try_from(RECEIVE_BUFFER).unwrap_or(i32::MAX))
            .map_err(socket_error("size its buffer"))?;
        // An answer that never comes is an error, not an agent that hangs.
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::new(10, 0))
            .map_err(|error| socket_error("limit its patience")(error.into()))?;
        // The kernel then honours filters in dump requests instead of passing over them.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(socket_error("ask for strict checks"))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Reads everything that matches, in one go that no change interrupted.
    pub(super) fn dump<T>(
        &mut self,
        name: &'static str,
        mut request: Request,
        take: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..TRIES {
            let mut found = Vec::new();
            let whole = self.exchange(name, &mut request, |message| {
                found.extend(take(message));
            })?;
            if whole {
                return Ok(found);
            }
        }
        Err(NetlinkError::Interrupted {
            request: name,
            tries: TRIES,
        })
    }

    /// Asks for one thing. The request must want an acknowledgement: it ends the answer.
    pub(super) fn ask<T>(
        &mut self,
        name: &'static str,
        mut request: Request,
        take: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut found = None;
        self.exchange(name, &mut request, |message| {
            found = found.take().or_else(|| take(message));
        })?;
        Ok(found)
    }

    /// Changes something; counted.
    pub(super) fn change(
        &mut self,
        name: &'static str,
        mut request: Request,
        counter: &WriteCounter,
        target: Target,
        action: Action,
    ) -> Result<(), NetlinkError> {
        let result = self.exchange(name, &mut request, |_| ());
        counter.result(target, action, result).map(|_| ())
    }

    /// Sends and shows each message of the answer; true when nothing interrupted it.
    fn exchange(
        &mut self,
        name: &'static str,
        request: &mut Request,
        mut see: impl FnMut(&Message<'_>),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        self.socket.send(bytes, 0).map_err(socket_error("send"))?;
        let mut whole = true;
        loop {
            let (datagram, _) = self
                .socket
                .recv_from_full()
                .map_err(socket_error("receive"))?;
            for message in messages(&datagram) {
                let message = message.map_err(|detail| NetlinkError::Malformed {
                    request: name,
                    detail,
                })?;
                // What was left of an answer that an error cut short.
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & flag::DUMP_INTERRUPTED == 0;
                match message.kind {
                    kind::DONE | kind::ERROR => {
                        let code = i32_at(message.body, 0).unwrap_or(0);
                        return match code {
                            0 => Ok(whole),
                            code => Err(NetlinkError::Refused {
                                request: name,
                                source: io::Error::from_raw_os_error(-code),
                            }),
                        };
                    }
                    _ => see(&message),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::common::{on_kernel, run};
    use crate::port::AttachMode;

    /// More links, two of each pair, than the kernel tells of in one datagram.
    const PAIRS: usize = 150;
    const KEPT: usize = 2 * PAIRS;
    /// So many dumps are tried until some are interrupted.
    const DUMPS: usize = 5000;

    fn batch(lines: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(lines.as_bytes()).expect("room");
        run("ip", &["-batch", &file.path().display().to_string()]);
    }

    fn kept(message: &Message<'_>) -> bool {
        message.body.windows(4).any(|bytes| bytes == b"kept")
    }

    #[test]
    fn a_dump_that_changes_interrupt_is_told_from_a_whole_one() {
        on_kernel(AttachMode::Auto, |_| {
            let lines: Vec<String> = (0..PAIRS)
                .map(|pair| format!("link add kept{pair} type veth peer name kept-{pair}\n"))
                .collect();
            batch(&lines.concat());
            let churn = "link add guest type veth peer name other\nlink del guest\n".repeat(50);
            let stop = AtomicBool::new(false);
            let mut netlink = Netlink::open().expect("a socket");
            let interrupted = thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        batch(&churn);
                    }
                });
                let (mut interrupted, mut dumps) = (0, 0);
                while interrupted < 3 && dumps < DUMPS {
                    let mut request = Request::new(kind::GET_LINK, flag::DUMP, &[0; 16]);
                    let mut seen = 0;
                    let whole = netlink
                        .exchange("links", &mut request, |message| {
                            seen += usize::from(kept(message));
                        })
                        .expect("an answer");
                    assert!(!whole || seen == KEPT, "{seen} of {KEPT} in a whole dump");
                    interrupted += usize::from(!whole);
                    dumps += 1;
                }
                // With changes going on it is tried again, and then told.
                match netlink.links() {
                    Ok(links) => assert!(links.len() > KEPT),
                    Err(NetlinkError::Interrupted { tries, .. }) => assert_eq!(tries, TRIES),
                    Err(error) => unreachable!("{error}"),
                }
                stop.store(true, Ordering::Relaxed);
                interrupted
            });
            assert_eq!(interrupted, 3, "nothing interrupted {DUMPS} dumps");
            let links = netlink.links().expect("nothing changes any more");
            assert!(links.len() > KEPT);
        });
    }
}
