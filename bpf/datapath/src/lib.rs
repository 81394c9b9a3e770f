//! Packet decisions: parse, source checks, conntrack, policy; no I/O.
//!
//! [`judge()`] is generic over [`Packet`] and [`Maps`]: the BPF programs compile it over a socket buffer
//! and kernel maps; tests, fuzzers and offline explain over memory (feature `testing`).
//!
//! # Order of one packet
//!
//! 1. G, the node word, **first of all**: what is evaluated now is stamped with it, never with a word
//!    read later.
//! 2. The interface's configuration; none: dropped.
//! 3. Link layer: VLAN tags, ethertype, the pod's MAC, ARP.
//! 4. Network and L4 headers; the pod's source address; neighbour discovery and MLD.
//! 5. The ipcache word and the endpoint's word of its bank, each once.
//! 6. Where the pod sends to a service: the backend, which takes the frontend's place in all that follows.
//! 7. Conntrack: a verdict not older than both words holds without a lookup; an older one is found
//!    again for the flow's original direction.
//! 8. Where needed: the remote identity and policy.
//! 9. Counters and events.
//!
//! Nothing is marked; nothing is rewritten but the addresses of a flow to a service (`services`), and nothing redirected
//! but what a pod sends to itself through one (`hairpin`).
#![cfg_attr(not(any(test, feature = "testing")), no_std)]

mod address;
mod choices;
mod conntrack;
mod ethernet;
mod facts;
mod flow;
mod hairpin;
mod hook;
mod ipv4;
mod ipv6;
mod judge;
mod l4;
mod maps;
mod neighbour;
mod packet;
mod parse;
mod policy;
mod report;
mod rewrite;
mod services;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod volatile;

pub use address::{Address, V4, V6};
pub use hook::{FromContainer, Hook, ToContainer};
pub use ipv4::check_options;
pub use judge::{Phase, Scratch, run_phase};
pub use maps::{ChoiceTable, CtTable, FlowMaps, Maps, Namespace, SCRATCH_SIZE, Socket};
pub use packet::Packet;
pub use policy::{Answer, Query, aggregate, lookup};
pub use services::{Choice, MIDDLE_BACKENDS, choose, frontend};

#[cfg(any(test, feature = "testing"))]
use oxilium_abi::Direction;
use oxilium_abi::{Be16, DropReason};

/// Judges a packet at hook `H`.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn judge<H: Hook, P: Packet, M: FlowMaps<V4> + FlowMaps<V6>>(
    packet: P,
    maps: M,
) -> Result<(), DropReason> {
    match judge_number::<H, P, M>(packet, maps) {
        0 | TO_ITSELF => Ok(()),
        reason => Err(DropReason::from_number(reason as u8).unwrap_or(DropReason::MapRace)),
    }
}

/// A verdict of [`judge_number`]: the packet passes, and goes back to the pod that sent it (`hairpin`).
pub const TO_ITSELF: u32 = 1;

/// As [`judge()`], but the verdict as programs pass it on: 0, [`TO_ITSELF`], or the reason's number.
#[inline(always)]
pub fn judge_number<H: Hook, P: Packet, M: FlowMaps<V4> + FlowMaps<V6>>(packet: P, maps: M) -> u32 {
    let ether_type = packet
        .load::<ethernet::Header>(0)
        .map_or(Be16::default(), |header| header.ether_type);
    match ether_type.get() {
        V4::ETHER_TYPE => judge::judge_family::<V4, H, P, M>(packet, maps),
        V6::ETHER_TYPE => judge::judge_family::<V6, H, P, M>(packet, maps),
        _ => report::judge_frame::<H, P, M>(packet, maps, ether_type),
    }
}
