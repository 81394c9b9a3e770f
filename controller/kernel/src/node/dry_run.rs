//! A packet judged by the programs themselves, without a trace.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oxilium_abi::{DropReason, map};
use oxilium_model::node_state::Hook;

use super::KernelNode;
use crate::error::ObserveError;
use crate::load::{LoadError, Source, load_copy};
use crate::port::TryPacket;
use crate::sys;

/// `TC_ACT_UNSPEC`: the next program on the hook decides.
const PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`, in the low byte of a dry run's answer; the reason is in the next.
const DROP: u32 = 2;

impl KernelNode {
    pub(super) fn run_dry(
        &mut self,
        packet: &TryPacket,
    ) -> Result<Option<DropReason>, ObserveError> {
        let failed = |source| ObserveError::TryPacket {
            hook: packet.hook,
            ifindex: packet.ifindex,
            source,
        };
        if self.dry_run.is_empty() {
            self.dry_run = self
                .load_dry_run()
                .map_err(|error| failed(io::Error::other(error)))?;
        }
        // With index 1 or less the kernel does not look for the interface.
        let no_device = || failed(io::Error::from_raw_os_error(libc::ENODEV));
        if packet.ifindex <= 1 {
            return Err(no_device());
        }
        let program = self.dry_run.get(&packet.hook).ok_or_else(no_device)?;
        let answer = sys::prog_test_run(
            program.as_fd(),
            &packet.frame,
            packet.ifindex,
            packet.ingress_ifindex,
        )
        .and_then(verdict);
        answer.map_err(failed)
    }

    /// The programs once more, in earnest but for the constant. Not pinned: it ends with the process.
    fn load_dry_run(&self) -> Result<BTreeMap<Hook, OwnedFd>, LoadError> {
        let mut constants = self.constants.clone();
        constants.insert("DRY_RUN", vec![1]);
        let source = Source {
            object: self.object,
            constants: &constants,
            maps: &self.maps,
            // A packet that arrives in the midst of a run works on the same CPU's memory.
            own_maps: &[map::SCRATCH],
            directory: &self.directory,
            counter: &self.counter,
        };
        Hook::ALL
            .into_iter()
            .map(|hook| Ok((hook, load_copy(&source, hook)?)))
            .collect()
    }
}

/// What a dry run's answer says, if it is one of ours.
fn verdict(answer: u32) -> io::Result<Option<DropReason>> {
    if answer == PASS {
        return Ok(None);
    }
    if let [action, reason, 0, 0] = answer.to_le_bytes()
        && u32::from(action) == DROP
        && let Some(reason) = DropReason::from_number(reason)
    {
        return Ok(Some(reason));
    }
    Err(io::Error::other(format!(
        "it answered {answer:#x}, which is neither to pass nor to drop for a known reason"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pass_and_a_drop_for_a_known_reason_are_answers() {
        let denied = DropReason::PolicyDenied;
        for (answer, meaning) in [
            (u32::MAX, Some(None)),
            (2 | (denied as u32) << 8, Some(Some(denied))),
            (2, None),
            (0, None),
            (2 | 1 << 8, None),
            (2 | (denied as u32) << 8 | 1 << 16, None),
        ] {
            assert_eq!(verdict(answer).ok(), meaning, "{answer:#x}");
        }
    }
}
