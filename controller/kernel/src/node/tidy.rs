//! Pins that nothing needs go, pins that others removed come back.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use oxilium_abi::NodeWord;
use oxilium_model::node_state::{Hook, ProgramTag};
use oxilium_model::plan::Table;

use super::KernelNode;
use crate::count::{Action, Target};
use crate::error::{ApplyError, ObserveError};
use crate::load::{make_directory, program_directories};
use crate::sys;

impl KernelNode {
    pub(super) fn put_pins_in_order(&mut self) -> Result<usize, ApplyError> {
        self.restore_place()?;
        let links = self.netlink.links().map_err(ObserveError::from)?;
        let interfaces = links.iter().map(|link| link.ifindex);
        // Whose they are does not matter here.
        let attachments = self
            .attacher
            .observe(&mut self.netlink, interfaces, |_| None)?;
        let mut keep: Vec<ProgramTag> = attachments.values().map(|program| program.tag).collect();
        keep.extend(self.programs.values().map(|program| program.tag));
        let former = self.leave_former_maps(attachments.values().map(|program| program.tag))?;
        Ok(former
            + self.restore_map_pins()?
            + self.restore_program_pins()?
            + self.attacher.pins.tidy()?
            + self.remove_program_pins(&keep)?
            + self.silence()?)
    }

    /// Somebody unmounted the bpffs, or removed whole directories. Programs stay on their hooks while something holds
    /// them; with the next agent's end they would be gone.
    pub(super) fn restore_place(&mut self) -> Result<(), ApplyError> {
        if self.place.is_there() {
            return Ok(());
        }
        tracing::warn!(path = %self.directory.display(), "the place of all pins is gone; making it again");
        self.place
            .ensure(&self.counter)
            .map_err(|error| failed(&self.directory, io::Error::other(error)))?;
        self.restored.push(self.directory.clone());
        Ok(())
    }

    /// Flows of maps whose place others took are carried over; and when no hook runs a program that uses such maps,
    /// they go.
    fn leave_former_maps(
        &mut self,
        mut on_hooks: impl Iterator<Item = ProgramTag>,
    ) -> Result<usize, ApplyError> {
        if !self.maps.has_former() {
            return Ok(0);
        }
        let told = |error| ApplyError::of(Table::Conntrack, || "former maps".into(), error);
        let carried = self.maps.carry_flows(&self.counter).map_err(told)?;
        tracing::info!(carried, "flows were carried over from former maps");
        let loaded = |tag| self.programs.values().any(|program| program.tag == tag);
        if !on_hooks.all(loaded) {
            return Ok(carried);
        }
        Ok(carried + self.maps.forget_former(&self.counter).map_err(told)?)
    }

    fn restore_map_pins(&mut self) -> Result<usize, ApplyError> {
        let mut changes = 0;
        for (name, fd, description) in self.maps.iter() {
            let path = self.directory.join(name);
            match sys::obj_get(&path) {
                Ok(pinned) => {
                    if sys::map_info(pinned.as_fd()).map(|info| info.id).ok()
                        != Some(description.id)
                    {
                        return Err(ObserveError::PinLost { path }.into());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    tracing::warn!(path = %path.display(), "the pin of a map was removed; pinning it again");
                    let result = sys::obj_pin(fd, &path);
                    self.counter
                        .result(Target::Maps, Action::Pin, result)
                        .map_err(|error| failed(&path, error))?;
                    self.restored.push(path);
                    changes += 1;
                }
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Ok(changes)
    }

    fn restore_program_pins(&mut self) -> Result<usize, ApplyError> {
        let mut changes = 0;
        for (hook, program) in &self.programs {
            let directory = self
                .directory
                .join("programs")
                .join(program.tag.to_string());
            let path = directory.join(hook.program());
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            tracing::warn!(path = %path.display(), "the pin of a program was removed; pinning it again");
            make_directory(&directory, &self.counter)
                .map_err(|error| failed(&directory, io::Error::other(error)))?;
            let result = sys::obj_pin(program.fd.as_fd(), &path);
            self.counter
                .result(Target::Programs, Action::Pin, result)
                .map_err(|error| failed(&path, error))?;
            self.restored.push(path);
            changes += 1;
        }
        Ok(changes)
    }

    /// Removes the pins of programs that are neither loaded here nor on any hook.
    fn remove_program_pins(&self, keep: &[ProgramTag]) -> Result<usize, ApplyError> {
        let programs = self.directory.join("programs");
        let mut changes = 0;
        let remove = |path: &Path, removed: io::Result<()>| {
            self.counter
                .result(Target::Programs, Action::File, removed)
                .map_err(|error| failed(path, error))
        };
        for (tag, path) in program_directories(&programs).map_err(|e| failed(&programs, e))? {
            if keep.contains(&tag) {
                continue;
            }
            for hook in Hook::ALL {
                let pin = path.join(hook.program());
                if fs::symlink_metadata(&pin).is_ok() {
                    remove(&pin, fs::remove_file(&pin))?;
                    changes += 1;
                }
            }
            remove(&path, fs::remove_dir(&path))?;
        }
        Ok(changes)
    }

    /// Programs make no events for a reader that was killed.
    fn silence(&self) -> Result<usize, ApplyError> {
        let slot = NodeWord::EventReaders as u32;
        let words = &self.tables.node_words;
        let told =
            |error| ApplyError::of(Table::NodeWords, || "the count of readers".into(), error);
        if self.events_taken.load(Ordering::Acquire)
            || words.get(&slot).map_err(told)?.unwrap_or_default() == 0
        {
            return Ok(0);
        }
        words.update(&slot, &0).map_err(told)?;
        Ok(1)
    }
}

fn failed(path: &Path, error: io::Error) -> ApplyError {
    ApplyError::of(
        Table::Attachments,
        || format!("pin {}", path.display()),
        error,
    )
}
