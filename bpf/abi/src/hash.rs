//! Mixing of words, for tags and fingerprints.

/// One round of mixing, by the odd constant of the golden ratio. Not secret, not free of collisions.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ (hash >> 32)
}
