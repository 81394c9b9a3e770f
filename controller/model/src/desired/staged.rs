//! Staged policies: what one of them would change if it were enforced as well.
//!
//! A [`Shadow`] is the node state of a World that differs in one thing: the policy is no longer staged. So
//! prefixes that only this policy names have identities there, and quotas hold there too; the state that is
//! enforced knows nothing of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use oxilium_abi::Direction;

use super::identities::world_identity;
use super::{Resolver, desired_with};
use crate::condition::Condition;
use crate::identity::{NumericIdentity, Protocol};
use crate::node_state::NodeState;
use crate::policy::Outcome;
use crate::policy::rule::Policy;
use crate::policy::table::Packet;
use crate::world::World;

/// A flow as an endpoint of this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagedFlow {
    /// The endpoint's id.
    pub endpoint: u16,
    /// Direction of the flow's first packet, seen from the endpoint.
    pub direction: Direction,
    /// The other side's address.
    pub remote: IpAddr,
    /// The identity that the programs found for it, [`NumericIdentity::ANY`] if none is known.
    pub identity: NumericIdentity,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// What a staged policy would change for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It passes, and would be dropped.
    NewlyDenied,
    /// It is dropped, and would pass.
    NewlyAllowed,
}

/// The node as it would be if a staged policy were enforced beside the others.
#[derive(Clone, Debug)]
pub struct Shadow {
    world: World,
    state: NodeState,
    /// What the policy selects; it changes nothing for others.
    selected: BTreeSet<(u16, Direction)>,
    conditions: Vec<Condition>,
}

impl Shadow {
    /// Of `policy`, which is staged in `world`, whose state is `enforced`. Others that are staged stay so.
    pub fn of(
        world: &World,
        enforced: &NodeState,
        policy: &Policy,
        resolver: &mut impl Resolver,
    ) -> Self {
        let mut world = World {
            // Who has a number keeps it: endpoints are the same ones in both states.
            claims: enforced.claims.clone(),
            ..world.clone()
        };
        let in_force = Policy {
            audit: false,
            ..policy.clone()
        };
        world
            .policies
            .insert(policy.reference.clone(), Arc::new(in_force));
        let state = desired_with(&world, resolver);
        let selected = state
            .endpoints
            .values()
            .flat_map(|endpoint| {
                policy
                    .rules
                    .iter()
                    .filter(|rule| rule.subject.selects(&endpoint.labels))
                    .map(|rule| (endpoint.id, rule.direction))
            })
            .collect();
        let conditions = state
            .conditions
            .iter()
            .filter(|condition| !enforced.conditions.contains(condition))
            .cloned()
            .collect();
        Self {
            world,
            state,
            selected,
            conditions,
        }
    }

    /// The policy selects this endpoint in this direction.
    pub fn selects(&self, endpoint: u16, direction: Direction) -> bool {
        self.selected.contains(&(endpoint, direction))
    }

    /// What could not be done as asked if the policy were enforced, and can be now.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// What the policy would change for a flow; none also for flows that it does not select and for
    /// endpoints that one of the states does not know.
    pub fn compare(&self, enforced: &NodeState, flow: &StagedFlow) -> Option<Change> {
        if !self.selects(flow.endpoint, flow.direction) {
            return None;
        }
        let now = passes(&self.world, enforced, flow)?;
        let then = passes(&self.world, &self.state, flow)?;
        match (now, then) {
            (true, false) => Some(Change::NewlyDenied),
            (false, true) => Some(Change::NewlyAllowed),
            _ => None,
        }
    }
}

/// Whether a state's table lets a flow pass. What needs a proxy or authentication does not, as in the programs.
fn passes(world: &World, state: &NodeState, flow: &StagedFlow) -> Option<bool> {
    let endpoint = state.endpoints.get(&flow.endpoint)?;
    let table = &endpoint.policy.resolved.policy.table;
    let packet = Packet {
        identity: remote_identity(world, state, flow),
        protocol: flow.protocol,
        port: flow.port,
    };
    let winner = table
        .direction(flow.direction)
        .lookup(packet, world.config.policy.cluster_id);
    Some(
        Outcome::of(winner.map(|(_, entry)| entry))
            == Outcome::Allowed {
                redirect: None,
                auth: 0,
            },
    )
}

/// The remote's identity in a state. What the programs found holds for pods and nodes (that a peer is this
/// host they can prove, an address cannot); of the world, each state has its own prefixes.
fn remote_identity(world: &World, state: &NodeState, flow: &StagedFlow) -> NumericIdentity {
    let found = flow.identity;
    let of_world = found.is_cidr()
        || [
            NumericIdentity::ANY,
            NumericIdentity::WORLD,
            NumericIdentity::WORLD_IPV4,
            NumericIdentity::WORLD_IPV6,
        ]
        .contains(&found);
    if !of_world && state.identities.get(found).is_some() {
        return found;
    }
    let whole = IpNet::from(flow.remote).prefix_len();
    (0..=whole)
        .rev()
        .filter_map(|length| IpNet::new(flow.remote, length).ok())
        .find_map(|prefix| state.ipcache.get(&prefix.trunc()))
        .map_or_else(
            || world_identity(world, flow.remote),
            |target| target.identity,
        )
}
