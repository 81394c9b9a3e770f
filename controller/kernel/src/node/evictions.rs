//! How many flows the kernel has evicted for want of room. It tells nobody; but what came in, was not taken out and is not
//! there must have been evicted (or removed by somebody else).

use std::collections::BTreeMap;

use oxilium_abi::{Counter, Direction};

/// What programs have counted at the doors of a table, of both families, since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Doors {
    came: u64,
    left: u64,
}

impl Doors {
    /// `counter`: as [`oxilium_abi::COUNTER_CT_ANSWERED`].
    pub(super) fn of(counters: &BTreeMap<(Direction, u8), Counter>, counter: u8) -> Self {
        let packets = |direction| {
            counters
                .get(&(direction, counter))
                .map_or(0, |counter| counter.packets)
        };
        Self {
            came: packets(Direction::Ingress),
            left: packets(Direction::Egress),
        }
    }
}

/// What a look through a table saw and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The doors before and after so many living entries were counted; none if they could not be.
    pub round: Option<(Doors, usize, Doors)>,
    /// Entries that this process then took out.
    pub taken: usize,
}

/// The tables of which evictions are counted.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Answered flows.
    pub flows: Evictions,
    /// Choices of a backend for answered flows.
    pub choices: Evictions,
    /// Choices of a backend for the latest flows.
    pub latest_choices: Evictions,
}

/// The count since the first round.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    /// Flows that this process took out of the table.
    taken: u64,
    /// Flows that were missing before the first round: more than were, rather than fewer.
    missing_at_first: Option<u64>,
    evicted: u64,
}

impl Evictions {
    /// This process took flows out of the table.
    pub(super) fn took(&mut self, flows: usize) {
        self.taken += flows as u64;
    }

    /// As [`Evictions::round`] and then [`Evictions::took`].
    pub(super) fn saw(&mut self, seen: Seen) {
        if let Some((before, living, after)) = seen.round {
            self.round(before, living, after);
        }
        self.took(seen.taken);
    }

    /// A round: the doors before and after the `living` flows were counted. Flows come and go meanwhile, so what is
    /// counted is what is missing at least.
    pub(super) fn round(&mut self, before: Doors, living: usize, after: Doors) {
        let living = living as u64;
        let at_least = before.came.saturating_sub(living + after.left + self.taken);
        let at_most = after.came.saturating_sub(living + before.left + self.taken);
        let at_first = *self.missing_at_first.get_or_insert(at_most);
        self.evicted = self.evicted.max(at_least.saturating_sub(at_first));
    }

    /// Flows that were evicted since the first round, as of the last.
    pub(super) const fn count(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn doors(came: u64, left: u64) -> Doors {
        Doors { came, left }
    }

    /// As [`Evictions::round`] on a table at rest.
    fn at_rest(evictions: &mut Evictions, came: u64, left: u64, living: usize) -> u64 {
        evictions.round(doors(came, left), living, doors(came, left));
        evictions.count()
    }

    #[test]
    fn what_came_and_is_nowhere_was_evicted() {
        let mut evictions = Evictions::default();
        assert_eq!(at_rest(&mut evictions, 0, 0, 0), 0);
        assert_eq!(at_rest(&mut evictions, 100, 10, 90), 0);
        assert_eq!(at_rest(&mut evictions, 200, 10, 150), 40);
    }

    #[test]
    fn what_this_process_expires_is_no_eviction() {
        let mut evictions = Evictions::default();
        at_rest(&mut evictions, 0, 0, 0);
        evictions.took(30);
        assert_eq!(at_rest(&mut evictions, 100, 0, 70), 0);
    }

    #[test]
    fn what_was_missing_before_the_first_round_is_not_counted() {
        let mut evictions = Evictions::default();
        assert_eq!(at_rest(&mut evictions, 1000, 0, 400), 0);
        assert_eq!(at_rest(&mut evictions, 1005, 0, 400), 5);
    }

    #[test]
    fn flows_that_come_and_go_during_a_round_are_no_evictions() {
        let mut evictions = Evictions::default();
        at_rest(&mut evictions, 0, 0, 0);
        // 50 came after `before` was read, and 20 of all were taken out by programs before they were counted.
        evictions.round(doors(100, 0), 130, doors(150, 20));
        assert_eq!(evictions.count(), 0);
        assert_eq!(at_rest(&mut evictions, 150, 20, 130), 0);
    }

    #[test]
    fn the_count_never_falls() {
        let mut evictions = Evictions::default();
        at_rest(&mut evictions, 0, 0, 0);
        assert_eq!(at_rest(&mut evictions, 10, 0, 5), 5);
        // Somebody restored flows by hand.
        assert_eq!(at_rest(&mut evictions, 10, 0, 9), 5);
    }
}
