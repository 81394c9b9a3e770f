//! What a packet costs: figures, and the one ratio that the conntrack contract is there for.

use std::time::Duration;

use anyhow::Result;
use oxilium_abi::{Direction, IpcacheKey};
use oxilium_datapath::testing::{
    Frame, PolicyEntry, World, Write,
    stories::{Family, Who},
    tcp,
};
use oxilium_e2e::require::{Need, require};
use oxilium_program_tests::{Constants, EmptyProgram, Object, enter_namespace};

const RUNS: u32 = 300_000;
const ROUNDS: u32 = 5;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A node as large as the figures are about: addresses and entries beside those of the flow.
fn fill(object: &mut Object) -> Result<()> {
    let mut policy = vec![PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80)];
    policy.extend((0..2000).map(|n| PolicyEntry::allow(Direction::Ingress, 20_000 + n, 6, 80)));
    policy.push(PolicyEntry::allow_all(Direction::Ingress, 1));
    let mut writes = World::writes(&policy);
    for n in 0..10_000_u32 {
        let [_, _, c, d] = n.to_be_bytes();
        writes.push(World::address(
            IpcacheKey::v4([10, 9, c, d], 32),
            20_000 + n,
        ));
    }
    for write in &writes {
        object.write(write)?;
    }
    Ok(())
}

fn best(object: &mut Object, frame: &Frame) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        best = best.min(object.repeat(Direction::Ingress, frame, RUNS)?.1);
    }
    Ok(best)
}

#[test]
#[ignore = "figures; run it alone on a quiet machine, with --nocapture"]
fn nanoseconds_for_a_packet() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    enter_namespace()?;
    let quiet = Constants {
        trace: false,
        ..Constants::default()
    };
    let mut object = Object::load(quiet)?;
    let mut asking = Object::load(Constants {
        always_ask: true,
        ..quiet
    })?;
    fill(&mut object)?;
    fill(&mut asking)?;
    let empty = EmptyProgram::load()?;
    for family in [Family::V4, Family::V6] {
        let syn = family.to(Who::Peer, 6, &tcp(4000, 80, SYN, &[]));
        let ack = family.to(Who::Peer, 6, &tcp(4000, 80, ACK, &[]));
        let answer = family.from(Who::Peer, 6, &tcp(80, 4000, SYN | ACK, &[]));
        let denied = family.to(Who::Peer, 6, &tcp(4000, 81, SYN, &[]));
        // A reset opens nothing: each is a first packet, from parsing to policy.
        let first = family.to(Who::Peer, 6, &tcp(4001, 80, 4, &[]));
        for object in [&mut object, &mut asking] {
            object.run(Direction::Ingress, &syn)?;
            object.run(Direction::Egress, &answer)?;
            object.run(Direction::Ingress, &ack)?;
        }
        let mut nothing = Duration::MAX;
        for _ in 0..ROUNDS {
            nothing = nothing.min(empty.run(&ack.bytes, RUNS)?);
        }
        let established = best(&mut object, &ack)?;
        let asked = best(&mut asking, &ack)?;
        println!(
            "{family:?}: empty {nothing:?}, established {established:?}, established with policy asked {asked:?}, \
             new {:?}, denied {:?}; established / asked net of empty {:.2}",
            best(&mut object, &first)?,
            best(&mut object, &denied)?,
            (established.saturating_sub(nothing)).as_secs_f64()
                / (asked.saturating_sub(nothing)).as_secs_f64(),
        );
    }
    let gone = Write::Interface(World::IFINDEX, None);
    object.write(&gone)
}
