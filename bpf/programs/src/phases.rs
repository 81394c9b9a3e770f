//! The phases of a packet as functions that the verifier proves one by one.
//!
//! A function with external linkage is verified once, for any argument, and a call to it costs the
//! verifier one step. Without that the paths of one phase would be walked again for each path of those
//! before it, past the verifier's limit.

use aya_ebpf::bindings::__sk_buff;
use oxilium_abi::Direction;
use oxilium_datapath::{FromContainer, Hook, Phase, ToContainer, V4, V6, check_options, run_phase};

use crate::{maps::KernelMaps, skb::Skb};

/// Looks through IPv4 options.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ipv4_options(context: *mut __sk_buff, at: u32, end: u32) -> u32 {
    check_options(Skb::from_ptr(context), at, end)
}

/// Looks through IPv4 options of the packet that a program runs on.
#[inline(always)]
pub(crate) fn options(packet: Skb, at: u32, end: u32) -> u32 {
    ipv4_options(packet.as_ptr(), at, end)
}

macro_rules! phases {
    ($module:ident, $family:ty: $($phase:ident $from:ident $to:ident ($($argument:ident)?),)+) => {
        $(
            phases!(function $from, $family, FromContainer, $phase, $($argument)?);
            phases!(function $to, $family, ToContainer, $phase, $($argument)?);
        )+

        pub(crate) mod $module {
            use super::*;

            /// Runs a phase at hook `H`.
            #[inline(always)]
            pub(crate) fn run<H: Hook>(context: *mut __sk_buff, phase: Phase, _argument: u32) -> u32 {
                match (phase, H::DIRECTION) {
                    $(
                        (Phase::$phase, Direction::Egress) => phases!(call $from, context, _argument, $($argument)?),
                        (Phase::$phase, Direction::Ingress) => phases!(call $to, context, _argument, $($argument)?),
                    )+
                }
            }
        }
    };
    // What a function does not use is passed as nothing, which the verifier refuses.
    (function $name:ident, $family:ty, $hook:ty, $phase:ident, argument) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(context: *mut __sk_buff, argument: u32) -> u32 {
            let packet = Skb::from_ptr(context).in_use();
            run_phase::<$family, $hook, Skb, KernelMaps>(packet, KernelMaps(packet), Phase::$phase, argument)
        }
    };
    (function $name:ident, $family:ty, $hook:ty, $phase:ident,) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(context: *mut __sk_buff) -> u32 {
            let packet = Skb::from_ptr(context).in_use();
            run_phase::<$family, $hook, Skb, KernelMaps>(packet, KernelMaps(packet), Phase::$phase, 0)
        }
    };
    (call $name:ident, $context:expr, $argument:expr, argument) => { $name($context, $argument) };
    (call $name:ident, $context:expr, $argument:expr,) => { $name($context) };
}

phases!(v4, V4:
    Parse from_parse4 to_parse4 (),
    Claims from_claims4 to_claims4 (),
    Look from_look4 to_look4 (),
    Quote from_quote4 to_quote4 (),
    Open from_open4 to_open4 (),
    Ask from_ask4 to_ask4 (),
    Begin from_begin4 to_begin4 (),
    Shape from_shape4 to_shape4 (argument),
    End from_end4 to_end4 (),
    Settle from_settle4 to_settle4 (argument),
    Translate from_translate4 to_translate4 (),
    Choose from_choose4 to_choose4 (),
    Every from_every4 to_every4 (argument),
    Proxied from_proxied4 to_proxied4 (),
    Answer from_answer4 to_answer4 (),
    Hairpin from_hairpin4 to_hairpin4 (),
    Rewrite from_rewrite4 to_rewrite4 (argument),
    Count from_count4 to_count4 (),
    TellDrop from_drop4 to_drop4 (argument),
    TellVerdict from_verdict4 to_verdict4 (argument),
    TellTrace from_trace4 to_trace4 (),
);
phases!(v6, V6:
    Parse from_parse6 to_parse6 (),
    Claims from_claims6 to_claims6 (),
    Look from_look6 to_look6 (),
    Quote from_quote6 to_quote6 (),
    Open from_open6 to_open6 (),
    Ask from_ask6 to_ask6 (),
    Begin from_begin6 to_begin6 (),
    Shape from_shape6 to_shape6 (argument),
    End from_end6 to_end6 (),
    Settle from_settle6 to_settle6 (argument),
    Translate from_translate6 to_translate6 (),
    Choose from_choose6 to_choose6 (),
    Every from_every6 to_every6 (argument),
    Proxied from_proxied6 to_proxied6 (),
    Answer from_answer6 to_answer6 (),
    Hairpin from_hairpin6 to_hairpin6 (),
    Rewrite from_rewrite6 to_rewrite6 (argument),
    Count from_count6 to_count6 (),
    TellDrop from_drop6 to_drop6 (argument),
    TellVerdict from_verdict6 to_verdict6 (argument),
    TellTrace from_trace6 to_trace6 (),
);
