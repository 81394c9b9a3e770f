//! The programs on the hooks of a real veth, by tcx and by clsact: what a test run cannot have.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, TcAttachOptions},
};
use oxilium_abi::{Direction, DropReason};
use oxilium_datapath::testing::{
    Frame, PolicyEntry, World, Write,
    stories::{self, Family, Step, Who},
    tcp, udp,
};
use oxilium_e2e::require::{Need, require};
use oxilium_program_tests::{Constants, Object, PacketSocket, enter_namespace, ip};

/// The pod's end of the veth; a frame sent there comes in at the host's end.
const POD_END: u32 = 8;
const HOST_END: &str = "ox7";
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Hook {
    Tcx,
    Clsact,
}

fn attach(object: &mut Object, hook: Hook) -> Result<()> {
    if matches!(hook, Hook::Clsact) {
        tc::qdisc_add_clsact(HOST_END)?;
    }
    for (direction, kind) in [
        (Direction::Egress, TcAttachType::Ingress),
        (Direction::Ingress, TcAttachType::Egress),
    ] {
        let program: &mut SchedClassifier = object.program(direction)?;
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Hook::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
        };
        program
            .attach_with_options(HOST_END, kind, options)
            .with_context(|| format!("attach by {hook:?}"))?;
    }
    Ok(())
}

/// Sends a frame and waits until it is counted: passed, or dropped for a reason.
fn send(
    object: &mut Object,
    socket: &PacketSocket,
    direction: Direction,
    frame: &[u8],
) -> Result<Result<(), DropReason>> {
    let before = object.counts(direction)?;
    socket.send(frame, 14).context("send")?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let after = object.counts(direction)?;
        let mut moved = after
            .iter()
            .zip(&before)
            .filter(|(after, before)| after != before);
        if let Some(((reason, _), _)) = moved.next() {
            return Ok(reason.map_or(Ok(()), Err));
        }
        std::thread::yield_now();
    }
    bail!("a frame of {} bytes was never counted", frame.len())
}

/// As it is on the wire: a tag beside the bytes is in them.
fn on_the_wire(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    if frame.vlan {
        bytes.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    }
    bytes
}

/// A story of packets that the pod sends through its veth.
fn is_sent_by_the_pod(story: &stories::Story) -> bool {
    story.steps.iter().all(|step| match step {
        Step::From(frame, _) => frame.ifindex == World::IFINDEX && !frame.gso,
        Step::Sent(frame, _) => frame.ifindex == World::IFINDEX,
        Step::To(..) | Step::Received(..) => false,
        Step::Plan(_) | Step::Purge => true,
    })
}

fn tell_stories(hook: Hook) -> Result<()> {
    enter_namespace()?;
    let mut object = Object::load(Constants::default())?;
    attach(&mut object, hook)?;
    let socket = PacketSocket::open(POD_END)?;
    let (mut wrong, mut told) = (Vec::new(), 0);
    for story in stories::all().into_iter().filter(is_sent_by_the_pod) {
        object.forget_all()?;
        told += 1;
        for step in &story.steps {
            match step {
                Step::From(frame, expected) => {
                    let bytes = on_the_wire(frame);
                    let seen = send(&mut object, &socket, Direction::Egress, &bytes)
                        .with_context(|| story.name.clone())?;
                    if seen != *expected {
                        wrong.push(format!("{}: {expected:?}, but {seen:?}", story.name));
                    }
                }
                Step::Plan(writes) => {
                    for write in writes {
                        object.write(write)?;
                    }
                }
                Step::Sent(frame, _) => {
                    let bytes = on_the_wire(frame);
                    let seen = send(&mut object, &socket, Direction::Egress, &bytes)
                        .with_context(|| story.name.clone())?;
                    if seen.is_err() {
                        wrong.push(format!("{}: passes, but {seen:?}", story.name));
                    }
                }
                Step::To(..) | Step::Received(..) => bail!("{} is not sent by the pod", story.name),
                Step::Purge => object.forget_flows()?,
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(told > 90, "only {told} stories were told");
    Ok(())
}

#[test]
fn stories_of_what_a_pod_sends_on_tcx() -> Result<()> {
    if !require(&[Need::Root, Need::Tcx]) {
        return Ok(());
    }
    tell_stories(Hook::Tcx)
}

#[test]
fn stories_of_what_a_pod_sends_on_clsact() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    tell_stories(Hook::Clsact)
}

#[test]
fn headers_outside_the_linear_part_are_read_on_tcx() -> Result<()> {
    if !require(&[Need::Root, Need::Tcx]) {
        return Ok(());
    }
    send_long_frames(Hook::Tcx)
}

#[test]
fn headers_outside_the_linear_part_are_read_on_clsact() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    send_long_frames(Hook::Clsact)
}

/// Of each only the link-layer header need lie in the linear part.
fn send_long_frames(hook: Hook) -> Result<()> {
    enter_namespace()?;
    ip("link set ox7 mtu 9000")?;
    ip("link set ox8 mtu 9000")?;
    let mut object = Object::load(Constants::default())?;
    attach(&mut object, hook)?;
    let allow = [Direction::Egress, Direction::Ingress].map(|direction| {
        [(17, 53), (6, 80)]
            .map(|(protocol, port)| PolicyEntry::allow(direction, World::PEER, protocol, port))
    });
    for write in World::writes(&allow.concat()) {
        object.write(&write)?;
    }
    for (direction, socket) in [
        (Direction::Egress, PacketSocket::open(POD_END)?),
        (Direction::Ingress, PacketSocket::open(World::IFINDEX)?),
    ] {
        for family in [Family::V4, Family::V6] {
            for (what, frame, expected) in long_frames(family, direction) {
                let seen = send(&mut object, &socket, direction, &frame)?;
                assert_eq!(seen, expected, "{family:?}, {direction:?}: {what}");
            }
        }
    }
    Ok(())
}

fn long_frames(
    family: Family,
    direction: Direction,
) -> Vec<(&'static str, Vec<u8>, Result<(), DropReason>)> {
    let payload = [0_u8; 6000];
    let packet = |protocol, payload: &[u8]| match direction {
        Direction::Egress => family.from(Who::Peer, protocol, payload).bytes,
        Direction::Ingress => family.to(Who::Peer, protocol, payload).bytes,
    };
    let datagram = |port| packet(17, &udp(999, port, &payload));
    let segment = |port| packet(6, &tcp(999, port, 2, &payload));
    let mut cut = datagram(53);
    // The length in the IP header.
    let length = match family {
        Family::V4 => 16..18,
        Family::V6 => 18..20,
    };
    cut[length].copy_from_slice(&7000_u16.to_be_bytes());
    vec![
        ("UDP", datagram(53), Ok(())),
        ("UDP", datagram(54), Err(DropReason::PolicyDenied)),
        ("TCP", segment(80), Ok(())),
        ("TCP", segment(81), Err(DropReason::PolicyDenied)),
        ("cut off", cut, Err(DropReason::InvalidPacket)),
    ]
}

#[test]
fn an_interface_of_its_own_decides_and_no_other() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    enter_namespace()?;
    let mut object = Object::load(Constants::default())?;
    attach(&mut object, Hook::Clsact)?;
    let everything = [PolicyEntry::allow_all(Direction::Ingress, 0)];
    for write in World::writes(&everything) {
        object.write(&write)?;
    }
    let socket = PacketSocket::open(World::IFINDEX)?;
    let frame = World::to4(World::PEER4, 17, &udp(53, 999, b"!")).bytes;
    assert_eq!(
        send(&mut object, &socket, Direction::Ingress, &frame)?,
        Ok(())
    );
    object.write(&Write::Interface(World::IFINDEX, None))?;
    let seen = send(&mut object, &socket, Direction::Ingress, &frame)?;
    assert_eq!(seen, Err(DropReason::NoConfiguration));
    Ok(())
}
