//! The instance that judges and writes nothing says what the programs on the hooks do, and leaves no trace.

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use oxilium_abi::{Direction, DropReason, NodeWord, map};
use oxilium_datapath::testing::{
    Frame, Ipv4, Ipv6, PolicyEntry, World, ethernet, icmp, sctp, tcp, udp,
};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::{Node as _, port::TryPacket};
use oxilium_model::node_state::Hook;
use oxilium_program_tests::{
    NEXT, SHOT, enter_namespace,
    node::{PinnedNode, bpftool},
    test_context,
};

type Verdict = Result<(), DropReason>;

/// The peer's rules, the same in both directions: 80/TCP and 53/UDP and echo allowed, 81 to a proxy, 82 with
/// authentication, 83 denied.
fn policy() -> Vec<PolicyEntry> {
    let mut entries = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let allow = |protocol, port| PolicyEntry::allow(direction, World::PEER, protocol, port);
        entries.extend([
            allow(6, 80),
            allow(17, 53),
            allow(132, 3868),
            allow(1, 8),
            allow(58, 128),
            PolicyEntry {
                precedence: 0xFFFF_FFFA,
                ..allow(6, 81)
            },
            PolicyEntry {
                auth: 0x81,
                ..allow(6, 82)
            },
            allow(6, 83).denied(),
        ]);
    }
    entries
}

type Case = (&'static str, Direction, Frame, Verdict);

fn syn(port: u16) -> Vec<u8> {
    tcp(4000, port, 2, &[])
}

fn cases() -> Vec<Case> {
    use Direction::{Egress, Ingress};
    let mut cases = other_cases();
    for (port, verdict) in [
        (80, Ok(())),
        (81, Err(DropReason::ProxyUnavailable)),
        (82, Err(DropReason::AuthRequired)),
        (83, Err(DropReason::PolicyDeny)),
        (84, Err(DropReason::PolicyDenied)),
    ] {
        cases.extend([
            (
                "SYN",
                Egress,
                World::from4(World::PEER4, 6, &syn(port)),
                verdict,
            ),
            (
                "SYN",
                Ingress,
                World::to4(World::PEER4, 6, &syn(port)),
                verdict,
            ),
            (
                "SYN",
                Egress,
                World::from6(World::PEER6, 6, &syn(port)),
                verdict,
            ),
            (
                "SYN",
                Ingress,
                World::to6(World::PEER6, 6, &syn(port)),
                verdict,
            ),
        ]);
    }
    cases
}

/// Other protocols, and what does not get as far as policy.
fn other_cases() -> Vec<Case> {
    use Direction::{Egress, Ingress};
    let echo = |kind| icmp(kind, 0, &[0, 1, 0, 1]);
    let spoofed4 = Ipv4::new(World::PEER4, World::WORLD4, 6).with(&syn(80));
    let spoofed6 = Ipv6::new(World::PEER6, World::WORLD6, 6).with(&syn(80));
    let mut foreign_mac = World::from4(World::PEER4, 6, &syn(80));
    foreign_mac.bytes = ethernet(
        [2, 0, 0, 0, 9, 9],
        World::GATEWAY_MAC,
        0x0800,
        &foreign_mac.bytes[14..],
    );
    let mut elsewhere = World::from4(World::PEER4, 6, &syn(80));
    elsewhere.ifindex = 99;
    let mut first = Ipv4::new(World::PEER4, World::POD4, 17);
    first.fragment = 0x2000;
    let first = World::to_pod(0x0800, &first.with(&udp(999, 53, &[0; 24])));
    vec![
        (
            "datagram",
            Ingress,
            World::to4(World::PEER4, 17, &udp(999, 53, b"!")),
            Ok(()),
        ),
        (
            "datagram",
            Egress,
            World::from6(World::PEER6, 17, &udp(999, 53, b"!")),
            Ok(()),
        ),
        ("first fragment", Ingress, first, Ok(())),
        (
            "SCTP",
            Ingress,
            World::to4(World::PEER4, 132, &sctp(999, 3868)),
            Ok(()),
        ),
        (
            "SCTP",
            Ingress,
            World::to4(World::PEER4, 132, &sctp(999, 3869)),
            Err(DropReason::PolicyDenied),
        ),
        (
            "echo",
            Egress,
            World::from4(World::PEER4, 1, &echo(8)),
            Ok(()),
        ),
        (
            "echo",
            Ingress,
            World::to6(World::PEER6, 58, &echo(128)),
            Ok(()),
        ),
        (
            "stranger",
            Ingress,
            World::to4(World::WORLD4, 6, &syn(80)),
            Err(DropReason::PolicyDenied),
        ),
        (
            "spoofed address",
            Egress,
            World::from_pod(0x0800, &spoofed4),
            Err(DropReason::InvalidSourceIp),
        ),
        (
            "spoofed address",
            Egress,
            World::from_pod(0x86DD, &spoofed6),
            Err(DropReason::InvalidSourceIp),
        ),
        (
            "spoofed MAC",
            Egress,
            foreign_mac,
            Err(DropReason::InvalidSourceMac),
        ),
        (
            "no configuration",
            Egress,
            elsewhere,
            Err(DropReason::NoConfiguration),
        ),
    ]
}

/// What the pinned program, which is the one that hooks get, does.
fn live(node: &PinnedNode, direction: Direction, frame: &Frame) -> Result<u32> {
    let program = SchedClassifier::from_pin(node.program(hook(direction).program())?)?;
    let context = test_context(frame);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame.bytes);
    options.ctx_in = Some(&context);
    Ok(program.test_run(options)?.return_value)
}

fn dry(node: &mut PinnedNode, direction: Direction, frame: &Frame) -> Result<Verdict> {
    let answer = node.node.try_packet(&TryPacket {
        hook: hook(direction),
        ifindex: frame.ifindex,
        ingress_ifindex: frame.ingress_ifindex,
        frame: frame.bytes.clone(),
    })?;
    Ok(answer.map_or(Ok(()), Err))
}

const fn hook(direction: Direction) -> Hook {
    match direction {
        Direction::Egress => Hook::FromContainer,
        Direction::Ingress => Hook::ToContainer,
    }
}

#[test]
fn a_dry_run_says_what_the_programs_do_and_changes_no_map() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    enter_namespace()?;
    let mut node = PinnedNode::open()?;
    for write in World::writes(&policy()) {
        node.write(&write)?;
    }
    // As if a monitor read: then programs make events and pay for them.
    let readers = (NodeWord::EventReaders as u32).to_string();
    let one = [
        "key", &readers, "0", "0", "0", "value", "1", "0", "0", "0", "0", "0", "0", "0",
    ];
    bpftool(
        &["map", "update", "pinned"],
        &node.pin(map::NODE_WORDS),
        &one,
    )?;

    let unused = node.dump()?;
    for (what, direction, frame, expected) in cases() {
        assert_eq!(
            dry(&mut node, direction, &frame)?,
            expected,
            "{what}, {direction:?}"
        );
    }
    assert_eq!(
        node.dump()?,
        unused,
        "a dry run of packets that nobody has seen"
    );

    for (what, direction, frame, expected) in cases() {
        let action = if expected.is_ok() { NEXT } else { SHOT };
        assert_eq!(
            live(&node, direction, &frame)?,
            action,
            "{what}, {direction:?}"
        );
    }
    let used = node.dump()?;
    for map in [
        map::CT4_UNANSWERED,
        map::CT6_UNANSWERED,
        map::FRAGMENTS4,
        map::COUNTERS,
        map::EVENT_BUDGET,
        map::SCRATCH,
    ] {
        ensure!(
            used[map] != unused[map],
            "{map} shows nothing of the packets"
        );
    }
    for (what, direction, frame, expected) in cases() {
        assert_eq!(
            dry(&mut node, direction, &frame)?,
            expected,
            "{what} again, {direction:?}"
        );
    }
    assert_eq!(node.dump()?, used, "a dry run of packets that are known");
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_cannot_be_tried() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    enter_namespace()?;
    let mut node = PinnedNode::open()?;
    for ifindex in [0, 1, 4321] {
        let frame = Frame {
            ifindex,
            ..World::from4(World::PEER4, 6, &tcp(1, 2, 2, &[]))
        };
        let error = dry(&mut node, Direction::Egress, &frame).expect_err("no such interface");
        assert!(
            error.to_string().contains(&format!("interface {ifindex}:")),
            "{error}"
        );
    }
    Ok(())
}
