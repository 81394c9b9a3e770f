//! `oxilium uninstall` leaves the host as it was before the first agent, byte for byte, wherever the agent died.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

mod killed;
mod plugin;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use oxilium_e2e::{
    agent::{Agent, agent_command},
    lab::Lab,
    pod::{Pod, host_interface},
    process::{command, run},
    require::require,
    scenario::{NEEDS, policy},
    trace::{Edge, Trace},
    wait,
};
use serde_json::{Value, json};

fn fingerprint(lab: &Lab) -> Vec<String> {
    oxilium_e2e::fingerprint::fingerprint(lab).unwrap()
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

fn uninstall(lab: &Lab) -> Output {
    oxilium_e2e::fingerprint::uninstall(lab).unwrap()
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
