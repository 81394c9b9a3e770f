//! Looking into a pod's network namespace, from a thread that enters it and ends there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::Netlink;
use super::wire::{Request, attributes, flag, i32_at, kind};
use crate::count::{Action, Target, WriteCounter};
use crate::error::NetlinkError;
use crate::port::{AddressInfo, LinkInfo, PodInterface};

/// `NETNSA_NSID`, `NETNSA_FD`.
const NSID: u16 = 1;
const FD: u16 = 3;
/// `struct rtgenmsg`, padded.
const GENERIC: [u8; 4] = [0; 4];

impl Netlink {
    /// The id that the namespace behind `netns` has in the socket's namespace, if it has one.
    fn netns_id(&mut self, netns: &File) -> Result<Option<i32>, NetlinkError> {
        let request =
            Request::new(kind::GET_NSID, flag::ACK, &GENERIC).with(FD, &descriptor(netns));
        let id = self.ask("namespace id", request, |message| {
            attributes(message.body.get(4..)?)
                .find(|(attribute, _)| *attribute == NSID)
                .and_then(|(_, value)| i32_at(value, 0))
        })?;
        Ok(id.filter(|id| *id >= 0))
    }

    /// As `netns_id`; gives it one if it has none.
    fn ensure_netns_id(
        &mut self,
        netns: &File,
        counter: &WriteCounter,
    ) -> Result<i32, NetlinkError> {
        if let Some(id) = self.netns_id(netns)? {
            return Ok(id);
        }
        let request = Request::new(kind::NEW_NSID, flag::ACK, &GENERIC)
            .with(NSID, &(-1_i32).to_ne_bytes())
            .with(FD, &descriptor(netns));
        match self.change(
            "new namespace id",
            request,
            counter,
            Target::Namespaces,
            Action::Create,
        ) {
            // The kernel gives one by itself whenever somebody lists links: that is as good.
            Err(error) if error.errno() == Some(libc::EEXIST) => {}
            result => result?,
        }
        self.netns_id(netns)?
            .ok_or_else(|| NetlinkError::Malformed {
                request: "namespace id",
                detail: "the id that was just given is not there".to_owned(),
            })
    }

    /// The interface `name` inside the namespace at `path`.
    pub(crate) fn pod_interface(
        &mut self,
        path: &Path,
        name: &str,
        counter: &WriteCounter,
    ) -> Result<PodInterface, NetlinkError> {
        let failed = |source| NetlinkError::Namespace {
            path: path.to_owned(),
            source,
        };
        let netns = File::open(path).map_err(failed)?;
        let inside = netns.try_clone().map_err(failed)?;
        let (links, addresses) = look_inside(path, inside)?;
        let link = links
            .into_iter()
            .find(|link| link.name == name)
            .ok_or_else(|| {
                failed(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("there is no interface {name} in it"),
                ))
            })?;
        let mac = link.mac.ok_or_else(|| {
            failed(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("interface {name} has no MAC address"),
            ))
        })?;
        let mut pod = PodInterface {
            ifindex: link.ifindex,
            mac,
            peer: link.peer,
            addresses: BTreeSet::new(),
            link_local: BTreeSet::new(),
            netns_id: self.ensure_netns_id(&netns, counter)?,
        };
        for address in addresses {
            if address.ifindex != link.ifindex {
                continue;
            }
            match address.address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                    pod.link_local.insert(v6);
                }
                other => {
                    pod.addresses.insert(other);
                }
            }
        }
        Ok(pod)
    }
}

fn descriptor(netns: &File) -> [u8; 4] {
    netns.as_raw_fd().to_ne_bytes()
}

/// A namespace belongs to a thread: one of its own enters it, so that no other work ever runs there.
fn look_inside(
    path: &Path,
    netns: File,
) -> Result<(Vec<LinkInfo>, Vec<AddressInfo>), NetlinkError> {
    let failed = |source| NetlinkError::Namespace {
        path: path.to_owned(),
        source,
    };
    let look = move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok::<_, io::Error>(Netlink::open().and_then(|mut inside| {
            let links = inside.links()?;
            Ok((links, inside.addresses()?))
        }))
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(look)
        .map_err(failed)?
        .join()
        .map_err(|_| failed(io::Error::other("the thread that looked inside panicked")))?
        .map_err(failed)?
}
