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
