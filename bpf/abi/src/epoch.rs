//! Epochs: when a recorded verdict is still good.
//!
//! One counter for the node, of 40 bits, only ever growing, never derived from content. A *writer*
//! (one plan at a time, plan number n) writes all entries, then the endpoint words and the ipcache
//! word that are concerned with n in them, then the node word G = n. A *program* reads G first, then
//! the two words, and trusts a recorded verdict whose stamp is not below either; what it evaluates
//! anew it stamps with the G that it read first. So a stamp never claims more than was looked up.
//!
//! The array values here are exactly 8 bytes: an array update longer than that can be seen half done.
//!
//! # Order of memory
//!
//! "First" and "then" are about what each CPU sees. x86-64 keeps loads in order and stores in order. Elsewhere (arm64)
//! programs put a barrier after G, after the words, and before the word that closes an evaluation: an atomic addition of
//! nothing that returns the old value, which is fully ordered on every kernel; the loader says where it is needed
//! (`WEAK_ORDER`). The writer has a fence before each write.
//!
//! # Banks
//!
//! An ipcache value and an endpoint's words exist in two banks; the ipcache word says which one
//! programs read. Outside a plan both hold the same. A plan that changes identities of addresses and
//! the policy of endpoints at once fills the bank that is not read, switches with one write of the
//! ipcache word, and then brings the other bank level: no packet meets old policy with new
//! identities, or the reverse.

/// Width of an epoch.
pub const EPOCH_BITS: u32 = 40;
/// The last epoch. At a thousand plans a second it is reached after 34 years.
pub const EPOCH_MAX: u64 = (1 << EPOCH_BITS) - 1;

/// A point in the node's sequence of plans. Zero is before every plan: a word of epoch zero makes
/// no recorded verdict stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Before every plan.
    pub const ZERO: Self = Self(0);

    /// The epoch of this number; bits above [`EPOCH_BITS`] are cut off.
    #[inline(always)]
    pub const fn new(number: u64) -> Self {
        Self(number & EPOCH_MAX)
    }

    /// The number, at most [`EPOCH_MAX`].
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next one; none after [`EPOCH_MAX`].
    pub const fn next(self) -> Option<Self> {
        if self.0 < EPOCH_MAX {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }
}

/// An endpoint's word: its policy table (24 bits, high) and the epoch of its last change (40 bits).
///
/// Table 0 is no table: nothing is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EndpointWord(pub u64);

impl EndpointWord {
    /// Packs table (low 24 bits are used) and epoch.
    #[inline(always)]
    pub const fn new(table: u32, epoch: Epoch) -> Self {
        Self(((table as u64 & 0x00FF_FFFF) << EPOCH_BITS) | epoch.get())
    }

    /// The policy table.
    #[inline(always)]
    pub const fn table(self) -> u32 {
        (self.0 >> EPOCH_BITS) as u32
    }

    /// When the table's id or content last changed.
    #[inline(always)]
    pub const fn epoch(self) -> Epoch {
        Epoch::new(self.0)
    }
}

/// Index of an endpoint's word of `bank` (0 or 1) in the array.
#[inline(always)]
pub const fn endpoint_word_index(endpoint: u16, bank: u32) -> u32 {
    ((endpoint as u32) << 1) | (bank & 1)
}

/// The ipcache word: the epoch of the last change of an address's identity, and the bank in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct IpcacheWord(pub u64);

impl IpcacheWord {
    const BANK: u32 = EPOCH_BITS;

    /// Packs bank (0 or 1) and epoch.
    #[inline(always)]
    pub const fn new(bank: u32, epoch: Epoch) -> Self {
        Self(((bank as u64 & 1) << Self::BANK) | epoch.get())
    }

    /// The bank that programs read, of the ipcache and of the endpoint words.
    #[inline(always)]
    pub const fn bank(self) -> u32 {
        (self.0 >> Self::BANK) as u32 & 1
    }

    /// When an address last changed its identity.
    #[inline(always)]
    pub const fn epoch(self) -> Epoch {
        Epoch::new(self.0)
    }
}

/// Slots of the node words' array; each value is a u64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum NodeWord {
    /// G: the number of the last plan that was written whole. Programs read it before all else.
    Published = 0,
    /// An [`IpcacheWord`].
    Ipcache = 1,
    /// The highest epoch that was ever taken; a plan's first write. Where it is G, no plan is under way.
    HighWater = 2,
    /// Seed of the tag in conntrack words; random, made once for a set of pinned maps.
    CtSeed = 3,
    /// How many readers the event ring has; with none, programs make no event.
    EventReaders = 4,
    /// Not 0 while there is any frontend, or a flow that was sent to one may still live.
    Services = 5,
}

/// Length of the node words' array; slots without a [`NodeWord`] are zero and kept for later.
pub const NODE_WORDS: u32 = 8;
