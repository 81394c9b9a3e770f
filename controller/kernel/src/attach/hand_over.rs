//! Ours moves from a filter to a link, or back.

use std::collections::btree_map::Entry;
use std::os::fd::AsFd;

use oxilium_model::node_state::AttachPoint;

use super::{Attacher, Loadable, Way, failed, is_tcx};
use crate::error::ApplyError;
use crate::netlink::Netlink;
use crate::port::HookProgram;
use crate::sys;

impl Attacher {
    /// Moves ours from a filter to a link or back, with none but ours on the hook, so that each packet is judged once:
    /// while both are there the link's program has the last word, and no filter is asked. Killed between any two
    /// steps, the hook has a program that judges; the next look finds it misplaced.
    pub(super) fn hand_over(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        endpoint: u16,
        program: &Loadable<'_>,
        programs: &[HookProgram],
    ) -> Result<(), ApplyError> {
        let loaded = match self.last_words.entry(point.hook) {
            Entry::Occupied(loaded) => loaded.into_mut(),
            Entry::Vacant(place) => place.insert((program.last_word)()?),
        };
        let unreadable = |error| failed(point, error);
        let fd = loaded.try_clone().map_err(unreadable)?;
        let last_word = Loadable {
            id: sys::prog_info(fd.as_fd()).map_err(unreadable)?.id,
            fd: &fd,
            copy: program.last_word,
            last_word: program.last_word,
        };
        let kept = self.put_link(netlink, point, endpoint, &last_word, programs)?;
        let filter = match self.way {
            Way::Filter => self.put_filter(netlink, point, program.fd.as_fd(), programs)?,
            Way::Tcx => None,
        };
        for other in programs {
            if Some(other.kind) != kept && Some(other.kind) != filter {
                self.take(netlink, point, other)?;
            }
        }
        let programs = self.hook(netlink, point, true)?;
        match self.way {
            Way::Tcx => {
                self.put_link(netlink, point, endpoint, program, &programs)?;
            }
            Way::Filter => {
                for link in programs.iter().filter(|p| p.ours && is_tcx(p)) {
                    self.take(netlink, point, link)?;
                }
            }
        }
        Ok(())
    }
}
