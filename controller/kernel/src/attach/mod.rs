//! Programs on hooks: who is there, and putting ours there, in order, without a moment without it.
//!
//! *Ours* is a program that uses a map of our node words, whichever run or version loaded it. It is
//! *in order* when it is on the hook once, in the way in which it would be attached today, before
//! all others (one that came first could let a packet pass for good), and pinned where it belongs.

#[cfg(test)]
mod agent_tests;
mod catalog;
mod hand_over;
mod hooks;
mod pins;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::observed::{AttachedProgram, Place};
use oxilium_model::plan::Table;

pub(crate) use catalog::Catalog;
pub(crate) use pins::Pins;

use crate::count::{Action, Target, WriteCounter};
use crate::error::{ApplyError, NetlinkError, ObserveError};
use crate::netlink::Netlink;
use crate::netlink::filters::FilterSlot;
use crate::port::{HookKind, HookProgram};
use crate::sys::{self, Kind, TcxHook};

/// Priority of our filters: the first to run.
const PRIORITY: u16 = 1;
/// Handle of our filters ("ox"); the next free one if another party has it.
const HANDLE: u32 = 0x6F78;

/// How programs are attached on this kernel, as decided at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcx,
    Filter,
}

/// The hooks of all interfaces of a network namespace.
pub(crate) struct Attacher {
    pub way: Way,
    /// The kernel has tcx, whether it is used or not.
    pub has_tcx: bool,
    pub pins: Pins,
    pub catalog: Catalog,
    pub counter: Arc<WriteCounter>,
    /// See [`Loadable::last_word`]; loaded when first needed.
    pub last_words: BTreeMap<Hook, OwnedFd>,
}

pub(crate) const fn tcx_hook(hook: Hook) -> TcxHook {
    match hook {
        Hook::FromContainer => TcxHook::Ingress,
        Hook::ToContainer => TcxHook::Egress,
    }
}

/// This kernel knows tcx (since 6.6): it answers for the loopback device, which every namespace has.
///
/// # Errors
/// When the kernel answers neither way.
pub fn kernel_has_tcx() -> io::Result<bool> {
    const LOOPBACK: u32 = 1;
    match sys::prog_query_tcx(LOOPBACK, TcxHook::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Attacher {
    /// Our programs on the hooks of these interfaces (all with a clsact qdisc are in `clsact`).
    pub(crate) fn observe(
        &mut self,
        netlink: &mut Netlink,
        interfaces: impl Iterator<Item = u32>,
        endpoint_of: impl Fn(u32) -> Option<u16>,
    ) -> Result<BTreeMap<AttachPoint, AttachedProgram>, ObserveError> {
        let clsact = netlink.clsact_interfaces()?;
        let mut attached = BTreeMap::new();
        for ifindex in interfaces {
            for hook in Hook::ALL {
                let point = AttachPoint { ifindex, hook };
                let programs = self.hook(netlink, point, clsact.contains(&ifindex))?;
                if let Some(program) = self.attached(point, &programs, endpoint_of(ifindex))? {
                    attached.insert(point, program);
                }
            }
        }
        Ok(attached)
    }

    fn attached(
        &mut self,
        point: AttachPoint,
        programs: &[HookProgram],
        endpoint: Option<u16>,
    ) -> Result<Option<AttachedProgram>, ObserveError> {
        let ours: Vec<&HookProgram> = programs.iter().filter(|program| program.ours).collect();
        let Some(first) = ours.first() else {
            return Ok(None);
        };
        let in_place = match first.kind {
            HookKind::Tcx { link } => {
                let pinned = |endpoint| link != 0 && self.pins.leads_to(endpoint, point.hook, link);
                match self.way {
                    Way::Tcx if endpoint.is_some_and(pinned) => Place::Settled,
                    _ => Place::Misplaced,
                }
            }
            HookKind::Filter { priority, .. } => match self.way {
                _ if priority != PRIORITY => Place::Misplaced,
                Way::Filter => Place::Settled,
                // A program by tcx runs before it, and could let a packet pass for good.
                Way::Tcx if programs.iter().any(is_tcx) => Place::Misplaced,
                Way::Tcx => Place::Staged,
            },
        };
        let place = if ours.len() == 1 && first_of_its_kind(programs, first) {
            in_place
        } else {
            Place::Misplaced
        };
        Ok(Some(AttachedProgram {
            tag: self.catalog.tag(first.program_id)?,
            place,
        }))
    }

    /// Puts `program` on a hook, or in order there.
    pub(crate) fn put(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        endpoint: u16,
        program: &Loadable<'_>,
        expected: Expected,
    ) -> Result<(), ApplyError> {
        let programs = self.hook(netlink, point, true)?;
        let ours: Vec<HookProgram> = programs.iter().filter(|p| p.ours).cloned().collect();
        match (expected, ours.is_empty()) {
            (Expected::Nothing | Expected::NothingStaged, false) => {
                return Err(stale(point, libc::EEXIST));
            }
            (Expected::Ours, true) => return Err(stale(point, libc::ENOENT)),
            _ => {}
        }
        let way = match expected {
            // Before a filter others' programs by tcx would run.
            Expected::NothingStaged if !programs.iter().any(is_tcx) => Way::Filter,
            _ => self.way,
        };
        let moves = ours.iter().any(|p| is_tcx(p) != (way == Way::Tcx));
        if moves && programs.iter().all(|p| p.ours) {
            return self.hand_over(netlink, point, endpoint, program, &programs);
        }
        let settled = match way {
            Way::Tcx => self.put_link(netlink, point, endpoint, program, &programs)?,
            Way::Filter => self.put_filter(netlink, point, program.fd.as_fd(), &programs)?,
        };
        // Ours runs now; what is left of it in other places would judge each packet twice.
        for program in ours.iter().filter(|p| Some(p.kind) != settled) {
            self.take(netlink, point, program)?;
        }
        Ok(())
    }

    /// Gives which of the programs that were there is dealt with: kept, or taken off already.
    fn put_link(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        endpoint: u16,
        program: &Loadable<'_>,
        programs: &[HookProgram],
    ) -> Result<Option<HookKind>, ApplyError> {
        self.pins.clear_way(endpoint, point)?;
        let on_tcx: Vec<&HookProgram> = programs
            .iter()
            .filter(|p| matches!(p.kind, HookKind::Tcx { .. }))
            .collect();
        let linked = |p: &HookProgram| match p.kind {
            HookKind::Tcx { link } if link != 0 => Some(link),
            _ => None,
        };
        // The kernel takes a program on a hook only once: where it is decides.
        if let Some(at) = on_tcx.iter().position(|p| p.program_id == program.id) {
            let there = on_tcx[at];
            if let Some(link) = linked(there)
                && on_tcx[..at].iter().all(|p| p.ours)
            {
                self.pin_as(endpoint, point, link)?;
            } else {
                self.move_to_front(netlink, point, endpoint, program, there)?;
            }
            return Ok(Some(there.kind));
        }
        let Some((first, link)) = on_tcx
            .first()
            .filter(|p| p.ours)
            .and_then(|p| linked(p).map(|link| (p, link)))
        else {
            let link = self.create_link(point, program.fd.as_fd())?;
            self.pins.set(endpoint, point.hook, &link)?;
            return Ok(None);
        };
        let fd = sys::fd_by_id(Kind::Link, link).map_err(|error| failed(point, error))?;
        let old =
            sys::fd_by_id(Kind::Program, first.program_id).map_err(|error| failed(point, error))?;
        let updated = sys::link_update(fd.as_fd(), program.fd.as_fd(), Some(old.as_fd()));
        self.counter
            .result(Target::Links, Action::Replace, updated)
            .map_err(|error| match error.raw_os_error() {
                // The link holds another program than the one that was seen.
                Some(libc::EPERM) => stale(point, libc::ESTALE),
                _ => failed(point, error),
            })?;
        self.pin_as(endpoint, point, link)?;
        Ok(Some(first.kind))
    }

    fn create_link(
        &self,
        point: AttachPoint,
        program: BorrowedFd<'_>,
    ) -> Result<OwnedFd, ApplyError> {
        let created = sys::link_create_tcx(program, point.ifindex, tcx_hook(point.hook));
        self.counter
            .result(Target::Links, Action::Create, created)
            .map_err(|error| failed(point, error))
    }

    fn pin_as(&self, endpoint: u16, point: AttachPoint, link: u32) -> Result<(), ApplyError> {
        if self.pins.leads_to(endpoint, point.hook, link) {
            return Ok(());
        }
        let fd = sys::fd_by_id(Kind::Link, link).map_err(|error| failed(point, error))?;
        self.pins.move_to(endpoint, point.hook, &fd)
    }

    /// Ours is on the hook behind others. A copy judges while it changes its place.
    fn move_to_front(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        endpoint: u16,
        program: &Loadable<'_>,
        there: &HookProgram,
    ) -> Result<(), ApplyError> {
        let copy = (program.copy)()?;
        let meanwhile = self.create_link(point, copy.as_fd())?;
        // Else the link would be gone with its pin, some time later.
        let held = match there.kind {
            HookKind::Tcx { link } if link != 0 => {
                Some(sys::fd_by_id(Kind::Link, link).map_err(|error| failed(point, error))?)
            }
            _ => None,
        };
        // In the place of ours before ours goes: an agent that dies here leaves one of them on the hook.
        self.pins.set(endpoint, point.hook, &meanwhile)?;
        self.take(netlink, point, there)?;
        drop(held);
        let link = self.create_link(point, program.fd.as_fd())?;
        self.pins.set(endpoint, point.hook, &link)?;
        let detached = sys::link_detach(meanwhile.as_fd());
        self.taken(point, detached)
    }

    fn put_filter(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        program: BorrowedFd<'_>,
        programs: &[HookProgram],
    ) -> Result<Option<HookKind>, ApplyError> {
        let counter = Arc::clone(&self.counter);
        let has_filter = programs.iter().any(|p| !is_tcx(p));
        let made = if has_filter || has_filters_on_the_other_hook(netlink, point)? {
            Ok(())
        } else {
            netlink.ensure_clsact(point.ifindex, &counter)
        };
        made.map_err(|error| match error {
            // Looking again would not help: a qdisc of another kind is in its place.
            NetlinkError::Refused { source, .. } if source.raw_os_error() == Some(libc::EEXIST) => {
                ApplyError::Refused {
                    what: format!(
                        "clsact beside the ingress qdisc of interface {}",
                        point.ifindex
                    ),
                    source,
                }
            }
            error => netlink_failed(point, error),
        })?;
        let keep = programs.iter().find_map(|p| match p.kind {
            HookKind::Filter { priority, handle } if p.ours && priority == PRIORITY => Some(handle),
            _ => None,
        });
        let taken = |handle: u32| {
            programs.iter().any(|p| {
                matches!(p.kind, HookKind::Filter { priority, handle: h } if priority == PRIORITY && h == handle)
            })
        };
        let handle =
            keep.unwrap_or_else(|| (HANDLE..=u32::MAX).find(|h| !taken(*h)).unwrap_or(HANDLE));
        let action = match keep {
            Some(_) => Action::Replace,
            None => Action::Create,
        };
        let slot = FilterSlot {
            ifindex: point.ifindex,
            hook: point.hook,
            priority: PRIORITY,
            handle,
        };
        netlink
            .set_filter(slot, program, &counter, action)
            .map_err(|error| netlink_failed(point, error))?;
        Ok(keep.map(|handle| HookKind::Filter {
            priority: PRIORITY,
            handle,
        }))
    }

    /// Takes ours off a hook; nothing there counts as taken.
    pub(crate) fn detach(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
    ) -> Result<(), ApplyError> {
        for program in self.hook(netlink, point, true)? {
            if program.ours {
                self.take(netlink, point, &program)?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        program: &HookProgram,
    ) -> Result<(), ApplyError> {
        match program.kind {
            HookKind::Filter { priority, handle } => netlink
                .delete_filter(
                    FilterSlot {
                        ifindex: point.ifindex,
                        hook: point.hook,
                        priority,
                        handle,
                    },
                    &self.counter,
                )
                .map_err(|error| netlink_failed(point, error)),
            HookKind::Tcx { link: 0 } => {
                let result = sys::fd_by_id(Kind::Program, program.program_id).and_then(|fd| {
                    sys::prog_detach_tcx(fd.as_fd(), point.ifindex, tcx_hook(point.hook))
                });
                self.taken(point, result)
            }
            HookKind::Tcx { link } => {
                // The kernel takes a link that nobody holds off its hook some time later: hold it,
                // and take it off now.
                let held = match sys::fd_by_id(Kind::Link, link) {
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                    result => result.map_err(|error| failed(point, error))?,
                };
                // The pin first: one that outlives its link would be a riddle for a later run.
                self.pins.remove_link(link)?;
                let detached = sys::link_detach(held.as_fd());
                self.taken(point, detached)
            }
        }
    }

    fn taken(&self, point: AttachPoint, result: io::Result<()>) -> Result<(), ApplyError> {
        match self.counter.result(Target::Links, Action::Remove, result) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::ENOLINK)
                ) =>
            {
                Ok(())
            }
            result => result.map_err(|error| failed(point, error)),
        }
    }
}

/// A program that can be attached.
pub(crate) struct Loadable<'a> {
    pub fd: &'a OwnedFd,
    pub id: u32,
    /// Loads the same once more.
    pub copy: &'a dyn Fn() -> Result<OwnedFd, ApplyError>,
    /// Loads one that judges alike, and shows what passes to no program behind it.
    pub last_word: &'a dyn Fn() -> Result<OwnedFd, ApplyError>,
}

/// What a write expects on its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Nothing,
    /// Nothing, and a filter will do for now.
    NothingStaged,
    Ours,
}

const fn is_tcx(program: &HookProgram) -> bool {
    matches!(program.kind, HookKind::Tcx { .. })
}

/// No program of the same kind of attachment runs before this one. tcx programs all run before filters.
fn first_of_its_kind(programs: &[HookProgram], program: &HookProgram) -> bool {
    programs
        .iter()
        .find(|other| is_tcx(other) == is_tcx(program))
        .is_some_and(|first| first.kind == program.kind)
}

/// Then the interface has its clsact qdisc, which both hooks share.
fn has_filters_on_the_other_hook(
    netlink: &mut Netlink,
    point: AttachPoint,
) -> Result<bool, ApplyError> {
    for hook in Hook::ALL.into_iter().filter(|hook| *hook != point.hook) {
        let filters = netlink.filters(point.ifindex, hook);
        if !filters
            .map_err(|error| netlink_failed(point, error))?
            .is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn describe(point: AttachPoint) -> String {
    format!("{} of interface {}", point.hook, point.ifindex)
}

fn stale(point: AttachPoint, errno: i32) -> ApplyError {
    failed(point, io::Error::from_raw_os_error(errno))
}

fn failed(point: AttachPoint, error: io::Error) -> ApplyError {
    if error.raw_os_error() == Some(libc::ENODEV) {
        return ApplyError::Gone {
            ifindex: point.ifindex,
        };
    }
    ApplyError::of(Table::Attachments, || describe(point), error)
}

fn netlink_failed(point: AttachPoint, error: NetlinkError) -> ApplyError {
    match error {
        NetlinkError::Refused { source, .. } => failed(point, source),
        other => ApplyError::Observe(ObserveError::Netlink(other)),
    }
}
