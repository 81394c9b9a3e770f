//! Service tables: what is there, what should be there, and the writes between them.
//!
//! # Order
//!
//! What is added: backends, then addresses for the way back, then slots, and a frontend's master last.
//! What goes: masters, then, when no program can have read them any more, slots; backends and addresses
//! last. So a slot that a program can reach always holds a backend that is there, and a frontend that has
//! a backend before and after has one at every moment between.
//!
//! A frontend that is new is a change of what its address means, like a prefix in the ipcache: verdicts
//! that were recorded for flows to it are stale from then on.
//!
//! # Ids and slots
//!
//! Both are taken from what the kernel holds and change only for what changes: a backend stays in its slot
//! while there is one of that number. What is not wanted any more rests ([`oxilium_abi::LbState`]) until
//! more rest than [`RESTING_BACKENDS`] and [`RESTING_FRONTENDS`]; then those go that have rested longest.
//! No clock is asked: what rests does so until it is in the way.
//!
//! # What is looked at
//!
//! Everything, unless the tables are known to hold what was wanted last ([`crate::observed::Settled`]): then what is wanted
//! otherwise now, and which ids are in use. The writes are the same.

mod ids;
mod layout;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use oxilium_abi::{
    BACKEND_ID_MAX, LbAddress, LbState, NodeWord, ServiceKey, ServiceValue, ServiceWord,
};

use super::{PlanError, Reason, Step, Table, Write};
use crate::node_state::{Frontend, FrontendState, Frontends};
use crate::observed::Observed;
use crate::world::BackendAddress;
use ids::Ids;
use layout::{active, at_rest, narrow};
pub use layout::{lb_address, service_frontend, service_key};

/// As many backends may rest.
pub const RESTING_BACKENDS: usize = 16 * 1024;
/// As many frontends may rest.
pub const RESTING_FRONTENDS: usize = 8 * 1024;
/// The highest frontend id.
const FRONTEND_ID_MAX: u32 = u16::MAX as u32;

/// A frontend as the kernel has it.
#[derive(Default)]
struct Present {
    master: Option<u64>,
    /// Slot → backend id, 0 for a damaged one.
    slots: BTreeMap<u16, u32>,
}

/// What becomes of the service tables.
#[derive(Debug, Default)]
pub(super) struct ServiceDiff {
    backends: Vec<Step>,
    addresses: Vec<Step>,
    slots: Vec<Step>,
    masters: Vec<Step>,
    gone_masters: Vec<Step>,
    gone_slots: Vec<Step>,
    resting: Vec<Step>,
    /// The node word as it is to be, where it is not.
    in_use: Option<bool>,
    /// Some address became a frontend.
    pub(super) new_frontends: bool,
}

/// Whose an entry of the way back is: address, port and protocol.
fn frontend_of(id: u32, value: &LbAddress) -> Option<(BackendAddress, u8)> {
    let address = lb_address(id, value).filter(|_| u32::from(value.frontend) == id)?;
    Some((address, value.protocol))
}

/// Whose a backend's entry is: its frontend and its address.
fn backend_of(id: u32, value: &LbAddress) -> Option<(u16, BackendAddress)> {
    Some((value.frontend, lb_address(id, value)?))
}

fn owner(frontend: &Frontend) -> (BackendAddress, u8) {
    let address = BackendAddress {
        address: frontend.address,
        port: frontend.port,
    };
    (address, frontend.protocol)
}

/// Ids that are in use once the plan is made.
#[derive(Default)]
struct Used {
    frontends: HashSet<u32>,
    backends: HashSet<u32>,
}

impl ServiceDiff {
    pub(super) fn new(observed: &Observed, desired: &Frontends) -> Result<Self, PlanError> {
        match observed.settled_services.what() {
            Some(settled) if settled.is_same(desired) => Ok(Self::default()),
            Some(settled) => Self::of_some(observed, settled, desired),
            None => Self::of_all(observed, desired),
        }
    }

    /// Nothing is known of what is there.
    fn of_all(observed: &Observed, desired: &Frontends) -> Result<Self, PlanError> {
        let mut diff = Self::default();
        let present = diff.present(observed.services.iter());
        let frontends = Ids::new(&observed.reverse_nat, FRONTEND_ID_MAX, frontend_of, |_| {
            true
        });
        let backends = Ids::new(&observed.backends, BACKEND_ID_MAX, backend_of, |_| true);
        let used = diff.compare(desired, present, frontends, backends)?;
        diff.rest(
            observed,
            |id, _| used.backends.contains(&id),
            |id, _| used.frontends.contains(&id),
        );
        diff.note_use(observed, desired);
        Ok(diff)
    }

    /// What is there is `settled`: only what differs from that is looked at, and who rests.
    fn of_some(
        observed: &Observed,
        settled: &Frontends,
        desired: &Frontends,
    ) -> Result<Self, PlanError> {
        let mut diff = Self::default();
        let differing: Vec<_> = settled.differing(desired).collect();
        let touched: HashSet<_> = differing.iter().map(|entry| owner(entry.key)).collect();
        let new = differing
            .iter()
            .filter_map(|entry| Some((entry.key, entry.is?)));
        let mut frontends = Ids::new(
            &observed.reverse_nat,
            FRONTEND_ID_MAX,
            frontend_of,
            |value| {
                narrow(value.family, value.address).is_some_and(|address| {
                    let port = value.port.get();
                    touched.contains(&(BackendAddress { address, port }, value.protocol))
                })
            },
        );
        // Backends of an earlier frontend of its number may rest that a new one is given.
        for (frontend, _) in new.clone() {
            frontends.of(owner(frontend), Table::ReverseNat)?;
        }
        let numbers: HashSet<u16> = touched
            .iter()
            .filter_map(|owner| u16::try_from(frontends.known(owner)?).ok())
            .collect();
        let backends = Ids::new(&observed.backends, BACKEND_ID_MAX, backend_of, |value| {
            numbers.contains(&value.frontend)
        });
        let gone = differing.iter().filter(|entry| entry.was.is_some());
        let places = gone.flat_map(|entry| {
            let key = service_key(entry.key);
            observed.services.range(key..=key.slot(u16::MAX))
        });
        let present = diff.present(places);
        let used = diff.compare(new, present, frontends, backends)?;
        let is_used = |used: &HashSet<u32>, id: u32, value: &LbAddress| {
            if numbers.contains(&value.frontend) {
                used.contains(&id)
            } else {
                value.is_active()
            }
        };
        diff.rest(
            observed,
            |id, value| is_used(&used.backends, id, value),
            |id, value| is_used(&used.frontends, id, value),
        );
        diff.note_use(observed, desired);
        Ok(diff)
    }

    /// What is to be written so that what is present becomes what is desired.
    fn compare<'d>(
        &mut self,
        desired: impl IntoIterator<Item = (&'d Frontend, &'d Arc<FrontendState>)>,
        mut present: BTreeMap<ServiceKey, Present>,
        mut frontends: Ids<'_, (BackendAddress, u8)>,
        mut backends: Ids<'_, (u16, BackendAddress)>,
    ) -> Result<Used, PlanError> {
        let mut used = Used::default();
        for (frontend, state) in desired {
            let owner = owner(frontend);
            let id = frontends.of(owner, Table::ReverseNat)?;
            let number = u16::try_from(id).unwrap_or(u16::MAX);
            used.frontends.insert(id);
            let value = active(id, number, frontend.protocol, owner.0);
            if frontends.there(id) != Some(&value) {
                let write = Write::ReverseNat { id, value };
                self.addresses.push(changed(write));
            }
            let mut wanted = BTreeSet::new();
            for backend in &state.backends {
                let id = backends.of((number, *backend), Table::Backends)?;
                let value = active(id, number, frontend.protocol, *backend);
                if backends.there(id) != Some(&value) {
                    self.backends.push(changed(Write::Backend { id, value }));
                }
                wanted.insert(id);
            }
            used.backends.extend(&wanted);
            let key = service_key(frontend);
            let there = present.remove(&key).unwrap_or_default();
            let affinity = state.affinity.unwrap_or_default();
            self.frontend(key, &there, number, wanted, affinity);
        }
        for (key, there) in present {
            self.remove(key, &there);
        }
        Ok(used)
    }

    /// The kernel's frontends in these places; what belongs to none goes.
    fn present<'o>(
        &mut self,
        places: impl Iterator<Item = (&'o ServiceKey, &'o ServiceValue)>,
    ) -> BTreeMap<ServiceKey, Present> {
        let mut present: BTreeMap<ServiceKey, Present> = BTreeMap::new();
        for (key, value) in places {
            if service_frontend(key).is_none() || key.reserved != 0 {
                self.gone_slots
                    .push(repair(Write::ServiceDelete { key: *key }));
                continue;
            }
            let frontend = present.entry(key.slot(0)).or_default();
            let word = value.of(key);
            if key.slot == 0 {
                // A damaged master is no master: programs do not take it for one.
                frontend.master = Some(word.unwrap_or_default());
            } else {
                let backend = word.and_then(|word| u32::try_from(word).ok());
                frontend.slots.insert(key.slot, backend.unwrap_or_default());
            }
        }
        present
    }

    fn frontend(
        &mut self,
        key: ServiceKey,
        there: &Present,
        id: u16,
        mut wanted: BTreeSet<u32>,
        affinity: u32,
    ) {
        let count = u16::try_from(wanted.len()).unwrap_or(u16::MAX);
        let mut slots = vec![0; usize::from(count)];
        for (slot, place) in (1..=count).zip(&mut slots) {
            if let Some(backend) = there.slots.get(&slot)
                && wanted.remove(backend)
            {
                *place = *backend;
            }
        }
        let mut others = wanted.into_iter();
        for (slot, place) in (1..=count).zip(&mut slots) {
            if *place == 0 {
                *place = others.next().unwrap_or_default();
            }
            if there.slots.get(&slot) != Some(place) {
                self.slots.push(service(key.slot(slot), u64::from(*place)));
            }
        }
        let master = ServiceWord::new(id, count, affinity).0;
        if there.master != Some(master) {
            self.new_frontends |= there.master.is_none_or(|word| word == 0);
            self.masters.push(service(key, master));
        }
        for slot in there
            .slots
            .keys()
            .filter(|slot| **slot > count || **slot == 0)
        {
            let key = key.slot(*slot);
            self.gone_slots.push(gone(Write::ServiceDelete { key }));
        }
    }

    fn remove(&mut self, key: ServiceKey, there: &Present) {
        if there.master.is_some() {
            self.gone_masters.push(gone(Write::ServiceDelete { key }));
        }
        for slot in there.slots.keys() {
            let key = key.slot(*slot);
            self.gone_slots.push(gone(Write::ServiceDelete { key }));
        }
    }

    /// Lets rest what is not used any more, and takes away what is damaged or has rested longest.
    fn rest(
        &mut self,
        observed: &Observed,
        backend_is_used: impl Fn(u32, &LbAddress) -> bool,
        frontend_is_used: impl Fn(u32, &LbAddress) -> bool,
    ) {
        let values = observed
            .backends
            .values()
            .chain(observed.reverse_nat.values());
        let number = values
            .map(|value| value.resting)
            .max()
            .unwrap_or_default()
            .saturating_add(1);
        for (id, then) in fates(
            &observed.backends,
            backend_is_used,
            number,
            RESTING_BACKENDS,
        ) {
            self.resting.push(match then {
                Some(value) => gone(Write::Backend { id, value }),
                None => gone(Write::BackendDelete { id }),
            });
        }
        for (id, then) in fates(
            &observed.reverse_nat,
            frontend_is_used,
            number,
            RESTING_FRONTENDS,
        ) {
            self.resting.push(match then {
                Some(value) => gone(Write::ReverseNat { id, value }),
                None => gone(Write::ReverseNatDelete { id }),
            });
        }
    }

    fn note_use(&mut self, observed: &Observed, desired: &Frontends) {
        let deleted = |step: &Step| {
            matches!(
                step.write,
                Write::BackendDelete { .. } | Write::ReverseNatDelete { .. }
            )
        };
        let deletions = self.resting.iter().filter(|step| deleted(step)).count();
        let left = observed.backends.len() + observed.reverse_nat.len() - deletions;
        let used = !desired.is_empty() || left > 0;
        let word = observed.node_words[NodeWord::Services as usize];
        if word != u64::from(used) {
            self.in_use = Some(used);
        }
    }

    /// What comes before the plan's verdicts: all that is new.
    pub(super) fn additions(&mut self) -> Vec<Step> {
        let mut steps = std::mem::take(&mut self.backends);
        steps.append(&mut self.addresses);
        steps.append(&mut self.slots);
        if self.in_use == Some(true) {
            steps.push(changed(Write::ServicesInUse(true)));
        }
        steps.append(&mut self.masters);
        steps
    }

    /// What comes after everything else: all that is not wanted any more.
    pub(super) fn removals(&mut self) -> Vec<Step> {
        let mut steps = std::mem::take(&mut self.gone_masters);
        if !self.gone_slots.is_empty() || !self.resting.is_empty() {
            // Masters and slots that were replaced are gone for every program that begins now.
            steps.push(gone(Write::Barrier));
        }
        steps.append(&mut self.gone_slots);
        steps.append(&mut self.resting);
        if self.in_use == Some(false) {
            steps.push(gone(Write::ServicesInUse(false)));
        }
        steps
    }
}

/// What becomes of the entries that are not used: another value, or none.
fn fates(
    there: &BTreeMap<u32, LbAddress>,
    is_used: impl Fn(u32, &LbAddress) -> bool,
    number: u32,
    most: usize,
) -> Vec<(u32, Option<LbAddress>)> {
    let mut fates = Vec::new();
    let mut resting = Vec::new();
    for (id, value) in there.iter().filter(|(id, value)| !is_used(**id, value)) {
        match value.state().filter(|_| lb_address(*id, value).is_some()) {
            None => fates.push((*id, None)),
            Some(LbState::Resting) => resting.push((value.resting, *id, None)),
            Some(LbState::Active) => {
                resting.push((number, *id, Some(at_rest(*id, value, number))));
            }
        }
    }
    // Those that have rested longest come first.
    resting.sort_unstable_by_key(|(since, id, _)| (*since, *id));
    let too_many = resting.len().saturating_sub(most);
    for (index, (_, id, value)) in resting.into_iter().enumerate() {
        if index < too_many {
            fates.push((id, None));
        } else if value.is_some() {
            fates.push((id, value));
        }
    }
    fates
}

const fn service(key: ServiceKey, word: u64) -> Step {
    let value = ServiceValue::new(&key, word);
    changed(Write::Service { key, value })
}

const fn changed(write: Write) -> Step {
    Step::new(write, Reason::ServiceChange)
}

const fn gone(write: Write) -> Step {
    Step::new(write, Reason::GoneService)
}

const fn repair(write: Write) -> Step {
    Step::new(write, Reason::Repair)
}
