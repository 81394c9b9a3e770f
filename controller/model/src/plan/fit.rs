//! What of the ipcache there is room for, when there is not for all.
//!
//! What can be left out is the address of a pod on another node. Without its entry it must not become what is around it, most
//! often the world: where the world is allowed and the pod is denied, it would be let in. So prefixes are put around what is
//! left out, as [`cover`] finds them, whose identity may what everybody may and no more. A part of the room is kept for them,
//! and they are there before an entry goes. All else must have its entry: the prefixes that policies name, this node's own pods,
//! nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use oxilium_abi::IpcacheKey;

use super::addresses::{ipcache_key, ipcache_prefix};
use super::cover::{Prefixes, cover};
use crate::identity::NumericIdentity;
use crate::node_state::{IpcacheTarget, NodeState};
use crate::observed::Observed;
use crate::world::Capacities;

/// What there is room for.
pub(super) enum Fit {
    /// This state, which lacks these and has the others around them.
    Without {
        state: Box<NodeState>,
        left_out: Vec<IpNet>,
        covers: BTreeSet<IpNet>,
    },
    /// For what must be there, once these are gone, and the others stand around them.
    AfterRemoval {
        covers: BTreeSet<IpNet>,
        gone: Vec<IpcacheKey>,
    },
    /// Not for what must be there.
    Never,
}

/// What a prefix around addresses without room says.
pub(super) const NOBODY: IpcacheTarget = IpcacheTarget {
    identity: NumericIdentity::UNRESOLVED,
    tunnel_endpoint: None,
};

/// Which pods' addresses are this node's own.
struct Own(BTreeSet<IpAddr>);

impl Own {
    fn new(desired: &NodeState) -> Self {
        let endpoints = desired.endpoints.values();
        Self(
            endpoints
                .flat_map(|endpoint| endpoint.addresses.iter().copied())
                .collect(),
        )
    }

    fn can_be_left_out(&self, prefix: &IpNet, identity: u32) -> bool {
        let of_a_pod =
            (NumericIdentity::FIRST_CLUSTER..NumericIdentity::FIRST_CIDR).contains(&identity);
        of_a_pod
            && prefix.prefix_len() == prefix.max_prefix_len()
            && !self.0.contains(&prefix.addr())
    }
}

/// Prefixes of one plan: those of the last one may still be there, and those of one that makes room.
const fn most_covers(capacities: &Capacities) -> usize {
    capacities.ipcache_reserve() / 3
}

/// Chooses what fits. Addresses that have an entry keep it, so that the choice is the same as long as the inputs are.
pub(super) fn fit(observed: &Observed, desired: &NodeState, capacities: &Capacities) -> Fit {
    let own = Own::new(desired);
    let bank = observed.ipcache_word().bank();
    let new: BTreeMap<&IpNet, u32> = desired
        .ipcache
        .iter()
        .filter(|(prefix, _)| !observed.ipcache.contains_key(&ipcache_key(**prefix)))
        .map(|(prefix, target)| (prefix, target.identity.0))
        .collect();
    let (optional, needed): (Vec<_>, Vec<_>) = new
        .into_iter()
        .partition(|(prefix, identity)| own.can_be_left_out(prefix, *identity));
    let covers = observed
        .ipcache
        .values()
        .filter(|value| value.identity(bank) == NumericIdentity::UNRESOLVED.0);
    let kept_free = capacities.ipcache_reserve().saturating_sub(covers.count());
    let free = capacities
        .ipcache
        .saturating_sub(observed.ipcache.len() + kept_free);
    let Some(room) = free.checked_sub(needed.len()) else {
        let missing = needed.len() - free;
        return after_removal(observed, desired, &own, missing, most_covers(capacities));
    };
    let left_out: Vec<IpNet> = optional
        .iter()
        .skip(room)
        .map(|(prefix, _)| **prefix)
        .collect();
    let mut state = desired.clone();
    for prefix in &left_out {
        state.ipcache.remove(prefix);
    }
    let addresses = left_out.iter().map(IpNet::addr).collect();
    let entries = state.ipcache.keys().copied().collect();
    let Some(covers) = cover(&addresses, &entries, most_covers(capacities)) else {
        return Fit::Never;
    };
    state
        .ipcache
        .extend(covers.iter().map(|prefix| (*prefix, NOBODY)));
    Fit::Without {
        state: Box::new(state),
        left_out,
        covers,
    }
}

/// Chooses whose entries make room for what must be there.
fn after_removal(
    observed: &Observed,
    desired: &NodeState,
    own: &Own,
    missing: usize,
    most_covers: usize,
) -> Fit {
    let bank = observed.ipcache_word().bank();
    let mut removable: Vec<(bool, IpcacheKey)> = observed
        .ipcache
        .iter()
        .filter_map(|(key, value)| {
            let prefix = ipcache_prefix(key)?;
            own.can_be_left_out(&prefix, value.identity(bank))
                .then(|| (desired.ipcache.contains_key(&prefix), *key))
        })
        .collect();
    // Those that are to go anyway go first.
    removable.sort_unstable();
    if removable.len() < missing {
        return Fit::Never;
    }
    removable.truncate(missing);
    let gone: BTreeSet<IpcacheKey> = removable.iter().map(|(_, key)| *key).collect();
    let stay: Prefixes = observed
        .ipcache
        .keys()
        .filter(|key| !gone.contains(key))
        .filter_map(ipcache_prefix)
        .collect();
    let is_covered = |address: IpAddr| {
        let around = stay.around(address).map(ipcache_key);
        let value = around.and_then(|key| observed.ipcache.get(&key));
        value.is_some_and(|value| value.identity(bank) == NumericIdentity::UNRESOLVED.0)
    };
    // Also around those that are to go anyway: until the rest of the plan's policy is there, the old one judges them.
    let bare = removable
        .iter()
        .filter_map(|(_, key)| Some(ipcache_prefix(key)?.addr()))
        .filter(|address| !is_covered(*address))
        .collect();
    match cover(&bare, &stay, most_covers) {
        Some(covers) => Fit::AfterRemoval {
            covers,
            gone: gone.into_iter().collect(),
        },
        None => Fit::Never,
    }
}
