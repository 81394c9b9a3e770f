//! Edit by edit: what did not change is not computed again.

use std::collections::HashMap;
use std::sync::Arc;

use super::{RemotePodsMemory, Resolver, ServicesMemory};
use crate::identity::Identities;
use crate::node_state::EndpointPolicy;
use crate::policy::SubjectView;
use crate::policy::engine::Follower;
use crate::world::{Claims, ValidClaims, World};

/// Remembers, from one World to the next, which claims are valid, what each rule selects, what each subject's policy is,
/// and what CiliumEndpoints and services come to. Says the same as [`super::Plain`] for every World, whatever it was shown before.
#[derive(Debug, Default)]
pub struct Incremental {
    follower: Option<Follower>,
    /// The kernel's form of each policy that was said last, by where that is in memory. It is held with
    /// the form, so that no other takes its place.
    known: HashMap<usize, Arc<EndpointPolicy>>,
    /// Claims, and what of them is valid.
    claims: (Claims, ValidClaims),
    remote_pods: RemotePodsMemory,
    services: ServicesMemory,
}

impl Resolver for Incremental {
    fn resolve(
        &mut self,
        world: &World,
        identities: &Arc<Identities>,
        subjects: &[SubjectView],
        available: usize,
    ) -> Vec<Arc<EndpointPolicy>> {
        let config = &world.config.policy;
        let follower = self
            .follower
            .get_or_insert_with(|| Follower::new(config.clone()));
        let said = follower.follow(config, &world.policies, identities, subjects, available);
        let mut known = HashMap::new();
        let policies = said
            .into_iter()
            .map(|resolved| {
                let place = Arc::as_ptr(&resolved).addr();
                let before = self.known.get(&place).cloned();
                let policy =
                    before.unwrap_or_else(|| Arc::new(EndpointPolicy::of(resolved.clone())));
                known.entry(place).or_insert(policy).clone()
            })
            .collect();
        self.known = known;
        policies
    }

    fn validated(&mut self, claims: &Claims) -> ValidClaims {
        let (known, valid) = &mut self.claims;
        if !known.is_same(claims) {
            *valid = claims.validated();
            *known = claims.clone();
        }
        valid.clone()
    }

    fn remote_pods(&mut self) -> Option<&mut RemotePodsMemory> {
        Some(&mut self.remote_pods)
    }

    fn services(&mut self) -> Option<&mut ServicesMemory> {
        Some(&mut self.services)
    }
}
