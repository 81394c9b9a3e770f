//! Events, counters, usage.

use std::collections::BTreeMap;
use std::fs;

use oxilium_abi::{NodeWord, map};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::plan::Write;

use super::conntrack::{entry, key4};
use super::network::Pod;
use super::{DEADLINE, runtime};
use crate::KernelNode;
use crate::common::{KernelBed, ifindex, json, on_kernel, run};
use crate::port::{AttachMode, Node};

/// Attaches ours to a pod's veth and lets the pod's kernel send what it always sends.
fn with_traffic(bed: &KernelBed) -> (KernelNode, Pod, u32) {
    let mut node = bed.open();
    let pod = Pod::new();
    let target = pod.id();
    run(
        "ip",
        &[
            "link", "add", "lxc0", "type", "veth", "peer", "name", "eth0", "netns", &target,
        ],
    );
    let ifindex = ifindex("lxc0");
    for hook in Hook::ALL {
        let program = node.programs()[&hook];
        let point = AttachPoint { ifindex, hook };
        node.apply(&Write::Attach {
            staged: false,
            point,
            endpoint: 1,
            program,
        })
        .expect("a device that lives");
    }
    (node, pod, ifindex)
}

#[test]
fn events_come_while_somebody_reads_and_there_is_one_reader() {
    on_kernel(AttachMode::Auto, |bed| {
        let (mut node, pod, _) = with_traffic(bed);
        let readers = |node: &KernelNode| {
            node.tables
                .node_words
                .get(&(NodeWord::EventReaders as u32))
                .expect("readable")
        };
        runtime().block_on(async {
            let before = node.observe().expect("readable");
            let mut reader = node.events().expect("nobody reads");
            assert_eq!(readers(&node), Some(1));
            assert_eq!(node.observe().expect("readable"), before, "no drift");
            let error = node.events().expect_err("somebody reads");
            assert!(error.to_string().contains("reader already"), "{error}");
            // Router solicitations and multicast reports follow by themselves.
            run("ip", &["link", "set", "lxc0", "up"]);
            pod.ip(&["link", "set", "eth0", "up"]);
            let event = tokio::time::timeout(DEADLINE, reader.next())
                .await
                .expect("an event in time")
                .expect("the node lives")
                .expect("a whole event");
            assert!(event.length >= 14, "{event:?}");
            drop(reader);
            assert_eq!(readers(&node), Some(0));
            drop(node.events().expect("nobody reads any more"));
        });
    });
}

#[test]
fn counters_are_added_up_over_all_cpus() {
    on_kernel(AttachMode::Auto, |bed| {
        let (mut node, pod, _) = with_traffic(bed);
        assert_eq!(node.counters().expect("readable"), BTreeMap::new());
        run("ip", &["link", "set", "lxc0", "up"]);
        pod.ip(&["link", "set", "eth0", "up"]);
        let begun = std::time::Instant::now();
        while node.counters().expect("readable").is_empty() {
            assert!(begun.elapsed() < DEADLINE, "no packet was counted");
            std::thread::yield_now();
        }
        let counters = node.counters().expect("readable");
        assert!(counters.values().all(|c| c.packets > 0 && c.bytes > 0));
    });
}

#[test]
fn usage_tells_entries_capacity_and_memory_of_every_map() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        node.tables.ct4[0]
            .update(&key4(1, 1), &entry(1))
            .expect("room");
        let usage = node.usage(&BTreeMap::new()).expect("readable");
        let of = |name: &str| {
            usage
                .iter()
                .find(|usage| usage.name == name)
                .unwrap_or_else(|| unreachable!("{name} is not in {usage:?}"))
        };
        assert_eq!(of(map::CT4).entries, Some(1));
        assert_eq!(of(map::CT4).capacity, 1024);
        assert_eq!(of(map::POLICY).entries, Some(0));
        assert_eq!(of(map::EVENTS).entries, None);
        let known = BTreeMap::from([(map::POLICY, 7)]);
        let told = node.usage(&known).expect("readable");
        let policy = told.iter().find(|usage| usage.name == map::POLICY);
        assert_eq!(
            policy.expect("its policy map").entries,
            Some(7),
            "it is not read"
        );
        for pin in fs::read_dir(bed.pins()).expect("a directory") {
            let pin = pin.expect("an entry");
            let name = pin.file_name().into_string().expect("plain");
            if name.starts_with("ox_") {
                let path = pin.path();
                let path = path.to_str().expect("plain");
                let told = json("bpftool", &["-j", "map", "show", "pinned", path]);
                assert_eq!(
                    of(&name).memory,
                    told["bytes_memlock"].as_u64().expect("bytes")
                );
                assert_eq!(u64::from(of(&name).capacity), told["max_entries"]);
            }
        }
    });
}

#[test]
fn a_reader_that_was_killed_leaves_no_events_behind() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let slot = NodeWord::EventReaders as u32;
        node.tables.node_words.update(&slot, &1).expect("writable");
        assert_eq!(node.tidy().expect("writable"), 1);
        assert_eq!(
            node.tables.node_words.get(&slot).expect("readable"),
            Some(0)
        );
        runtime().block_on(async {
            let reader = node.events().expect("nobody reads");
            assert_eq!(node.tidy().expect("writable"), 0, "somebody reads");
            drop(reader);
        });
    });
}
