//! What netfilter does with packets of services: whether kube-proxy's rules are there, and whether a bridge shows it what
//! it carries.

use std::fs;
use std::io;

use super::Netlink;
use super::wire::{Request, flag};
use crate::error::NetlinkError;
use crate::port::BridgeNetfilter;
use crate::sys::xtables;

/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's type.
const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NFTABLES | 1;
const NEW_TABLE: u16 = NFTABLES;
const GET_CHAIN: u16 = NFTABLES | 4;
const NEW_CHAIN: u16 = NFTABLES | 3;
/// `NFTA_TABLE_NAME`, and `NFTA_CHAIN_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN: u16 = 3;

/// kube-proxy's own table in its nftables mode.
const OWN_TABLE: &[u8] = b"kube-proxy\0";
/// Where its rules begin in its iptables and IPVS modes.
const NAT: &[u8] = b"nat\0";
const SERVICES: &[u8] = b"KUBE-SERVICES\0";

/// A family as netfilter knows it.
struct Of {
    family: u8,
    /// Sysctl that says whether bridges show its packets to netfilter.
    calls: &'static str,
}

const V4: Of = Of {
    family: 2, // NFPROTO_IPV4
    calls: "/proc/sys/net/bridge/bridge-nf-call-iptables",
};
const V6: Of = Of {
    family: 10, // NFPROTO_IPV6
    calls: "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
};

/// Looks at this network namespace.
pub(crate) fn bridge_netfilter() -> Result<[BridgeNetfilter; 2], NetlinkError> {
    Ok([look(&V4)?, look(&V6)?])
}

fn look(of: &Of) -> Result<BridgeNetfilter, NetlinkError> {
    let calls = match fs::read_to_string(of.calls) {
        Ok(text) => text.trim() != "0",
        // The module that would call is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => {
            return Err(NetlinkError::Socket {
                action: "read bridge-nf-call",
                source,
            });
        }
    };
    Ok(BridgeNetfilter {
        calls,
        kube_proxy: is_proxied(of)?,
    })
}

fn is_proxied(of: &Of) -> Result<bool, NetlinkError> {
    // struct nfgenmsg: family, version, resource in network order.
    let header = [of.family, 0, 0, 0];
    let mut netlink = Netlink::open_netfilter()?;
    let table = Request::new(GET_TABLE, flag::ACK, &header).with(TABLE, OWN_TABLE);
    let chain = Request::new(GET_CHAIN, flag::ACK, &header)
        .with(TABLE, NAT)
        .with(CHAIN, SERVICES);
    Ok(netlink.has("kube-proxy's table", table, NEW_TABLE)?
        || netlink.has("kube-proxy's chain", chain, NEW_CHAIN)?
        || xtables::nat_has_chain(of.family, SERVICES).map_err(|source| NetlinkError::Socket {
            action: "read the iptables nat table",
            source,
        })?)
}

impl Netlink {
    fn has(
        &mut self,
        name: &'static str,
        request: Request,
        kind: u16,
    ) -> Result<bool, NetlinkError> {
        match self.ask(name, request, |message| {
            (message.kind == kind).then_some(())
        }) {
            Ok(found) => Ok(found.is_some()),
            // Not there; or the kernel has no nftables.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
