//! Repairs that somebody undoes, again and again: told, by name, for as long as it goes on, and made less and less often,
//! so that two programs which both want a place do not wear the node out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use oxilium_api::FailingObject;
use oxilium_model::node_state::AttachPoint;
use oxilium_model::plan::Table;

/// So many repairs of one thing are nothing but repairs.
const PATIENCE: u32 = 3;
/// The first wait after them; it doubles.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: for so long, and the time to find it, a hook may be without its program.
const LONGEST: Duration = Duration::from_secs(5);
/// A thing that stayed put right for so long is not fought over any more.
const PEACE: Duration = Duration::from_secs(30);

/// What is fought over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ground {
    /// A hook.
    Hook(AttachPoint),
    /// Entries of a table.
    Table(Table),
    /// A pin, or the place of all of them.
    Pin(PathBuf),
}

#[derive(Clone, Debug)]
struct Fight {
    rounds: u32,
    since: SystemTime,
    over: Instant,
}

/// All that was put right of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Fights(BTreeMap<Ground, Fight>);

impl Fights {
    /// This was found other than it was left. How long its repair must wait: not at all the first times.
    pub(super) fn undone(&mut self, ground: Ground, now: Instant) -> Duration {
        self.forget(now);
        let fight = self.0.entry(ground).or_insert_with(|| Fight {
            rounds: 0,
            since: SystemTime::now(),
            over: now,
        });
        fight.rounds += 1;
        let wait = match fight.rounds.checked_sub(PATIENCE + 1) {
            None => Duration::ZERO,
            Some(more) => FIRST.saturating_mul(1 << more.min(16)).min(LONGEST),
        };
        fight.over = now + wait + PEACE;
        wait
    }

    /// Ends those that nobody fought for a while.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, fight| fight.over > now);
    }

    /// When the next one may be over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|fight| fight.over).min()
    }

    /// For people; `device` says whose interface one is, by its number.
    pub(super) fn report(&self, device: impl Fn(u32) -> String) -> Vec<FailingObject> {
        let fights = self.0.iter().filter(|(_, fight)| fight.rounds > PATIENCE);
        fights
            .map(|(ground, fight)| {
                let (object, advice) = match ground {
                    Ground::Hook(point) => (
                        format!("a fight over {} on {}", point.hook, device(point.ifindex)),
                        "find who changes it: `bpftool net show`, `tc monitor`",
                    ),
                    Ground::Table(table) => (
                        format!("a fight over the table `{table}`"),
                        "find who writes to it: `bpftool map show`, and what has it open",
                    ),
                    Ground::Pin(path) => (
                        format!("a fight over the pin {}", path.display()),
                        "find who removes it, or unmounts the file system that it is in",
                    ),
                };
                let since = oxilium_api::rfc3339(fight.since);
                let rounds = fight.rounds;
                FailingObject {
                    object,
                    reason: format!(
                        "somebody else undoes what the agent repairs, {rounds} times since {since}; {advice}"
                    ),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::failures::by_number;
    use super::*;

    const GROUND: Ground = Ground::Table(Table::Ipcache);

    #[test]
    fn repairs_that_are_undone_come_less_and_less_often() {
        let now = Instant::now();
        let mut fights = Fights::default();
        let waits: Vec<u128> = (0..12)
            .map(|_| fights.undone(GROUND, now).as_millis())
            .collect();
        assert_eq!(
            waits,
            [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
        );
    }

    #[test]
    fn a_fight_is_told_of_until_there_was_peace_for_a_while() {
        let now = Instant::now();
        let mut fights = Fights::default();
        for _ in 0..PATIENCE {
            fights.undone(GROUND, now);
        }
        assert_eq!(fights.report(by_number), [], "repairs");
        fights.undone(GROUND, now);
        let [told] = &fights.report(by_number)[..] else {
            panic!("{:?}", fights.report(by_number));
        };
        assert!(told.object.contains("ipcache"), "{told:?}");
        assert!(told.reason.contains("4 times"), "{told:?}");
        let end = fights.next().unwrap();
        fights.forget(now + PEACE);
        assert_eq!(fights.report(by_number).len(), 1);
        fights.forget(end);
        assert_eq!(fights.report(by_number), []);
        assert_eq!(fights.undone(GROUND, end), Duration::ZERO, "a new one");
    }
}
