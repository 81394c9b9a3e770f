//! What a full ipcache lacks of what is wanted of it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::NodeState;
use oxilium_model::plan::Plan;

/// Prefixes that are other in the kernel than in the desired state, for want of room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    addresses: BTreeSet<IpNet>,
    covers: BTreeSet<IpNet>,
}

impl LeftOut {
    /// By a plan that was applied.
    pub fn of(plan: &Plan) -> Self {
        Self {
            addresses: plan.left_out().iter().copied().collect(),
            covers: plan.covers().iter().copied().collect(),
        }
    }

    /// The identity in the entry of just this prefix; none where there is no entry.
    pub(super) fn identity(&self, state: &NodeState, prefix: &IpNet) -> Option<NumericIdentity> {
        if self.covers.contains(prefix) {
            return Some(NumericIdentity::UNRESOLVED);
        }
        let target = state.ipcache.get(prefix)?;
        (!self.addresses.contains(prefix)).then_some(target.identity)
    }
}
