//! `oxilium uninstall` leaves the host as it was before the first agent, byte for byte, wherever the agent died.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use oxilium_e2e::{
    agent::{Agent, Cli, agent_command},
    lab::Lab,
    netns::Netns,
    pod::{Pod, host_interface},
    process::{command, find_program, run},
    require::require,
    scenario::{NEEDS, policy},
    trace::{Edge, Trace},
    wait,
};
use serde_json::{Value, json};

/// What only the test itself writes to.
const NOT_THE_AGENTS: [&str; 8] = [
    "agent.log",
    "cni.log",
    "cni-bin",
    "ipam",
    "manifests",
    "owner",
    "pod-one",
    "staging",
];

fn lines(netns: &Netns, program: &str, args: &str) -> String {
    let output = netns
        .output(command(program).args(args.split_whitespace()))
        .unwrap();
    format!(
        "{program} {args}\n{}",
        String::from_utf8_lossy(&output.stdout)
    )
}

/// Each file below `directory` with its owner, mode and content.
fn files(directory: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if NOT_THE_AGENTS.contains(&name.as_str()) {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        // A pin is a name and nothing that can be read.
        let content = if metadata.is_file() && !path.starts_with("/sys/fs/bpf") {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let (mode, owner) = (metadata.mode(), metadata.uid());
        found.push(format!("{} {mode:o} {owner} {content:?}", path.display()));
        if metadata.is_dir() {
            files(&path, found);
        }
    }
}

/// The settings of the namespace that an agent could have reached for. Counters and random secrets are none.
fn sysctls(netns: &Netns) -> String {
    let read = || {
        let mut found = Vec::new();
        for family in ["ipv4", "ipv6", "core"] {
            settings(&Path::new("/proc/sys/net").join(family), &mut found);
        }
        found.sort();
        found.join("\n")
    };
    netns.enter(read).unwrap()
}

fn settings(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            settings(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.push(format!("{} {value}", path.display()));
        }
    }
}

/// All that an agent could have changed on the worker.
fn fingerprint(lab: &Lab) -> Vec<String> {
    let worker = &lab.worker.netns;
    let mut found = vec![
        lines(worker, "ip", "link show"),
        lines(worker, "ip", "addr show"),
        lines(worker, "ip", "route show table all"),
        lines(worker, "ip", "-6 route show table all"),
        lines(worker, "ip", "rule show"),
        lines(worker, "ip", "-6 rule show"),
        lines(worker, "tc", "qdisc show"),
        lines(worker, "bpftool", "net show"),
        sysctls(worker),
    ];
    for (program, args) in [
        ("nft", "list ruleset"),
        ("iptables-save", ""),
        ("ip6tables-save", ""),
    ] {
        if find_program(program).is_some() {
            found.push(lines(worker, program, args));
        }
    }
    files(lab.directory(), &mut found);
    files(&lab.bpf_root(), &mut found);
    found
}

/// The ids of the maps and programs that are pinned.
fn pinned(directory: &Path, ids: &mut BTreeSet<(&'static str, u64)>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pinned(&path, ids);
            continue;
        }
        for kind in ["map", "prog"] {
            let shown = run(command("bpftool")
                .args(["-j", kind, "show", "pinned"])
                .arg(&path));
            if let Ok(text) = shown {
                let object: Value = serde_json::from_str(&text).unwrap();
                ids.extend(object["id"].as_u64().map(|id| (kind, id)));
            }
        }
    }
}

fn is_in_kernel(kind: &str, id: u64) -> bool {
    run(command("bpftool").args([kind, "show", "id", &id.to_string()])).is_ok()
}

fn uninstall(lab: &Lab) -> std::process::Output {
    let cli = Cli::new(lab).unwrap();
    let mut command = cli.command(&["uninstall", "--state-dir"]);
    command
        .arg(lab.directory().join("state"))
        .arg("--bpf-root")
        .arg(lab.bpf_root())
        .arg("--tombstones")
        .arg(lab.tombstones());
    lab.worker.netns.output(&mut command).unwrap()
}

fn agent(lab: &Lab, mode: &str) -> Command {
    let mut command = agent_command(lab).unwrap();
    command.args(["--attach-mode", mode]);
    command
}

/// Tells the agent of a pod that is there already, as our plugin at the end of the chain does.
fn attach(lab: &Lab, pod: &Pod) {
    lab.chain(&lab.worker)
        .call_one(
            "cilium-cni",
            "ADD",
            Some(&pod.sandbox),
            &json!({ "prevResult": pod.result }),
        )
        .unwrap();
}

/// A pod that was there before any agent.
fn plain_pod(lab: &Lab) -> Pod {
    let mut prepared = lab.pod("one").label("app", "subject").prepare().unwrap();
    let plugins = prepared.chain.conflist["plugins"].as_array_mut().unwrap();
    plugins.truncate(1);
    prepared.add().unwrap()
}

fn leaves_no_trace(mode: &str) {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = plain_pod(&lab);
    // The lab's own place on the BPF file system is there before the agent.
    agent(&lab, mode);
    fingerprint(&lab);
    let before = fingerprint(&lab);
    assert_eq!(before, fingerprint(&lab), "a fingerprint changes by itself");

    // Killed at writes from the first to the last, and once not at all.
    for nth in [1, 4, 9, 25, 60, 85, usize::MAX] {
        let trace = Trace::default();
        trace.kill_at(nth, Edge::After);
        let mut agent = Agent::launch_traced(&lab, &agent(&lab, mode), &trace).unwrap();
        if nth == usize::MAX {
            agent.until_ready().unwrap();
            attach(&lab, &pod);
            let body = "  ingress:\n    - fromCIDR: [192.0.2.0/24]\n";
            lab.manifests.put("web.yaml", &policy("web", body)).unwrap();
            agent.until_policy("web", true).unwrap();
            assert_ne!(
                fingerprint(&lab),
                before,
                "the agent left nothing to remove"
            );
            let refused = uninstall(&lab);
            assert!(!refused.status.success(), "removed under a running agent");
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(told.contains("another agent runs"), "{told}");
            agent.until_ready().unwrap();
            agent.process().crash().unwrap();
        } else {
            agent.process().wait(wait::LONG).unwrap();
        }
        let mut ids = BTreeSet::new();
        pinned(&lab.bpf_root(), &mut ids);
        assert!(
            nth != usize::MAX || ids.len() > 15,
            "maps and programs: {ids:?}"
        );
        let output = uninstall(&lab);
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "after write {nth}: {told}");
        let after = fingerprint(&lab);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "after write {nth}: {told}");
        }
        assert_eq!(before.len(), after.len(), "after write {nth}: {after:#?}");
        wait::until("maps and programs are gone", wait::LONG, || {
            Ok((!ids.iter().any(|(kind, id)| is_in_kernel(kind, *id))).then_some(()))
        })
        .unwrap();
        let again = uninstall(&lab);
        assert_eq!(
            String::from_utf8_lossy(&again.stdout),
            "nothing of an agent is on this host\n"
        );
    }
    assert!(host_interface(&pod.result).is_ok());
}

#[test]
fn links_maps_and_files_go() {
    leaves_no_trace("auto");
}

#[test]
fn filters_and_their_qdiscs_go() {
    leaves_no_trace("tc");
}

#[test]
fn what_others_put_beside_ours_stays() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = plain_pod(&lab);
    let state = lab.directory().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("notes.txt"), "mine").unwrap();
    let device = host_interface(&pod.result).unwrap();
    let tc = |args: &str| {
        let args = args.replace("DEV", &device);
        lab.worker
            .netns
            .run(command("tc").args(args.split_whitespace()))
            .unwrap()
    };
    tc("qdisc add dev DEV clsact");
    tc("filter add dev DEV ingress prio 7 protocol ip u32 match u32 0 0 classid 1:1");
    let before = tc("filter show dev DEV ingress");
    let mut agent = Agent::launch_as(&lab, agent(&lab, "tc")).unwrap();
    agent.until_ready().unwrap();
    attach(&lab, &pod);
    assert_ne!(tc("filter show dev DEV ingress"), before);
    agent.process().crash().unwrap();
    assert!(uninstall(&lab).status.success());
    assert_eq!(tc("filter show dev DEV ingress"), before);
    let left: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes.txt"]);
}
