//! Maps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::attr;
use super::{Command, bpf, bpf_fd};

/// What the kernel says of a map, and what a map is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapDescription {
    /// Kernel's id; 0 for one that is to be made.
    pub id: u32,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries, or bytes of a ring.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// Its name.
    pub name: String,
}

/// Type information of a map's keys and values: BTF and the ids in it.
pub(crate) struct MapTypes<'a> {
    pub btf: BorrowedFd<'a>,
    pub key: u32,
    pub value: u32,
}

#[expect(
    clippy::cast_sign_loss,
    reason = "an open descriptor is never negative"
)]
pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

pub(super) fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>().addr() as u64
}

pub(super) fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    // Exposed on purpose: the kernel writes through it.
    std::ptr::from_mut(value).cast::<u8>().expose_provenance() as u64
}

/// A name as the kernel takes it: at most 15 bytes and a zero.
pub(super) fn name_field(name: &str) -> [u8; 16] {
    let mut field = [0; 16];
    let length = name.len().min(15);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    field
}

pub(super) fn name_of(field: &[u8; 16]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Makes a map.
pub(crate) fn map_create(
    description: &MapDescription,
    types: Option<&MapTypes<'_>>,
) -> io::Result<OwnedFd> {
    let mut attribute = attr::MapCreate {
        map_type: description.map_type,
        key_size: description.key_size,
        value_size: description.value_size,
        max_entries: description.max_entries,
        map_flags: description.flags,
        map_name: name_field(&description.name),
        ..Default::default()
    };
    if let Some(types) = types {
        attribute.btf_fd = raw(types.btf);
        attribute.btf_key_type_id = types.key;
        attribute.btf_value_type_id = types.value;
    }
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::MapCreate, &mut attribute) }
}

/// Where the types of a map's keys and values are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapTypeIds {
    /// The BTF object.
    pub btf: u32,
    /// In it.
    pub key: u32,
    /// In it.
    pub value: u32,
}

fn info_of(fd: BorrowedFd<'_>) -> io::Result<attr::MapInfo> {
    let mut info = attr::MapInfo::default();
    let mut attribute = attr::ObjectInfo {
        bpf_fd: raw(fd),
        info_len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: address_mut(&mut info),
    };
    // SAFETY: `info` outlives the call and is as long as `info_len` says; it is plain integers.
    unsafe { bpf(Command::ObjInfo, &mut attribute)? };
    Ok(info)
}

/// Where the kernel has the types of a map's keys and values; none where it was made without.
pub(crate) fn map_type_ids(fd: BorrowedFd<'_>) -> io::Result<Option<MapTypeIds>> {
    let info = info_of(fd)?;
    Ok((info.btf_id != 0).then_some(MapTypeIds {
        btf: info.btf_id,
        key: info.btf_key_type_id,
        value: info.btf_value_type_id,
    }))
}

/// Reads what the kernel says of a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapDescription> {
    let info = info_of(fd)?;
    Ok(MapDescription {
        id: info.id,
        map_type: info.map_type,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
        name: name_of(&info.name),
    })
}

/// Makes a map unwritable from user space.
pub(crate) fn map_freeze(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = attr::MapElement {
        map_fd: raw(fd),
        ..Default::default()
    };
    // Freeze takes the descriptor alone and refuses longer attributes whose rest is not zero: it is zero.
    // SAFETY: the attribute holds no address.
    unsafe { bpf(Command::MapFreeze, &mut attribute)? };
    Ok(())
}

/// Reads the value of `key` into `value`; false when there is none.
///
/// Both slices must have the sizes that the map has: checked against `info` by whoever opens it.
pub(crate) fn map_lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attribute = attr::MapElement {
        map_fd: raw(fd),
        key: address(key),
        value: address_mut(value),
        ..Default::default()
    };
    // SAFETY: the kernel reads key_size bytes and writes value_size bytes (for per-CPU maps, 8-aligned
    // for each possible CPU). `Table` and `PerCpuTable`, the only callers, compare these with the
    // slices' lengths when they open the map.
    match unsafe { bpf(Command::MapLookup, &mut attribute) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an entry.
pub(crate) fn map_update(
    fd: BorrowedFd<'_>,
    key: &[u8],
    value: &[u8],
    flags: u64,
) -> io::Result<()> {
    let mut attribute = attr::MapElement {
        map_fd: raw(fd),
        key: address(key),
        value: address(value),
        flags,
        ..Default::default()
    };
    // SAFETY: as for `map_lookup`; the kernel only reads.
    unsafe { bpf(Command::MapUpdate, &mut attribute)? };
    Ok(())
}

/// Deletes an entry; ENOENT if there is none.
pub(crate) fn map_delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attribute = attr::MapElement {
        map_fd: raw(fd),
        key: address(key),
        ..Default::default()
    };
    // SAFETY: as for `map_lookup`; the kernel only reads.
    unsafe { bpf(Command::MapDelete, &mut attribute)? };
    Ok(())
}

/// Writes the key after `key` (the first one for none) into `next`; false when there is none.
pub(crate) fn map_next_key(
    fd: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attribute = attr::MapElement {
        map_fd: raw(fd),
        key: key.map_or(0, address),
        value: address_mut(next),
        ..Default::default()
    };
    // SAFETY: as for `map_lookup`, with key_size bytes on both sides.
    match unsafe { bpf(Command::MapNextKey, &mut attribute) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a batch call went: entries that were done, and the error that ended it.
#[derive(Debug)]
pub(crate) struct Batch {
    pub done: u32,
    pub error: Option<io::Error>,
}

/// Buffers of a batch lookup.
pub(crate) struct BatchRead<'a> {
    /// Where the last call ended; none to begin.
    pub from: Option<&'a [u8]>,
    /// Where this call ends; as long as a key, and 4 bytes at least.
    pub to: &'a mut [u8],
    /// Room for keys.
    pub keys: &'a mut [u8],
    /// Room for values.
    pub values: &'a mut [u8],
    /// Entries for which there is room.
    pub room: u32,
}

/// Reads the next entries. ENOENT with a count means that these were the last.
pub(crate) fn map_lookup_batch(fd: BorrowedFd<'_>, read: &mut BatchRead<'_>) -> Batch {
    let mut attribute = attr::MapBatch {
        in_batch: read.from.map_or(0, address),
        out_batch: address_mut(read.to),
        keys: address_mut(read.keys),
        values: address_mut(read.values),
        count: read.room,
        map_fd: raw(fd),
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `room` keys and values; `Table`, the only caller, makes both
    // buffers of `room` times the map's own sizes, and `from` and `to` as long as a key and at least
    // the 4 bytes that hash maps use there.
    let result = unsafe { bpf(Command::MapLookupBatch, &mut attribute) };
    finish(attribute.count, result)
}

/// Writes entries. `attr.flags` is ignored by the kernel and no element flag but `BPF_F_LOCK` is taken:
/// a batch cannot say "only new ones".
pub(crate) fn map_update_batch(
    fd: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> Batch {
    let mut attribute = attr::MapBatch {
        keys: address(keys),
        values: address(values),
        count,
        map_fd: raw(fd),
        ..Default::default()
    };
    // SAFETY: the kernel reads `count` keys and values; the slices hold that many (`Table` builds them
    // from arrays of equal length).
    let result = unsafe { bpf(Command::MapUpdateBatch, &mut attribute) };
    finish(attribute.count, result)
}

/// Deletes entries; stops at the first that is not there.
pub(crate) fn map_delete_batch(fd: BorrowedFd<'_>, keys: &[u8], count: u32) -> Batch {
    let mut attribute = attr::MapBatch {
        keys: address(keys),
        count,
        map_fd: raw(fd),
        ..Default::default()
    };
    // SAFETY: as for `map_update_batch`.
    let result = unsafe { bpf(Command::MapDeleteBatch, &mut attribute) };
    finish(attribute.count, result)
}

/// The kernel writes the count of what it did back, also when it fails half way; on EFAULT it says
/// nothing and the count stands as it was given.
fn finish(count: u32, result: io::Result<i32>) -> Batch {
    match result {
        Ok(_) => Batch {
            done: count,
            error: None,
        },
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Batch {
            done: 0,
            error: Some(error),
        },
        Err(error) => Batch {
            done: count,
            error: Some(error),
        },
    }
}
