//! Taking everything of ours out of the kernel, as if no agent had ever run.
//!
//! Programs go from the hooks first, so that none judges by half a set of maps; then pins, with which programs and maps go.
//! What others have on the same hooks stays. Ids of network namespaces stay too: the kernel knows no way to take one back,
//! and gives them by itself to whoever lists links.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxilium_abi::SCHEMA_VERSION;
use oxilium_model::node_state::{AttachPoint, Hook};
use thiserror::Error;

use crate::attach::{Attacher, Catalog, Pins, Way, kernel_has_tcx};
use crate::count::WriteCounter;
use crate::error::{ApplyError, NetlinkError, ObserveError};
use crate::load::LoadError;
use crate::netlink::Netlink;
use crate::node::place::lock;
use crate::port::{HookKind, LinkInfo};
use crate::sys;

/// Something could not be taken out. What was taken is; the same call goes on with the rest.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// An agent runs, or the place of its pins cannot be locked.
    #[error(transparent)]
    Place(#[from] LoadError),
    /// A hook cannot be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// A program cannot be taken off.
    #[error(transparent)]
    Detach(#[from] ApplyError),
    /// Links, qdiscs or filters cannot be read or taken off.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A pin cannot be read or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin, or a directory of pins.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn pin(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UninstallError {
    let path = path.to_owned();
    move |source| UninstallError::Pin {
        action,
        path,
        source,
    }
}

/// What an interface was like before the agent put anything on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorInterface {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address: the index alone may be another interface's by now.
    pub mac: [u8; 6],
    /// It had a clsact qdisc.
    pub clsact: bool,
    /// Its `txqueuelen`.
    pub tx_queue_len: u32,
}

/// What the kernel sets the `txqueuelen` of a device without a queue to that has 0, when it gets any qdisc
/// (`qdisc_create`, `DEFAULT_TX_QUEUE_LEN`).
const DEFAULT_TX_QUEUE_LEN: u32 = 1000;

/// Takes our programs off all hooks of the caller's network namespace and off those that pinned links hold elsewhere,
/// and removes all pins below `bpf_root`. Interfaces become what they were according to `prior`. Gives what was
/// removed, a line each.
///
/// # Errors
/// [`UninstallError`]; also when an agent runs.
pub fn uninstall(bpf_root: &Path, prior: &[PriorInterface]) -> Result<Vec<String>, UninstallError> {
    let _held = bpf_root.exists().then(|| lock(bpf_root)).transpose()?;
    let product = bpf_root.join("oxilium");
    let counter = Arc::new(WriteCounter::default());
    let has_tcx = kernel_has_tcx().map_err(pin("ask for tcx with", bpf_root))?;
    let current = product.join(format!("v{SCHEMA_VERSION}"));
    let mut attacher = Attacher {
        way: if has_tcx { Way::Tcx } else { Way::Filter },
        has_tcx,
        pins: Pins::new(current.join("links"), Arc::clone(&counter)),
        catalog: Catalog::default(),
        counter,
        last_words: BTreeMap::new(),
    };
    let mut netlink = Netlink::open()?;
    let mut removed = Vec::new();
    for link in netlink.links()? {
        let prior = prior
            .iter()
            .find(|prior| prior.ifindex == link.ifindex && Some(prior.mac) == link.mac);
        clear(&mut attacher, &mut netlink, &link, prior, &mut removed)?;
    }
    detach_pinned(&product, &mut removed)?;
    match fs::remove_dir_all(&product) {
        Ok(()) => removed.push(format!("pins in {}", product.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(pin("remove", &product)(error)),
    }
    Ok(removed)
}

/// Takes ours off the hooks of one interface, and the clsact qdisc that was made for filters of ours, which may have
/// given way to links since.
fn clear(
    attacher: &mut Attacher,
    netlink: &mut Netlink,
    link: &LinkInfo,
    prior: Option<&PriorInterface>,
    removed: &mut Vec<String>,
) -> Result<(), UninstallError> {
    let mut filters = false;
    for hook in Hook::ALL {
        let point = AttachPoint {
            ifindex: link.ifindex,
            hook,
        };
        let programs = attacher.hook(netlink, point, true)?;
        let ours: Vec<_> = programs.iter().filter(|program| program.ours).collect();
        if ours.is_empty() {
            continue;
        }
        filters |= ours
            .iter()
            .any(|program| matches!(program.kind, HookKind::Filter { .. }));
        attacher.detach(netlink, point)?;
        removed.push(format!("program {hook} on {}", link.name));
    }
    let made = prior.map_or(filters, |prior| !prior.clsact);
    if made && netlink.clsact_interfaces()?.contains(&link.ifindex) {
        for hook in Hook::ALL {
            // Somebody else's filters keep the qdisc.
            if !netlink.filters(link.ifindex, hook)?.is_empty() {
                return Ok(());
            }
        }
        netlink.delete_clsact(link.ifindex, &attacher.counter)?;
        removed.push(format!("clsact qdisc on {}", link.name));
    }
    // The kernel's doing, with the first qdisc; what somebody set meanwhile stays.
    if prior.is_some_and(|prior| prior.tx_queue_len == 0)
        && link.tx_queue_len == DEFAULT_TX_QUEUE_LEN
    {
        netlink.set_tx_queue_len(link.ifindex, 0, &attacher.counter)?;
        removed.push(format!("txqueuelen of {}", link.name));
    }
    Ok(())
}

/// Takes off what pinned links of any version still hold, as in another network namespace.
fn detach_pinned(product: &Path, removed: &mut Vec<String>) -> Result<(), UninstallError> {
    for version in entries(product)? {
        for path in entries(&version.join("links"))? {
            let link = match sys::obj_get(&path) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                result => result.map_err(pin("open", &path))?,
            };
            match sys::link_detach(link.as_fd()) {
                Ok(()) => removed.push(format!("link {}", path.display())),
                // Its device is gone, or it was taken off already.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENODEV | libc::ENOLINK)
                    ) => {}
                Err(error) => return Err(pin("detach", &path)(error)),
            }
        }
    }
    Ok(())
}

/// What is in a directory; nothing when there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, UninstallError> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(pin("read", directory))?,
    };
    read.map(|entry| Ok(entry.map_err(pin("read", directory))?.path()))
        .collect()
}
