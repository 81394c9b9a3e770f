//! What an attacker in a pod would try over several packets.
use oxilium_abi::{Direction, DropReason};
use oxilium_datapath::testing::*;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn change(maps: &MemoryMaps, table: u32, epoch: u64, p: &[PolicyEntry]) {
    maps.write_all(&World::policy(table, p));
    maps.write_all(&World::switch(table, epoch));
}

/// A server pod's ingress is denied; egress is default allow. The server sends a SYN of the same tuple.
#[test]
fn reverse_syn_must_not_replace_a_denied_entry() {
    let maps = MemoryMaps::default();
    let egress = PolicyEntry::allow_all(Direction::Egress, 0);
    maps.write_all(&World::writes(&[
        PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80),
        egress,
    ]));
    let to = |fl| World::to4(World::PEER4, 6, &tcp(4000, 80, fl, b""));
    let from = |fl| World::from4(World::PEER4, 6, &tcp(80, 4000, fl, b""));
    assert_eq!(maps.to_container(&to(SYN)), Ok(()));
    assert_eq!(maps.from_container(&from(SYN | ACK)), Ok(()));
    assert_eq!(maps.to_container(&to(ACK)), Ok(()));
    change(&maps, 6, 2, &[egress]);
    assert_eq!(maps.from_container(&from(ACK)), Err(DropReason::FlowDenied));
    assert_eq!(maps.to_container(&to(ACK)), Err(DropReason::FlowDenied));
    let syn = maps.from_container(&from(SYN));
    let after_out = maps.from_container(&from(ACK));
    let after_in = maps.to_container(&to(ACK));
    assert_eq!(
        (syn, after_out, after_in),
        (
            Err(DropReason::FlowDenied),
            Err(DropReason::FlowDenied),
            Err(DropReason::FlowDenied)
        )
    );
}

/// An ICMP error of the pod's to somebody whom policy denies, quoting an allowed flow with somebody else.
#[test]
fn icmp_error_goes_only_to_whom_it_is_about() {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[PolicyEntry::allow(
        Direction::Egress,
        World::PEER,
        17,
        53,
    )]));
    assert_eq!(
        maps.from_container(&World::from4(World::PEER4, 17, &udp(999, 53, b"?"))),
        Ok(())
    );
    let quote = Ipv4::new(World::PEER4, World::POD4, 17).with(&udp(
        53,
        999,
        b"secret data to be carried out",
    ));
    let error = icmp(3, 0, &[&[0; 4][..], &quote].concat());
    // to the peer: right
    assert_eq!(
        maps.from_container(&World::from4(World::PEER4, 1, &error)),
        Ok(())
    );
    // control: a plain packet to WORLD is denied
    assert!(
        maps.from_container(&World::from4(World::WORLD4, 17, &udp(999, 53, b"?")))
            .is_err()
    );
    let seen = maps.from_container(&World::from4(World::WORLD4, 1, &error));
    assert!(
        seen.is_err(),
        "error to a denied destination passed: {seen:?}"
    );
}
/// A neighbour solicitation to a global, off-link, denied destination carrying data in an unknown option.
#[test]
fn neighbour_solicitation_is_no_channel() {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[]));
    let mut ns = vec![0u8; 4];
    ns.extend(World::PEER6);
    ns.extend([200u8, 4]);
    ns.extend([b'x'; 30]);
    let body = icmp(135, 0, &ns);
    let mut f = World::from6(World::WORLD6, 58, &body);
    f.bytes[14 + 7] = 255;
    let seen = maps.from_container(&f);
    assert!(seen.is_err(), "passed: {seen:?}");
}

/// As above, but the SYN is the first packet after the policy change: the entry is still marked allowed.
#[test]
fn reverse_syn_must_not_replace_a_stale_entry_that_would_be_denied() {
    let maps = MemoryMaps::default();
    let egress = PolicyEntry::allow_all(Direction::Egress, 0);
    maps.write_all(&World::writes(&[
        PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80),
        egress,
    ]));
    let to = |fl| World::to4(World::PEER4, 6, &tcp(4000, 80, fl, b""));
    let from = |fl| World::from4(World::PEER4, 6, &tcp(80, 4000, fl, b""));
    assert_eq!(maps.to_container(&to(SYN)), Ok(()));
    assert_eq!(maps.from_container(&from(SYN | ACK)), Ok(()));
    change(&maps, 6, 2, &[egress]);
    let syn = maps.from_container(&from(SYN));
    let seen = (
        syn,
        maps.from_container(&from(ACK)),
        maps.to_container(&to(ACK)),
    );
    let denied = Err(DropReason::FlowDenied);
    assert_eq!(seen, (denied, denied, denied));
}

/// A stale flow that is still allowed: the SYN the other way is a flow of its own, as without the change.
#[test]
fn reverse_syn_over_a_stale_entry_that_is_still_allowed_opens_a_flow_of_its_own() {
    let maps = MemoryMaps::default();
    let both = [
        PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80),
        PolicyEntry::allow_all(Direction::Egress, 0),
    ];
    maps.write_all(&World::writes(&both));
    let to = |fl| World::to4(World::PEER4, 6, &tcp(4000, 80, fl, b""));
    let from = |fl| World::from4(World::PEER4, 6, &tcp(80, 4000, fl, b""));
    assert_eq!(maps.to_container(&to(SYN)), Ok(()));
    assert_eq!(maps.from_container(&from(SYN | ACK)), Ok(()));
    change(&maps, 6, 2, &both);
    assert_eq!(maps.from_container(&from(SYN)), Ok(()));
    assert_eq!(maps.to_container(&to(SYN | ACK)), Ok(()));
    // Ingress is no longer what the flow is: denying it does not cut the pod's own flow.
    change(&maps, 7, 3, &[both[1]]);
    assert_eq!(maps.to_container(&to(ACK)), Ok(()));
}

/// A DHCP reply whose source port is not 67: clients filter on their own port only.
#[test]
fn dhcp_reply_from_another_source_port() {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[PolicyEntry::allow_all(
        Direction::Egress,
        0,
    )]));
    let seen = maps.from_container(&World::from4(World::PEER4, 17, &udp(1067, 68, b"offer")));
    assert!(seen.is_err(), "passed: {seen:?}");
}
