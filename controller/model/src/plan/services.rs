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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_abi::{
    BACKEND_ID_MAX, Be16, Family, LbAddress, LbState, NodeWord, ServiceKey, ServiceValue,
    ServiceWord,
};

use super::{PlanError, Reason, Step, Table, Write};
use crate::node_state::{Frontend, FrontendState};
use crate::observed::Observed;
use crate::world::BackendAddress;

/// As many backends may rest.
pub const RESTING_BACKENDS: usize = 16 * 1024;
/// As many frontends may rest.
pub const RESTING_FRONTENDS: usize = 8 * 1024;
/// The highest frontend id.
const FRONTEND_ID_MAX: u32 = u16::MAX as u32;

/// The kernel's key of a frontend's master.
pub fn service_key(frontend: &Frontend) -> ServiceKey {
    let (family, address) = wide(frontend.address);
    ServiceKey::master(family, address, Be16::new(frontend.port), frontend.protocol)
}

/// The frontend of a kernel's key; none for a damaged one.
pub fn service_frontend(key: &ServiceKey) -> Option<Frontend> {
    Some(Frontend {
        address: narrow(key.family, key.address)?,
        port: key.port.get(),
        protocol: key.protocol,
    })
}

/// Address and port under an id; none for a damaged value.
pub fn lb_address(id: u32, value: &LbAddress) -> Option<BackendAddress> {
    if !value.is_of(id) || value.state().is_none() {
        return None;
    }
    Some(BackendAddress {
        address: narrow(value.family, value.address)?,
        port: value.port.get(),
    })
}

fn wide(address: IpAddr) -> (Family, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (Family::V4, bytes)
        }
        IpAddr::V6(v6) => (Family::V6, v6.octets()),
    }
}

fn narrow(family: u8, address: [u8; 16]) -> Option<IpAddr> {
    if family == Family::V4 as u8 {
        let [a, b, c, d, rest @ ..] = address;
        return (rest == [0; 12]).then(|| Ipv4Addr::new(a, b, c, d).into());
    }
    (family == Family::V6 as u8).then(|| Ipv6Addr::from(address).into())
}

/// The entry of `id` that is in use for an address.
fn active(id: u32, frontend: u16, protocol: u8, address: BackendAddress) -> LbAddress {
    let (family, bytes) = wide(address.address);
    LbAddress {
        address: bytes,
        port: Be16::new(address.port),
        frontend,
        protocol,
        family: family as u8,
        state: LbState::Active as u8,
        ..LbAddress::default()
    }
    .sealed(id)
}

/// The same entry at rest.
fn at_rest(id: u32, value: &LbAddress, number: u32) -> LbAddress {
    LbAddress {
        state: LbState::Resting as u8,
        resting: number,
        ..*value
    }
    .sealed(id)
}

/// Ids of one kind: who has which, and which are free.
struct Ids<'a, K> {
    there: &'a BTreeMap<u32, LbAddress>,
    by_owner: HashMap<K, u32>,
    /// Ids of entries that are in order, and those that were given out.
    taken: HashSet<u32>,
    next: u32,
    last: u32,
}

impl<'a, K: std::hash::Hash + Eq> Ids<'a, K> {
    fn new(
        there: &'a BTreeMap<u32, LbAddress>,
        last: u32,
        owner: impl Fn(u32, &LbAddress) -> Option<K>,
    ) -> Self {
        let mut by_owner = HashMap::with_capacity(there.len());
        let mut taken = HashSet::with_capacity(there.len());
        for (id, value) in there {
            if let (1.., true, Some(owner)) = (*id, *id <= last, owner(*id, value)) {
                taken.insert(*id);
                by_owner.entry(owner).or_insert(*id);
            }
        }
        Self {
            there,
            by_owner,
            taken,
            next: 1,
            last,
        }
    }

    /// The id of `owner`, new if it has none.
    fn of(&mut self, owner: K, table: Table) -> Result<u32, PlanError> {
        if let Some(id) = self.by_owner.get(&owner) {
            return Ok(*id);
        }
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        if self.next > self.last {
            return Err(PlanError::NoRoom {
                table,
                needed: self.taken.len() + 1,
                available: self.last as usize,
            });
        }
        self.taken.insert(self.next);
        self.by_owner.insert(owner, self.next);
        Ok(self.next)
    }

    fn there(&self, id: u32) -> Option<&'a LbAddress> {
        self.there.get(&id)
    }
}

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

impl ServiceDiff {
    pub(super) fn new(
        observed: &Observed,
        desired: &BTreeMap<Frontend, FrontendState>,
    ) -> Result<Self, PlanError> {
        let mut diff = Self::default();
        let mut present = diff.present(observed);
        let mut frontends = Ids::new(&observed.reverse_nat, FRONTEND_ID_MAX, |id, value| {
            let address = lb_address(id, value).filter(|_| u32::from(value.frontend) == id)?;
            Some((address, value.protocol))
        });
        let mut backends = Ids::new(&observed.backends, BACKEND_ID_MAX, |id, value| {
            Some((value.frontend, lb_address(id, value)?))
        });
        let (mut used_frontends, mut used_backends) = (HashSet::new(), HashSet::new());
        for (frontend, state) in desired {
            let address = BackendAddress {
                address: frontend.address,
                port: frontend.port,
            };
            let owner = (address, frontend.protocol);
            let id = frontends.of(owner, Table::ReverseNat)?;
            let number = u16::try_from(id).unwrap_or(u16::MAX);
            used_frontends.insert(id);
            let value = active(id, number, frontend.protocol, address);
            if frontends.there(id) != Some(&value) {
                let write = Write::ReverseNat { id, value };
                diff.addresses.push(changed(write));
            }
            let mut wanted = BTreeSet::new();
            for backend in &state.backends {
                let id = backends.of((number, *backend), Table::Backends)?;
                let value = active(id, number, frontend.protocol, *backend);
                if backends.there(id) != Some(&value) {
                    diff.backends.push(changed(Write::Backend { id, value }));
                }
                wanted.insert(id);
            }
            used_backends.extend(&wanted);
            let key = service_key(frontend);
            let there = present.remove(&key).unwrap_or_default();
            let affinity = state.affinity.unwrap_or_default();
            diff.frontend(key, &there, number, wanted, affinity);
        }
        for (key, there) in present {
            diff.remove(key, &there);
        }
        diff.rest(observed, &used_backends, &used_frontends);
        diff.note_use(observed, desired);
        Ok(diff)
    }

    /// The kernel's frontends; what belongs to none goes.
    fn present(&mut self, observed: &Observed) -> BTreeMap<ServiceKey, Present> {
        let mut present: BTreeMap<ServiceKey, Present> = BTreeMap::new();
        for (key, value) in &observed.services {
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
        used_backends: &HashSet<u32>,
        used_frontends: &HashSet<u32>,
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
        for (id, then) in fates(&observed.backends, used_backends, number, RESTING_BACKENDS) {
            self.resting.push(match then {
                Some(value) => gone(Write::Backend { id, value }),
                None => gone(Write::BackendDelete { id }),
            });
        }
        for (id, then) in fates(
            &observed.reverse_nat,
            used_frontends,
            number,
            RESTING_FRONTENDS,
        ) {
            self.resting.push(match then {
                Some(value) => gone(Write::ReverseNat { id, value }),
                None => gone(Write::ReverseNatDelete { id }),
            });
        }
    }

    fn note_use(&mut self, observed: &Observed, desired: &BTreeMap<Frontend, FrontendState>) {
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
    used: &HashSet<u32>,
    number: u32,
    most: usize,
) -> Vec<(u32, Option<LbAddress>)> {
    let mut fates = Vec::new();
    let mut resting = Vec::new();
    for (id, value) in there.iter().filter(|(id, _)| !used.contains(id)) {
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
