//! TCP sockets of the host and of pods.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_F_CURRENT_NETNS,
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use oxilium_abi::Be16;
use oxilium_datapath::{Namespace, Socket};

use crate::skb::Skb;

const TCP_LISTEN: u32 = 10;

/// As `bpf_sock_tuple` for one family: the packet that the socket would receive.
#[repr(C)]
pub(crate) struct SocketTuple<T> {
    source: T,
    destination: T,
    source_port: Be16,
    destination_port: Be16,
}

impl<T> SocketTuple<T> {
    #[inline(always)]
    pub(crate) fn new(source: (T, Be16), destination: (T, Be16)) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
        }
    }
}

#[inline(always)]
pub(crate) fn find_socket<T>(skb: Skb, mut tuple: SocketTuple<T>, namespace: Namespace) -> Socket {
    let namespace = match namespace {
        Namespace::Host => BPF_F_CURRENT_NETNS as i64 as u64,
        Namespace::Id(id) => u64::from(id),
    };
    let size = size_of::<SocketTuple<T>>() as u32;
    // SAFETY: the tuple has `size` initialised bytes; what is found is released before returning.
    unsafe {
        let tuple = ptr::from_mut(&mut tuple).cast();
        let socket = bpf_skc_lookup_tcp(skb.as_ptr().cast(), tuple, size, namespace, 0);
        if socket.is_null() {
            return Socket::None;
        }
        let state = (&raw const (*socket).state).read_volatile();
        bpf_sk_release(socket.cast());
        if state == TCP_LISTEN {
            Socket::Listener
        } else {
            Socket::Connected
        }
    }
}
