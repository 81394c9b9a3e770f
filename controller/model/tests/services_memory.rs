//! Services remembered from one world to the next come to what they come to when looked at anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_model::world::{
    BackendAddress, BackendCondition, Capacities, NodeConfig, Service, ServicePort, ServiceRef,
    Services, World,
};
use oxilium_model::{Incremental, desired, desired_with};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

/// A service: its address, which another may have as well, its ports and their backends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seed {
    address: u8,
    ports: BTreeSet<u8>,
    backends: BTreeMap<u8, bool>,
}

type Seeds = BTreeMap<u8, Seed>;

fn seeds() -> impl Strategy<Value = Seeds> {
    let ports = btree_set(80..83_u8, 0..3);
    let seed = (0..8_u8, ports, btree_map(0..4_u8, any::<bool>(), 0..4));
    let seed = seed.prop_map(|(address, ports, backends)| Seed {
        address,
        ports,
        backends,
    });
    btree_map(0..8_u8, seed, 0..6)
}

fn service(number: u8, seed: &Seed) -> Service {
    let backends: BTreeMap<BackendAddress, BackendCondition> = seed
        .backends
        .iter()
        .map(|(last, ready)| {
            let backend = BackendAddress {
                address: IpAddr::from([10, 0, number, *last]),
                port: 8080,
            };
            let condition = BackendCondition {
                ready: *ready,
                serving: true,
                local: false,
            };
            (backend, condition)
        })
        .collect();
    let port = |port: &u8| ServicePort {
        name: "".into(),
        protocol: 6,
        port: u16::from(*port),
        backends: backends.clone(),
    };
    Service {
        reference: ServiceRef::new("default", &format!("s{number}")),
        addresses: vec![IpAddr::from([10, 96, 0, seed.address])],
        affinity: None,
        local_only: false,
        ports: seed.ports.iter().map(port).collect(),
    }
}

/// The services of a world after those of another: what is as it was is the same object.
fn after(before: &Services, seeds: &Seeds) -> Services {
    let of = |(number, seed): (&u8, &Seed)| {
        let service = service(*number, seed);
        let known = before
            .get(&service.reference)
            .filter(|known| ***known == service);
        let service = known.cloned().unwrap_or_else(|| Arc::new(service));
        (service.reference.clone(), service)
    };
    seeds.iter().map(of).collect()
}

proptest! {
    #[test]
    fn what_is_remembered_of_services_is_what_they_come_to(
        worlds in vec((seeds(), 3..14_usize, 4..24_usize, any::<bool>()), 1..10),
    ) {
        let mut memory = Incremental::default();
        let (mut services, mut room) = (Services::default(), (14, 24));
        for (seeds, frontends, backends, other_room) in worlds {
            services = after(&services, &seeds);
            if other_room {
                room = (frontends, backends);
            }
            let capacities = Capacities {
                frontends: room.0,
                backends: room.1,
                ..Capacities::default()
            };
            let config = NodeConfig { capacities, ..NodeConfig::default() };
            let world = World {
                config: Arc::new(config),
                services: services.clone(),
                ..World::default()
            };
            let remembered = desired_with(&world, &mut memory);
            prop_assert_eq!(&remembered, &desired(&world));
            let again = desired_with(&world, &mut memory);
            prop_assert!(again.services.is_same(&remembered.services), "nothing changed");
        }
    }
}
