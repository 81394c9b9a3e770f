//! What the agent keeps in places that others can reach, pins, names, hooks, is put right when somebody moves it; and
//! somebody who does it again and again is named.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    lab::Lab,
    packet,
    pod::{Pod, host_interface},
    process::{Process, command, run},
    require::{Need, require},
    scenario::NEEDS,
    wait,
    wire::{Tap, contains},
};
use serde_json::Value;

/// An agent that compares the kernel with what it should hold each second, and two pods of which one lies.
struct Stage {
    agent: Agent,
    liar: Pod,
    victim: Pod,
    send: Tap,
    see: Tap,
    number: u32,
    lab: Lab,
}

impl Stage {
    fn start(options: &[&str]) -> Option<Self> {
        if !require(&NEEDS) {
            return None;
        }
        let lab = Lab::new().unwrap();
        let mut command = agent_command(&lab).unwrap();
        command.args(["--sweep-interval", "1"]).args(options);
        Some(Self::with(lab, command))
    }

    fn with(lab: Lab, command: Command) -> Self {
        let mut agent = Agent::launch_as(&lab, command).unwrap();
        agent.until_ready().unwrap();
        let (liar, victim) = (
            lab.pod("liar").start().unwrap(),
            lab.pod("victim").start().unwrap(),
        );
        let (send, see) = (
            Tap::open(&liar.netns, "eth0").unwrap(),
            Tap::open(&victim.netns, "eth0").unwrap(),
        );
        Self {
            agent,
            liar,
            victim,
            send,
            see,
            number: 0,
            lab,
        }
    }

    /// The liar's programs let a datagram pass whose source is not the liar.
    fn lie_arrives(&mut self) -> bool {
        self.number += 1;
        let there = IpAddr::from(self.victim.ipv4);
        let lie = packet::udp(([10, 244, 1, 250].into(), 1), (there, 1), b"a lie");
        let marker = format!("marker {}.", self.number);
        let truth = packet::udp((self.liar.ipv4.into(), 1), (there, 1), marker.as_bytes());
        for datagram in [&lie, &truth] {
            self.send
                .send(&datagram.frame(self.victim.mac, self.liar.mac))
                .unwrap();
        }
        let before = self
            .see
            .until(wait::LONG, |frame| contains(frame, marker.as_bytes()))
            .unwrap();
        before.iter().any(|frame| contains(frame, b"a lie"))
    }

    fn until_settled(&self) {
        self.agent.until_linked().unwrap();
    }

    fn status(&self) -> anyhow::Result<Value> {
        self.agent.cli().status()
    }

    /// It is told in the log, in a line of its own.
    fn until_logged(&self, text: &str) {
        wait::until(text, wait::LONG, || {
            Ok(self.agent.log().contains(text).then_some(()))
        })
        .unwrap();
    }

    fn device(&self) -> String {
        host_interface(&self.liar.result).unwrap()
    }

    fn on_worker(&self, program: &str, args: &str) -> String {
        let mut command = command(program);
        command.args(args.split_whitespace());
        self.lab.worker.netns.run(&mut command).unwrap()
    }
}

/// A filter that takes every packet, and says nothing against it.
const ALL: &str = "u32 match u32 0 0 classid 1:1";

/// All files below `directory`, by their path in it.
fn pins(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pins(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn pins_that_somebody_removes_come_back() {
    let Some(mut stage) = Stage::start(&[]) else {
        return;
    };
    stage.until_settled();
    let root = stage.lab.bpf_root();
    let before = pins(&root);
    assert!(before.len() > 15, "{before:?}");
    fs::remove_dir_all(root.join("oxilium")).unwrap();
    stage.until_logged("the place of all pins is gone; making it again");
    wait::until("all pins are back", wait::LONG, || {
        Ok((pins(&root) == before).then_some(()))
    })
    .unwrap();
    wait::until("status counts them", wait::LONG, || {
        let restored = stage.status()?["reconcile"]["pins-restored"].as_u64();
        Ok(restored.filter(|restored| *restored > 10))
    })
    .unwrap();
    stage.until_settled();
    assert!(!stage.lie_arrives());
    // What they are for.
    stage.agent.process().crash().unwrap();
    assert!(!stage.lie_arrives());
}

/// Unmounts whatever is mounted there.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing mounted is fine, too.
        drop(run(command("umount").arg("-l").arg(&self.0)));
    }
}

/// The agent's command line, with other places.
fn with_places(lab: &Lab, places: &[(PathBuf, PathBuf)]) -> Command {
    let shared = agent_command(lab).unwrap();
    let mut own = Command::new(shared.get_program());
    for argument in shared.get_args() {
        let other = places.iter().find(|(usual, _)| usual == argument);
        own.arg(other.map_or(argument, |(_, other)| other.as_os_str()));
    }
    own.arg("--accept-private-bpffs");
    own
}

#[test]
fn a_bpffs_that_somebody_unmounts_is_mounted_again() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let root = lab.directory().join("bpf");
    fs::create_dir(&root).unwrap();
    let elsewhere = (lab.bpf_root(), root.clone());
    let mut own = with_places(&lab, std::slice::from_ref(&elsewhere));
    own.args(["--sweep-interval", "1"]);
    let mut stage = Stage::with(lab, own);
    // Before the lab goes.
    let mount = Mount(root.clone());
    stage.until_settled();
    let before = pins(&root);
    assert!(before.len() > 15, "{before:?}");
    run(command("umount").arg("-l").arg(&root)).unwrap();
    assert!(!root.join("oxilium").exists());
    wait::until("all pins are back", wait::LONG, || {
        Ok((pins(&root) == before).then_some(()))
    })
    .unwrap();
    stage.until_settled();
    assert!(!stage.lie_arrives());
    // One with state of its own would write to the same maps.
    let lab = &stage.lab;
    let own = lab.directory().join("rival");
    fs::create_dir(&own).unwrap();
    let state = (lab.directory().join("state"), own.join("state"));
    let mut rival = with_places(lab, &[elsewhere, state]);
    let start = || Process::spawn("rival", &mut rival, own.join("log"));
    let mut refused = lab.worker.netns.enter(start).unwrap().unwrap();
    assert!(!refused.wait(wait::LONG).unwrap().success());
    let told = refused.log();
    assert!(told.contains("another agent runs on this node"), "{told}");
    stage.agent.process().crash().unwrap();
    assert!(!stage.lie_arrives());
    drop(stage);
    drop(mount);
}

#[test]
fn a_veth_of_another_name_is_the_same_pod() {
    let Some(mut stage) = Stage::start(&[]) else {
        return;
    };
    stage.until_settled();
    let writes = |stage: &Stage| stage.status().unwrap()["kernel-writes"]["total"].clone();
    let before = writes(&stage);
    let device = stage.device();
    // Kernels before 6.2 rename no device that is up.
    for change in [
        format!("link set {device} down"),
        format!("link set {device} name renamed"),
        "link set renamed up".to_owned(),
    ] {
        stage.on_worker("ip", &change);
    }
    wait::until("the agent knows the new name", wait::LONG, || {
        let endpoint = stage.agent.endpoint("liar")?;
        Ok((endpoint["status"]["networking"]["interface-name"] == "renamed").then_some(()))
    })
    .unwrap();
    assert!(!stage.lie_arrives());
    assert_eq!(writes(&stage), before);
    stage.agent.until_ready().unwrap();
}

#[test]
fn a_filter_in_the_place_of_ours_is_told_of_and_ours_comes_back_when_it_goes() {
    let Some(mut stage) = Stage::start(&["--attach-mode", "tc"]) else {
        return;
    };
    let device = stage.device();
    assert!(!stage.lie_arrives());
    stage.on_worker("tc", &format!("filter del dev {device} ingress prio 1"));
    stage.on_worker(
        "tc",
        &format!("filter add dev {device} ingress prio 2 protocol all {ALL}"),
    );
    wait::until("ours runs first again", wait::LONG, || {
        Ok((!stage.lie_arrives()).then_some(()))
    })
    .unwrap();
    let shown = stage.on_worker("tc", &format!("filter show dev {device} ingress"));
    assert!(shown.contains("u32"), "another's filter goes: {shown}");

    // Where another sits on the very place, ours cannot come: said, and not for ever.
    stage.on_worker("tc", &format!("filter del dev {device} ingress prio 1"));
    stage.on_worker(
        "tc",
        &format!("filter add dev {device} ingress prio 1 protocol all {ALL}"),
    );
    wait::until("status tells the hook", wait::LONG, || {
        let status = stage.status()?;
        let failing = status["reconcile"]["failing"].to_string();
        Ok((failing.contains("from_container")).then_some(()))
    })
    .unwrap();
    stage.on_worker("tc", &format!("filter del dev {device} ingress prio 1"));
    wait::until("ours is back", wait::LONG, || {
        Ok((!stage.lie_arrives()).then_some(()))
    })
    .unwrap();
}

#[test]
fn who_undoes_every_repair_is_told_of_until_there_is_peace() {
    if !require(&[Need::Tcx]) {
        return;
    }
    let Some(mut stage) = Stage::start(&[]) else {
        return;
    };
    stage.until_settled();
    let links = stage.lab.bpf_root();
    let began = Instant::now();
    let whose = format!("{} of pod default/liar", stage.device());
    let named = |stage: &Stage| -> anyhow::Result<bool> {
        let status = stage.status()?;
        let failing = status["reconcile"]["failing"].to_string();
        let fought_over = failing.contains("a fight over") && failing.contains(&whose);
        Ok(fought_over && status["cilium"]["state"] == "Failure")
    };
    wait::until("status names the fight", wait::LONG, || {
        for pin in pins(&links) {
            if pin.to_string_lossy().contains("_container")
                && pin.parent().unwrap().ends_with("links")
            {
                // The agent may have been quicker.
                drop(run(command("bpftool")
                    .args(["link", "detach", "pinned"])
                    .arg(&pin)));
            }
        }
        Ok(named(&stage)?.then_some(()))
    })
    .unwrap();
    let fought = began.elapsed();
    wait::until("peace", 2 * wait::LONG, || {
        Ok((!named(&stage)?).then_some(()))
    })
    .unwrap();
    assert!(
        fought > Duration::from_secs(1),
        "{fought:?}: told at the first repair"
    );
    stage.agent.until_ready().unwrap();
    stage.until_settled();
    assert!(!stage.lie_arrives());
    dump::settled(&stage.lab, &[&stage.liar, &stage.victim]).unwrap();
}
