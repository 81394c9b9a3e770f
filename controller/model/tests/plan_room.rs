//! An ipcache without room for all: what can be left out is left out, and nothing that cannot; prefixes around it say so.

#[path = "plan_support/mod.rs"]
mod plan_support;
#[path = "policy_support/mod.rs"]
mod policy_support;
#[path = "plan_support/worlds.rs"]
mod worlds;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use oxilium_abi::Direction;
use oxilium_model::desired;
use oxilium_model::identity::{NamedPorts, NumericIdentity};
use oxilium_model::label::Label;
use oxilium_model::node_state::NodeState;
use oxilium_model::plan::{Plan, PlanError, Table, Write, ipcache_key, ipcache_prefix, plan};
use oxilium_model::policy::peer::{CidrPeer, Peer, Peers};
use oxilium_model::policy::rule::PortRules;
use oxilium_model::world::{Capacities, NodeConfig, PodRef, RemoteEndpoint, World};
use plan_support::kernel::Kernel;
use policy_support::{policy, rule};
use worlds::empty_world;

/// A pod of another node, with an address of its own.
fn add_remote(world: &mut World, number: u8) {
    let reference = PodRef::new("red", &format!("remote-{number}"));
    let remote = RemoteEndpoint {
        reference: reference.clone(),
        addresses: [Ipv4Addr::new(10, 9, 9, number).into()].into(),
        identity: NumericIdentity(2000 + u32::from(number)),
        labels: [Label::parse(&format!("k8s:app=r{number}")).expect("a label")]
            .into_iter()
            .collect(),
        named_ports: NamedPorts::default(),
        node_address: None,
    };
    world.remote_endpoints.insert(reference, Arc::new(remote));
}

/// A policy that names prefixes 192.0.2.`number`/32.
fn name_prefixes(world: &mut World, numbers: std::ops::Range<u8>) {
    let peers = numbers
        .map(|number| {
            let prefix: IpNet = format!("192.0.2.{number}/32").parse().expect("a prefix");
            Peer::Cidr(CidrPeer::new(prefix, []))
        })
        .collect();
    let policy = policy("prefixes", |reference| {
        vec![rule(
            reference,
            Direction::Ingress,
            Peers::AnyOf(peers),
            PortRules::All,
        )]
    });
    world
        .policies
        .insert(policy.reference.clone(), Arc::new(policy));
}

/// A kernel whose ipcache has room for so many entries, and for what stands in for those that are left out.
struct Node {
    kernel: Kernel,
    room: usize,
}

/// Kept for what stands in.
const RESERVE: usize = 12;

impl Node {
    fn plan(&self, world: &World, state: &NodeState) -> Result<Plan, PlanError> {
        let config = NodeConfig {
            capacities: Capacities {
                ipcache: self.room + RESERVE,
                ..Capacities::default()
            },
            ..(*world.config).clone()
        };
        let complete = world.synced.complete().expect("all have delivered");
        plan(&self.kernel.0, state, &config, complete)
    }

    /// Plans and writes until nothing more is to follow; gives what was left out.
    fn settle(&mut self, world: &World) -> Vec<String> {
        let state = desired(world);
        for round in 0.. {
            assert!(round < 4, "it never comes to an end");
            let plan = self.plan(world, &state).expect("a plan");
            for write in plan.writes() {
                self.kernel.apply(write);
                let held = self.kernel.0.ipcache.len();
                assert!(held <= self.room + RESERVE, "{held} after {write}");
            }
            if !plan.goes_on() {
                self.assert_all_but(&state, plan.left_out());
                return plan.left_out().iter().map(ToString::to_string).collect();
            }
        }
        Vec::new()
    }

    fn assert_all_but(&self, state: &NodeState, left_out: &[IpNet]) {
        for prefix in state.ipcache.keys() {
            let there = self.kernel.0.ipcache.contains_key(&ipcache_key(*prefix));
            assert_eq!(there, !left_out.contains(prefix), "{prefix}");
        }
        let number = state.ipcache.len() - left_out.len() + self.stand_ins().len();
        assert_eq!(self.kernel.0.ipcache.len(), number, "others are there");
        for prefix in left_out {
            let identity = self.kernel.identity(prefix.addr());
            assert_eq!(identity, NumericIdentity::UNRESOLVED, "{prefix}");
        }
    }

    /// The prefixes that stand in for what is left out.
    fn stand_ins(&self) -> Vec<String> {
        let entries = self.kernel.0.ipcache.iter();
        entries
            .filter(|(_, value)| value.identity(0) == NumericIdentity::UNRESOLVED.0)
            .filter_map(|(key, _)| Some(ipcache_prefix(key)?.to_string()))
            .collect()
    }

    fn is_at_rest(&self, world: &World) -> bool {
        self.plan(world, &desired(world))
            .expect("a plan")
            .is_empty()
    }
}

fn with_remotes(numbers: std::ops::RangeInclusive<u8>) -> World {
    let mut world = empty_world();
    for number in numbers {
        add_remote(&mut world, number);
    }
    world
}

#[test]
fn pods_of_other_nodes_are_left_out_and_come_when_there_is_room() {
    let base = desired(&empty_world()).ipcache.len();
    let mut world = with_remotes(1..=5);
    let mut node = Node {
        kernel: Kernel::default(),
        room: base + 3,
    };
    assert_eq!(node.settle(&world), ["10.9.9.4/32", "10.9.9.5/32"]);
    assert_eq!(node.stand_ins(), ["10.9.9.4/31"]);
    assert!(node.is_at_rest(&world), "a second look writes");

    // Who is in stays in, whatever comes.
    add_remote(&mut world, 0);
    assert_eq!(
        node.settle(&world),
        ["10.9.9.0/32", "10.9.9.4/32", "10.9.9.5/32"]
    );
    world
        .remote_endpoints
        .remove(&PodRef::new("red", "remote-2"));
    assert_eq!(node.settle(&world), ["10.9.9.4/32", "10.9.9.5/32"]);

    node.room = base + 5;
    assert_eq!(node.settle(&world), Vec::<String>::new());
    assert_eq!(node.stand_ins(), Vec::<String>::new());
    assert!(node.is_at_rest(&world));
}

#[test]
fn what_a_policy_names_takes_the_place_of_pods_before_the_policy_is_in_force() {
    let base = desired(&empty_world()).ipcache.len();
    let mut world = with_remotes(1..=3);
    let mut node = Node {
        kernel: Kernel::default(),
        room: base + 3,
    };
    assert_eq!(node.settle(&world), Vec::<String>::new());
    name_prefixes(&mut world, 0..2);
    let state = desired(&world);
    let first = node.plan(&world, &state).expect("a plan");
    assert!(first.goes_on());
    let others = first.writes().filter(|write| {
        !matches!(
            write,
            Write::IpcacheUpsert { .. }
                | Write::IpcacheDelete { .. }
                | Write::HighWater(_)
                | Write::IpcacheWord(_)
        )
    });
    assert_eq!(others.count(), 0, "room is made, and nothing else: {first}");
    assert_eq!(node.settle(&world).len(), 2);
    assert!(node.is_at_rest(&world));
}

#[test]
fn an_address_that_goes_to_make_room_is_nobodys_until_the_rest_of_the_plan_is_there() {
    let base = desired(&empty_world()).ipcache.len();
    let mut world = with_remotes(1..=3);
    let mut node = Node {
        kernel: Kernel::default(),
        room: base + 3,
    };
    assert_eq!(node.settle(&world), Vec::<String>::new());
    world.remote_endpoints.clear();
    name_prefixes(&mut world, 0..2);
    let first = node.plan(&world, &desired(&world)).expect("a plan");
    assert!(first.goes_on());
    let mut gone = Vec::new();
    for write in first.writes() {
        node.kernel.apply(write);
        if let Write::IpcacheDelete { key } = write {
            gone.extend(ipcache_prefix(key));
        }
    }
    let stand_ins: Vec<IpNet> = node
        .stand_ins()
        .iter()
        .map(|prefix| prefix.parse().expect("a prefix"))
        .collect();
    assert_eq!(gone.len(), 2);
    for address in gone {
        let covered = stand_ins.iter().any(|prefix| prefix.contains(&address));
        assert!(covered, "{address} is what is around it after {first}");
    }
}

#[test]
fn what_must_be_there_and_does_not_fit_stops_all_changes() {
    let base = desired(&empty_world()).ipcache.len();
    let mut world = with_remotes(1..=3);
    name_prefixes(&mut world, 0..9);
    let node = Node {
        kernel: Kernel::default(),
        room: base + 8,
    };
    let refused = node.plan(&world, &desired(&world));
    assert!(
        matches!(
            refused,
            Err(PlanError::NoRoom {
                table: Table::Ipcache,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_full_ipcache_of_an_agent_without_a_reserve_leaves_the_reserve_free() {
    const FILLED: usize = 512_000;
    let capacities = Capacities::default();
    let usable = capacities.ipcache - capacities.ipcache_reserve();
    assert!(usable >= FILLED, "{usable}");
}
