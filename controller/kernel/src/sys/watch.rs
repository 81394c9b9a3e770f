//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::AsRawFd;

use aya::maps::{MapData, RingBuf};
use netlink_sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for records in a ring. Inside a tokio runtime only.
pub(crate) fn watch_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, gives the same one each time and closes it only when it
    // is dropped, which the AsyncFd that owns it does after deregistering.
    unsafe { watch(ring) }
}

/// Waits for datagrams. Inside a tokio runtime only.
pub(crate) fn watch_socket(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: as for the ring; the socket's descriptor is an OwnedFd.
    unsafe { watch(socket) }
}

/// # Safety
/// `inner` must own its descriptor, and keep and return the same one as long as it lives.
unsafe fn watch<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: passed on to the caller.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}
