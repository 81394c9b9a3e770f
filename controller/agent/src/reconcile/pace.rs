//! How often flows that have ended are removed: as often as there is need of the room.

use std::time::Duration;

use oxilium_kernel::port::GarbageReport;

/// Before anything is known.
const FIRST: Duration = Duration::from_mins(1);
/// However many flows end.
const SHORTEST: Duration = Duration::from_secs(10);
/// However few: who asks how many flows there are is told of the last removal.
const LONGEST: Duration = Duration::from_mins(5);
/// A removal reads all flows: it gets this part of a CPU at most.
const CPU_SHARE: u32 = 20;

/// The time between two removals.
#[derive(Debug)]
pub(super) struct Pace {
    /// As the administrator says; none: by need.
    fixed: Option<Duration>,
    interval: Duration,
}

impl Pace {
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self {
            fixed,
            interval: fixed.unwrap_or(FIRST),
        }
    }

    /// Time to the next removal.
    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }

    /// A removal took so long, and this is what it did. As in Cilium's agent, the part of a table that had ended says
    /// whether it came too late (more than a quarter) or too early (less than a twentieth). A table that is all but full of
    /// the living comes next as soon as may be, for each that ends makes room that somebody waits for.
    pub(super) fn collected(&mut self, report: &GarbageReport, took: Duration) {
        if self.fixed.is_some() {
            return;
        }
        let interval = if report.left > 0 || report.fullest_percent >= 90 {
            SHORTEST
        } else if report.ended_percent > 25 {
            self.interval * (100 - report.ended_percent.min(90)) / 100
        } else if report.ended_percent < 5 {
            self.interval * 3 / 2
        } else {
            self.interval
        };
        self.interval = interval.clamp(SHORTEST, LONGEST).max(took * CPU_SHARE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pace: &mut Pace, ended_percent: u32, fullest_percent: u32) -> u64 {
        let report = GarbageReport {
            ended_percent,
            fullest_percent,
            ..GarbageReport::default()
        };
        pace.collected(&report, Duration::ZERO);
        pace.interval().as_secs()
    }

    #[test]
    fn the_more_had_ended_the_sooner_the_next() {
        let mut pace = Pace::new(None);
        assert_eq!(after(&mut pace, 10, 0), 60, "just in time");
        assert_eq!(after(&mut pace, 50, 0), 30);
        assert_eq!(after(&mut pace, 26, 0), 22);
        assert_eq!(after(&mut pace, 100, 0), 10, "no sooner than that");
    }

    #[test]
    fn where_little_ends_it_comes_less_often_up_to_a_bound() {
        let mut pace = Pace::new(None);
        let seen: Vec<u64> = (0..5).map(|_| after(&mut pace, 0, 10)).collect();
        assert_eq!(seen, [90, 135, 202, 300, 300]);
    }

    #[test]
    fn a_table_that_is_full_of_the_living_is_looked_at_as_often_as_may_be() {
        let mut pace = Pace::new(None);
        assert_eq!(after(&mut pace, 0, 90), 10);
        assert_eq!(after(&mut pace, 0, 89), 15);
    }

    #[test]
    fn what_the_budget_left_is_not_left_for_long() {
        let mut pace = Pace::new(None);
        let report = GarbageReport {
            left: 1,
            ..GarbageReport::default()
        };
        pace.collected(&report, Duration::ZERO);
        assert_eq!(pace.interval(), SHORTEST);
    }

    #[test]
    fn a_slow_removal_gets_a_twentieth_of_the_time() {
        let mut pace = Pace::new(None);
        let full = GarbageReport {
            fullest_percent: 100,
            ..GarbageReport::default()
        };
        pace.collected(&full, Duration::from_secs(20));
        assert_eq!(pace.interval(), Duration::from_secs(400));
    }

    #[test]
    fn what_the_administrator_says_holds() {
        let mut pace = Pace::new(Some(Duration::from_secs(7)));
        assert_eq!(after(&mut pace, 100, 100), 7);
    }
}
