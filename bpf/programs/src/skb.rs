//! A socket buffer as the datapath's packet.

use core::mem::{MaybeUninit, size_of};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect_peer, bpf_skb_change_type,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use oxilium_datapath::Packet;
use zerocopy::FromBytes;

/// Headers are read directly up to here; the verifier wants a bound far below 64 KiB.
const DIRECT_MAX: u32 = 0x0FFF;
/// Type of a packet to the host that receives it.
const PACKET_HOST: u32 = 0;

/// The socket buffer that a program runs on.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub(crate) fn new(context: &TcContext) -> Self {
        Self(context.skb.skb)
    }

    /// The context that a function of the program was handed.
    #[inline(always)]
    pub(crate) fn from_ptr(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The same, and the compiler cannot take it to be unused.
    #[inline(always)]
    pub(crate) fn in_use(self) -> Self {
        // SAFETY: the kernel hands each program a valid context.
        unsafe { (&raw const (*self.0).len).read_volatile() };
        self
    }

    /// Hands it to the other end of the veth that it came from; returns the action for the kernel.
    #[inline(always)]
    pub(crate) fn send_back(self) -> i32 {
        // SAFETY: the kernel hands each program a valid context; the helper takes an index.
        unsafe { bpf_redirect_peer((*self.0).ifindex, 0) as i32 }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut __sk_buff {
        self.0
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(self) -> u32 {
        // SAFETY: the kernel hands each program a valid context; the verifier rewrites the access.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<T: FromBytes>(self, offset: u32) -> Option<T> {
        // SAFETY: as for len.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if offset <= DIRECT_MAX {
            let start = data + offset as usize;
            if start + size_of::<T>() <= end {
                // SAFETY: the bytes lie before data_end, which the verifier proves again, and every
                // value of them is a T. BPF has no alignment of its own: where the CPU needs it the
                // verifier refuses the program.
                return Some(unsafe { (start as *const T).read() });
            }
        }
        self.load_in_loop(offset)
    }

    #[inline(always)]
    fn load_in_loop<T: FromBytes>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes size_of::<T>() bytes, all or zeros, and every value of them is a T.
        unsafe {
            if bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            ) != 0
            {
                return None;
            }
            Some(value.assume_init())
        }
    }

    #[inline(always)]
    fn store<const N: usize>(self, offset: u32, bytes: [u8; N]) -> bool {
        // SAFETY: the helper reads N bytes of an array that has as many.
        unsafe {
            bpf_skb_store_bytes(self.0.cast(), offset, bytes.as_ptr().cast(), N as u32, 0) == 0
        }
    }

    #[inline(always)]
    fn fix_l3(self, offset: u32, difference: u32) -> bool {
        // SAFETY: the context is valid; the helper checks the offset.
        unsafe { bpf_l3_csum_replace(self.0.cast(), offset, 0, u64::from(difference), 0) == 0 }
    }

    #[inline(always)]
    fn fix_l4(self, offset: u32, difference: u32, pseudo: bool, udp: bool) -> bool {
        let pseudo = if pseudo { BPF_F_PSEUDO_HDR } else { 0 };
        let udp = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let flags = u64::from(pseudo | udp);
        // SAFETY: the context is valid; the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.0.cast(), offset, 0, u64::from(difference), flags) == 0 }
    }

    #[inline(always)]
    fn make_received(self) -> bool {
        // SAFETY: the context is valid; the helper checks the type.
        unsafe { bpf_skb_change_type(self.0.cast(), PACKET_HOST) == 0 }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as for len.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(self) -> u32 {
        // SAFETY: as for len.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn vlan_present(self) -> bool {
        // SAFETY: as for len.
        unsafe { (*self.0).vlan_present != 0 }
    }

    #[inline(always)]
    fn is_gso(self) -> bool {
        // SAFETY: as for len.
        unsafe { (*self.0).gso_size != 0 }
    }
}
