//! Waiting by condition.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// How often a condition is asked for. Only the resolution of the waiting, never a time that something is given.
const PERIOD: Duration = Duration::from_millis(10);

/// Enough for anything that a lab does on a loaded machine, also in an interpreted guest; what takes longer has failed.
pub const LONG: Duration = Duration::from_mins(1);

/// Asks `probe` until it gives a value.
///
/// # Errors
/// After `limit`, with `what` was waited for and the last error that `probe` gave.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let text = format!("{what}: not within {limit:?}");
            return Err(match last {
                Some(error) => error.context(text),
                None => anyhow!(text),
            });
        }
        thread::sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told_when_the_time_is_over() {
        let error = until::<()>("the moon", Duration::ZERO, || Err(anyhow!("clouds"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "the moon: not within 0ns: clouds");
    }

    #[test]
    fn a_value_ends_the_waiting() {
        let mut asked = 0;
        let value = until("three", LONG, || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(value.unwrap(), 3);
    }
}
