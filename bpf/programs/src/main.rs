//! BPF entry points, one per hook. The decisions are oxilium-datapath's.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

/// Judges nothing yet: the next program on the hook decides.
#[classifier]
pub fn from_container(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Judges nothing yet: the next program on the hook decides.
#[classifier]
pub fn to_container(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call most helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
