//! The real node, beyond what the fake can show.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oxilium_abi::{
    Be16, CtEntry, CtKey4, CtKey6, FlowKind, FragmentEntry, FragmentKey4, NodeWord, map,
};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::plan::Write;

use super::KernelNode;
use crate::common::{Bed, KernelBed, ifindex, json, name_of, on_kernel, run};
use crate::port::{AttachMode, CtTable, Node};
use crate::{Changes, LoadError, Monitor};

/// Longer than anything takes that works.
const DEADLINE: Duration = Duration::from_secs(20);

fn key4(endpoint: u16, port: u16) -> CtKey4 {
    CtKey4 {
        local: [10, 0, 0, 1],
        remote: [10, 0, 0, 2],
        local_port: Be16::new(port),
        remote_port: Be16::new(80),
        endpoint,
        protocol: 6,
        kind: FlowKind::Plain as u8,
    }
}

fn living() -> u32 {
    super::conntrack::now().expect("there is a boot clock") + 1000
}

fn entry(expires: u32) -> CtEntry {
    CtEntry {
        expires,
        remote_identity: 9,
        ..CtEntry::default()
    }
}

#[test]
fn flows_of_all_tables_are_told_with_the_life_left_to_them() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        let tables = &node.tables;
        tables.ct4[0]
            .update(&key4(7, 1000), &entry(end))
            .expect("room");
        tables.ct4[2]
            .update(&key4(7, 1001), &entry(1))
            .expect("room");
        let key6 = CtKey6 {
            local: Ipv6Addr::LOCALHOST.octets(),
            kind: 77,
            ..CtKey6::default()
        };
        tables.ct6[1].update(&key6, &entry(end)).expect("room");
        let flows = node.flows().expect("readable");
        assert_eq!(flows.len(), 3);
        let of = |table| {
            flows
                .iter()
                .find(|flow| flow.table == table)
                .copied()
                .expect("one each")
        };
        let answered = of(CtTable::Answered);
        assert_eq!(answered.local, IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!((answered.local_port, answered.remote_port), (1000, 80));
        assert_eq!((answered.endpoint, answered.protocol), (7, 6));
        assert_eq!(answered.kind, Some(FlowKind::Plain));
        assert!((990..=1000).contains(&answered.remaining));
        assert!(of(CtTable::Denied).remaining < 0);
        let strange = of(CtTable::Unanswered);
        assert_eq!(strange.local, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(strange.kind, None);
    });
}

#[test]
fn garbage_is_what_has_expired_and_no_more_than_the_budget_at_a_time() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        for port in 0..30 {
            let expires = if port < 20 { 1 } else { end };
            let table = &node.tables.ct4[usize::from(port) % 3];
            table.update(&key4(1, port), &entry(expires)).expect("room");
        }
        node.tables
            .fragments4
            .update(
                &FragmentKey4::default(),
                &FragmentEntry {
                    expires: 1,
                    ..FragmentEntry::default()
                },
            )
            .expect("room");
        let first = node.collect_garbage(15).expect("readable");
        assert_eq!((first.scanned, first.deleted, first.left), (31, 15, 6));
        let second = node.collect_garbage(15).expect("readable");
        assert_eq!((second.scanned, second.deleted, second.left), (16, 6, 0));
        let third = node.collect_garbage(15).expect("readable");
        assert_eq!((third.scanned, third.deleted, third.left), (10, 0, 0));
        assert!(
            node.flows()
                .expect("readable")
                .iter()
                .all(|flow| flow.remaining > 0)
        );
    });
}

#[test]
fn a_purge_takes_all_of_one_endpoint_and_nothing_of_others() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        for port in 0..300 {
            let table = &node.tables.ct4[usize::from(port) % 3];
            table
                .update(&key4(1 + port % 2, port), &entry(end))
                .expect("room");
        }
        for endpoint in [1, 2] {
            let key = FragmentKey4 {
                endpoint,
                ..FragmentKey4::default()
            };
            node.tables
                .fragments4
                .update(&key, &FragmentEntry::default())
                .expect("room");
        }
        node.apply(&Write::PurgeConntrack { endpoint: 1 })
            .expect("writable");
        let left = node.flows().expect("readable");
        assert_eq!(left.len(), 150);
        assert!(left.iter().all(|flow| flow.endpoint == 2));
        let fragments = node.tables.fragments4.read_all().expect("readable");
        assert_eq!(fragments.len(), 1);
        assert_eq!(fragments[0].0.endpoint, 2);
    });
}

/// A namespace that a process holds: a pod without a name.
struct Pod(Child);

impl Pod {
    fn new() -> Self {
        // `cat` waits for its end of input, which comes when this value goes.
        let child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("root may make a namespace");
        let pod = Self(child);
        let own = fs::read_link("/proc/thread-self/ns/net").expect("procfs");
        let begun = std::time::Instant::now();
        while fs::read_link(pod.path()).is_ok_and(|netns| netns == own) {
            assert!(begun.elapsed() < DEADLINE, "unshare does nothing");
            std::thread::yield_now();
        }
        pod
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }

    fn ip(&self, arguments: &[&str]) {
        let target = format!("--net={}", self.path().display());
        let mut all = vec![target.as_str(), "ip"];
        all.extend(arguments);
        run("nsenter", &all);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            assert!(std::thread::panicking(), "{error}");
        }
    }
}

/// A pod's veth: the host's end `lxc0`, the pod's `eth0`.
fn connect(pod: &Pod) -> u32 {
    let target = pod.0.id().to_string();
    run(
        "ip",
        &[
            "link", "add", "lxc0", "type", "veth", "peer", "name", "eth0", "netns", &target,
        ],
    );
    run("ip", &["link", "set", "lxc0", "up"]);
    pod.ip(&["address", "add", "10.1.0.9/24", "dev", "eth0"]);
    pod.ip(&["address", "add", "fd00::9/64", "dev", "eth0", "nodad"]);
    pod.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:09", "up"]);
    ifindex("lxc0")
}

#[test]
fn links_and_addresses_are_what_ip_says() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let pod = Pod::new();
        let host_end = connect(&pod);
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run(
            "ip",
            &["link", "set", "lxc0", "master", "br0", "mtu", "1400"],
        );
        run("ip", &["address", "add", "192.0.2.1/28", "dev", "br0"]);
        run(
            "ip",
            &["address", "add", "2001:db8::1/64", "dev", "br0", "nodad"],
        );
        run(
            "ip",
            &[
                "address",
                "add",
                "169.254.3.1/16",
                "dev",
                "br0",
                "scope",
                "link",
            ],
        );
        let links = node.links().expect("whole");
        let by_ip = json("ip", &["-j", "-d", "link", "show"]);
        let by_ip = by_ip.as_array().expect("a list");
        assert_eq!(links.len(), by_ip.len());
        for (link, other) in links.iter().zip(by_ip) {
            assert_eq!(u64::from(link.ifindex), other["ifindex"]);
            assert_eq!(link.name, other["ifname"].as_str().expect("a name"));
            assert_eq!(u64::from(link.mtu), other["mtu"]);
            let kind = other["linkinfo"]["info_kind"].as_str().unwrap_or_default();
            assert_eq!(link.kind, kind);
            let peer = other["link_index"].as_u64();
            assert_eq!(link.peer.map(u64::from), peer, "{}", link.name);
            let netns = other["link_netnsid"].as_i64();
            assert_eq!(link.netns_id.map(i64::from), netns, "{}", link.name);
        }
        let veth = links.iter().find(|l| l.ifindex == host_end).expect("there");
        assert_eq!(veth.master, Some(ifindex("br0")));
        assert!(veth.up);
        let addresses = node.addresses().expect("whole");
        let mut told: Vec<String> = addresses
            .iter()
            .filter(|address| address.ifindex == ifindex("br0"))
            .map(|a| format!("{}/{} {:?}", a.address, a.prefix_len, a.scope))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "169.254.3.1/16 Link",
                "192.0.2.1/28 Global",
                "2001:db8::1/64 Global"
            ]
        );
    });
}

#[test]
fn a_pods_end_is_seen_from_inside_and_its_namespace_has_an_id() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let pod = Pod::new();
        let host_end = connect(&pod);
        let here = fs::read_link("/proc/thread-self/ns/net").expect("procfs");
        // The kernel gives the link-local address once the link carries.
        let begun = std::time::Instant::now();
        let seen = loop {
            let seen = node
                .pod_interface(&pod.path(), "eth0")
                .expect("it is there");
            if !seen.link_local.is_empty() {
                break seen;
            }
            assert!(begun.elapsed() < DEADLINE, "no link-local address");
            std::thread::yield_now();
        };
        assert_eq!(
            fs::read_link("/proc/thread-self/ns/net").expect("procfs"),
            here
        );
        assert_eq!(seen.mac, [2, 0, 0, 0, 0, 9]);
        assert_eq!(seen.peer, Some(host_end));
        assert_eq!(
            seen.addresses,
            [
                IpAddr::from(Ipv4Addr::new(10, 1, 0, 9)),
                IpAddr::from("fd00::9".parse::<Ipv6Addr>().expect("an address")),
            ]
            .into()
        );
        assert_eq!(
            seen.link_local,
            ["fe80::ff:fe00:9".parse().expect("EUI-64 of the MAC")].into()
        );
        let links = node.links().expect("whole");
        let veth = links.iter().find(|l| l.ifindex == host_end).expect("there");
        assert_eq!(veth.netns_id, Some(seen.netns_id));
        assert_eq!(veth.peer, Some(seen.ifindex));
        let error = node
            .pod_interface(&pod.path(), "eth7")
            .expect_err("no eth7");
        assert!(error.to_string().contains("eth7"), "{error}");
        let gone = pod.path();
        drop(pod);
        node.pod_interface(&gone, "eth0").expect_err("no namespace");
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn a_monitor_tells_that_links_addresses_and_filters_changed() {
    on_kernel(AttachMode::Auto, |bed| {
        runtime().block_on(async {
            let mut monitor = Monitor::open().expect("a socket");
            let mut seen = async |wanted: fn(&Changes) -> bool| {
                let wait = async { while !wanted(&monitor.changed().await.expect("a socket")) {} };
                tokio::time::timeout(DEADLINE, wait)
                    .await
                    .expect("news in time");
            };
            let device = name_of(bed.add_device());
            seen(|changes| changes.links).await;
            run("ip", &["address", "add", "192.0.2.7/32", "dev", &device]);
            seen(|changes| changes.addresses).await;
            run("tc", &["qdisc", "add", "dev", &device, "clsact"]);
            seen(|changes| changes.filters).await;
            run("ip", &["link", "delete", &device]);
            seen(|changes| changes.links).await;
        });
    });
}

/// Attaches ours to a pod's veth and lets the pod's kernel send what it always sends.
fn with_traffic(bed: &KernelBed) -> (KernelNode, Pod, u32) {
    let mut node = bed.open();
    let pod = Pod::new();
    let target = pod.0.id().to_string();
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
            let mut reader = node.events().expect("nobody reads");
            assert_eq!(readers(&node), Some(1));
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
        let usage = node.usage().expect("readable");
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
fn a_pinned_map_of_another_layout_is_refused_and_left_as_it_is() {
    on_kernel(AttachMode::Auto, |bed| {
        drop(bed.open());
        let path = bed.pins().join(map::CT4);
        let text = path.to_str().expect("plain");
        fs::remove_file(&path).expect("it is there");
        let create = |kind: &str, key: &str, value: &str, entries: &str, flags: &str| {
            run(
                "bpftool",
                &[
                    "map", "create", text, "type", kind, "key", key, "value", value, "entries",
                    entries, "name", "other", "flags", flags,
                ],
            );
        };
        let cases = [
            ("type", "hash", "16", "64", "1024", "0"),
            ("key size", "lru_hash", "20", "64", "1024", "0"),
            ("value size", "lru_hash", "16", "56", "1024", "0"),
            ("max_entries", "lru_hash", "16", "64", "2048", "0"),
            ("flags", "lru_hash", "16", "64", "1024", "2"),
        ];
        for (wrong, kind, key, value, entries, flags) in cases {
            create(kind, key, value, entries, flags);
            let before = json("bpftool", &["-j", "map", "show", "pinned", text])["id"].clone();
            let error = KernelNode::open(&bed.config()).expect_err("it is not ours");
            assert!(
                matches!(&error, LoadError::Layout { field, .. } if *field == wrong),
                "{wrong}: {error}"
            );
            let after = json("bpftool", &["-j", "map", "show", "pinned", text])["id"].clone();
            assert_eq!(after, before);
            fs::remove_file(&path).expect("it is there");
        }
        bed.open();
    });
}

#[test]
fn another_size_in_the_configuration_is_refused_while_the_map_lives() {
    on_kernel(AttachMode::Auto, |bed| {
        drop(bed.open());
        let mut config = bed.config();
        config.sizes.conntrack *= 2;
        let error = KernelNode::open(&config).expect_err("the pinned map is smaller");
        assert!(
            matches!(
                &error,
                LoadError::Layout {
                    field: "max_entries",
                    found: 1024,
                    expected: 2048,
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn the_conntrack_seed_is_random_and_stays() {
    on_kernel(AttachMode::Auto, |bed| {
        let seed = |node: &KernelNode| {
            node.tables
                .node_words
                .get(&(NodeWord::CtSeed as u32))
                .expect("readable")
        };
        let first = seed(&bed.open());
        assert_ne!(first, Some(0));
        assert_eq!(seed(&bed.open()), first);
        fs::remove_dir_all(bed.root.join("oxilium")).expect("ours");
        assert_ne!(seed(&bed.open()), first, "other maps, another seed");
    });
}

#[test]
fn a_damaged_pin_of_a_program_is_replaced() {
    on_kernel(AttachMode::Auto, |bed| {
        let node = bed.open();
        let tag = node.programs()[&Hook::FromContainer];
        let directory = bed.pins().join("programs").join(tag.to_string());
        let pin = directory.join(Hook::FromContainer.program());
        fs::remove_file(&pin).expect("it is there");
        // Something else under that name: a map.
        let map = bed.pins().join(map::NODE_WORDS);
        run(
            "bpftool",
            &[
                "map",
                "pin",
                "pinned",
                map.to_str().expect("plain"),
                pin.to_str().expect("plain"),
            ],
        );
        drop(node);
        let again = bed.open();
        assert_eq!(again.programs()[&Hook::FromContainer], tag);
        let told = json(
            "bpftool",
            &["-j", "prog", "show", "pinned", pin.to_str().expect("plain")],
        );
        assert_eq!(told["name"], Hook::FromContainer.program());
    });
}

#[test]
fn pins_that_others_removed_come_back_and_a_foreign_map_in_their_place_is_told() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let program = bed
            .pins()
            .join("programs")
            .join(node.programs()[&Hook::ToContainer].to_string())
            .join(Hook::ToContainer.program());
        let policy = bed.pins().join(map::POLICY);
        fs::remove_file(&policy).expect("it is there");
        fs::remove_file(&program).expect("it is there");
        assert_eq!(node.tidy().expect("writable"), 2);
        assert!(policy.exists() && program.exists());
        assert_eq!(node.tidy().expect("writable"), 0);
        let programs = node.programs();
        drop(node);
        let mut node = bed.open();
        assert_eq!(node.programs(), programs);
        assert!(node.writes().is_empty());
        fs::remove_file(&policy).expect("it is there");
        let other = bed.pins().join(map::IPCACHE);
        let plain = |path: &PathBuf| path.to_str().expect("plain").to_owned();
        run(
            "bpftool",
            &["map", "pin", "pinned", &plain(&other), &plain(&policy)],
        );
        let error = node.tidy().expect_err("that is not the policy map");
        assert!(error.to_string().contains("ox_policy"), "{error}");
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
