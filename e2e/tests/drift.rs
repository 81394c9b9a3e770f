//! What somebody else changes in the kernel is repaired.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use oxilium_abi::IpcacheKey;
use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    lab::Lab,
    packet,
    pod::{Pod, host_interface},
    probe::{self, Outcome},
    process::{command, run},
    require::require,
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    wait,
    wire::{Tap, contains},
};
use serde_json::Value;
use zerocopy::IntoBytes;

/// A lab whose agent compares the kernel with what it should hold each second.
fn start() -> Option<(Lab, Agent)> {
    start_sweeping_each("1")
}

fn start_sweeping_each(seconds: &str) -> Option<(Lab, Agent)> {
    if !require(&NEEDS) {
        return None;
    }
    let lab = Lab::new().unwrap();
    let mut command = agent_command(&lab).unwrap();
    command.args(["--sweep-interval", seconds]);
    let mut agent = Agent::launch_as(&lab, command).unwrap();
    agent.until_ready().unwrap();
    Some((lab, agent))
}

/// All files below `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn repaired(agent: &Agent) -> u64 {
    agent.cli().status().unwrap()["reconcile"]["drift-repaired"]
        .as_u64()
        .unwrap()
}

#[test]
fn entries_of_the_ipcache_that_somebody_removes_come_back() {
    let Some((lab, agent)) = start() else {
        return;
    };
    let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
    let (subject, friend) = (pod("subject"), pod("friend"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    let from_friend = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
    lab.manifests
        .put("web.yaml", &policy("web", from_friend))
        .unwrap();
    agent.until_policy("web", true).unwrap();
    let before = repaired(&agent);

    let pins = files(&lab.bpf_root());
    let ipcache = pins
        .iter()
        .find(|path| path.to_string_lossy().contains("ipcache"))
        .unwrap();
    let bpftool = |args: &[&str]| run(command("bpftool").args(args).arg(ipcache)).unwrap();
    let entries: Value = serde_json::from_str(&bpftool(&["-j", "map", "dump", "pinned"])).unwrap();
    let mut removed = 0;
    for entry in entries.as_array().unwrap() {
        let mut delete = command("bpftool");
        delete
            .args(["map", "delete", "pinned"])
            .arg(ipcache)
            .args(["key", "hex"]);
        for byte in entry["key"].as_array().unwrap() {
            delete.arg(byte.as_str().unwrap().trim_start_matches("0x"));
        }
        // The agent may have been quicker with an entry, or a broader one.
        removed += usize::from(run(&mut delete).is_ok());
    }
    assert!(removed > 0, "{entries}");
    wait::until("the agent has repaired it", wait::LONG, || {
        Ok((repaired(&agent) > before).then_some(()))
    })
    .unwrap();
    agent.until_applied().unwrap();
    for to in sockets(&subject, 80) {
        wait::until("the friend is known again", wait::LONG, || {
            let outcome = probe::tcp(&friend.netns, to)?;
            Ok((outcome == Outcome::Answered).then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn somebody_who_keeps_removing_an_entry_is_told_of_by_the_name_of_its_table() {
    let Some((lab, agent)) = start() else {
        return;
    };
    let pod = lab.pod("subject").start().unwrap();
    let pins = files(&lab.bpf_root());
    let ipcache = pins
        .iter()
        .find(|path| path.to_string_lossy().contains("ipcache"))
        .unwrap();
    let key = IpcacheKey::v4(pod.ipv4.octets(), 32);
    let bytes = key.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    let mut delete = command("bpftool");
    delete.args(["map", "delete", "pinned"]).arg(ipcache);
    delete.args(["key", "hex"]).args(bytes);
    let status = wait::until("status is told of the fight", wait::LONG, || {
        // It fails while the entry is not back yet.
        drop(run(&mut delete));
        let status = agent.cli().status()?;
        Ok((status["cilium"]["state"] == "Failure").then_some(status))
    })
    .unwrap();
    let failing = status["reconcile"]["failing"].as_array().unwrap();
    let fights: Vec<&Value> = failing.iter().map(|failing| &failing["object"]).collect();
    assert_eq!(fights, ["a fight over the table `ipcache`"], "{status}");
}

/// Takes our programs off the pod's interface, as `tc` or `bpftool` in the wrong hands would.
fn strip(lab: &Lab, pod: &Pod) {
    let interface = host_interface(&pod.result).unwrap();
    let links: Vec<PathBuf> = files(&lab.bpf_root())
        .into_iter()
        .filter(|path| {
            run(command("bpftool")
                .args(["link", "show", "pinned"])
                .arg(path))
            .is_ok()
        })
        .collect();
    for link in &links {
        run(command("bpftool")
            .args(["link", "detach", "pinned"])
            .arg(link))
        .unwrap();
    }
    if links.is_empty() {
        let worker = &lab.worker.netns;
        worker
            .run(command("tc").args(["qdisc", "del", "dev", &interface, "clsact"]))
            .unwrap();
    }
}

#[test]
fn programs_that_somebody_takes_off_are_put_on_again() {
    taken_off_and_put_on_again("1");
}

#[test]
fn hooks_are_asked_each_second_however_seldom_the_tables_are_compared() {
    let Some((agent, _lab)) = taken_off_and_put_on_again("3600") else {
        return;
    };
    let status = agent.cli().status().unwrap();
    let drifted = status["reconcile"]["hooks-drifted"].as_u64().unwrap();
    // Filters are announced: whether the announcement or a look at the hooks comes first, time decides. Of links the first
    // look finds those that are off by then, and all is compared after it.
    let asked = status["attach-mode"] == "TCX";
    assert!(drifted > 0 || !asked, "{status}");
    let writes = |status: &Value| status["kernel-writes"]["total"].as_u64().unwrap();
    agent.until_applied().unwrap();
    let before = agent.cli().status().unwrap();
    let micros = |status: &Value| status["reconcile"]["last-hooks-micros"].as_u64().unwrap();
    if asked {
        wait::until("the hooks were asked again", wait::LONG, || {
            let now = agent.cli().status()?;
            Ok((micros(&now) != micros(&before)).then_some(()))
        })
        .unwrap();
    }
    let after = agent.cli().status().unwrap();
    assert_eq!(writes(&before), writes(&after), "an idle second writes");
}

fn taken_off_and_put_on_again(sweep_interval: &str) -> Option<(Agent, Lab)> {
    let (lab, agent) = start_sweeping_each(sweep_interval)?;
    let pod = |name: &str| lab.pod(name).start().unwrap();
    let (liar, victim) = (pod("liar"), pod("victim"));
    let (send, see) = (
        Tap::open(&liar.netns, "eth0").unwrap(),
        Tap::open(&victim.netns, "eth0").unwrap(),
    );
    let mut number = 0;
    let mut lie_arrives = || {
        number += 1;
        let there = IpAddr::from(victim.ipv4);
        let lie = packet::udp(([10, 244, 1, 250].into(), 1), (there, 1), b"a lie");
        let marker = format!("marker {number}.");
        let truth = packet::udp((liar.ipv4.into(), 1), (there, 1), marker.as_bytes());
        for datagram in [&lie, &truth] {
            send.send(&datagram.frame(victim.mac, liar.mac)).unwrap();
        }
        let before = see
            .until(wait::LONG, |frame| contains(frame, marker.as_bytes()))
            .unwrap();
        before.iter().any(|frame| contains(frame, b"a lie"))
    };
    assert!(!lie_arrives());
    agent.until_linked().unwrap();
    let before = repaired(&agent);
    strip(&lab, &liar);
    wait::until("the programs are on again", wait::LONG, || {
        Ok((!lie_arrives() && repaired(&agent) > before).then_some(()))
    })
    .unwrap();
    dump::settled(&lab, &[&liar, &victim]).unwrap();
    // That looks right one write before it is: the link is there, and its program is still to be replaced.
    agent.until_linked().unwrap();
    Some((agent, lab))
}
