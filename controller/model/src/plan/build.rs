//! Puts the writes of a plan in their order:
//!
//! 1. The plan's number is taken, so that a plan that is cut off is known for one.
//! 2. Interfaces of devices that are gone: their index may serve another.
//! 3. Services that are new, and backends that are new in one.
//! 4. Policy entries that are added or raised, and tables that are built beside those in use.
//! 5. The identities of addresses; in the bank that is not read if endpoints change their table as well.
//! 6. Policy entries that are taken away or lowered.
//! 7. Endpoint words and the ipcache word, with the plan's number: recorded verdicts are stale.
//! 8. New interfaces, born with the plan's number.
//! 9. The number is published: what is evaluated from now on is good.
//! 10. Programs: a new endpoint is complete before the first packet meets one.
//!     Many at once are staged, see [`Write::Attach`].
//! 11. The bank that is not read any more, flows of endpoints that are gone, tables that nobody
//!     uses, services and backends that are gone.
//! 12. Staged programs settle: nothing waits for that.

use std::collections::BTreeSet;

use ipnet::IpNet;
use oxilium_abi::{EndpointWord, Epoch, IpcacheKey, IpcacheWord};

use super::addresses::{AddressDiff, ipcache_key, ipcache_value};
use super::assign::{Assigner, Assignment, Change, Room};
use super::fit::{Fit, NOBODY, fit};
use super::interfaces::InterfaceDiff;
use super::room::check_room;
use super::services::ServiceDiff;
use super::{Plan, PlanError, Reason, Step, Table, Write};
use crate::node_state::{AttachPoint, NodeState, ProgramTag};
use crate::observed::{AttachedProgram, Observed, Place};
use crate::world::{Capacities, Complete, NodeConfig};

/// The plan that leads from what the kernel holds to what it should hold. Empty when there is nothing to do.
///
/// Where the ipcache has no room for all, it goes as far as there is, see [`Plan::left_out`] and [`Plan::goes_on`].
///
/// Takes the proof that every source has delivered: without it nothing is known to be superfluous, and
/// the last applied state stays in force.
///
/// # Errors
/// [`PlanError`] when numbers or room are exhausted: then nothing is to be changed.
pub fn plan(
    observed: &Observed,
    desired: &NodeState,
    config: &NodeConfig,
    _complete: Complete,
) -> Result<Plan, PlanError> {
    let capacities = &config.capacities;
    let without_reserve = Capacities {
        ipcache: capacities
            .ipcache
            .saturating_sub(capacities.ipcache_reserve()),
        ..*capacities
    };
    match whole(observed, desired, config, &without_reserve) {
        Err(
            error @ PlanError::NoRoom {
                table: Table::Ipcache,
                ..
            },
        ) => match fit(observed, desired, capacities) {
            Fit::Without {
                state,
                left_out,
                covers,
            } => Ok(Plan {
                left_out,
                covers: covers.into_iter().collect(),
                ..whole(observed, &state, config, capacities)?
            }),
            Fit::AfterRemoval { covers, gone } => make_room(observed, &covers, &gone),
            Fit::Never => Err(error),
        },
        result => result,
    }
}

/// The plan that leads all the way.
fn whole(
    observed: &Observed,
    desired: &NodeState,
    config: &NodeConfig,
    capacities: &Capacities,
) -> Result<Plan, PlanError> {
    let build = |room| Ok(Builder::new(observed, desired, config, room)?.build());
    let plan = build(Room::Plenty)?;
    match check_room(observed, &plan, capacities) {
        Ok(()) => Ok(plan),
        Err(PlanError::NoRoom { .. }) => {
            let plan = build(Room::Scarce)?;
            check_room(observed, &plan, capacities)?;
            Ok(plan)
        }
        Err(other) => Err(other),
    }
}

/// Takes these out of the ipcache, once there are prefixes around them, and does no more. The plan is left open: the next
/// one, which finds that it never came to its end, takes whatever was recorded meanwhile for stale.
fn make_room(
    observed: &Observed,
    covers: &BTreeSet<IpNet>,
    gone: &[IpcacheKey],
) -> Result<Plan, PlanError> {
    let last = observed.high_water().max(observed.published());
    let epoch = last.next().ok_or(PlanError::EpochsExhausted)?;
    let word = IpcacheWord::new(observed.ipcache_word().bank(), epoch);
    let mut steps = vec![Step::new(Write::HighWater(epoch), Reason::Epoch)];
    let value = ipcache_value(&NOBODY);
    steps.extend(covers.iter().map(|prefix| {
        let key = ipcache_key(*prefix);
        Step::new(Write::IpcacheUpsert { key, value }, Reason::AddressChange)
    }));
    steps.extend(
        gone.iter()
            .map(|key| Step::new(Write::IpcacheDelete { key: *key }, Reason::AddressChange)),
    );
    steps.push(Step::new(Write::IpcacheWord(word), Reason::AddressChange));
    Ok(Plan {
        steps,
        goes_on: true,
        ..Plan::default()
    })
}

struct Builder<'a> {
    observed: &'a Observed,
    desired: &'a NodeState,
    /// Hooks that get links at once; see [`NodeConfig::stage_above`].
    stage_above: Option<usize>,
    /// Those of new endpoints do not; see [`NodeConfig::stage_new`].
    stage_new: bool,
    /// This plan stages programs.
    stages: bool,
    room: Room,
    /// The bank that programs read when the plan begins.
    bank: u32,
    addresses: AddressDiff<'a>,
    interfaces: InterfaceDiff<'a>,
    services: ServiceDiff,
    assigner: Assigner<'a>,
    tables: Assignment,
    /// The plan's number, if it changes any verdict.
    epoch: Option<Epoch>,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    fn new(
        observed: &'a Observed,
        desired: &'a NodeState,
        config: &'a NodeConfig,
        room: Room,
    ) -> Result<Self, PlanError> {
        let bank = observed.ipcache_word().bank();
        let addresses = AddressDiff::new(observed, &desired.ipcache);
        let interfaces = InterfaceDiff::new(observed, desired);
        let services = ServiceDiff::new(observed, &desired.services)?;
        let mut assigner = Assigner::new(observed, desired, &interfaces.live, config);
        let tables = assigner.assign(&addresses.moves, room)?;
        let mut builder = Self {
            observed,
            desired,
            stage_above: config.stage_above,
            stage_new: config.stage_new,
            stages: false,
            room,
            bank,
            addresses,
            interfaces,
            services,
            assigner,
            tables,
            epoch: None,
            steps: Vec::new(),
        };
        if builder.changes_a_verdict() {
            let last = observed.high_water().max(observed.published());
            builder.epoch = Some(last.next().ok_or(PlanError::EpochsExhausted)?);
        }
        Ok(builder)
    }

    /// The last plan was cut off: nobody knows how far what is there was ever published.
    fn was_interrupted(&self) -> bool {
        self.observed.high_water() != self.observed.published()
    }

    fn has_impossible_epoch(&self, epoch: Epoch) -> bool {
        epoch > self.observed.high_water().max(self.observed.published())
    }

    fn ipcache_word_changes(&self) -> bool {
        self.was_interrupted()
            || !self.addresses.moves.is_empty()
            || self.services.new_frontends
            || self.has_impossible_epoch(self.observed.ipcache_word().epoch())
    }

    /// The endpoint's verdicts, or the table that they come from, change.
    fn endpoint_changes(&self, endpoint: u16, table: u32, births: &BTreeSet<u16>) -> bool {
        let word = self.observed.endpoint_word_in_use(endpoint);
        self.was_interrupted()
            || word.table() != table
            || self.has_impossible_epoch(word.epoch())
            || self.tables.changes_content(table)
            || births.contains(&endpoint)
    }

    fn changes_a_verdict(&self) -> bool {
        let births = self.interfaces.births();
        self.ipcache_word_changes()
            || self
                .tables
                .tables
                .iter()
                .any(|(endpoint, table)| self.endpoint_changes(*endpoint, *table, &births))
    }

    /// Some packet may meet the old and the new table of its endpoint.
    fn switches_live_table(&self) -> bool {
        self.tables.tables.iter().any(|(endpoint, table)| {
            self.interfaces.live.contains(endpoint)
                && self.observed.endpoint_word_in_use(*endpoint).table() != *table
        })
    }

    fn push(&mut self, write: Write, reason: Reason) {
        self.steps.push(Step::new(write, reason));
    }

    fn build(mut self) -> Plan {
        if let Some(epoch) = self.epoch {
            self.push(Write::HighWater(epoch), Reason::Epoch);
        }
        if !self.is_level() {
            // A program may still read the bank that the last plan left.
            self.push(Write::Barrier, Reason::Repair);
        }
        self.steps.extend(self.interfaces.removal());
        if self.room == Room::Scarce {
            self.remove_garbage();
        }
        let services = self.services.additions();
        self.steps.extend(services);
        let banks = !self.addresses.moves.is_empty() && self.switches_live_table();
        if banks {
            self.change_in_other_bank();
        } else {
            self.change_in_place();
        }
        let birth = self.epoch.unwrap_or_default();
        self.steps
            .extend(self.interfaces.writes(birth, &self.observed.interfaces));
        if let Some(epoch) = self.epoch {
            self.push(Write::Publish(epoch), Reason::Epoch);
        }
        self.attach();
        if banks {
            self.push(Write::Barrier, Reason::Epoch);
            self.level_banks();
        }
        self.clean_up(banks);
        let services = self.services.removals();
        self.steps.extend(services);
        self.settle();
        Plan {
            steps: self.steps,
            ..Plan::default()
        }
    }

    /// Both banks hold the same.
    fn is_level(&self) -> bool {
        self.observed
            .endpoint_words
            .values()
            .all(|[first, second]| first == second)
            && self.addresses.is_level()
    }

    /// One table after the other when identities keep still, so that little room is needed; else all that
    /// comes before they change, then they, then all that comes after.
    fn change_in_place(&mut self) {
        let (first, last) = self.table_phases(self.addresses.moves.is_empty());
        self.steps.extend(first);
        self.steps.extend(self.addresses.in_place());
        self.steps.extend(last);
        for (endpoint, word) in self.final_words() {
            let there = self.observed.endpoint_word(endpoint);
            for bank in [self.bank, 1 - self.bank] {
                if there[bank as usize] != word {
                    self.push_endpoint_word(endpoint, bank, word);
                }
            }
        }
        self.push_ipcache_word(self.bank);
    }

    /// Everything that is not read gets its new content; one write has it read.
    fn change_in_other_bank(&mut self) {
        let other = 1 - self.bank;
        let (first, last) = self.table_phases(false);
        self.steps.extend(first);
        self.steps.extend(self.addresses.fill_other_bank());
        for (endpoint, word) in self.final_words() {
            if self.observed.endpoint_word(endpoint)[other as usize] != word {
                self.push_endpoint_word(endpoint, other, word);
            }
        }
        self.push_ipcache_word(other);
        if !last.is_empty() {
            // A program that runs now may have resolved its peer in the bank that was left.
            self.push(Write::Barrier, Reason::Epoch);
            self.steps.extend(last);
        }
    }

    fn level_banks(&mut self) {
        for (endpoint, word) in self.final_words() {
            if self.observed.endpoint_word(endpoint)[self.bank as usize] != word {
                self.push_endpoint_word(endpoint, self.bank, word);
            }
        }
        self.steps.extend(self.addresses.level());
    }

    /// The writes of all tables, before and after the identities of addresses change. `at_once`: a table's
    /// own two phases follow each other, and the second list stays empty.
    fn table_phases(&self, at_once: bool) -> (Vec<Step>, Vec<Step>) {
        let mut phases = Vec::new();
        let mut staged = Vec::new();
        for (table, change) in &self.tables.changes {
            match change {
                Change::None => {
                    if let Some(existing) = self.assigner.existing(*table) {
                        phases.push((Vec::new(), existing.trim_shapes()));
                    }
                }
                Change::InPlace(diff) => phases.push(diff.phases()),
                Change::Narrowing(diff) => phases.push(diff.narrowing_phases()),
                Change::Staged(content) => staged.extend(super::content::staged(*table, content)),
            }
        }
        // What shrinks makes room for what grows.
        phases.sort_by_key(|(before, after)| before.len().saturating_sub(after.len()));
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for (before, after) in phases {
            first.extend(before);
            if at_once { &mut first } else { &mut last }.extend(after);
        }
        first.extend(staged);
        (first, last)
    }

    /// The word of each endpoint as it shall be in both banks.
    fn final_words(&self) -> Vec<(u16, EndpointWord)> {
        let births = self.interfaces.births();
        self.tables
            .tables
            .iter()
            .map(|(endpoint, table)| {
                let word = match self.epoch {
                    Some(epoch) if self.endpoint_changes(*endpoint, *table, &births) => {
                        EndpointWord::new(*table, epoch)
                    }
                    _ => self.observed.endpoint_word_in_use(*endpoint),
                };
                (*endpoint, word)
            })
            .collect()
    }

    fn push_endpoint_word(&mut self, endpoint: u16, bank: u32, word: EndpointWord) {
        let reason = if word.table() == 0 {
            Reason::GoneEndpoint(endpoint)
        } else if self.interfaces.live.contains(&endpoint) {
            Reason::PolicyChange {
                table: word.table(),
            }
        } else {
            Reason::NewEndpoint(endpoint)
        };
        let write = Write::EndpointWord {
            endpoint,
            bank,
            word,
        };
        self.push(write, reason);
    }

    fn push_ipcache_word(&mut self, bank: u32) {
        if let Some(epoch) = self.epoch
            && (self.ipcache_word_changes() || bank != self.bank)
        {
            let word = IpcacheWord::new(bank, epoch);
            self.push(Write::IpcacheWord(word), Reason::AddressChange);
        }
    }

    /// What should be on which hook, with the endpoint behind it and what is there.
    fn hooks(&self) -> Vec<(AttachPoint, ProgramTag, u16, Option<AttachedProgram>)> {
        let hook = |(point, program): (&AttachPoint, &ProgramTag)| {
            let interface = self.desired.interfaces.get(&point.ifindex)?;
            let there = self.observed.attachments.get(point).copied();
            Some((*point, *program, interface.endpoint, there))
        };
        self.desired.attachments.iter().filter_map(hook).collect()
    }

    /// Too many hooks are without a program to wait for a link on each; or that was so a moment ago.
    fn is_burst(&self, missing: usize) -> bool {
        let staged = |there: &AttachedProgram| there.place == Place::Staged;
        self.stage_above
            .is_some_and(|most| missing > most || self.observed.attachments.values().any(staged))
    }

    fn attach(&mut self) {
        let hooks = self.hooks();
        let missing = hooks.iter().filter(|(.., there)| there.is_none());
        let new = missing
            .clone()
            .any(|(point, ..)| !self.observed.interfaces.contains_key(&point.ifindex));
        let staged = self.is_burst(missing.count()) || self.stage_new && new;
        self.stages = staged;
        for (point, program, endpoint, there) in hooks {
            let write = match there {
                Some(there) if there.tag == program && there.place != Place::Misplaced => continue,
                Some(_) => Write::Replace {
                    point,
                    endpoint,
                    program,
                },
                None => Write::Attach {
                    point,
                    endpoint,
                    program,
                    staged,
                },
            };
            self.push(write, Reason::Program);
        }
    }

    fn settle(&mut self) {
        for (point, program, endpoint, there) in self.hooks() {
            let staged = AttachedProgram {
                tag: program,
                place: Place::Staged,
            };
            if there == Some(staged) || there.is_none() && self.stages {
                let write = Write::Replace {
                    point,
                    endpoint,
                    program,
                };
                self.push(write, Reason::Settle);
            }
        }
    }

    /// Tables that no word speaks of, neither now nor later.
    fn garbage(&self) -> Vec<u32> {
        let used: BTreeSet<u32> = self
            .observed
            .endpoint_words
            .values()
            .flatten()
            .map(|word| word.table())
            .collect();
        self.tables
            .unused
            .iter()
            .filter(|table| **table == 0 || !used.contains(table))
            .copied()
            .collect()
    }

    fn remove_garbage(&mut self) {
        let garbage = self.garbage();
        if !garbage.is_empty() {
            self.push(Write::Barrier, Reason::Repair);
        }
        for table in &garbage {
            self.remove_table(*table);
        }
        self.tables.unused.retain(|table| !garbage.contains(table));
    }

    fn remove_table(&mut self, table: u32) {
        if let Some(existing) = self.assigner.existing(table) {
            self.steps.extend(existing.removal());
        }
    }

    /// What nobody uses any more. The word of an endpoint that is gone goes after its flows: it is the sign
    /// that they are still to be purged.
    fn clean_up(&mut self, waited: bool) {
        let gone: Vec<u16> = self
            .observed
            .endpoint_words
            .iter()
            .filter(|(id, words)| {
                words.iter().any(|word| word.0 != 0) && !self.tables.tables.contains_key(id)
            })
            .map(|(id, _)| *id)
            .collect();
        for endpoint in gone {
            self.push(
                Write::PurgeConntrack { endpoint },
                Reason::GoneEndpoint(endpoint),
            );
            let there = self.observed.endpoint_word(endpoint);
            for bank in [self.bank, 1 - self.bank] {
                if there[bank as usize].0 != 0 {
                    self.push_endpoint_word(endpoint, bank, EndpointWord::default());
                }
            }
        }
        let unused: Vec<u32> = self
            .tables
            .unused
            .iter()
            .copied()
            .filter(|table| {
                self.assigner
                    .existing(*table)
                    .is_some_and(|existing| !existing.removal().is_empty())
            })
            .collect();
        if !unused.is_empty() && !waited {
            self.push(Write::Barrier, Reason::Epoch);
        }
        for table in unused {
            self.remove_table(table);
        }
    }
}
