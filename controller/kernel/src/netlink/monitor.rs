//! News that something changed. What it is, is read anew: news may be lost, come late or come twice.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

use super::wire::{kind, messages};
use crate::sys;

/// `RTMGRP_LINK`, `RTMGRP_TC`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x100;

/// No news can be had.
#[derive(Debug, Error)]
#[error("rtnetlink notifications ({action}): {source}")]
pub struct MonitorError {
    action: &'static str,
    source: io::Error,
}

/// What has changed since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links.
    pub links: bool,
    /// Addresses.
    pub addresses: bool,
    /// Qdiscs and filters.
    pub filters: bool,
}

impl Changes {
    /// Anything.
    const ALL: Self = Self {
        links: true,
        addresses: true,
        filters: true,
    };

    const fn any(self) -> bool {
        self.links || self.addresses || self.filters
    }

    fn note(&mut self, message: u16) {
        match message {
            kind::NEW_LINK | kind::DEL_LINK => self.links = true,
            kind::NEW_ADDRESS | kind::DEL_ADDRESS => self.addresses = true,
            kind::NEW_QDISC | kind::DEL_QDISC | kind::NEW_FILTER | kind::DEL_FILTER => {
                self.filters = true;
            }
            _ => {}
        }
    }
}

/// A subscription to changes in the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct Monitor(AsyncFd<Socket>);

impl Monitor {
    /// Subscribes. To be called before the first look at what there is, inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, MonitorError> {
        let failed = |action| move |source| MonitorError { action, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
        socket
            .bind(&SocketAddr::new(0, GROUPS))
            .map_err(failed("subscribe"))?;
        socket
            .set_non_blocking(true)
            .map_err(failed("make it non-blocking"))?;
        sys::watch_socket(socket).map(Self).map_err(failed("watch"))
    }

    /// Waits until something has changed. All that is there to be told is told at once.
    ///
    /// # Errors
    /// When the socket fails; the subscription is then to be opened anew.
    pub async fn changed(&mut self) -> Result<Changes, MonitorError> {
        let failed = |action| move |source| MonitorError { action, source };
        let mut changes = Changes::default();
        loop {
            let mut ready = self.0.readable_mut().await.map_err(failed("wait"))?;
            loop {
                match ready.get_inner().recv_from_full() {
                    Ok((datagram, _)) => {
                        for message in messages(&datagram) {
                            match message {
                                Ok(message) => changes.note(message.kind),
                                Err(_) => changes = Changes::ALL,
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The kernel had more to tell than the socket holds: anything may have changed.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        changes = Changes::ALL;
                    }
                    Err(error) => return Err(failed("receive")(error)),
                }
            }
            ready.clear_ready();
            if changes.any() {
                return Ok(changes);
            }
        }
    }
}
