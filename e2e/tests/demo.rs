//! The demo, however it ends, leaves nothing.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oxilium_e2e::{
    lab, netns, process,
    require::{Need, require},
    wait,
};

const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Bpf,
    Need::CniPlugins,
    Need::Tools,
    Need::Binaries,
];

/// Starts the demo; the prefix of all that it makes.
fn start() -> (Child, String) {
    let child = Command::new(process::built_binary("oxilium-demo").unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It plays in a child of its own, which the lab is named for.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let player = wait::until("the demo plays", wait::LONG, || {
        let player = fs::read_to_string(&children)?;
        Ok(player.trim().parse().ok())
    })
    .unwrap();
    (child, lab::prefix_of(player, 0))
}

/// Ends it with a signal; what it had made is gone when it has ended.
fn interrupt(mut child: Child, prefix: &str, signal: Signal, when: &str) {
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(id, signal).unwrap();
    assert!(!child.wait().unwrap().success(), "{when}");
    assert!(netns::names_with(prefix).unwrap().is_empty(), "{when}");
    let stem = prefix.trim_end_matches('-');
    for place in ["/sys/fs/bpf", "/run"] {
        for entry in Path::new(place).read_dir().unwrap() {
            let name = entry.unwrap().file_name();
            assert!(
                !name.to_string_lossy().starts_with(stem),
                "{when}: {place}/{}",
                name.display()
            );
        }
    }
    let mut processes = fs::read_dir("/proc").unwrap();
    let left = processes.find_map(|entry| {
        let command = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        command.contains(stem).then_some(command)
    });
    assert_eq!(left, None, "{when}");
}

#[test]
fn interrupted_while_its_nodes_are_made() {
    if !require(&NEEDS) {
        return;
    }
    let (child, prefix) = start();
    wait::until("the demo has made a node", wait::LONG, || {
        Ok((!netns::names_with(&prefix)?.is_empty()).then_some(()))
    })
    .unwrap();
    interrupt(child, &prefix, Signal::SIGINT, "at the first node");
}

#[test]
fn interrupted_at_a_step() {
    if !require(&NEEDS) {
        return;
    }
    for (step, signal) in [
        ("The agent runs on worker", Signal::SIGTERM),
        ("1. ", Signal::SIGINT),
        ("3. ", Signal::SIGHUP),
    ] {
        let (mut child, prefix) = start();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reached = lines.any(|line| line.unwrap().starts_with(step));
        assert!(reached, "the demo ended before {step:?}");
        interrupt(child, &prefix, signal, step);
    }
}
