//! The two address families.

use oxilium_abi::{
    Be16, CtKey4, CtKey6, DropReason, Family, FragmentKey4, FragmentKey6, InterfaceConfig,
    IpcacheKey, mix,
};

use crate::{
    facts::{Class, Facts, Tuple},
    hook::Hook,
    ipv4, ipv6,
    maps::Maps,
    neighbour::{self, Link},
    packet::Packet,
    rewrite::fold,
};

/// Identity of addresses that the ipcache does not know.
const WORLD_IPV4: u32 = 9;
const WORLD_IPV6: u32 = 10;

/// An address family: its addresses, its keys, and what its headers say.
#[expect(
    private_interfaces,
    reason = "the trait bounds public functions; only this crate implements and calls it"
)]
pub trait Address: Copy + Default + PartialEq {
    /// Key of a flow.
    type CtKey: Copy;
    /// Key of a datagram in fragments.
    type FragmentKey: Copy;

    /// Ethertype in host order.
    const ETHER_TYPE: u16;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of a redirect.
    const REDIRECT: u8;
    /// Identity of an address that nobody knows.
    const WORLD: u32;
    /// The family.
    const FAMILY: Family;
    /// Where a header has its source address; the destination follows it.
    const SOURCE_OFFSET: u32;
    /// Where a header has a checksum of its own.
    const HEADER_CHECKSUM: Option<u32>;

    /// Reads the network header and finds the L4 header.
    fn parse<P: Packet, M: Maps>(
        packet: P,
        maps: M,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<(), DropReason>;

    /// Reads the headers that an ICMP error quotes; false where they do not tell the flow.
    fn parse_quoted<P: Packet>(
        packet: P,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<bool, DropReason>;

    /// How conntrack takes this ICMP type.
    fn icmp_class(icmp_type: u8) -> Class;

    /// What the family has outside policy.
    fn link_rules<P: Packet, H: Hook>(
        packet: P,
        facts: &Facts<Self>,
        config: &InterfaceConfig,
    ) -> Result<Link, DropReason>;

    /// Judges a packet of `Link::Claims`; some address where policy must be asked whether the pod may reach it.
    fn check_claims<P: Packet>(
        packet: P,
        facts: &Facts<Self>,
        config: &InterfaceConfig,
    ) -> Result<Option<Self>, DropReason>;

    /// Whether the pod may send from this address at all.
    fn check_source(facts: &Facts<Self>, config: &InterfaceConfig) -> Result<(), DropReason>;

    /// One of the pod's addresses.
    fn is_own(self, config: &InterfaceConfig) -> bool;

    /// An address that is valid on one link only.
    fn is_link_local(self) -> bool;

    /// Key of a flow of `endpoint`.
    fn ct_key(tuple: &Tuple<Self>, endpoint: u16) -> Self::CtKey;

    /// Key of a datagram in fragments.
    fn fragment_key(facts: &Facts<Self>, endpoint: u16, direction: u8) -> Self::FragmentKey;

    /// Key of the address itself.
    fn ipcache_key(self) -> IpcacheKey;

    /// Mixes both addresses of a flow into `seed`.
    fn mix(self, other: Self, seed: u64) -> u64;

    /// In network order; IPv4 in the first four bytes.
    fn wide(self) -> [u8; 16];

    /// Of bytes as [`Address::wide`] gives them.
    fn from_wide(bytes: &[u8; 16]) -> Self;

    /// What a ones' complement sum changes by when `to` takes the place of this address.
    fn difference(self, to: Self) -> u32;

    /// Writes the address into a packet; false where that fails.
    fn store<P: Packet>(self, packet: P, offset: u32) -> bool;
}

/// An IPv4 address as it stands in a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct V4(pub u32);

/// An IPv6 address as it stands in a packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

impl PartialEq for V6 {
    // Not derived: BPF has no memcmp.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl V4 {
    /// From bytes in network order.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }
}

impl V6 {
    /// From bytes in network order.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        // As a whole: byte by byte the compiler finds no words again.
        Self(zerocopy::transmute!(bytes))
    }

    /// `::`.
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        self == Self([0; 4])
    }

    #[inline(always)]
    const fn bytes(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }

    /// ff00::/8.
    #[inline(always)]
    pub(crate) fn is_multicast(self) -> bool {
        self.0[0] & 0xFF00_0000_u32.to_be() == 0xFF00_0000_u32.to_be()
    }

    /// ff02::/16: groups of one link.
    #[inline(always)]
    pub(crate) fn is_link_multicast(self) -> bool {
        self.0[0] & 0xFFFF_0000_u32.to_be() == 0xFF02_0000_u32.to_be()
    }

    /// The solicited-node multicast address of `target` (RFC 4291, 2.7.1): ff02::1:ff00:0 and its last 24 bits.
    #[inline(always)]
    pub(crate) fn is_solicited_by(self, target: Self) -> bool {
        let last = 0xFF00_0000_u32.to_be() | (target.0[3] & 0x00FF_FFFF_u32.to_be());
        self == Self([0xFF02_0000_u32.to_be(), 0, 1_u32.to_be(), last])
    }

    /// Whether the first `length` bits, 1 to 128, are the same.
    #[inline(always)]
    pub(crate) const fn shares_prefix(self, other: Self, length: u32) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        let high = ((u32::from_be(a ^ e) as u64) << 32) | u32::from_be(b ^ f) as u64;
        let low = ((u32::from_be(c ^ g) as u64) << 32) | u32::from_be(d ^ h) as u64;
        if length <= 64 {
            high >> ((64 - length) & 63) == 0
        } else {
            high == 0 && low >> ((128 - length) & 63) == 0
        }
    }

    /// One of the endpoint's link-local addresses.
    #[inline(always)]
    pub(crate) fn is_own_link_local(self, config: &InterfaceConfig) -> bool {
        let [a, b] = config.link_local;
        !self.is_unspecified() && (self == Self::from_bytes(a) || self == Self::from_bytes(b))
    }
}

#[expect(
    private_interfaces,
    reason = "the trait bounds public functions; only this crate implements and calls it"
)]
impl Address for V4 {
    type CtKey = CtKey4;
    type FragmentKey = FragmentKey4;

    const ETHER_TYPE: u16 = 0x0800;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const REDIRECT: u8 = 5;
    const WORLD: u32 = WORLD_IPV4;
    const FAMILY: Family = Family::V4;
    const SOURCE_OFFSET: u32 = 12;
    const HEADER_CHECKSUM: Option<u32> = Some(10);

    #[inline(always)]
    fn parse<P: Packet, M: Maps>(
        packet: P,
        maps: M,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<(), DropReason> {
        ipv4::parse(packet, maps, facts, offset, end)
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(
        packet: P,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<bool, DropReason> {
        ipv4::parse_quoted(packet, facts, offset, end)
    }

    #[inline(always)]
    fn icmp_class(icmp_type: u8) -> Class {
        match icmp_type {
            8 => Class::EchoRequest,
            0 => Class::EchoReply,
            3 | 4 | 5 | 11 | 12 => Class::Error,
            _ => Class::Query,
        }
    }

    #[inline(always)]
    fn link_rules<P: Packet, H: Hook>(
        packet: P,
        facts: &Facts<Self>,
        _config: &InterfaceConfig,
    ) -> Result<Link, DropReason> {
        ipv4::link_rules::<P, H>(packet, facts).map(|()| Link::Policy)
    }

    #[inline(always)]
    fn check_claims<P: Packet>(
        _packet: P,
        _facts: &Facts<Self>,
        _config: &InterfaceConfig,
    ) -> Result<Option<Self>, DropReason> {
        Ok(None)
    }

    #[inline(always)]
    fn check_source(facts: &Facts<Self>, config: &InterfaceConfig) -> Result<(), DropReason> {
        if facts.source.is_own(config) {
            Ok(())
        } else {
            Err(DropReason::InvalidSourceIp)
        }
    }

    #[inline(always)]
    fn is_own(self, config: &InterfaceConfig) -> bool {
        let [a, b] = config.ipv4;
        self.0 != 0 && (self == Self::from_bytes(a) || self == Self::from_bytes(b))
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        false
    }

    #[inline(always)]
    fn ct_key(tuple: &Tuple<Self>, endpoint: u16) -> CtKey4 {
        CtKey4 {
            local: tuple.local.0.to_ne_bytes(),
            remote: tuple.remote.0.to_ne_bytes(),
            local_port: tuple.local_port,
            remote_port: tuple.remote_port,
            endpoint,
            protocol: tuple.protocol,
            kind: tuple.kind as u8,
        }
    }

    #[inline(always)]
    fn fragment_key(facts: &Facts<Self>, endpoint: u16, direction: u8) -> FragmentKey4 {
        FragmentKey4 {
            source: facts.source.0.to_ne_bytes(),
            destination: facts.destination.0.to_ne_bytes(),
            id: facts.fragment_id,
            endpoint,
            protocol: facts.fragment_protocol,
            direction,
        }
    }

    #[inline(always)]
    fn ipcache_key(self) -> IpcacheKey {
        IpcacheKey::v4(self.0.to_ne_bytes(), 32)
    }

    #[inline(always)]
    fn mix(self, other: Self, seed: u64) -> u64 {
        mix(seed, self.0 as u64 | ((other.0 as u64) << 32))
    }

    #[inline(always)]
    fn wide(self) -> [u8; 16] {
        V6([self.0, 0, 0, 0]).bytes()
    }

    #[inline(always)]
    fn from_wide(bytes: &[u8; 16]) -> Self {
        let [a, b, c, d, ..] = *bytes;
        Self::from_bytes([a, b, c, d])
    }

    #[inline(always)]
    fn difference(self, to: Self) -> u32 {
        fold(!self.0 as u64 + to.0 as u64)
    }

    #[inline(always)]
    fn store<P: Packet>(self, packet: P, offset: u32) -> bool {
        packet.store(offset, self.0.to_ne_bytes())
    }
}

#[expect(
    private_interfaces,
    reason = "the trait bounds public functions; only this crate implements and calls it"
)]
impl Address for V6 {
    type CtKey = CtKey6;
    type FragmentKey = FragmentKey6;

    const ETHER_TYPE: u16 = 0x86DD;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const REDIRECT: u8 = 137;
    const WORLD: u32 = WORLD_IPV6;
    const FAMILY: Family = Family::V6;
    const SOURCE_OFFSET: u32 = 8;
    const HEADER_CHECKSUM: Option<u32> = None;

    #[inline(always)]
    fn parse<P: Packet, M: Maps>(
        packet: P,
        _maps: M,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<(), DropReason> {
        ipv6::parse(packet, facts, offset, end)
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(
        packet: P,
        facts: &mut Facts<Self>,
        offset: u32,
        end: u32,
    ) -> Result<bool, DropReason> {
        ipv6::parse_quoted(packet, facts, offset, end)
    }

    #[inline(always)]
    fn icmp_class(icmp_type: u8) -> Class {
        match icmp_type {
            128 => Class::EchoRequest,
            129 => Class::EchoReply,
            0..=127 => Class::Error,
            _ => Class::Query,
        }
    }

    #[inline(always)]
    fn link_rules<P: Packet, H: Hook>(
        packet: P,
        facts: &Facts<Self>,
        config: &InterfaceConfig,
    ) -> Result<Link, DropReason> {
        if facts.protocol == Self::ICMP {
            neighbour::judge::<P, H>(packet, facts, config)
        } else {
            Ok(Link::Policy)
        }
    }

    #[inline(always)]
    fn check_claims<P: Packet>(
        packet: P,
        facts: &Facts<Self>,
        config: &InterfaceConfig,
    ) -> Result<Option<Self>, DropReason> {
        neighbour::check_claims(packet, facts, config)
    }

    #[inline(always)]
    fn check_source(facts: &Facts<Self>, config: &InterfaceConfig) -> Result<(), DropReason> {
        if facts.source.is_own(config) {
            Ok(())
        } else {
            neighbour::check_source(facts, config)
        }
    }

    #[inline(always)]
    fn is_own(self, config: &InterfaceConfig) -> bool {
        let [a, b] = config.ipv6;
        !self.is_unspecified() && (self == Self::from_bytes(a) || self == Self::from_bytes(b))
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        // fe80::/10
        self.0[0] & 0xFFC0_0000_u32.to_be() == 0xFE80_0000_u32.to_be()
    }

    #[inline(always)]
    fn ct_key(tuple: &Tuple<Self>, endpoint: u16) -> CtKey6 {
        CtKey6 {
            local: tuple.local.bytes(),
            remote: tuple.remote.bytes(),
            local_port: tuple.local_port,
            remote_port: tuple.remote_port,
            endpoint,
            protocol: tuple.protocol,
            kind: tuple.kind as u8,
        }
    }

    #[inline(always)]
    fn fragment_key(facts: &Facts<Self>, endpoint: u16, direction: u8) -> FragmentKey6 {
        FragmentKey6 {
            source: facts.source.bytes(),
            destination: facts.destination.bytes(),
            id: facts.fragment_id,
            endpoint,
            protocol: facts.fragment_protocol,
            direction,
        }
    }

    #[inline(always)]
    fn ipcache_key(self) -> IpcacheKey {
        IpcacheKey::v6(self.bytes(), 128)
    }

    #[inline(always)]
    fn mix(self, other: Self, seed: u64) -> u64 {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        // Two chains side by side: each round waits for the one before it.
        let high = mix(seed, a as u64 | ((b as u64) << 32));
        let low = mix(!seed, c as u64 | ((d as u64) << 32));
        let high = mix(high, e as u64 | ((f as u64) << 32));
        let low = mix(low, g as u64 | ((h as u64) << 32));
        mix(high, low)
    }

    #[inline(always)]
    fn wide(self) -> [u8; 16] {
        self.bytes()
    }

    #[inline(always)]
    fn from_wide(bytes: &[u8; 16]) -> Self {
        Self::from_bytes(*bytes)
    }

    #[inline(always)]
    fn difference(self, to: Self) -> u32 {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = to.0;
        let old = !a as u64 + !b as u64 + !c as u64 + !d as u64;
        fold(old + e as u64 + f as u64 + g as u64 + h as u64)
    }

    #[inline(always)]
    fn store<P: Packet>(self, packet: P, offset: u32) -> bool {
        packet.store(offset, self.bytes())
    }
}

/// Ports, endpoint, protocol and kind of a flow in one word.
#[inline(always)]
pub(crate) fn pack_rest(
    local_port: Be16,
    remote_port: Be16,
    endpoint: u16,
    protocol: u8,
    kind: u8,
) -> u64 {
    local_port.get() as u64
        | ((remote_port.get() as u64) << 16)
        | ((endpoint as u64) << 32)
        | ((protocol as u64) << 48)
        | ((kind as u64) << 56)
}
