//! Whether a plan fits into the kernel's tables at each of its writes.

use std::collections::BTreeMap;

use oxilium_abi::IpcacheKey;

use super::{Plan, PlanError, Table, Write};
use crate::observed::Observed;
use crate::world::Capacities;

/// At no point of the plan does a table hold more than it can.
pub(super) fn check_room(
    observed: &Observed,
    plan: &Plan,
    capacities: &Capacities,
) -> Result<(), PlanError> {
    let mut policy = observed.policy.len();
    let mut prefixes = observed.ipcache.len();
    // What the plan has changed so far, and whether it is there.
    let mut touched: BTreeMap<IpcacheKey, bool> = BTreeMap::new();
    let mut interfaces = observed.interfaces.len();
    let (mut most_policy, mut most_prefixes, mut most_interfaces) = (0, 0, 0);
    for write in plan.writes() {
        match write {
            Write::PolicyInsert { .. } => policy += 1,
            Write::PolicyDelete { .. } => policy = policy.saturating_sub(1),
            Write::IpcacheUpsert { key, .. } => {
                let there = touched
                    .insert(*key, true)
                    .unwrap_or_else(|| observed.ipcache.contains_key(key));
                prefixes += usize::from(!there);
            }
            Write::IpcacheDelete { key } => {
                let there = touched
                    .insert(*key, false)
                    .unwrap_or_else(|| observed.ipcache.contains_key(key));
                prefixes -= usize::from(there);
            }
            Write::InterfaceInsert { .. } => interfaces += 1,
            Write::InterfaceDelete { .. } => interfaces = interfaces.saturating_sub(1),
            _ => continue,
        }
        most_policy = most_policy.max(policy);
        most_prefixes = most_prefixes.max(prefixes);
        most_interfaces = most_interfaces.max(interfaces);
    }
    let rows = [
        (Table::Policy, most_policy, capacities.policy_entries),
        (Table::Ipcache, most_prefixes, capacities.ipcache),
        (Table::Interfaces, most_interfaces, capacities.interfaces),
    ];
    for (table, needed, available) in rows {
        if needed > available {
            return Err(PlanError::NoRoom {
                table,
                needed,
                available,
            });
        }
    }
    Ok(())
}
