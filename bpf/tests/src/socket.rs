//! Frames sent as they are through an interface.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `struct virtio_net_hdr`: tells the kernel how much of a frame to keep in the linear part.
const VNET_HEADER: usize = 10;
const HEADER_LENGTH_AT: usize = 2;

/// A packet socket on one interface.
pub struct PacketSocket {
    fd: OwnedFd,
    address: libc::sockaddr_ll,
}

impl PacketSocket {
    /// Opens one on the interface of this index, in this thread's network namespace.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "socket(2)")]
        // SAFETY: no pointers; what is returned is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        #[expect(unsafe_code, reason = "the kernel gave the descriptor")]
        // SAFETY: just opened, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: libc::c_int = 1;
        #[expect(unsafe_code, reason = "setsockopt(2)")]
        // SAFETY: the option is an int, as long as said.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                std::ptr::from_ref(&on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        Ok(Self { fd, address })
    }

    /// Sends a frame, which a program on the hook may drop, of which only the first `linear` bytes need lie in the linear part.
    pub fn send(&self, frame: &[u8], linear: u16) -> io::Result<()> {
        let mut bytes = vec![0; VNET_HEADER];
        bytes[HEADER_LENGTH_AT..HEADER_LENGTH_AT + 2].copy_from_slice(&linear.to_ne_bytes());
        bytes.extend(frame);
        // The protocol beside the bytes, as a sender's stack sets it.
        let mut address = self.address;
        address.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        #[expect(unsafe_code, reason = "sendto(2)")]
        // SAFETY: buffer and address are as long as said and outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if usize::try_from(sent) == Ok(bytes.len()) {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // How the kernel says that a program on the egress hook dropped it.
        if error.raw_os_error() == Some(libc::ENOBUFS) {
            Ok(())
        } else {
            Err(error)
        }
    }
}
