//! The counters of writes against strace, which sees the system calls from outside.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use common::{Bed, on_kernel};
use oxilium_abi::{
    AuthRequirement, Direction, InterfaceConfig, PolicyKey, PolicyValue, Precedence,
};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::count::{Action, Target, WriteCounts};
use oxilium_kernel::{AttachMode, Node};
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::plan::Write;

/// The traced half of the tests below: does what the mode says and prints its counters.
#[test]
#[ignore = "run by the other tests of this file, under strace"]
fn worker() {
    let Ok(mode) = std::env::var("OXILIUM_TEST_MODE") else {
        return;
    };
    let mode = match mode.as_str() {
        "tcx" => AttachMode::Tcx,
        _ => AttachMode::Tc,
    };
    let ran = on_kernel(mode, |bed| {
        let mut total: BTreeMap<(Target, Action), u64> = BTreeMap::new();
        let mut add = |counts: WriteCounts| {
            for (what, count) in counts {
                *total.entry(what).or_default() += count.calls;
            }
        };
        let mut first = bed.open();
        work(bed, &mut first);
        add(first.writes());
        drop(first);
        // A restart: adopts, and writes nothing.
        let mut second = bed.open();
        second.observe().expect("readable");
        assert_eq!(second.writes(), WriteCounts::new());
        drop(second);
        // Another build.
        let mut config = bed.config();
        config.event_rate += 1;
        let mut third = oxilium_kernel::KernelNode::open(&config).expect("it opens");
        for (point, _) in third.observe().expect("readable").attachments {
            let program = third.programs()[&point.hook];
            third
                .apply(&Write::Replace {
                    point,
                    endpoint: 1,
                    program,
                })
                .expect("it is there");
        }
        third.tidy().expect("readable");
        for hook in Hook::ALL {
            let ifindex = common::ifindex("lxc0");
            third
                .apply(&Write::Detach {
                    point: AttachPoint { ifindex, hook },
                })
                .expect("it is there");
        }
        add(third.writes());
        for ((target, action), calls) in total {
            println!("COUNT {target} {action} {calls}");
        }
    });
    assert!(ran, "the other half has checked that it can");
}

fn work(bed: &dyn Bed, node: &mut dyn Node) {
    let ifindex = bed.add_device();
    let keys: Vec<PolicyKey> = (0..50)
        .map(|identity| PolicyKey {
            table: 1,
            identity,
            direction_shape: PolicyKey::pack(Direction::Ingress, 0),
            ..PolicyKey::default()
        })
        .collect();
    let value = |key: &PolicyKey, n| PolicyValue::new(key, Precedence(n), 0, AuthRequirement(0));
    for key in &keys {
        node.apply(&Write::PolicyInsert {
            key: *key,
            value: value(key, 1),
        })
        .expect("room");
    }
    // One that fails counts as well: the kernel was asked.
    node.apply(&Write::PolicyInsert {
        key: keys[0],
        value: value(&keys[0], 2),
    })
    .expect_err("it is there");
    for key in &keys[10..] {
        node.apply(&Write::PolicyDelete { key: *key })
            .expect("writable");
    }
    node.apply(&Write::PolicyDelete { key: keys[20] })
        .expect("gone is done");
    node.apply(&Write::InterfaceInsert {
        ifindex,
        config: InterfaceConfig {
            ifindex,
            endpoint: 1,
            ..InterfaceConfig::default()
        },
    })
    .expect("room");
    for hook in Hook::ALL {
        let program = node.programs()[&hook];
        node.apply(&Write::Attach {
            staged: false,
            point: AttachPoint { ifindex, hook },
            endpoint: 1,
            program,
        })
        .expect("a device that lives");
    }
    node.apply(&Write::Barrier).expect("nothing is written");
}

/// How strace shows each kind of write: what a line must contain, and which counters add up to it.
const KINDS: [(&[&str], &[Action], Option<Target>); 9] = [
    (
        &["BPF_MAP_UPDATE_ELEM", "BPF_MAP_UPDATE_BATCH"],
        &[Action::Update],
        None,
    ),
    (
        &["BPF_MAP_DELETE_ELEM", "BPF_MAP_DELETE_BATCH"],
        &[Action::Delete],
        None,
    ),
    (&["BPF_MAP_FREEZE"], &[Action::Freeze], None),
    (&["BPF_OBJ_PIN"], &[Action::Pin], None),
    (&["BPF_MAP_CREATE"], &[Action::Create], Some(Target::Maps)),
    (
        &["BPF_PROG_LOAD", "BPF_BTF_LOAD"],
        &[Action::Create],
        Some(Target::Programs),
    ),
    (
        &[
            "BPF_LINK_CREATE",
            "BPF_LINK_UPDATE",
            "BPF_LINK_DETACH",
            "BPF_PROG_ATTACH",
            "BPF_PROG_DETACH",
        ],
        &[Action::Create, Action::Replace, Action::Remove],
        Some(Target::Links),
    ),
    (
        &[
            // RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER: strace does not know the
            // family of a socket in another network namespace.
            "nlmsg_type=0x24 ",
            "nlmsg_type=0x25 ",
            "nlmsg_type=0x2c ",
            "nlmsg_type=0x2d ",
        ],
        &[Action::Create, Action::Replace, Action::Remove],
        Some(Target::Filters),
    ),
    (
        &["mkdir", "rmdir", "unlink", "rename"],
        &[Action::File],
        None,
    ),
];

fn counters_equal_strace(mode: &str) {
    if !require(&[Need::Root, Need::Bpf]) || (mode == "tcx" && !common::has_tcx()) {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let trace = directory.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-s", "200", "-o"])
        .arg(&trace)
        .args(["-e", "trace=bpf,sendto,sendmsg,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "worker", "--ignored", "--nocapture", "--test-threads=1"])
        .env("OXILIUM_TEST_MODE", mode)
        .output()
        .expect("strace is installed (`make setup`)");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let counted: Vec<(String, String, u64)> = told
        .lines()
        .filter_map(|line| {
            let mut words = line.split_once("COUNT ")?.1.split(' ');
            let (target, action) = (words.next()?.to_owned(), words.next()?.to_owned());
            Some((target, action, words.next()?.parse().ok()?))
        })
        .collect();
    let trace = fs::read_to_string(trace).expect("strace wrote it");
    // The test's own `ip` and its removal of the directory afterwards are other processes, or come last.
    let process = trace
        .lines()
        .find(|line| line.contains("BPF_MAP_CREATE"))
        .and_then(|line| line.split_whitespace().next())
        .expect("maps were made");
    let lines: Vec<&str> = trace.lines().collect();
    let end = lines
        .iter()
        .rposition(|line| line.contains("bpf(") || line.contains("sendto("))
        .expect("there were some");
    let seen: Vec<&str> = lines[..=end]
        .iter()
        .filter(|line| line.split_whitespace().next() == Some(process))
        .filter(|line| !line.contains("resumed>"))
        // The test's own directory; ours are below it.
        .filter(|line| {
            line.contains("bpf(") || line.contains("sendto(") || line.contains("/oxilium")
        })
        .copied()
        .collect();
    for (texts, actions, target) in KINDS {
        let by_strace = seen
            .iter()
            .filter(|line| texts.iter().any(|text| line.contains(text)))
            .count() as u64;
        let by_us: u64 = counted
            .iter()
            .filter(|(t, a, _)| {
                actions.iter().any(|action| action.name() == a)
                    && target.is_none_or(|target| target.name() == t)
            })
            .map(|(_, _, calls)| calls)
            .sum();
        assert_eq!(by_us, by_strace, "{texts:?}\n{}", seen.join("\n"));
    }
    let lost: Vec<_> = counted.iter().filter(|(_, _, calls)| *calls == 0).collect();
    assert!(lost.is_empty() && !counted.is_empty(), "{counted:?}");
}

#[test]
fn with_tcx_what_is_counted_is_what_strace_sees() {
    counters_equal_strace("tcx");
}

#[test]
fn with_clsact_what_is_counted_is_what_strace_sees() {
    counters_equal_strace("tc");
}
