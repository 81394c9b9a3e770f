//! What every node does, the fake and the real one.

mod common;

use common::{Bed, on_every_bed};
use oxilium_abi::{
    AuthRequirement, Direction, EndpointWord, Epoch, InterfaceConfig, IpcacheKey, IpcacheValue,
    IpcacheWord, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord,
};
use oxilium_kernel::{ApplyError, Node, Retry};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::observed::{AttachedProgram, Observed, Place};
use oxilium_model::plan::Write;

fn policy_key(identity: u32) -> PolicyKey {
    PolicyKey {
        table: 1,
        identity,
        direction_shape: PolicyKey::pack(Direction::Egress, 0),
        ..PolicyKey::default()
    }
}

fn policy_value(key: &PolicyKey, precedence: u32) -> PolicyValue {
    PolicyValue::new(key, Precedence(precedence), 0, AuthRequirement(0))
}

fn interface(ifindex: u32, endpoint: u16) -> InterfaceConfig {
    InterfaceConfig {
        ifindex,
        endpoint,
        birth: 3,
        ..InterfaceConfig::default()
    }
}

fn attach(node: &dyn Node, ifindex: u32, endpoint: u16, hook: Hook) -> Write {
    Write::Attach {
        staged: false,
        point: AttachPoint { ifindex, hook },
        endpoint,
        program: node.programs()[&hook],
    }
}

fn replace(node: &dyn Node, ifindex: u32, endpoint: u16, hook: Hook) -> Write {
    match attach(node, ifindex, endpoint, hook) {
        Write::Attach {
            staged: false,
            point,
            endpoint,
            program,
        } => Write::Replace {
            point,
            endpoint,
            program,
        },
        other => other,
    }
}

type Effect<'a> = Box<dyn Fn(&mut Observed) + 'a>;

/// What a write does to the tables; what the change gives back is of no use here.
fn effect<'a, T>(change: impl Fn(&mut Observed) -> T + 'a) -> Effect<'a> {
    Box::new(move |observed| {
        change(observed);
    })
}

/// Writes into every table and out again, each with what it does.
fn steps_through_all_tables(device: u32) -> Vec<(Write, Effect<'static>)> {
    let key = policy_key(777);
    let prefix = IpcacheKey::v4([10, 0, 0, 0], 8);
    let shapes = ShapeWord::new(ShapeMask(3), ShapeMask(0), ShapeMask(1));
    let word = EndpointWord::new(7, Epoch::new(9));
    vec![
        (
            Write::HighWater(Epoch::new(9)),
            effect(move |o| o.node_words[2] = 9),
        ),
        (
            Write::ShapeWord {
                table: 7,
                direction: Direction::Egress,
                word: shapes,
            },
            effect(move |o| o.shapes.insert((7, Direction::Egress), shapes)),
        ),
        (
            Write::PolicyInsert {
                key,
                value: policy_value(&key, 5),
            },
            effect(move |o| o.policy.insert(key, policy_value(&key, 5))),
        ),
        (
            Write::PolicyReplace {
                key,
                value: policy_value(&key, 6),
            },
            effect(move |o| o.policy.insert(key, policy_value(&key, 6))),
        ),
        (
            Write::IpcacheUpsert {
                key: prefix,
                value: IpcacheValue::level(2),
            },
            effect(move |o| o.ipcache.insert(prefix, IpcacheValue::level(2))),
        ),
        (
            Write::InterfaceInsert {
                ifindex: device,
                config: interface(device, 42),
            },
            effect(move |o| o.interfaces.insert(device, interface(device, 42))),
        ),
        (
            Write::EndpointWord {
                endpoint: 42,
                bank: 1,
                word,
            },
            effect(move |o| o.endpoint_words.insert(42, [EndpointWord(0), word])),
        ),
        (
            Write::IpcacheWord(IpcacheWord::new(1, Epoch::new(9))),
            effect(move |o| o.node_words[1] = IpcacheWord::new(1, Epoch::new(9)).0),
        ),
        (
            Write::Publish(Epoch::new(9)),
            effect(move |o| o.node_words[0] = 9),
        ),
        (Write::Barrier, effect(|_| ())),
        (
            Write::PolicyDelete { key },
            effect(move |o| o.policy.remove(&key)),
        ),
        (
            Write::IpcacheDelete { key: prefix },
            effect(move |o| o.ipcache.remove(&prefix)),
        ),
        (
            Write::ShapeWord {
                table: 7,
                direction: Direction::Egress,
                word: ShapeWord(0),
            },
            effect(move |o| o.shapes.remove(&(7, Direction::Egress))),
        ),
        (
            Write::EndpointWord {
                endpoint: 42,
                bank: 1,
                word: EndpointWord(0),
            },
            effect(move |o| o.endpoint_words.remove(&42)),
        ),
        (
            Write::InterfaceDelete { ifindex: device },
            effect(move |o| o.interfaces.remove(&device)),
        ),
    ]
}

#[test]
fn each_write_is_seen_in_its_table_and_nowhere_else() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let mut expected = node.observe().expect("readable");
        assert!(expected.policy.is_empty() && expected.attachments.is_empty());
        let steps = steps_through_all_tables(device);
        for (write, effect) in steps {
            node.apply(&write)
                .unwrap_or_else(|error| unreachable!("{write:?}: {error}"));
            effect(&mut expected);
            assert_eq!(node.observe().expect("readable"), expected, "{write:?}");
        }
    });
}

#[test]
fn what_is_not_as_it_was_observed_is_refused_and_told_to_look_again() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let key = policy_key(1);
        let value = policy_value(&key, 1);
        let there = [
            Write::PolicyInsert { key, value },
            Write::InterfaceInsert {
                ifindex: device,
                config: interface(device, 1),
            },
            attach(&*node, device, 1, Hook::FromContainer),
        ];
        for write in there {
            node.apply(&write).expect("it was not there");
        }
        let absent = policy_key(2);
        let refused = [
            there[0],
            there[1],
            there[2],
            Write::PolicyReplace { key: absent, value },
            Write::InterfaceReplace {
                ifindex: 4000,
                config: interface(4000, 1),
            },
            replace(&*node, device, 1, Hook::ToContainer),
        ];
        let before = node.observe().expect("readable");
        for write in refused {
            let error = node
                .apply(&write)
                .expect_err("it contradicts what is there");
            assert!(
                matches!(error, ApplyError::Stale { .. }),
                "{write:?}: {error}"
            );
            assert_eq!(error.retry(), Retry::Now);
        }
        assert_eq!(node.observe().expect("readable"), before);
    });
}

#[test]
fn deleting_what_is_not_there_is_done() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let before = node.observe().expect("readable");
        for write in [
            Write::PolicyDelete { key: policy_key(1) },
            Write::IpcacheDelete {
                key: IpcacheKey::v6([0; 16], 0),
            },
            Write::InterfaceDelete { ifindex: device },
            Write::Detach {
                point: AttachPoint {
                    ifindex: device,
                    hook: Hook::ToContainer,
                },
            },
            Write::Detach {
                point: AttachPoint {
                    ifindex: 4000,
                    hook: Hook::FromContainer,
                },
            },
            Write::PurgeConntrack { endpoint: 9 },
        ] {
            node.apply(&write)
                .unwrap_or_else(|error| unreachable!("{write:?}: {error}"));
        }
        assert_eq!(node.observe().expect("readable"), before);
    });
}

#[test]
fn a_full_table_says_so_and_keeps_what_it_has() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let capacity = common::sizes().tables;
        // Hash maps hold at least what they promise; each must refuse in the end.
        let mut fill = |table: &str, write: &dyn Fn(u32) -> Write, promised: usize| {
            let refused =
                (1..=10_000_u32).find_map(|n| node.apply(&write(n)).err().map(|error| (n, error)));
            let (n, error) = refused.unwrap_or_else(|| unreachable!("{table} never gets full"));
            assert!(matches!(error, ApplyError::Full { .. }), "{table}: {error}");
            assert_eq!(error.retry(), Retry::AfterChange);
            assert!(n as usize > promised, "{table} was full after {n}");
        };
        fill(
            "policy",
            &|n| {
                let key = policy_key(n);
                Write::PolicyInsert {
                    key,
                    value: policy_value(&key, 1),
                }
            },
            capacity.policy_entries,
        );
        fill(
            "ipcache",
            &|n| Write::IpcacheUpsert {
                key: IpcacheKey::v4(n.to_be_bytes(), 32),
                value: IpcacheValue::level(n),
            },
            capacity.ipcache,
        );
        fill(
            "interfaces",
            &|n| Write::InterfaceInsert {
                ifindex: n,
                config: interface(n, 1),
            },
            capacity.interfaces,
        );
        let observed = node.observe().expect("readable");
        assert!(observed.policy.len() >= capacity.policy_entries);
        assert_eq!(observed.ipcache.len(), capacity.ipcache);
        for (key, value) in &observed.policy {
            assert_eq!(*value, policy_value(key, 1));
        }
        for write in [
            Write::ShapeWord {
                table: capacity.max_table + 1,
                direction: Direction::Ingress,
                word: ShapeWord(1),
            },
            Write::EndpointWord {
                endpoint: capacity.max_endpoint + 1,
                bank: 0,
                word: EndpointWord(1),
            },
        ] {
            let error = node.apply(&write).expect_err("beyond the table's end");
            assert!(
                matches!(error, ApplyError::Full { .. }),
                "{write:?}: {error}"
            );
        }
    });
}

fn attached(bed: &dyn Bed, node: &mut dyn Node) -> Vec<(u32, Hook, AttachedProgram)> {
    // A restarted process sees the same.
    let seen = node.observe().expect("readable").attachments;
    assert_eq!(bed.start().observe().expect("readable").attachments, seen);
    seen.into_iter()
        .map(|(point, program)| (point.ifindex, point.hook, program))
        .collect()
}

#[test]
fn programs_are_attached_replaced_in_order_and_detached() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let other = bed.add_device();
        for hook in Hook::ALL {
            node.apply(&Write::InterfaceInsert {
                ifindex: if hook == Hook::FromContainer {
                    device
                } else {
                    other
                },
                config: interface(
                    if hook == Hook::FromContainer {
                        device
                    } else {
                        other
                    },
                    if hook == Hook::FromContainer { 7 } else { 8 },
                ),
            })
            .expect("room");
        }
        for (ifindex, endpoint) in [(device, 7), (other, 8)] {
            for hook in Hook::ALL {
                let write = attach(&*node, ifindex, endpoint, hook);
                node.apply(&write).expect("a device that lives");
            }
        }
        let programs = node.programs();
        let all: Vec<_> = [device, other]
            .into_iter()
            .flat_map(|ifindex| {
                Hook::ALL.map(|hook| {
                    let program = AttachedProgram {
                        tag: programs[&hook],
                        place: Place::Settled,
                    };
                    (ifindex, hook, program)
                })
            })
            .collect();
        assert_eq!(attached(bed, &mut *node), all);
        // Over itself: what is in order stays.
        let write = replace(&*node, device, 7, Hook::FromContainer);
        node.apply(&write).expect("it is there");
        assert_eq!(attached(bed, &mut *node), all);
        node.apply(&Write::Detach {
            point: AttachPoint {
                ifindex: device,
                hook: Hook::FromContainer,
            },
        })
        .expect("it is there");
        assert_eq!(attached(bed, &mut *node), all[1..]);
        assert_eq!(node.tidy().expect("pins can be read"), 0);
    });
}

#[test]
fn a_device_that_is_gone_takes_its_programs_along_and_frees_the_endpoints_pin() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let write = attach(&*node, device, 5, Hook::FromContainer);
        node.apply(&write).expect("a device that lives");
        bed.remove_device(device);
        assert_eq!(attached(bed, &mut *node), []);
        let error = node.apply(&write).expect_err("no device");
        assert!(
            matches!(error, ApplyError::Gone { ifindex } if ifindex == device),
            "{error}"
        );
        let next = bed.add_device();
        node.apply(&Write::InterfaceInsert {
            ifindex: next,
            config: interface(next, 5),
        })
        .expect("room");
        let write = attach(&*node, next, 5, Hook::FromContainer);
        node.apply(&write).expect("the old pin is in nobody's way");
        let seen = attached(bed, &mut *node);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].2.place == Place::Settled);
        assert_eq!(node.tidy().expect("pins can be read"), 0);
    });
}

#[test]
fn a_program_that_is_not_loaded_is_never_attached() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let write = Write::Attach {
            staged: false,
            point: AttachPoint {
                ifindex: device,
                hook: Hook::ToContainer,
            },
            endpoint: 1,
            program: oxilium_model::node_state::ProgramTag([0xEE; 8]),
        };
        let error = node.apply(&write).expect_err("nobody loaded it");
        assert!(
            matches!(error, ApplyError::UnknownProgram { .. }),
            "{error}"
        );
        assert_eq!(error.retry(), Retry::Never);
        assert_eq!(attached(bed, &mut *node), []);
    });
}

#[test]
fn a_restart_on_an_unchanged_node_writes_nothing() {
    on_every_bed(|bed| {
        let mut node = bed.start();
        let device = bed.add_device();
        let write = attach(&*node, device, 5, Hook::FromContainer);
        node.apply(&write).expect("a device that lives");
        let before = node.observe().expect("readable");
        let programs = node.programs();
        drop(node);
        let mut restarted = bed.start();
        assert_eq!(restarted.observe().expect("readable"), before);
        assert_eq!(restarted.programs(), programs);
        assert_eq!(restarted.tidy().expect("pins can be read"), 0);
        assert!(restarted.writes().is_empty(), "{:?}", restarted.writes());
    });
}
