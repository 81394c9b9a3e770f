//! From the World to the NodeState: plain, pure, the specification.
//!
//! 1. The attachments of this boot, with their pods.
//! 2. Identity numbers for labels, endpoint ids for attachments; claims come first.
//! 3. Which labels each number stands for.
//! 4. The ipcache.
//! 5. The policy of each endpoint, within the room that there is.
//! 6. The frontends of services and the backends behind each.
//!
//! Staged policies have no part in any of it; a [`Shadow`] is what one of them would make of it.
//!
//! Four things are worth remembering, that claims are valid and what policies, what CiliumEndpoints and what services come
//! to: who remembers does it behind [`Resolver`].

mod addresses;
mod endpoints;
mod identities;
mod incremental;
mod numbers;
mod remotes;
mod services;
mod staged;
mod tables;

use std::sync::Arc;

use crate::condition::{Condition, Object, Reason};
use crate::identity::{Identities, NumericIdentity};
use crate::node_state::{AttachPoint, EndpointPolicy, NodeState};
use crate::policy::{SubjectView, resolve_within};
use crate::world::{Claims, ValidClaims, World};

pub use incremental::Incremental;
pub use remotes::RemotePodsMemory;
pub use services::ServicesMemory;
pub use staged::{Change, Shadow, StagedFlow};

use endpoints::Draft;

/// Resolves the policies of subjects.
pub trait Resolver {
    /// The policy of each subject in their order, under the world's policies and these identities, with at
    /// most `available` entries in each direction.
    fn resolve(
        &mut self,
        world: &World,
        identities: &Arc<Identities>,
        subjects: &[SubjectView],
        available: usize,
    ) -> Vec<Arc<EndpointPolicy>>;

    /// These claims without what contradicts itself.
    fn validated(&mut self, claims: &Claims) -> ValidClaims {
        claims.validated()
    }

    /// What is remembered of CiliumEndpoints; none: they are all looked at each time.
    fn remote_pods(&mut self) -> Option<&mut RemotePodsMemory> {
        None
    }

    /// What is remembered of services; none: they are all looked at each time.
    fn services(&mut self) -> Option<&mut ServicesMemory> {
        None
    }
}

/// Resolves each subject from scratch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Resolver for Plain {
    fn resolve(
        &mut self,
        world: &World,
        identities: &Arc<Identities>,
        subjects: &[SubjectView],
        available: usize,
    ) -> Vec<Arc<EndpointPolicy>> {
        subjects
            .iter()
            .map(|subject| Arc::new(Self::one(world, identities, subject, available)))
            .collect()
    }
}

impl Plain {
    fn one(
        world: &World,
        identities: &Identities,
        subject: &SubjectView,
        available: usize,
    ) -> EndpointPolicy {
        let policies: Vec<_> = world.policies.values().map(|p| (**p).clone()).collect();
        let config = &world.config.policy;
        let fitted = resolve_within(&policies, identities, subject, config, available);
        EndpointPolicy::of(Arc::new(fitted))
    }
}

/// The node state that should exist.
pub fn desired(world: &World) -> NodeState {
    desired_with(world, &mut Plain)
}

/// As [`desired`], with another resolver, which must say the same as [`Plain`].
pub fn desired_with(world: &World, resolver: &mut impl Resolver) -> NodeState {
    let valid = resolver.validated(&world.claims);
    let mut conditions: Vec<Condition> = valid
        .errors
        .iter()
        .map(|error| Condition {
            object: Object::Claims,
            reason: Reason::ClaimDropped {
                error: error.to_string().into(),
            },
        })
        .collect();
    let claims = valid.claims;

    let drafts = endpoints::drafts(world, &mut conditions);
    let prefixes = identities::prefixes(world);
    let claimed = match resolver.remote_pods() {
        Some(memory) => memory.claimed(world),
        None => remotes::claimed(world),
    };
    let given = numbers::Given {
        claims: &claims,
        drafts: &drafts,
        prefixes: &prefixes,
        elsewhere: &claimed,
    };
    let mut numbers = numbers::allot(world, given, &mut conditions);
    let remote_pods = match resolver.remote_pods() {
        Some(memory) => memory.resolve(world, &numbers),
        None => remotes::resolve(world, &numbers),
    };
    let named_ports = &remote_pods.named_ports;
    let identities = Arc::new(identities::universe(world, &drafts, &numbers, named_ports));

    conditions.extend(remote_pods.conflicts);
    let ipcache = addresses::ipcache(world, &drafts, &prefixes, &numbers, remote_pods.addresses);
    let subjects: Vec<SubjectView> = drafts
        .iter()
        .map(|draft| subject(draft, &numbers, &identities))
        .collect();
    let policies = tables::policies(world, &identities, &subjects, resolver);
    conditions.extend(tables::not_enforced(world));
    tables::conditions(&drafts, &policies, &mut conditions);

    let services = match resolver.services() {
        Some(memory) => memory.frontends(world, &mut conditions),
        None => services::frontends(world, &mut conditions),
    };
    let mut state = NodeState {
        services,
        ipcache,
        identities,
        claims: std::mem::take(&mut numbers.claims),
        identity_requests: std::mem::take(&mut numbers.requests),
        ..NodeState::default()
    };
    for ((draft, subject), policy) in drafts.into_iter().zip(subjects).zip(policies) {
        let Some(id) = numbers.endpoint(&draft.attachment.id) else {
            continue;
        };
        let identity = numbers.identity_of(&draft);
        let waits = numbers.waits(&draft);
        let draft = Draft { waits, ..draft };
        let endpoint = draft.into_endpoint(id, identity, subject, policy);
        if let Some((ifindex, interface)) = endpoints::interface(world, &endpoint) {
            state.interfaces.insert(ifindex, interface);
            for (hook, program) in &world.config.programs {
                let point = AttachPoint {
                    ifindex,
                    hook: *hook,
                };
                state.attachments.insert(point, *program);
            }
        }
        state.endpoints.insert(id, Arc::new(endpoint));
    }
    conditions.sort();
    conditions.dedup();
    state.conditions = conditions;
    state
}

fn subject(draft: &Draft, numbers: &numbers::Numbers, identities: &Identities) -> SubjectView {
    let identity = numbers.identity_of(draft);
    let labels = identities
        .get(identity)
        .or_else(|| identities.get(NumericIdentity::INIT))
        .map(|identity| identity.labels.clone())
        .unwrap_or_default();
    SubjectView {
        labels,
        named_ports: draft.named_ports.clone(),
    }
}
