//! Full tables of flows: what the kernel evicts is counted, and a flood of one pod's new flows evicts nobody's answered ones.

use anyhow::{Result, ensure};
use oxilium_abi::{Direction, map};
use oxilium_datapath::testing::{
    Frame, PolicyEntry, World,
    stories::{self, Family, Who},
    tcp, udp,
};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::{Node as _, port::Evicted};
use oxilium_program_tests::{
    enter_namespace,
    hooks::Hooks,
    node::{PinnedNode, bpftool},
};

/// The entries that [`PinnedNode`]'s tables of flows have room for.
const ROOM: usize = 1024;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn query(port: u16) -> Frame {
    World::to4(World::PEER4, 17, &udp(port, 53, b"?"))
}

fn answer(port: u16) -> Frame {
    World::from4(World::PEER4, 17, &udp(53, port, b"!"))
}

fn open() -> Result<(PinnedNode, Hooks)> {
    enter_namespace()?;
    let mut node = PinnedNode::open()?;
    let policy = [
        PolicyEntry::allow(Direction::Ingress, World::PEER, 17, 53),
        PolicyEntry::allow_all(Direction::Egress, World::PEER),
    ];
    for write in World::writes(&policy) {
        node.write(&write)?;
    }
    let hooks = Hooks::of(&node)?;
    // From here on evictions are counted.
    node.node.collect_garbage(0)?;
    Ok((node, hooks))
}

/// Entries of a pinned map.
fn entries(node: &PinnedNode, name: &str) -> Result<usize> {
    let dump = bpftool(&["map", "dump", "pinned"], &node.pin(name), &[])?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    Ok(dump.as_array().map_or(0, Vec::len))
}

fn evicted(node: &mut PinnedNode) -> Result<Evicted> {
    node.node.collect_garbage(0)?;
    Ok(node.node.evicted())
}

#[test]
fn answered_flows_that_the_kernel_evicts_are_counted() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf, Need::Tools]) {
        return Ok(());
    }
    let (mut node, hooks) = open()?;
    let talk = |ports: std::ops::Range<u16>| -> Result<()> {
        for port in ports {
            ensure!(hooks.passes(Direction::Ingress, &query(port))?);
            ensure!(hooks.passes(Direction::Egress, &answer(port))?);
        }
        Ok(())
    };
    talk(1000..1100)?;
    assert_eq!(entries(&node, map::CT4)?, 100);
    assert_eq!(evicted(&mut node)?.flows, 0, "there is room for all");
    let flows = 1100..5100;
    let opened = 100 + flows.len();
    talk(flows)?;
    let living = entries(&node, map::CT4)?;
    assert!(living <= ROOM, "{living} entries in a table for {ROOM}");
    assert_eq!(evicted(&mut node)?.flows, (opened - living) as u64);
    Ok(())
}

#[test]
fn a_flood_of_flows_without_an_answer_evicts_no_answered_one() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf, Need::Tools]) {
        return Ok(());
    }
    let (mut node, hooks) = open()?;
    for port in 1000..1500 {
        ensure!(hooks.passes(Direction::Ingress, &query(port))?);
        ensure!(hooks.passes(Direction::Egress, &answer(port))?);
    }
    let established = entries(&node, map::CT4)?;
    assert_eq!(established, 500);
    for port in 1..10_000 {
        // A SYN flood and a spray of datagrams.
        let syn = World::from4(World::PEER4, 6, &tcp(port, 80, SYN, &[]));
        let datagram = World::from4(World::PEER4, 17, &udp(port, 9, b"!"));
        ensure!(hooks.passes(Direction::Egress, &syn)?, "SYN from {port}");
        ensure!(hooks.passes(Direction::Egress, &datagram)?, "from {port}");
    }
    let unanswered = entries(&node, map::CT4_UNANSWERED)?;
    assert!(unanswered <= ROOM, "{unanswered} entries for {ROOM}");
    assert_eq!(entries(&node, map::CT4)?, established);
    assert_eq!(evicted(&mut node)?, Evicted::default());
    Ok(())
}

/// A service of the peer's, reached by TCP over one family.
struct Service<'n> {
    family: Family,
    hooks: &'n Hooks,
}

impl<'n> Service<'n> {
    fn on(node: &mut PinnedNode, hooks: &'n Hooks, family: Family) -> Result<Self> {
        for write in stories::service(family, 6, Who::Peer) {
            node.write(&write)?;
        }
        // From here on evictions are counted.
        node.node.collect_garbage(0)?;
        Ok(Self { family, hooks })
    }

    /// A packet to the service, as it goes on to the backend.
    fn sends(&self, port: u16, flags: u8) -> Result<()> {
        let sent = |who| {
            self.family
                .from(who, 6, &tcp(port, 80, flags, &[]))
                .with_checksums()
        };
        let passed = self.hooks.passed(Direction::Egress, &sent(Who::Service))?;
        let family = self.family;
        ensure!(
            passed == Some(sent(Who::Peer).bytes),
            "{family:?}, from {port}"
        );
        Ok(())
    }

    fn connects(&self, port: u16) -> Result<()> {
        let answer = self.family.to(Who::Peer, 6, &tcp(80, port, SYN | ACK, &[]));
        self.sends(port, SYN)?;
        ensure!(self.hooks.passes(Direction::Ingress, &answer)?);
        self.sends(port, ACK)
    }
}

#[test]
fn neither_a_flood_nor_short_connections_evict_the_choice_of_a_connection() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf, Need::Tools]) {
        return Ok(());
    }
    for (family, answered, new) in [
        (Family::V4, map::SERVICE_FLOWS4, map::SERVICE_FLOWS4_NEW),
        (Family::V6, map::SERVICE_FLOWS6, map::SERVICE_FLOWS6_NEW),
    ] {
        let (mut node, hooks) = open()?;
        let service = Service::on(&mut node, &hooks, family)?;
        let established = 1000..1500;
        for port in established.clone() {
            service.connects(port)?;
        }
        assert_eq!(entries(&node, answered)?, established.len());
        assert_eq!(evicted(&mut node)?, Evicted::default(), "there is room");
        let flood = 10_000..20_000;
        for port in flood.clone() {
            service.sends(port, SYN)?;
        }
        let short = 20_000..22_000;
        for port in short.clone() {
            service.connects(port)?;
            service.sends(port, RST | ACK)?;
        }
        let flooded = entries(&node, new)?;
        assert!(flooded <= ROOM, "{flooded} choices in a table for {ROOM}");
        assert_eq!(entries(&node, answered)?, established.len());
        // All came into the table of the latest.
        let came = established.len() + flood.len() + short.len();
        let Evicted {
            choices,
            latest_choices,
            ..
        } = evicted(&mut node)?;
        assert_eq!((choices, latest_choices), (0, (came - flooded) as u64));
        for port in established {
            service.sends(port, ACK)?;
        }
    }
    Ok(())
}

#[test]
fn choices_of_connections_that_the_kernel_evicts_are_counted() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf, Need::Tools]) {
        return Ok(());
    }
    for (family, answered) in [
        (Family::V4, map::SERVICE_FLOWS4),
        (Family::V6, map::SERVICE_FLOWS6),
    ] {
        let (mut node, hooks) = open()?;
        let service = Service::on(&mut node, &hooks, family)?;
        let opened = 1000..5000;
        for port in opened.clone() {
            service.connects(port)?;
        }
        let living = entries(&node, answered)?;
        assert!(living <= ROOM, "{living} choices in a table for {ROOM}");
        let evicted = evicted(&mut node)?;
        assert_eq!(evicted.choices, (opened.len() - living) as u64);
    }
    Ok(())
}
