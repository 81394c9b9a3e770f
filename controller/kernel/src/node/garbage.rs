//! Entries whose life has ended: those of conntrack, and choices of backends.

use std::collections::BTreeMap;

use oxilium_abi::{
    COUNTER_CHOICE_ANSWERED, COUNTER_CHOICE_LATEST, COUNTER_CT_ANSWERED, CtEntry, FragmentEntry,
    ServiceFlow, map,
};

use super::KernelNode;
use super::apply::CONNTRACK;
use super::conntrack::{each, now};
use super::evictions::{Doors, Seen};
use crate::error::{ApplyError, ObserveError};
use crate::port::{GarbageReport, Occupancy};
use crate::table::{Plain, Table};

/// A value that says when its life ends.
trait Mortal: Plain {
    fn expires(&self) -> u32;
}

macro_rules! mortal {
    ($($value:ty),+) => { $(impl Mortal for $value {
        fn expires(&self) -> u32 {
            self.expires
        }
    })+ };
}

mortal!(CtEntry, FragmentEntry, ServiceFlow);

impl KernelNode {
    pub(super) fn garbage(&mut self, budget: usize) -> Result<GarbageReport, ApplyError> {
        let now = now().map_err(|source| ObserveError::Map {
            map: map::CT4,
            source,
        })?;
        let ([answered4, others4 @ ..], [answered6, others6 @ ..]) =
            (&self.tables.ct4, &self.tables.ct6);
        let mut flows = Round::new(now, budget);
        let (seen, done) = self.watched((answered4, answered6), COUNTER_CT_ANSWERED, &mut flows);
        self.evictions.flows.saw(seen);
        done?;
        for table in others4 {
            flows.expire(table)?;
        }
        for table in others6 {
            flows.expire(table)?;
        }
        flows.expire(&self.tables.fragments4)?;
        flows.expire(&self.tables.fragments6)?;

        let ([answered4, latest4], [answered6, latest6]) =
            (&self.tables.choices4, &self.tables.choices6);
        let mut choices = Round::new(now, budget.saturating_sub(flows.report.deleted));
        let (seen, done) = self.watched(
            (answered4, answered6),
            COUNTER_CHOICE_ANSWERED,
            &mut choices,
        );
        self.evictions.choices.saw(seen);
        done?;
        let (seen, done) = self.watched((latest4, latest6), COUNTER_CHOICE_LATEST, &mut choices);
        self.evictions.latest_choices.saw(seen);
        done?;
        let left = flows.left.iter().chain(&choices.left);
        self.flow_tables.extend(left);
        Ok(flows.and_choices(&choices))
    }

    /// Expires what is in the two families' tables, of which the programs count what comes and what they take out. What
    /// was seen is told also where it fails.
    fn watched<K4: Plain, K6: Plain, V: Mortal>(
        &self,
        (table4, table6): (&Table<K4, V>, &Table<K6, V>),
        counter: u8,
        round: &mut Round,
    ) -> (Seen, Result<(), ApplyError>) {
        let (scanned, deleted) = (round.report.scanned, round.report.deleted);
        let doors = || Ok(Doors::of(&self.read_counters()?, counter));
        let both = doors().and_then(|before| {
            round.expire(table4)?;
            round.expire(table6)?;
            Ok(before)
        });
        let mut seen = Seen {
            taken: round.report.deleted - deleted,
            ..Seen::default()
        };
        let living = round.report.scanned - scanned;
        let done = both.and_then(|before| {
            seen.round = Some((before, living, doors()?));
            Ok(())
        });
        (seen, done)
    }
}

/// One look through all tables.
struct Round {
    /// Seconds of the monotonic clock.
    now: u32,
    /// Entries that may be deleted.
    budget: usize,
    report: GarbageReport,
    /// What was left in each table.
    left: BTreeMap<&'static str, Occupancy>,
}

impl Round {
    fn new(now: u32, budget: usize) -> Self {
        Self {
            now,
            budget,
            report: GarbageReport::default(),
            left: BTreeMap::new(),
        }
    }

    /// Deletes one by one, each after another look: a packet may have renewed the entry since it was
    /// listed, and the moment left in which it could be lost is that between two system calls.
    fn expire<K: Plain, V: Mortal>(&mut self, table: &Table<K, V>) -> Result<(), ApplyError> {
        let report = &mut self.report;
        let deleted = report.deleted;
        let mut expired = Vec::new();
        let mut living = 0;
        each(table, |key, value: V| {
            report.scanned += 1;
            if value.expires() < self.now {
                expired.push(key);
            } else {
                living += 1;
            }
        })?;
        let room = table.capacity() as usize;
        report.ended_percent = report.ended_percent.max(percent(expired.len(), room));
        report.fullest_percent = report.fullest_percent.max(percent(living, room));
        let failed = |error| ApplyError::of(CONNTRACK, || table.name().to_owned(), error);
        let found = expired.len() + living;
        for key in expired {
            if report.deleted >= self.budget {
                report.left += 1;
                continue;
            }
            if table
                .get(&key)
                .map_err(failed)?
                .is_some_and(|value| value.expires() < self.now)
                && table.remove(&key).map_err(failed)?
            {
                report.deleted += 1;
            }
        }
        let left = Occupancy {
            entries: found - (report.deleted - deleted),
            capacity: room,
        };
        self.left.insert(table.name(), left);
        Ok(())
    }

    /// The report on conntrack, with what makes a look at choices due counted in.
    fn and_choices(&self, choices: &Self) -> GarbageReport {
        let (flows, choices) = (self.report, choices.report);
        GarbageReport {
            left: flows.left + choices.left,
            ended_percent: flows.ended_percent.max(choices.ended_percent),
            fullest_percent: flows.fullest_percent.max(choices.fullest_percent),
            ..flows
        }
    }
}

fn percent(part: usize, of: usize) -> u32 {
    u32::try_from(part * 100 / of.max(1)).unwrap_or(100)
}
