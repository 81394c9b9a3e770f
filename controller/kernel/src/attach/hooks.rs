//! Reading a hook: tcx first, then the clsact filters, as the kernel runs them.

use std::io;

use oxilium_model::node_state::AttachPoint;

use super::{Attacher, tcx_hook};
use crate::error::ObserveError;
use crate::netlink::Netlink;
use crate::port::{HookKind, HookProgram};
use crate::sys;

impl Attacher {
    /// Everything on a hook in the order in which it runs; nothing for an interface that is gone.
    pub(crate) fn hook(
        &mut self,
        netlink: &mut Netlink,
        point: AttachPoint,
        has_clsact: bool,
    ) -> Result<Vec<HookProgram>, ObserveError> {
        let mut programs = Vec::new();
        let tcx = if self.has_tcx {
            query(point)?
        } else {
            Vec::new()
        };
        for (program_id, link) in tcx {
            let Some(known) = self.catalog.look(program_id)? else {
                continue;
            };
            programs.push(HookProgram {
                ifindex: point.ifindex,
                hook: point.hook,
                kind: HookKind::Tcx { link },
                program_id,
                name: known.name.clone(),
                ours: known.ours,
            });
        }
        let filters = if has_clsact {
            netlink.filters(point.ifindex, point.hook)?
        } else {
            Vec::new()
        };
        for filter in filters {
            let known = match filter.program {
                0 => None,
                id => self.catalog.look(id)?,
            };
            programs.push(HookProgram {
                ifindex: point.ifindex,
                hook: point.hook,
                kind: HookKind::Filter {
                    priority: filter.priority,
                    handle: filter.handle,
                },
                program_id: filter.program,
                // Without direct action a verdict of ours would be taken for a class.
                ours: filter.direct_action && known.is_some_and(|known| known.ours),
                name: if filter.kind == "bpf" {
                    filter.name
                } else {
                    filter.kind
                },
            });
        }
        Ok(programs)
    }
}

fn query(point: AttachPoint) -> Result<Vec<(u32, u32)>, ObserveError> {
    match sys::prog_query_tcx(point.ifindex, tcx_hook(point.hook)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        result => result.map_err(|source: io::Error| ObserveError::Programs {
            what: format!("the {} hook of interface {}", point.hook, point.ifindex),
            source,
        }),
    }
}
