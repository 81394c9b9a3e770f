//! Tables with a value for each CPU. Programs write them; what they counted is read, and forgotten.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{OpenError, Plain, RawTable, check};
use crate::count::{Target, WriteCounter};
use crate::sys;

/// A per-CPU map as a table of `K` → one `V` for each possible CPU.
#[derive(Debug)]
pub struct PerCpuTable<K, V> {
    raw: RawTable,
    /// Bytes from one CPU's value to the next.
    stride: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> PerCpuTable<K, V> {
    /// The table in the map that `fd` leads to. Writes count towards `target`.
    ///
    /// # Errors
    /// When the map's keys or values have another size than `K` and `V`, or the CPUs cannot be counted.
    pub fn open(
        fd: OwnedFd,
        name: &'static str,
        target: Target,
        counter: Arc<WriteCounter>,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Info { name, source };
        let info = sys::map_info(fd.as_fd()).map_err(failed)?;
        check(name, "keys", info.key_size, size_of::<K>())?;
        check(name, "values", info.value_size, size_of::<V>())?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| failed(source))?;
        let stride = size_of::<V>().next_multiple_of(8);
        Ok(Self {
            raw: RawTable {
                fd,
                name,
                target,
                counter,
                key_size: size_of::<K>(),
                value_size: stride * cpus,
                max_entries: info.max_entries,
                batch: AtomicBool::new(true),
            },
            stride,
            types: PhantomData,
        })
    }

    /// The map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.raw.fd.as_fd()
    }

    /// The map's name.
    pub const fn name(&self) -> &'static str {
        self.raw.name
    }

    /// Deletes many entries; those that are not there count as done.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_all(&self, keys: &[K]) -> io::Result<usize> {
        let bytes: Vec<u8> = keys
            .iter()
            .flat_map(zerocopy::IntoBytes::as_bytes)
            .copied()
            .collect();
        self.raw.remove_all(&bytes).map_err(|error| error.source)
    }

    /// Shows each key with the values of all CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn for_each(&self, mut see: impl FnMut(K, &[V])) -> io::Result<()> {
        let mut values = Vec::new();
        self.raw.for_each(&mut |key, bytes| {
            let Ok(key) = K::read_from_bytes(key) else {
                return;
            };
            values.clear();
            values.extend(
                bytes
                    .chunks_exact(self.stride)
                    .filter_map(|cpu| V::read_from_prefix(cpu).ok())
                    .map(|(value, _)| value),
            );
            see(key, &values);
        })
    }
}
