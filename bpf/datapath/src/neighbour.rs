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
/// RFC 3971, used by duplicate address detection (RFC 7527): eight bytes.
const OPTION_NONCE: u8 = 14;
const OPTIONS_MAX: u32 = 8;

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
        MLD_QUERY | MLD_REPORT | MLD_DONE | MLD2_REPORT => 1,
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

/// What a pod claims in neighbour discovery is about itself.
#[inline(always)]
pub(crate) fn check_claims<P: Packet>(
    packet: P,
    facts: &Facts<V6>,
    config: &InterfaceConfig,
) -> Result<(), DropReason> {
    let probing = facts.source.is_unspecified();
    let mut at = facts.l4 + 8;
    if facts.icmp_type() != ROUTER_SOLICITATION {
        if at + 16 > facts.end {
            return Err(DropReason::NdMalformed);
        }
        let target = V6(packet.load::<[u32; 4]>(at).ok_or(DropReason::NdMalformed)?);
        let own = target.is_own(config) || target.is_own_link_local(config);
        if facts.icmp_type() == NEIGHBOUR_ADVERTISEMENT && !own {
            return Err(DropReason::NdTarget);
        }
        if probing && !own {
            return Err(DropReason::DadTarget);
        }
        at += 16;
    }
    for _ in 0..OPTIONS_MAX {
        if at == facts.end {
            return Ok(());
        }
        if at + 8 > facts.end {
            return Err(DropReason::NdMalformed);
        }
        let option = packet
            .load_in_loop::<NdOption>(at)
            .ok_or(DropReason::NdMalformed)?;
        if option.length == 0 {
            return Err(DropReason::NdMalformed);
        }
        let known = matches!(
            option.kind,
            OPTION_SOURCE_LINK_LAYER | OPTION_TARGET_LINK_LAYER
        ) || (option.kind == OPTION_NONCE && option.length == 1);
        if !known {
            // Outside policy nothing is carried that a pod has no need to say.
            return Err(DropReason::NdMalformed);
        }
        if matches!(
            option.kind,
            OPTION_SOURCE_LINK_LAYER | OPTION_TARGET_LINK_LAYER
        ) && (probing || option.length != 1 || !same_mac(option.mac, config.mac))
        {
            return Err(DropReason::NdLinkLayer);
        }
        at += option.length as u32 * 8;
    }
    if at == facts.end {
        Ok(())
    } else {
        Err(DropReason::NdMalformed)
    }
}
