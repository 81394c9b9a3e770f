//! Which frontends there should be, and which backends behind each: as kube-proxy chooses them.
//!
//! Ready backends are used; where none is ready, those that still answer while they terminate. With
//! `internalTrafficPolicy: Local` only the node's own count, and if there is none, nobody answers.
//! A frontend without a backend stays a frontend: packets to it are dropped with a reason of their own
//! rather than left to kube-proxy, whose view may differ from ours, and which would then send past
//! egress policy to a backend that we do not know of.
//!
//! Left to kube-proxy: NodePort, LoadBalancer and external addresses; topology hints and
//! `trafficDistribution` are not heeded, as every backend that is ready is right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::condition::{Condition, Object, Reason};
use crate::node_state::{Frontend, FrontendState, Frontends};
use crate::world::{BackendAddress, Service, ServicePort, ServiceRef, Services, World};

/// The frontends, as many as there is room for, in the order of their services' names.
pub(super) fn frontends(world: &World, conditions: &mut Vec<Condition>) -> Frontends {
    let capacities = &world.config.capacities;
    let mut frontends = Frontends::default();
    let mut backends = 0;
    for service in world.services.values() {
        let own = of_service(service);
        let own_backends: usize = own.values().map(|state| state.backends.len()).sum();
        if frontends.len() + own.len() > capacities.frontends
            || backends + own_backends > capacities.backends
        {
            conditions.push(about(&service.reference, Reason::ServicesExhausted));
            continue;
        }
        for (frontend, state) in own {
            if let Some(other) = frontends.get(&frontend) {
                conditions.push(about(
                    &service.reference,
                    Reason::AddressConflict {
                        address: frontend.address,
                        kept: other.service.to_string().into(),
                        refused: service.reference.to_string().into(),
                    },
                ));
                continue;
            }
            backends += state.backends.len();
            frontends.insert(frontend, Arc::new(state));
        }
    }
    frontends
}

/// What services came to in the last World, so that the next one costs what differs. It says what `frontends` says.
#[derive(Debug, Default)]
pub struct ServicesMemory {
    services: Services,
    /// For frontends and for backends.
    room: (usize, usize),
    frontends: Frontends,
    backends: usize,
    /// While there are any, the services depend on each other.
    conditions: Vec<Condition>,
}

impl ServicesMemory {
    pub(super) fn frontends(
        &mut self,
        world: &World,
        conditions: &mut Vec<Condition>,
    ) -> Frontends {
        let capacities = &world.config.capacities;
        let room = (capacities.frontends, capacities.backends);
        let is_same = self.room == room && self.services.is_same(&world.services);
        if !is_same {
            let independent = self.room == room && self.conditions.is_empty();
            if !(independent && self.follow(&world.services)) {
                self.conditions.clear();
                self.frontends = frontends(world, &mut self.conditions);
                let backends = self.frontends.values().map(|state| state.backends.len());
                self.backends = backends.sum();
            }
            self.services = world.services.clone();
            self.room = room;
        }
        conditions.extend(self.conditions.iter().cloned());
        self.frontends.clone()
    }

    /// Changes the frontends of those services that differ. False where services turn out to depend on each other: then
    /// what is remembered is of no use.
    fn follow(&mut self, services: &Services) -> bool {
        let differing: Vec<_> = self.services.differing(services).collect();
        let frontends = &mut self.frontends;
        let gone = differing.iter().filter_map(|service| service.was);
        for frontend in gone.flat_map(|service| of_service(service).into_keys()) {
            let state = frontends.remove(&frontend);
            self.backends -= state.map_or(0, |state| state.backends.len());
        }
        let new = differing.iter().filter_map(|service| service.is);
        for (frontend, state) in new.flat_map(|service| of_service(service)) {
            self.backends += state.backends.len();
            if frontends.insert(frontend, Arc::new(state)).is_some() {
                return false;
            }
        }
        frontends.len() <= self.room.0 && self.backends <= self.room.1
    }
}

fn about(service: &ServiceRef, reason: Reason) -> Condition {
    Condition {
        object: Object::Service(service.clone()),
        reason,
    }
}

fn of_service(service: &Service) -> BTreeMap<Frontend, FrontendState> {
    let mut frontends = BTreeMap::new();
    for address in &service.addresses {
        for port in &service.ports {
            let frontend = Frontend {
                address: *address,
                port: port.port,
                protocol: port.protocol,
            };
            let state = FrontendState {
                service: service.reference.clone(),
                port_name: Arc::clone(&port.name),
                affinity: service.affinity,
                backends: chosen(service, port, *address),
            };
            frontends.insert(frontend, state);
        }
    }
    frontends
}

/// The backends of the frontend's family that new flows may go to.
fn chosen(service: &Service, port: &ServicePort, frontend: IpAddr) -> BTreeSet<BackendAddress> {
    let candidates = || {
        port.backends.iter().filter(|(backend, condition)| {
            backend.address.is_ipv4() == frontend.is_ipv4()
                && (condition.local || !service.local_only)
        })
    };
    let ready: BTreeSet<BackendAddress> = candidates()
        .filter(|(_, condition)| condition.ready)
        .map(|(backend, _)| *backend)
        .collect();
    let mut chosen = if ready.is_empty() {
        candidates()
            .filter(|(_, condition)| condition.serving)
            .map(|(backend, _)| *backend)
            .collect()
    } else {
        ready
    };
    // As many as a frontend has slots for.
    while chosen.len() > usize::from(u16::MAX) {
        chosen.pop_last();
    }
    chosen
}
