//! Netlink: which requests write, and what they are about.

use std::io;

use nix::libc;

use super::{
    Domain,
    call::{Meaning, Process},
};

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Netlink {
    /// rtnetlink.
    Route,
    /// nfnetlink.
    Netfilter,
    /// Something of which nothing is known.
    Other,
}

impl Netlink {
    /// By the protocol of socket(2).
    pub(super) fn speaking(protocol: u64) -> Self {
        match i32::try_from(protocol & 0xFFFF_FFFF) {
            Ok(libc::NETLINK_ROUTE) => Self::Route,
            Ok(libc::NETLINK_NETFILTER) => Self::Netfilter,
            _ => Self::Other,
        }
    }

    /// What a request of this type does, and to what; none for one that only reads.
    fn write(self, kind: u16) -> Option<(&'static str, &'static str)> {
        match self {
            _ if kind < 16 => None,
            // It numbers its requests in fours: new, delete, get, set.
            Self::Route if kind & 3 == 2 => None,
            Self::Route => {
                let verb = ["NEW", "DEL", "GET", "SET"][usize::from(kind & 3)];
                Some((verb, object_of_request(kind)))
            }
            Self::Netfilter if READS_OF_NFTABLES.contains(&kind) => None,
            Self::Netfilter => Some(("SEND", "netfilter")),
            Self::Other => Some(("SEND", "something else")),
        }
    }
}

/// `NFNL_SUBSYS_NFTABLES` with `NFT_MSG_GETTABLE`, `NFT_MSG_GETCHAIN`.
const READS_OF_NFTABLES: [u16; 2] = [10 << 8 | 1, 10 << 8 | 4];

impl Process {
    /// A message whose header stands there.
    pub(super) fn request(&mut self, netlink: Netlink, message: u64) -> io::Result<Meaning> {
        let header = self.bytes(message, 16)?;
        let kind = header
            .get(4..6)
            .map_or(0, |pair| u16::from_ne_bytes([pair[0], pair[1]]));
        let write = netlink.write(kind);
        Ok(write.map_or_else(Meaning::default, |(verb, object)| {
            Meaning::writes(Domain::Netlink, verb, object.to_owned())
        }))
    }
}

/// What an rtnetlink request is about.
fn object_of_request(kind: u16) -> &'static str {
    match kind & !3 {
        16 => "link",
        20 => "address",
        24 => "route",
        28 => "neighbour",
        32 => "rule",
        36 => "qdisc",
        40 => "class",
        44 => "filter",
        88 => "namespace id",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_reads_is_no_write() {
        let (new_table, get_table) = (10 << 8, 10 << 8 | 1);
        for (netlink, kind, write) in [
            (
                Netlink::Route,
                libc::RTM_NEWTFILTER,
                Some(("NEW", "filter")),
            ),
            (Netlink::Route, libc::RTM_GETLINK, None),
            (Netlink::Netfilter, get_table, None),
            (Netlink::Netfilter, new_table, Some(("SEND", "netfilter"))),
            (Netlink::Other, 16, Some(("SEND", "something else"))),
        ] {
            assert_eq!(netlink.write(kind), write, "{netlink:?} {kind}");
        }
    }
}
