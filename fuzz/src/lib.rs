//! What is fuzzed, and what must hold of every input. A target panics where it does not.
//!
//! Each target takes bytes. `make fuzz` runs them under libFuzzer, which writes an input that breaks a target into
//! `regressions/TARGET/`; `cargo test` replays everything there and in `seeds/TARGET/`, and so keeps what was found.

pub mod cni;
pub mod documents;
pub mod generate;
pub mod naive;
pub mod packets;
pub mod policies;
pub mod restore;
pub mod tables;

/// A target's name, as its files, its directories and `make fuzz` spell it, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("cni", cni::run),
    ("documents", documents::run),
    ("packets", packets::run),
    ("policies", policies::run),
    ("restore", restore::run),
];
