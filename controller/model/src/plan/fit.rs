//! What of the ipcache there is room for, when there is not for all.
//!
//! What can be left out without anybody being let in: the address of a pod on another node. Without its entry it is what
//! every such pod is before its object comes, `world` or the prefix around it. All else must be there: the prefixes that
//! policies name (a missing one would turn a denial of it into its surroundings' allowance), this node's own pods, nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use oxilium_abi::IpcacheKey;

use super::addresses::{ipcache_key, ipcache_prefix};
use crate::identity::NumericIdentity;
use crate::node_state::NodeState;
use crate::observed::Observed;
use crate::world::Capacities;

/// What there is room for.
pub(super) enum Fit {
    /// This state, which lacks these.
    Without {
        state: Box<NodeState>,
        left_out: Vec<IpNet>,
    },
    /// For what must be there, once these are gone.
    AfterRemoval(Vec<IpcacheKey>),
    /// Not for what must be there.
    Never,
}

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

/// Chooses what fits. Addresses that have an entry keep it, so that the choice is the same as long as the inputs are.
pub(super) fn fit(observed: &Observed, desired: &NodeState, capacities: &Capacities) -> Fit {
    let own = Own::new(desired);
    let new: BTreeMap<&IpNet, u32> = desired
        .ipcache
        .iter()
        .filter(|(prefix, _)| !observed.ipcache.contains_key(&ipcache_key(**prefix)))
        .map(|(prefix, target)| (prefix, target.identity.0))
        .collect();
    let (optional, needed): (Vec<_>, Vec<_>) = new
        .into_iter()
        .partition(|(prefix, identity)| own.can_be_left_out(prefix, *identity));
    let free = capacities.ipcache.saturating_sub(observed.ipcache.len());
    if let Some(room) = free.checked_sub(needed.len()) {
        let left_out: Vec<IpNet> = optional
            .iter()
            .skip(room)
            .map(|(prefix, _)| **prefix)
            .collect();
        let mut state = desired.clone();
        for prefix in &left_out {
            state.ipcache.remove(prefix);
        }
        return Fit::Without {
            state: Box::new(state),
            left_out,
        };
    }
    let missing = needed.len() - free;
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
    Fit::AfterRemoval(
        removable
            .into_iter()
            .take(missing)
            .map(|(_, key)| key)
            .collect(),
    )
}
