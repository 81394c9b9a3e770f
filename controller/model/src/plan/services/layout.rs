//! Frontends and backends as the kernel's tables have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_abi::{Be16, Family, LbAddress, LbState, ServiceKey};

use crate::node_state::Frontend;
use crate::world::BackendAddress;

/// The kernel's key of a frontend's master.
pub fn service_key(frontend: &Frontend) -> ServiceKey {
    let (family, address) = wide(frontend.address);
    ServiceKey::master(family, address, Be16::new(frontend.port), frontend.protocol)
}

/// The frontend of a kernel's key; none for a damaged one.
pub fn service_frontend(key: &ServiceKey) -> Option<Frontend> {
    Some(Frontend {
        address: narrow(key.family, key.address)?,
        port: key.port.get(),
        protocol: key.protocol,
    })
}

/// Address and port under an id; none for a damaged value.
pub fn lb_address(id: u32, value: &LbAddress) -> Option<BackendAddress> {
    if !value.is_of(id) || value.state().is_none() {
        return None;
    }
    Some(BackendAddress {
        address: narrow(value.family, value.address)?,
        port: value.port.get(),
    })
}

fn wide(address: IpAddr) -> (Family, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (Family::V4, bytes)
        }
        IpAddr::V6(v6) => (Family::V6, v6.octets()),
    }
}

pub(super) fn narrow(family: u8, address: [u8; 16]) -> Option<IpAddr> {
    if family == Family::V4 as u8 {
        let [a, b, c, d, rest @ ..] = address;
        return (rest == [0; 12]).then(|| Ipv4Addr::new(a, b, c, d).into());
    }
    (family == Family::V6 as u8).then(|| Ipv6Addr::from(address).into())
}

/// The entry of `id` that is in use for an address.
pub(super) fn active(id: u32, frontend: u16, protocol: u8, address: BackendAddress) -> LbAddress {
    let (family, bytes) = wide(address.address);
    LbAddress {
        address: bytes,
        port: Be16::new(address.port),
        frontend,
        protocol,
        family: family as u8,
        state: LbState::Active as u8,
        ..LbAddress::default()
    }
    .sealed(id)
}

/// The same entry at rest.
pub(super) fn at_rest(id: u32, value: &LbAddress, number: u32) -> LbAddress {
    LbAddress {
        state: LbState::Resting as u8,
        resting: number,
        ..*value
    }
    .sealed(id)
}
