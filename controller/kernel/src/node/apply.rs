//! One planned change at a time.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use oxilium_abi::{NodeWord, endpoint_word_index, shape_word_index};
use oxilium_model::node_state::AttachPoint;
use oxilium_model::plan::{Table, Write};

use super::KernelNode;
use crate::attach::{Expected, Loadable};
use crate::error::ApplyError;
use crate::load::{Source, load_copy};
use crate::sys;

impl KernelNode {
    pub(super) fn write(&mut self, write: &Write) -> Result<(), ApplyError> {
        let tables = &self.tables;
        let result = match *write {
            Write::HighWater(epoch) => self.node_word(NodeWord::HighWater, epoch.get()),
            Write::Publish(epoch) => self.node_word(NodeWord::Published, epoch.get()),
            Write::IpcacheWord(word) => self.node_word(NodeWord::Ipcache, word.0),
            Write::PolicyInsert { key, value } => tables.policy.insert(&key, &value),
            Write::PolicyReplace { key, value } => tables.policy.replace(&key, &value),
            Write::PolicyDelete { key } => tables.policy.remove(&key).map(drop),
            Write::ShapeWord {
                table,
                direction,
                word,
            } => tables
                .shapes
                .update(&shape_word_index(table, direction), &word.0),
            Write::IpcacheUpsert { key, value } => tables.ipcache.update(&key, &value),
            Write::IpcacheDelete { key } => tables.ipcache.remove(&key).map(drop),
            Write::InterfaceInsert { ifindex, config } => {
                tables.interfaces.insert(&ifindex, &config)
            }
            Write::InterfaceReplace { ifindex, config } => {
                tables.interfaces.replace(&ifindex, &config)
            }
            Write::InterfaceDelete { ifindex } => tables.interfaces.remove(&ifindex).map(drop),
            Write::EndpointWord {
                endpoint,
                bank,
                word,
            } => tables
                .endpoint_words
                .update(&endpoint_word_index(endpoint, bank), &word.0),
            Write::Service { key, value } => tables.services.update(&key, &value),
            Write::ServiceDelete { key } => tables.services.remove(&key).map(drop),
            Write::Backend { id, value } => tables.backends.update(&id, &value),
            Write::BackendDelete { id } => tables.backends.remove(&id).map(drop),
            Write::ReverseNat { id, value } => tables.reverse_nat.update(&id, &value),
            Write::ReverseNatDelete { id } => tables.reverse_nat.remove(&id).map(drop),
            Write::ServicesInUse(used) => self.node_word(NodeWord::Services, u64::from(used)),
            Write::Attach {
                point,
                endpoint,
                staged,
                ..
            } => {
                let expected = if staged {
                    Expected::NothingStaged
                } else {
                    Expected::Nothing
                };
                return self.attach(point, endpoint, expected, write);
            }
            Write::Replace {
                point, endpoint, ..
            } => return self.attach(point, endpoint, Expected::Ours, write),
            Write::Detach { point } => return self.attacher.detach(&mut self.netlink, point),
            Write::PurgeConntrack { endpoint } => return self.purge(endpoint),
            Write::Barrier => return barrier(),
        };
        let Some((table, _)) = write.target() else {
            return Ok(());
        };
        result.map_err(|error| ApplyError::of(table, || format!("{write:?}"), error))
    }

    fn node_word(&self, word: NodeWord, value: u64) -> io::Result<()> {
        self.tables.node_words.update(&(word as u32), &value)
    }

    fn attach(
        &mut self,
        point: AttachPoint,
        endpoint: u16,
        expected: Expected,
        write: &Write,
    ) -> Result<(), ApplyError> {
        let (Write::Attach { program: tag, .. } | Write::Replace { program: tag, .. }) = *write
        else {
            return Ok(());
        };
        self.restore_place()?;
        let loaded = self.programs.get(&point.hook);
        let Some(program) = loaded.filter(|program| program.tag == tag) else {
            return Err(ApplyError::UnknownProgram {
                hook: point.hook,
                tag,
                loaded: loaded.map(|program| program.tag).unwrap_or_default(),
            });
        };
        let source = Source {
            object: self.object,
            constants: &self.constants,
            maps: &self.maps,
            own_maps: &[],
            directory: &self.directory,
            counter: &self.counter,
        };
        let mut constants = self.constants.clone();
        constants.insert("LAST_WORD", vec![1]);
        let last_word = Source {
            constants: &constants,
            ..source
        };
        let load = |source: &Source<'_>| {
            load_copy(source, point.hook).map_err(|error| ApplyError::Refused {
                what: format!("a second copy of {}", point.hook),
                source: io::Error::other(error),
            })
        };
        let program = Loadable {
            fd: &program.fd,
            id: program.id,
            copy: &|| load(&source),
            last_word: &|| load(&last_word),
        };
        self.attacher
            .put(&mut self.netlink, point, endpoint, &program, expected)
    }
}

/// Returns when every program that was running at the call has ended.
fn barrier() -> Result<(), ApplyError> {
    let result = match sys::membarrier_global() {
        // Kernels booted with nohz_full, or without the call.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            visit_every_cpu()
        }
        result => result,
    };
    result.map_err(|source| ApplyError::Busy {
        what: "the wait for running programs".to_owned(),
        source,
    })
}

/// Programs run with preemption or softirqs off: a thread that has run on a CPU has outwaited what
/// ran there.
fn visit_every_cpu() -> io::Result<()> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let cpus = cpu_list(online.trim())
        .ok_or_else(|| io::Error::other(format!("list of CPUs {online:?} cannot be read")))?;
    std::thread::Builder::new()
        .name("barrier".to_owned())
        .spawn(move || {
            for cpu in cpus {
                let mut set = CpuSet::new();
                set.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &set)?;
            }
            Ok::<(), nix::errno::Errno>(())
        })?
        .join()
        .map_err(|_| io::Error::other("the thread that visits the CPUs panicked"))?
        .map_err(io::Error::from)
}

/// `0-3,8` and the like.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

/// The table that a purge belongs to.
pub(super) const CONNTRACK: Table = Table::Conntrack;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(cpu_list(""), None);
        assert_eq!(cpu_list("0-x"), None);
    }

    #[test]
    fn every_cpu_can_be_visited() {
        visit_every_cpu().expect("this process may run on every CPU");
    }
}
