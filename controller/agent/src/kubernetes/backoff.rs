//! How long to wait before asking again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waits that double, each by chance up to half shorter or longer: a thousand nodes do not ask at once.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);

    /// What lasted so long worked.
    pub const WORKED: Duration = Duration::from_secs(5);

    /// It worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = Self::FIRST
            .saturating_mul(1 << self.tries.min(10))
            .min(Self::LONGEST);
        self.tries += 1;
        spread(wait)
    }
}

/// Any number.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Half to one and a half times as long.
fn spread(wait: Duration) -> Duration {
    let percent = u32::try_from(50 + chance() % 101).unwrap_or(100);
    wait * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        for tries in 0..20 {
            let middle = (Backoff::FIRST * (1 << tries.min(10))).min(Backoff::LONGEST);
            let wait = backoff.wait();
            assert!(
                wait >= middle / 2 && wait <= middle * 3 / 2,
                "{tries}: {wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= Backoff::FIRST * 3 / 2);
    }
}
