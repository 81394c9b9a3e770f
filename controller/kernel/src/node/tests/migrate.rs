//! Another size in the configuration, another layout in the agent: what a map holds outlives the map.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;

use oxilium_abi::{
    EndpointWord, Epoch, InterfaceConfig, IpcacheKey, IpcacheValue, PolicyKey, PolicyValue, map,
};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::observed::{Observed, Place};
use oxilium_model::plan::Write;

use super::conntrack::{entry, key4};
use crate::common::{Bed, KernelBed, on_kernel};
use crate::port::{AttachMode, Node};
use crate::sys;
use crate::{KernelConfig, KernelNode, LoadError};

fn policy_key(port: u16) -> PolicyKey {
    PolicyKey {
        table: 3,
        identity: 300,
        port: oxilium_abi::Be16::new(port),
        protocol: 6,
        direction_shape: 1,
    }
}

/// Something in every table, and a program on a hook.
fn fill(bed: &KernelBed, node: &mut KernelNode) -> AttachPoint {
    let ifindex = bed.add_device();
    let point = AttachPoint {
        ifindex,
        hook: Hook::FromContainer,
    };
    let config = InterfaceConfig {
        ifindex,
        endpoint: 7,
        birth: 3,
        ..InterfaceConfig::default()
    };
    let mut writes = vec![
        Write::HighWater(Epoch::new(3)),
        Write::IpcacheUpsert {
            key: IpcacheKey::v4([10, 0, 0, 0], 8),
            value: IpcacheValue::level(300),
        },
        Write::EndpointWord {
            endpoint: 7,
            bank: 0,
            word: EndpointWord::new(3, Epoch::new(3)),
        },
        Write::InterfaceInsert { ifindex, config },
        Write::Publish(Epoch::new(3)),
        Write::Attach {
            point,
            endpoint: 7,
            program: node.programs()[&point.hook],
            staged: false,
        },
    ];
    for port in 0..40 {
        let (key, value) = (policy_key(port), PolicyValue::default());
        writes.push(Write::PolicyInsert { key, value });
    }
    for write in writes {
        node.apply(&write)
            .unwrap_or_else(|error| unreachable!("{write}: {error}"));
    }
    node.tables.ct4[0]
        .update(&key4(7, 1000), &entry(u32::MAX))
        .expect("room");
    point
}

/// Every size is another one.
fn other_sizes(bed: &KernelBed) -> KernelConfig {
    let mut config = bed.config();
    let sizes = &mut config.sizes;
    sizes.tables.policy_entries = 48;
    sizes.tables.ipcache *= 2;
    sizes.tables.interfaces *= 2;
    sizes.tables.max_table = 31;
    sizes.tables.max_endpoint = 127;
    sizes.conntrack *= 2;
    sizes.conntrack_unanswered /= 2;
    sizes.conntrack_denied *= 2;
    sizes.fragments *= 2;
    sizes.service_flows *= 2;
    sizes.service_flows_new *= 2;
    sizes.event_ring *= 2;
    config
}

fn tables(node: &mut KernelNode) -> Observed {
    let mut observed = node.observe().expect("readable");
    observed.attachments.clear();
    observed
}

fn pins(bed: &KernelBed, prefix: &str) -> usize {
    let names = fs::read_dir(bed.pins()).expect("a directory");
    names
        .filter(|entry| {
            let name = entry.as_ref().expect("readable").file_name();
            name.to_string_lossy().starts_with(prefix)
        })
        .count()
}

fn replace(node: &mut KernelNode, point: AttachPoint) {
    let write = Write::Replace {
        point,
        endpoint: 7,
        program: node.programs()[&point.hook],
    };
    node.apply(&write).expect("ours is there");
}

#[test]
fn maps_of_another_size_take_the_place_of_those_that_are_there() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let point = fill(bed, &mut node);
        let before = tables(&mut node);
        drop(node);

        let config = other_sizes(bed);
        let mut node = KernelNode::open(&config).expect("all fits");
        assert_eq!(tables(&mut node), before);
        assert_eq!(node.flows().expect("readable").len(), 1);
        for usage in node.usage(&BTreeMap::new()).expect("readable") {
            if let Some(size) = config.sizes.of(&usage.name) {
                assert_eq!(usage.capacity, size, "{}", usage.name);
            }
        }
        // What runs works on the maps as they were, and notes flows there.
        let old = sys::obj_get(&bed.pins().join(format!("old_{}", map::CT4))).expect("a pin");
        let info = sys::map_info(old.as_fd()).expect("a map");
        let counter = std::sync::Arc::default();
        let old = crate::table::RawTable::of(old, &info, crate::count::Target::Maps, counter);
        let noted = (key4(7, 2000), entry(u32::MAX));
        old.insert(
            zerocopy::IntoBytes::as_bytes(&noted.0),
            zerocopy::IntoBytes::as_bytes(&noted.1),
        )
        .expect("room");
        node.tidy().expect("readable");
        assert!(pins(bed, "old_") > 0, "a hook uses them");

        replace(&mut node, point);
        let place = node.observe().expect("readable").attachments[&point].place;
        assert_eq!(place, Place::Settled);
        node.tidy().expect("readable");
        assert_eq!(pins(bed, "old_"), 0);
        let of = |port| node.tables.ct4[0].get(&key4(7, port)).expect("readable");
        assert!(of(1000).is_some() && of(2000).is_some());

        drop(node);
        let mut node = KernelNode::open(&config).expect("nothing has changed");
        assert_eq!(node.tidy().expect("readable"), 0);
        assert_eq!(tables(&mut node), before);
        assert_eq!(node.writes().len(), 0, "{:?}", node.writes());
    });
}

#[test]
fn a_full_map_has_room_again_once_a_larger_one_took_its_place() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let upsert = |number: usize| Write::IpcacheUpsert {
            key: IpcacheKey::v4(u32::try_from(number).expect("few").to_be_bytes(), 32),
            value: IpcacheValue::level(300),
        };
        let room = bed.config().sizes.tables.ipcache;
        for number in 0..room {
            node.apply(&upsert(number)).expect("room");
        }
        node.apply(&upsert(room)).expect_err("it is full");
        let before = tables(&mut node);
        drop(node);

        let mut config = bed.config();
        config.sizes.tables.ipcache += 2;
        let mut node = KernelNode::open(&config).expect("all fits");
        assert_eq!(tables(&mut node), before);
        for number in room..room + 2 {
            node.apply(&upsert(number)).expect("room");
        }
        node.apply(&upsert(room + 2)).expect_err("it is full");
    });
}

#[test]
fn what_does_not_fit_is_refused_with_all_sizes_and_stays() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        fill(bed, &mut node);
        let before = tables(&mut node);
        drop(node);
        let refused = |change: fn(&mut KernelConfig)| {
            let mut config = bed.config();
            change(&mut config);
            let error = KernelNode::open(&config).expect_err("it does not fit");
            let LoadError::TooSmall {
                needed,
                found,
                wanted,
                ..
            } = error
            else {
                unreachable!("{error}");
            };
            (needed, found, wanted)
        };
        assert_eq!(
            refused(|config| config.sizes.tables.policy_entries = 39),
            (40, 64, 39)
        );
        // Words go by index: endpoint 7's first is the fifteenth.
        assert_eq!(
            refused(|config| config.sizes.tables.max_endpoint = 6),
            (15, 128, 14)
        );
        assert_eq!(pins(bed, "old_") + pins(bed, "new_"), 0);
        let mut node = bed.open();
        assert_eq!(tables(&mut node), before);
    });
}

/// The map of policy as it is in the middle of a change: another one is made, and has not its name yet.
fn cut_off(bed: &KernelBed) {
    for (from, to) in [("", "new_"), ("old_", "")] {
        let pin = |prefix: &str| bed.pins().join(format!("{prefix}{}", map::POLICY));
        fs::rename(pin(from), pin(to)).expect("it is there");
    }
}

#[test]
fn a_change_of_size_that_was_cut_off_is_given_up_by_whoever_wants_none() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let point = fill(bed, &mut node);
        let before = tables(&mut node);
        drop(node);
        drop(KernelNode::open(&other_sizes(bed)).expect("all fits"));
        cut_off(bed);
        let mut node = bed.open();
        assert_eq!(tables(&mut node), before);
        replace(&mut node, point);
        node.tidy().expect("readable");
        assert_eq!(pins(bed, "old_") + pins(bed, "new_"), 0);
    });
}

#[test]
fn a_change_of_size_that_was_cut_off_goes_on() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let point = fill(bed, &mut node);
        let before = tables(&mut node);
        drop(node);
        // The agent dies with no hook replaced, and the next one is to have yet another size; then back again.
        let first = other_sizes(bed);
        let mut second = first.clone();
        second.sizes.conntrack *= 2;
        second.sizes.tables.policy_entries *= 2;
        for config in [&first, &second, &bed.config(), &second] {
            let mut node = KernelNode::open(config).expect("all fits");
            assert_eq!(tables(&mut node), before);
            let flow = node.tables.ct4[0].get(&key4(7, 1000)).expect("readable");
            assert!(flow.is_some());
        }
        // Or dies before the new map has its name.
        cut_off(bed);
        let mut node = KernelNode::open(&second).expect("all fits");
        assert_eq!(tables(&mut node), before);
        replace(&mut node, point);
        node.tidy().expect("readable");
        assert_eq!(pins(bed, "old_") + pins(bed, "new_"), 0);
    });
}
