//! Many entries with one system call, and its traps: the count that comes back is what was done,
//! also when the call fails; a bucket of a hash map that does not fit into the buffer is ENOSPC; a
//! kernel may have no batches for a kind of map.

use std::io;
use std::os::fd::AsFd;

use thiserror::Error;

use super::{ANY, RawTable};
use crate::count::Action;
use crate::sys::{self, Batch, BatchRead};

/// Entries of one call. Bigger ones save little and hold the kernel longer.
const CHUNK: usize = 4096;
/// `ENOTSUPP`, which the kernel gives where a kind of map lacks batches and libc does not name.
const NOT_SUPPORTED: i32 = 524;

/// A batch that ended early.
#[derive(Debug, Error)]
#[error("{done} entries were done, then: {source}")]
pub struct BatchError {
    /// Entries, counted from the first, that were done.
    pub done: usize,
    /// What the kernel said.
    pub source: io::Error,
}

fn lacks_batches(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(NOT_SUPPORTED | libc::EOPNOTSUPP | libc::EINVAL)
    )
}

impl RawTable {
    pub(crate) fn for_each(&self, see: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        if self.has_batches() {
            if self.for_each_batch(see)? {
                return Ok(());
            }
            self.no_batches();
        }
        self.for_each_single(see)
    }

    /// False, with nothing shown, when the map has no batches.
    fn for_each_batch(&self, see: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<bool> {
        let mut room = CHUNK.min(self.max_entries as usize).max(1);
        let cursor = self.key_size.max(4);
        let mut from: Option<Vec<u8>> = None;
        let mut keys = vec![0; room * self.key_size];
        let mut values = vec![0; room * self.value_size];
        loop {
            let mut to = vec![0; cursor];
            let batch = sys::map_lookup_batch(
                self.fd.as_fd(),
                &mut BatchRead {
                    from: from.as_deref(),
                    to: &mut to,
                    keys: &mut keys,
                    values: &mut values,
                    room: u32::try_from(room).map_err(io::Error::other)?,
                },
            );
            let last = match batch.error {
                None => false,
                Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Some(error) if from.is_none() && lacks_batches(&error) => return Ok(false),
                Some(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // A bucket alone is bigger: nothing of it was given. All entries fit for sure.
                    if room >= self.max_entries as usize {
                        return Err(error);
                    }
                    room = (room * 4).min(self.max_entries as usize);
                    keys = vec![0; room * self.key_size];
                    values = vec![0; room * self.value_size];
                    continue;
                }
                Some(error) => return Err(error),
            };
            let done = batch.done as usize;
            for (key, value) in keys
                .chunks_exact(self.key_size)
                .zip(values.chunks_exact(self.value_size))
                .take(done)
            {
                see(key, value);
            }
            if last {
                return Ok(true);
            }
            from = Some(to);
        }
    }

    fn for_each_single(&self, see: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut value = vec![0; self.value_size];
        let mut next = vec![0; self.key_size];
        let mut key: Option<Vec<u8>> = None;
        // A key that goes while we stand on it sends the kernel back to the first one: a bound on
        // the steps keeps a busy map from holding us for ever.
        let mut steps = (self.max_entries as usize).saturating_mul(4).max(16);
        while sys::map_next_key(self.fd.as_fd(), key.as_deref(), &mut next)? {
            if sys::map_lookup(self.fd.as_fd(), &next, &mut value)? {
                see(&next, &value);
            }
            steps -= 1;
            if steps == 0 {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            key = Some(next.clone());
        }
        Ok(())
    }

    pub(crate) fn update_all(&self, keys: &[u8], values: &[u8]) -> Result<(), BatchError> {
        let total = keys.len() / self.key_size;
        let mut done = 0;
        while done < total {
            let fail = |done, source| Err(BatchError { done, source });
            if !self.has_batches() {
                let key = &keys[done * self.key_size..][..self.key_size];
                let value = &values[done * self.value_size..][..self.value_size];
                match self.update(key, value, ANY) {
                    Ok(()) => done += 1,
                    Err(source) => return fail(done, source),
                }
                continue;
            }
            let count = (total - done).min(CHUNK);
            let batch = sys::map_update_batch(
                self.fd.as_fd(),
                &keys[done * self.key_size..][..count * self.key_size],
                &values[done * self.value_size..][..count * self.value_size],
                u32::try_from(count).unwrap_or(u32::MAX),
            );
            done += self.counted(Action::Update, &batch, count);
            match batch.error {
                Some(error) if done == 0 && lacks_batches(&error) => self.no_batches(),
                Some(source) => return fail(done, source),
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn remove_all(&self, keys: &[u8]) -> Result<usize, BatchError> {
        let total = keys.len() / self.key_size;
        let (mut done, mut found) = (0, 0);
        while done < total {
            let rest = &keys[done * self.key_size..];
            if !self.has_batches() {
                match self.remove(&rest[..self.key_size]) {
                    Ok(was_there) => found += usize::from(was_there),
                    Err(source) => return Err(BatchError { done, source }),
                }
                done += 1;
                continue;
            }
            let count = (total - done).min(CHUNK);
            let batch = sys::map_delete_batch(
                self.fd.as_fd(),
                &rest[..count * self.key_size],
                u32::try_from(count).unwrap_or(u32::MAX),
            );
            let deleted = self.counted(Action::Delete, &batch, count);
            done += deleted;
            found += deleted;
            match batch.error {
                // The batch stopped at one that is not there: it counts as done, the next are tried.
                Some(error) if error.raw_os_error() == Some(libc::ENOENT) => done += 1,
                Some(error) if done == 0 && lacks_batches(&error) => self.no_batches(),
                Some(source) => return Err(BatchError { done, source }),
                None => {}
            }
        }
        Ok(found)
    }

    /// Counts a batch call. A map that lacks batches refuses before it looks at the count, which then
    /// stands as it was given.
    fn counted(&self, action: Action, batch: &Batch, asked: usize) -> usize {
        let refused =
            batch.error.as_ref().is_some_and(lacks_batches) && batch.done as usize == asked;
        let done = if refused { 0 } else { batch.done as usize };
        self.counter
            .add(self.target, action, done as u64, batch.error.is_none());
        done
    }
}
