//! Neighbour discovery and MLD: what is outside policy, and what a pod may say there.

use oxilium_abi::{Direction, DropReason, InterfaceConfig, InterfaceFlags};
use zerocopy::FromBytes;

use crate::{
    address::{Address, V6},
    ethernet::same_mac,
    facts::{Facts, Fragment},
    hook::Hook,
    packet::Packet,
};

const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// Of duplicate address detection (RFC 7527): eight bytes.
const OPTION_NONCE: u8 = 14;
/// A link-layer address and a nonce.
const OPTIONS_MAX: u32 = 2;
/// In an advertisement, the flags: router, solicited, override. In all else nothing is set.
const ADVERTISEMENT_FLAGS: u32 = 0xE000_0000;
const SOLICITED: u32 = 0x4000_0000;
/// On-link prefix where none is known: subnets of IPv6 have this length (RFC 4291, 2.5.4).
const PREFIX_LENGTH: u32 = 64;

/// What the rules of the link say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Policy is asked.
    Policy,
    /// It passes without.
    Pass,
    /// It passes without if what it claims is about its sender.
    Claims,
}

#[derive(FromBytes)]
#[repr(C)]
struct NdOption {
    kind: u8,
    length: u8,
    mac: [u16; 3],
}

/// Sources that only neighbour discovery and MLD may use: link-local, and none yet.
#[inline(always)]
pub(crate) fn check_source(facts: &Facts<V6>, config: &InterfaceConfig) -> Result<(), DropReason> {
    let icmp_type = if facts.protocol == V6::ICMP && facts.fragment == Fragment::Whole {
        facts.icmp_type()
    } else {
        0
    };
    if facts.source.is_unspecified() {
        return match icmp_type {
            NEIGHBOUR_SOLICITATION | MLD_REPORT | MLD2_REPORT => Ok(()),
            _ => Err(DropReason::InvalidSourceIp),
        };
    }
    if !facts.source.is_own_link_local(config) {
        return Err(DropReason::InvalidSourceIp);
    }
    match icmp_type {
        // Advertisements of routers and redirects have reasons of their own.
        MLD_QUERY..=REDIRECT | MLD2_REPORT => Ok(()),
        _ => Err(DropReason::LinkLocalSource),
    }
}

/// Judges an ICMPv6 packet where it is neighbour discovery or MLD.
#[inline(always)]
pub(crate) fn judge<P: Packet, H: Hook>(
    packet: P,
    facts: &Facts<V6>,
    config: &InterfaceConfig,
) -> Result<Link, DropReason> {
    if facts.fragment == Fragment::Later {
        return Ok(Link::Policy);
    }
    let from_pod = H::DIRECTION == Direction::Egress;
    let from_host = !from_pod && packet.ingress_ifindex() == 0;
    let hop_limit = match facts.icmp_type() {
        ROUTER_ADVERTISEMENT | REDIRECT if from_host => return Ok(Link::Policy),
        ROUTER_ADVERTISEMENT => return Err(DropReason::RouterAdvertisement),
        REDIRECT => return Err(DropReason::IcmpRedirect),
        ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 255,
        // RFC 3810 sends all of it to groups; what goes to one address is for policy.
        MLD_QUERY | MLD_REPORT | MLD_DONE | MLD2_REPORT if facts.destination.is_multicast() => 1,
        _ => return Ok(Link::Policy),
    };
    // RFC 6980: never in fragments, not even in one.
    if facts.hop_limit != hop_limit || facts.fragment_protocol != 0 {
        return Err(DropReason::NdMalformed);
    }
    let claims = hop_limit == 255 && from_pod;
    Ok(
        if claims && config.flags & InterfaceFlags::ALLOW_SPOOFING == 0 {
            Link::Claims
        } else {
            Link::Pass
        },
    )
}

/// What a pod claims in neighbour discovery is about itself, and is what RFC 4861 (7.1) and RFC 4862 let it
/// say. Neighbour discovery is for neighbours: returned is the address that the message seeks or goes to
/// where that is not known to be on the link.
#[inline(always)]
pub(crate) fn check_claims<P: Packet>(
    packet: P,
    facts: &Facts<V6>,
    config: &InterfaceConfig,
) -> Result<Option<V6>, DropReason> {
    let probing = facts.source.is_unspecified();
    let flags = packet
        .load::<u32>(facts.l4 + 4)
        .map(u32::from_be)
        .ok_or(DropReason::NdMalformed)?;
    let allowed_flags = if facts.icmp_type() == NEIGHBOUR_ADVERTISEMENT {
        ADVERTISEMENT_FLAGS
    } else {
        0
    };
    // All but the type and what these flags say is zero, or would carry what policy never sees.
    if facts.icmp_code() != 0 || flags & !allowed_flags != 0 {
        return Err(DropReason::NdMalformed);
    }
    let to_group = facts.destination.is_multicast();
    let mut about = facts.destination;
    let mut at = facts.l4 + 8;
    if facts.icmp_type() != ROUTER_SOLICITATION {
        if at + 16 > facts.end {
            return Err(DropReason::NdMalformed);
        }
        let target = V6(packet.load::<[u32; 4]>(at).ok_or(DropReason::NdMalformed)?);
        let own = target.is_own(config) || target.is_own_link_local(config);
        if facts.icmp_type() == NEIGHBOUR_ADVERTISEMENT {
            if !own {
                return Err(DropReason::NdTarget);
            }
            if to_group && flags & SOLICITED != 0 {
                return Err(DropReason::NdMalformed);
            }
        } else {
            if probing && !own {
                return Err(DropReason::DadTarget);
            }
            let sought = facts.destination == target && !probing;
            if target.is_multicast() || !(sought || facts.destination.is_solicited_by(target)) {
                return Err(DropReason::NdMalformed);
            }
            about = target;
        }
        at += 16;
    }
    check_options(packet, at, facts.end, probing, config)?;
    Ok(if is_on_link(about, config) {
        None
    } else {
        Some(about)
    })
}

/// A link-layer address is the pod's own; a nonce is one of duplicate address detection. Outside policy
/// nothing is carried that a pod has no need to say.
#[inline(always)]
fn check_options<P: Packet>(
    packet: P,
    mut at: u32,
    end: u32,
    probing: bool,
    config: &InterfaceConfig,
) -> Result<(), DropReason> {
    for _ in 0..OPTIONS_MAX {
        if at == end {
            return Ok(());
        }
        if at + 8 > end {
            return Err(DropReason::NdMalformed);
        }
        let option = packet
            .load_in_loop::<NdOption>(at)
            .ok_or(DropReason::NdMalformed)?;
        if option.length == 0 {
            return Err(DropReason::NdMalformed);
        }
        match option.kind {
            OPTION_SOURCE_LINK_LAYER | OPTION_TARGET_LINK_LAYER => {
                if probing || option.length != 1 || !same_mac(option.mac, config.mac) {
                    return Err(DropReason::NdLinkLayer);
                }
            }
            OPTION_NONCE if probing && option.length == 1 => {}
            _ => return Err(DropReason::NdMalformed),
        }
        at += 8;
    }
    if at == end {
        Ok(())
    } else {
        Err(DropReason::NdMalformed)
    }
}

/// Whether an address is known to be on the pod's link: it is valid nowhere else, or it is in a subnet of the pod's.
#[inline(always)]
fn is_on_link(address: V6, config: &InterfaceConfig) -> bool {
    if address.is_link_local() || address.is_link_multicast() {
        return true;
    }
    let length = match InterfaceFlags::prefix_length(config.flags) as u32 {
        0 => PREFIX_LENGTH,
        known => known,
    };
    let [a, b] = config.ipv6;
    in_subnet(address, V6::from_bytes(a), length) || in_subnet(address, V6::from_bytes(b), length)
}

#[inline(always)]
fn in_subnet(address: V6, own: V6, length: u32) -> bool {
    !own.is_unspecified() && address.shares_prefix(own, length)
}
