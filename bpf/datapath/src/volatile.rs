//! Loads and stores that happen once, where they are written.

/// Reads a word that another CPU may write meanwhile.
#[inline(always)]
#[expect(unsafe_code, reason = "a load that must not be repeated or moved")]
pub(crate) fn read(word: &u64) -> u64 {
    // SAFETY: a reference is valid, aligned and initialised; every value of a u64 is one.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// Writes a word that another CPU may read meanwhile, by one store.
#[inline(always)]
#[expect(unsafe_code, reason = "a store that must not be split or repeated")]
pub(crate) fn write(word: &mut u64, value: u64) {
    // SAFETY: a reference is valid and aligned; a u64 has nothing to drop.
    unsafe { core::ptr::from_mut(word).write_volatile(value) }
}

/// Values whose bytes may all be zero.
///
/// # Safety
///
/// All bytes zero are a valid value, and the size is a multiple of 8, as is the alignment.
#[expect(unsafe_code, reason = "only the type's author knows")]
pub(crate) unsafe trait Zeroed {}

/// Sets all bytes to zero, eight at a time: BPF has no memset but one that goes byte by byte.
#[inline(always)]
#[expect(unsafe_code, reason = "as words, whatever the type")]
pub(crate) fn zero<T: Zeroed>(value: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
    let words = core::ptr::from_mut(value).cast::<u64>();
    for index in 0..size_of::<T>() / 8 {
        // SAFETY: within the value, aligned, and zeros are valid, as the trait promises.
        unsafe { words.add(index).write_volatile(0) };
    }
}
