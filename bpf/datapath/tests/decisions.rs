//! What a policy entry has decided is counted: the packets for which policy is asked, and no others.

use oxilium_abi::{Counter, Direction, PolicyCountKey};
use oxilium_datapath::testing::{Frame, MemoryMaps, PolicyEntry, World, tcp};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn to_port(port: u16, flags: u8) -> Frame {
    World::to4(World::PEER4, 6, &tcp(4000, port, flags, &[]))
}

fn decided(maps: &MemoryMaps<'_>, entry: &PolicyEntry) -> u64 {
    let key = PolicyCountKey::of(World::ENDPOINT, &entry.key(World::TABLE));
    let counters = maps.decisions();
    counters.get(&key).map_or(0, |counter| counter.packets)
}

#[test]
fn a_flow_counts_once_and_what_is_denied_each_time() {
    let web = PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80);
    let ssh = PolicyEntry::allow(Direction::Ingress, 0, 6, 22).denied();
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[web, ssh]));
    for flags in [SYN, ACK, ACK] {
        assert_eq!(maps.to_container(&to_port(80, flags)), Ok(()));
    }
    for _ in 0..3 {
        assert!(maps.to_container(&to_port(22, SYN)).is_err());
    }
    // No entry speaks of it.
    assert!(maps.to_container(&to_port(23, SYN)).is_err());
    assert_eq!((decided(&maps, &web), decided(&maps, &ssh)), (1, 3));
    assert_eq!(maps.decisions().len(), 2);
    let bytes: Vec<Counter> = maps.decisions().into_values().collect();
    let length = to_port(80, SYN).bytes.len() as u64;
    assert!(bytes.iter().all(|c| c.bytes == c.packets * length));
}

#[test]
fn of_entries_that_match_the_one_that_decides_counts() {
    let everybody = PolicyEntry::allow_all(Direction::Ingress, 0);
    let cluster = PolicyEntry::allow(Direction::Ingress, 11, 6, 80);
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[everybody, cluster]));
    assert_eq!(maps.to_container(&to_port(80, SYN)), Ok(()));
    assert_eq!(maps.to_container(&to_port(81, SYN)), Ok(()));
    assert_eq!(
        (decided(&maps, &everybody), decided(&maps, &cluster)),
        (1, 1)
    );
}

#[test]
fn a_dry_run_counts_nothing() {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[PolicyEntry::allow_all(
        Direction::Ingress,
        0,
    )]));
    maps.dry_run.set(true);
    assert_eq!(maps.to_container(&to_port(80, SYN)), Ok(()));
    assert!(maps.decisions().is_empty());
}
