//! The agent and another party's program before its own, which lets every packet pass for good.

use std::net::IpAddr;
use std::os::fd::AsFd;

use oxilium_e2e::packet;
use oxilium_e2e::pod::Pod;
use oxilium_e2e::require::{Need, require};
use oxilium_e2e::scenario::Scenario;
use oxilium_e2e::wait;
use oxilium_e2e::wire::{Tap, contains};
use oxilium_model::node_state::Hook;

use super::tcx_hook;
use crate::sys::{self, ProgLoad};

/// A datagram from another source than its own, and one from its own after it: whether the first arrives.
fn lie_arrives(liar: &Pod, victim: &Pod, number: u32) -> bool {
    let [send, see] = [liar, victim].map(|pod| Tap::open(&pod.netns, "eth0").expect("a tap"));
    let there = (IpAddr::from(victim.ipv4), 1);
    let marker = format!("marker {number}.");
    for (source, text) in [
        (IpAddr::from([10, 244, 1, 250]), "a lie"),
        (IpAddr::from(liar.ipv4), marker.as_str()),
    ] {
        let frame = packet::udp((source, 1), there, text.as_bytes()).frame(victim.mac, liar.mac);
        send.send(&frame).expect("sent");
    }
    let before = see
        .until(wait::LONG, |frame| contains(frame, marker.as_bytes()))
        .expect("the truth arrives");
    before.iter().any(|frame| contains(frame, b"a lie"))
}

#[test]
fn a_program_before_ours_comes_after_ours_within_a_look_at_the_hooks_and_stays() {
    if !require(&[Need::Tcx]) {
        return;
    }
    let Some(scenario) = Scenario::start().expect("a lab") else {
        return;
    };
    let (agent, lab) = (&scenario.agent, &scenario.lab);
    let pod = |name: &str| lab.pod(name).start().expect("a pod");
    let (liar, victim) = (pod("liar"), pod("victim"));
    agent.until_linked().expect("links");
    assert!(!lie_arrives(&liar, &victim, 0));
    let status = || agent.cli().status().expect("an agent");
    let drifted = || status()["reconcile"]["hooks-drifted"].as_u64();
    let (before, logged) = (drifted(), agent.log().len());

    // `r0 = TCX_PASS; exit`: no program after it is asked.
    let instructions = [
        0xB7, 0, 0, 0, 0, 0, 0, 0, //
        0x95, 0, 0, 0, 0, 0, 0, 0,
    ];
    let program = ProgLoad {
        name: "passes_all",
        instructions: &instructions,
        license: c"GPL",
        types: None,
    };
    let program = sys::prog_load(&program, &mut []).expect("the verifier has nothing against it");
    let ifindex = u32::try_from(liar.host_ifindex().expect("a veth")).expect("an index");
    let hook = tcx_hook(Hook::FromContainer);
    let push = || sys::link_create_tcx(program.as_fd(), ifindex, hook);
    let link = lab
        .worker
        .netns
        .enter(push)
        .expect("a thread there")
        .expect("a tcx hook takes many");

    wait::until(
        "the hook was found other than it was left",
        wait::LONG,
        || Ok((drifted() > before).then_some(())),
    )
    .expect("found");
    agent.until_linked().expect("links");
    agent.until_applied().expect("repaired");
    assert!(!lie_arrives(&liar, &victim, 1));
    let told = agent.log().split_off(logged);
    let names_it = told.contains("a hook is not as it was left")
        && told.contains(&format!("interface={ifindex}"))
        && told.contains("hook=from_container");
    assert!(names_it, "{told}");
    let names = || -> std::io::Result<Vec<String>> {
        let on_hook = sys::prog_query_tcx(ifindex, hook)?;
        let named = |(id, _): &(u32, u32)| {
            let program = sys::fd_by_id(sys::Kind::Program, *id)?;
            Ok(sys::prog_info(program.as_fd())?.name)
        };
        on_hook.iter().map(named).collect()
    };
    let names = lab.worker.netns.enter(names).expect("a thread there");
    assert_eq!(
        names.expect("readable"),
        ["from_container", "passes_all"],
        "ours comes first, and the other is left alone"
    );
    drop(link);
}
