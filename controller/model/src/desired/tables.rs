//! The policy of each endpoint, within the room that the kernel's map has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oxilium_abi::Direction;

use super::endpoints::Draft;
use super::{Condition, Object, Reason, Resolver, World};
use crate::identity::Identities;
use crate::node_state::{EndpointPolicy, EntryKey, EntryValue, TableContent};
use crate::policy::table::PolicyTable;
use crate::policy::{Fitted, SubjectView};

/// Resolves all policies, each within the quota; where all together are too large, within a smaller one.
pub(super) fn policies(
    world: &World,
    identities: &Arc<Identities>,
    subjects: &[SubjectView],
    resolver: &mut impl Resolver,
) -> Vec<Arc<EndpointPolicy>> {
    let quota = world.config.capacities.table_quota;
    let policies = share(resolver.resolve(world, identities, subjects, quota));
    let fitting = fitting_quota(&policies, quota, world.config.capacities.policy_entries);
    if fitting == quota {
        return policies;
    }
    share(resolver.resolve(world, identities, subjects, fitting))
}

/// The largest quota with which all tables fit and the largest one fits a second time, to be staged.
fn fitting_quota(policies: &[Arc<EndpointPolicy>], quota: usize, capacity: usize) -> usize {
    let sizes: BTreeMap<*const TableContent, [usize; 2]> = policies
        .iter()
        .map(|policy| (Arc::as_ptr(&policy.table), policy.sizes()))
        .collect();
    let fits = |quota: usize| {
        let sizes = || {
            sizes
                .values()
                .map(move |[ingress, egress]| ingress.min(&quota) + egress.min(&quota))
        };
        sizes().sum::<usize>() + sizes().max().unwrap_or(0) <= capacity
    };
    if fits(quota) {
        return quota;
    }
    let (mut fitting, mut too_large) = (0, quota);
    while too_large - fitting > 1 {
        let middle = usize::midpoint(fitting, too_large);
        if fits(middle) {
            fitting = middle;
        } else {
            too_large = middle;
        }
    }
    fitting
}

/// Makes equal tables one.
fn share(policies: Vec<Arc<EndpointPolicy>>) -> Vec<Arc<EndpointPolicy>> {
    let mut by_pointer: HashMap<*const TableContent, Arc<TableContent>> = HashMap::new();
    let mut by_length: HashMap<usize, Vec<Arc<TableContent>>> = HashMap::new();
    let mut shared = |table: &Arc<TableContent>| {
        let known = by_pointer.entry(Arc::as_ptr(table)).or_insert_with(|| {
            let alike = by_length.entry(table.0.len()).or_default();
            let known = alike.iter().find(|other| *other == table).cloned();
            known.unwrap_or_else(|| {
                alike.push(table.clone());
                table.clone()
            })
        });
        known.clone()
    };
    policies
        .into_iter()
        .map(|policy| {
            let table = shared(&policy.table);
            if Arc::ptr_eq(&table, &policy.table) {
                return policy;
            }
            Arc::new(EndpointPolicy {
                table,
                ..(*policy).clone()
            })
        })
        .collect()
}

/// A table as the kernel holds it: without provenance. No proxy runs yet, and so there is no proxy port.
fn content(table: &PolicyTable) -> TableContent {
    let of = |direction: Direction| {
        table
            .direction(direction)
            .entries()
            .iter()
            .map(move |(key, entry)| {
                let shape = key.shape();
                let key = EntryKey {
                    direction,
                    identity: key.identity,
                    protocol: key.protocol.0,
                    shape: u8::try_from(shape).unwrap_or_default(),
                    port: key.port.first(),
                };
                let value = EntryValue {
                    precedence: entry.precedence,
                    proxy_port: 0,
                    auth: entry.auth,
                };
                (key, value)
            })
    };
    TableContent(
        of(Direction::Ingress)
            .chain(of(Direction::Egress))
            .collect(),
    )
}

/// What the policies' conditions are: what did not fit, what cannot be resolved.
pub(super) fn conditions(
    drafts: &[Draft],
    policies: &[Arc<EndpointPolicy>],
    conditions: &mut Vec<Condition>,
) {
    for (draft, policy) in drafts.iter().zip(policies) {
        let pod = &draft.attachment.pod;
        if let Some(error) = &policy.resolved.policy.error {
            conditions.push(Condition {
                object: Object::Pod(pod.clone()),
                reason: Reason::Unresolvable {
                    error: error.to_string().into(),
                },
            });
        }
        for overflow in &policy.resolved.overflow {
            for left_out in &overflow.left_out {
                conditions.push(Condition {
                    object: Object::Policy(left_out.clone()),
                    reason: Reason::WouldOverflow {
                        pod: pod.clone(),
                        direction: overflow.direction,
                        needed: overflow.needed,
                        available: overflow.available,
                    },
                });
            }
        }
    }
}

/// Parts of policies that have no enforcing component.
pub(super) fn not_enforced(world: &World) -> impl Iterator<Item = Condition> {
    let in_force = world.policies.values().filter(|policy| !policy.audit);
    in_force.flat_map(|policy| {
        policy.not_enforced().into_iter().map(|part| Condition {
            object: Object::Policy(policy.reference.clone()),
            reason: Reason::NotEnforced {
                part: part.to_string().into(),
            },
        })
    })
}

impl EndpointPolicy {
    /// What the resolver says, with the table as the kernel is to hold it.
    pub fn of(resolved: Arc<Fitted>) -> Self {
        let table = &resolved.policy.table;
        Self {
            ingress_enforced: table.ingress.enforced,
            egress_enforced: table.egress.enforced,
            table: Arc::new(content(table)),
            resolved,
        }
    }

    fn sizes(&self) -> [usize; 2] {
        let ingress = self
            .table
            .0
            .keys()
            .filter(|key| key.direction == Direction::Ingress)
            .count();
        [ingress, self.table.0.len() - ingress]
    }
}
