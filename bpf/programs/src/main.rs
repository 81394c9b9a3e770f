//! BPF entry points, one per hook. The decisions are oxilium-datapath's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod budget;
mod maps;
mod phases;
mod skb;
mod sockets;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use oxilium_datapath::{FromContainer, Hook, Maps, TO_ITSELF, ToContainer, judge_number};

use crate::{maps::KernelMaps, skb::Skb};

/// Ingress hook of a pod's host veth: what the pod sends.
#[classifier]
pub fn from_container(context: TcContext) -> i32 {
    run::<FromContainer>(&context)
}

/// Egress hook of a pod's host veth: what the pod receives.
#[classifier]
pub fn to_container(context: TcContext) -> i32 {
    run::<ToContainer>(&context)
}

/// Bits that a dry run's answer is shifted by: the low byte is the action, the next the reason.
const REASON_SHIFT: u32 = 8;

#[inline(always)]
fn run<H: Hook>(context: &TcContext) -> i32 {
    let packet = Skb::new(context);
    let maps = KernelMaps(packet);
    match judge_number::<H, Skb, KernelMaps>(packet, maps) {
        TO_ITSELF if !maps.dry_run() => packet.send_back(),
        0 | TO_ITSELF if maps.has_last_word() => TC_ACT_OK,
        // The next program on the hook decides.
        0 | TO_ITSELF => TC_ACT_UNSPEC,
        reason if maps.dry_run() => TC_ACT_SHOT | (reason << REASON_SHIFT).cast_signed(),
        _ => TC_ACT_SHOT,
    }
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
