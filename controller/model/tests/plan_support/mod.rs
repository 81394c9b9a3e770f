//! A kernel in memory, packets judged in it, and plans applied to it one write at a time.

#![allow(
    dead_code,
    reason = "each test uses its part, so that no expectation holds for all"
)]

pub(crate) mod kernel;
pub(crate) mod states;
pub(crate) mod watch;

use proptest::prelude::*;

/// As many cases as PROPTEST_CASES says, or `cases`.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}
