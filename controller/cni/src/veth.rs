//! The pod's interface and the node's end of it.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns};
use oxilium_api::{ContainerInterface, HostInterface};

use crate::error::{CniError, Code};
use crate::netlink::{Link, Netlink, Which};

/// Both ends of a pod's veth.
#[derive(Clone, Debug)]
pub(crate) struct Veth {
    pub(crate) container: ContainerInterface,
    pub(crate) host: HostInterface,
}

/// Finds interface `name` of the network namespace at `netns`, and its other end in this namespace.
pub(crate) fn find(netns: &str, name: &str) -> Result<Veth, CniError> {
    let namespace = File::open(netns).map_err(|error| {
        CniError::new(
            Code::UnknownContainer,
            format!("cannot open the network namespace {netns} (CNI_NETNS): {error}"),
            "the container went away, or the runtime named the wrong path",
        )
    })?;
    let inside = {
        let namespace = namespace
            .try_clone()
            .map_err(|error| CniError::io(netns, &error))?;
        let name = name.to_owned();
        // A namespace is entered by a thread that ends with it, so that it cannot be left entered.
        thread::spawn(move || look_inside(&namespace, &name))
            .join()
            .map_err(|_| CniError::new(Code::Io, "the thread inside the namespace failed", ""))?
    };
    let (inner, addresses) = inside
        .map_err(|error| {
            CniError::io(
                &format!("cannot look into the network namespace {netns}"),
                &error,
            )
        })?
        .ok_or_else(|| {
            CniError::new(
                Code::InvalidConfig,
                format!("{netns} has no interface {name:?} (CNI_IFNAME)"),
                "the plugins before this one must make it",
            )
        })?;
    let peer = match (inner.kind.as_str(), inner.peer) {
        ("veth", Some(peer)) => peer,
        (kind, _) => {
            let kind = if kind.is_empty() {
                "no virtual one"
            } else {
                kind
            };
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("interface {name:?} of the pod is not a veth, but {kind}"),
                "chain this plugin after one that makes a veth: bridge, ptp, flannel, …",
            ));
        }
    };
    let outer = outer_end(&namespace, &inner, peer)?;
    Ok(Veth {
        container: ContainerInterface {
            ifindex: inner.index,
            mac: mac(&inner.mac),
            addresses,
            ipv6_prefix_length: None,
        },
        host: HostInterface {
            ifindex: outer.index,
            name: outer.name,
            mac: mac(&outer.mac),
        },
    })
}

type Inside = Option<(Link, Vec<std::net::IpAddr>)>;

fn look_inside(namespace: &File, name: &str) -> io::Result<Inside> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open()?;
    let Some(link) = netlink.link(Which::Name(name))? else {
        return Ok(None);
    };
    let addresses = netlink.addresses(link.index)?;
    Ok(Some((link, addresses)))
}

/// The link with index `peer` here, if it is in truth the other end: an index alone proves nothing, as
/// it counts in each namespace.
fn outer_end(namespace: &File, inner: &Link, peer: u32) -> Result<Link, CniError> {
    let read = |error: std::io::Error| CniError::io("cannot read the node's interfaces", &error);
    let mut netlink = Netlink::open().map_err(read)?;
    let outer = netlink.link(Which::Index(peer)).map_err(read)?;
    let expected = netlink.netns_id(namespace).map_err(read)?;
    outer
        .filter(|outer| {
            outer.kind == "veth"
                && outer.peer == Some(inner.index)
                && outer.peer_netns.is_some()
                && outer.peer_netns == expected
        })
        .ok_or_else(|| {
            CniError::new(
                Code::InvalidConfig,
                format!(
                    "the other end of the pod's interface {:?} (index {peer}) is not in the node's network namespace",
                    inner.name
                ),
                "the plugin must run in the network namespace that the pod's veth leads to",
            )
        })
}

fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}
