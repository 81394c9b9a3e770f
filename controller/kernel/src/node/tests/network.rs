//! Links, addresses, pods' namespaces, news of changes; `ip` is the witness.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{DEADLINE, runtime};
use crate::common::{Bed, ifindex, json, name_of, on_kernel, run};
use crate::port::{AttachMode, Node};
use crate::{Changes, Monitor};

/// A namespace that a process holds: a pod without a name.
pub(super) struct Pod(Child);

impl Pod {
    pub(super) fn new() -> Self {
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

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }

    /// Its holder's pid, which `ip link` takes for the namespace.
    pub(super) fn id(&self) -> String {
        self.0.id().to_string()
    }

    pub(super) fn ip(&self, arguments: &[&str]) {
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
    let target = pod.id();
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

/// Ends the other thread also when this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn dumps_are_whole_or_refused_while_addresses_come_and_go() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let device = name_of(bed.add_device());
        for n in 0..200 {
            let address = format!("10.9.{}.{}/32", n / 100, n % 100 + 1);
            run("ip", &["address", "add", &address, "dev", &device]);
        }
        let netns = fs::File::open("/proc/thread-self/ns/net").expect("procfs");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
                while !done.load(Ordering::Relaxed) {
                    for change in ["add", "delete"] {
                        run("ip", &["address", change, "10.8.0.1/32", "dev", &device]);
                    }
                }
            });
            let _stop = Stop(&done);
            let mut whole = 0;
            for _ in 0..300 {
                match node.addresses() {
                    Ok(addresses) => {
                        let stable = addresses
                            .iter()
                            .filter(|a| a.address.to_string().starts_with("10.9."))
                            .count();
                        assert_eq!(stable, 200);
                        whole += 1;
                    }
                    Err(error) => {
                        let interrupted = matches!(error, crate::NetlinkError::Interrupted { .. });
                        assert!(interrupted, "{error}");
                    }
                }
            }
            assert!(whole > 0, "not one dump was whole");
        });
    });
}
