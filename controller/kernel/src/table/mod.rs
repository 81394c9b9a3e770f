//! Typed tables over BPF maps. Every write goes through here and is counted.

mod batch;
mod per_cpu;
#[cfg(test)]
mod tests;

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use batch::BatchError;
pub use per_cpu::PerCpuTable;

use crate::count::{Action, Target, WriteCounter};
use crate::sys;

/// `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`.
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;
const EXIST: u64 = 2;

/// Something that is a map's key or value: plain bytes without padding.
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// A map whose keys or values are not of the size that its type has here.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel does not tell what the map is like.
    #[error("map {name}: {source}")]
    Info {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another size.
    #[error(
        "map {name} has {what} of {found} bytes where {expected} are expected: it belongs to another version"
    )]
    Size {
        /// Its name.
        name: &'static str,
        /// Keys or values.
        what: &'static str,
        /// What the kernel says.
        found: u32,
        /// What it should be.
        expected: usize,
    },
}

/// A BPF map as a table of `K` → `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    raw: RawTable,
    types: PhantomData<fn() -> (K, V)>,
}

/// The map under a table, by bytes.
#[derive(Debug)]
pub(crate) struct RawTable {
    fd: OwnedFd,
    name: &'static str,
    target: Target,
    counter: Arc<WriteCounter>,
    key_size: usize,
    /// Bytes of a value as the kernel hands it to user space: for per-CPU maps all CPUs together.
    value_size: usize,
    max_entries: u32,
    /// Batch commands are tried until the kernel says that this map has none.
    batch: AtomicBool,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// The table in the map that `fd` leads to. Writes count towards `target`.
    ///
    /// # Errors
    /// When the map's keys or values have another size than `K` and `V`.
    pub fn open(
        fd: OwnedFd,
        name: &'static str,
        target: Target,
        counter: Arc<WriteCounter>,
    ) -> Result<Self, OpenError> {
        let info = sys::map_info(fd.as_fd()).map_err(|source| OpenError::Info { name, source })?;
        check(name, "keys", info.key_size, size_of::<K>())?;
        check(name, "values", info.value_size, size_of::<V>())?;
        Ok(Self {
            raw: RawTable {
                fd,
                name,
                target,
                counter,
                key_size: size_of::<K>(),
                value_size: size_of::<V>(),
                max_entries: info.max_entries,
                batch: AtomicBool::new(true),
            },
            types: PhantomData,
        })
    }

    /// The map's name.
    pub const fn name(&self) -> &'static str {
        self.raw.name
    }

    /// Entries that it can hold.
    pub const fn capacity(&self) -> u32 {
        self.raw.max_entries
    }

    /// The map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.raw.fd.as_fd()
    }

    /// The value of `key`. For an LPM trie: of the longest prefix that covers it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut bytes = vec![0; self.raw.value_size];
        if !sys::map_lookup(self.fd(), key.as_bytes(), &mut bytes)? {
            return Ok(None);
        }
        V::read_from_bytes(&bytes)
            .map(Some)
            .map_err(|_| io::Error::other("a value is not of the size that was checked"))
    }

    /// Writes an entry, whether there is one of this key or not.
    ///
    /// # Errors
    /// What the kernel says; E2BIG or ENOSPC for a full map.
    pub fn update(&self, key: &K, value: &V) -> io::Result<()> {
        self.raw.update(key.as_bytes(), value.as_bytes(), ANY)
    }

    /// Writes an entry where there is none of this key.
    ///
    /// # Errors
    /// EEXIST if there is one; else as [`Table::update`].
    pub fn insert(&self, key: &K, value: &V) -> io::Result<()> {
        self.raw.update(key.as_bytes(), value.as_bytes(), NO_EXIST)
    }

    /// Writes an entry over one of the same key.
    ///
    /// # Errors
    /// ENOENT if there is none; else as [`Table::update`].
    pub fn replace(&self, key: &K, value: &V) -> io::Result<()> {
        self.raw.update(key.as_bytes(), value.as_bytes(), EXIST)
    }

    /// Deletes an entry; false when there was none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        self.raw.remove(key.as_bytes())
    }

    /// All entries. Those of a hash map that a program writes meanwhile may be missed or come twice.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_all(&self) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((key, value)))?;
        Ok(all)
    }

    /// Shows each entry, as [`Table::read_all`], without keeping them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn for_each(&self, mut see: impl FnMut(K, V)) -> io::Result<()> {
        self.raw.for_each(&mut |key, value| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                see(key, value);
            }
        })
    }

    /// Writes many entries, whether there are any of these keys or not.
    ///
    /// # Errors
    /// [`BatchError`] says how many of them, counted from the first, were written before it failed.
    pub fn update_all(&self, entries: &[(K, V)]) -> Result<(), BatchError> {
        let mut keys = Vec::with_capacity(entries.len() * self.raw.key_size);
        let mut values = Vec::with_capacity(entries.len() * self.raw.value_size);
        for (key, value) in entries {
            keys.extend_from_slice(key.as_bytes());
            values.extend_from_slice(value.as_bytes());
        }
        self.raw.update_all(&keys, &values)
    }

    /// Deletes many entries; those that are not there count as done. Returns how many there were.
    ///
    /// # Errors
    /// [`BatchError`] says how many of them, counted from the first, were done before it failed.
    pub fn remove_all(&self, keys: &[K]) -> Result<usize, BatchError> {
        let mut bytes = Vec::with_capacity(keys.len() * self.raw.key_size);
        for key in keys {
            bytes.extend_from_slice(key.as_bytes());
        }
        self.raw.remove_all(&bytes)
    }

    /// Uses one call an entry from now on, as on a kernel without batches.
    #[cfg(test)]
    pub(crate) fn without_batches(self) -> Self {
        self.raw.batch.store(false, Ordering::Relaxed);
        self
    }
}

impl RawTable {
    /// Any map, by what the kernel says of it. Not a per-CPU one.
    pub(crate) fn of(
        fd: OwnedFd,
        map: &sys::MapDescription,
        target: Target,
        counter: Arc<WriteCounter>,
    ) -> Self {
        Self {
            fd,
            name: "any",
            target,
            counter,
            key_size: map.key_size as usize,
            value_size: map.value_size as usize,
            max_entries: map.max_entries,
            batch: AtomicBool::new(true),
        }
    }

    /// Writes an entry where there is none of this key.
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.update(key, value, NO_EXIST)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        let result = sys::map_update(self.fd.as_fd(), key, value, flags);
        self.counter.result(self.target, Action::Update, result)
    }

    fn remove(&self, key: &[u8]) -> io::Result<bool> {
        match sys::map_delete(self.fd.as_fd(), key) {
            Ok(()) => {
                self.counter.add(self.target, Action::Delete, 1, true);
                Ok(true)
            }
            Err(error) => {
                self.counter.add(self.target, Action::Delete, 0, false);
                if error.raw_os_error() == Some(libc::ENOENT) {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn has_batches(&self) -> bool {
        self.batch.load(Ordering::Relaxed)
    }

    fn no_batches(&self) {
        self.batch.store(false, Ordering::Relaxed);
    }
}

fn check(
    name: &'static str,
    what: &'static str,
    found: u32,
    expected: usize,
) -> Result<(), OpenError> {
    if found as usize == expected {
        return Ok(());
    }
    Err(OpenError::Size {
        name,
        what,
        found,
        expected,
    })
}
