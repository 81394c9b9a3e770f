//! What stories cannot tell: clocks, sockets, full maps, maps that race, and what the entries look like.

use oxilium_abi::{
    CT_CLOSE_TIMEOUT, CT_NON_TCP_LIFETIME, CT_SYN_TIMEOUT, CT_TCP_LIFETIME, CtFlags, CtWord,
    Direction, DropReason, InterfaceConfig, NodeWord, PolicyValue,
};
use oxilium_datapath::{
    CtTable,
    testing::{
        Frame, MemoryMaps, PolicyEntry, SocketRecord, World, Write,
        stories::{Family, Who},
        tcp, udp,
    },
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const SECOND: u64 = 1_000_000_000;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const ALLOW: PolicyEntry = PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80);

fn to(family: Family, flags: u8) -> Frame {
    family.to(Who::Peer, 6, &tcp(4000, 80, flags, b""))
}

fn from(family: Family, flags: u8) -> Frame {
    family.from(Who::Peer, 6, &tcp(80, 4000, flags, b""))
}

fn node(policy: &[PolicyEntry]) -> MemoryMaps<'static> {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(policy));
    maps.clock.set(1000 * SECOND);
    maps
}

fn established(family: Family) -> MemoryMaps<'static> {
    let maps = node(&[ALLOW]);
    for (reply, flags) in [(false, SYN), (true, SYN | ACK), (false, ACK)] {
        assert_eq!(send(&maps, family, reply, flags), Ok(()));
    }
    maps
}

fn send(maps: &MemoryMaps<'_>, family: Family, reply: bool, flags: u8) -> Result<(), DropReason> {
    if reply {
        maps.from_container(&from(family, flags))
    } else {
        maps.to_container(&to(family, flags))
    }
}

/// Table, life left in seconds, flags.
fn only_flow(maps: &MemoryMaps<'_>) -> (CtTable, u32, u16) {
    let four = maps
        .flows4()
        .into_iter()
        .map(|(table, _, entry)| (table, entry));
    let six = maps
        .flows6()
        .into_iter()
        .map(|(table, _, entry)| (table, entry));
    let flows: Vec<_> = four.chain(six).collect();
    let [(table, entry)] = flows.as_slice() else {
        panic_with(&flows)
    };
    let now = u32::try_from(maps.clock.get() / SECOND).unwrap_or(0);
    (*table, entry.expires - now, entry.flags)
}

#[expect(
    clippy::panic,
    reason = "a test that finds another number of flows has failed"
)]
fn panic_with(flows: &dyn std::fmt::Debug) -> ! {
    panic!("one flow was expected: {flows:?}")
}

#[test]
fn packets_and_bytes_of_a_flow_are_counted_where_that_is_asked_for() {
    for family in FAMILIES {
        let length = |frame: Frame| u64::try_from(frame.bytes.len()).unwrap();
        let (request, reply) = (length(to(family, SYN)), length(from(family, ACK)));
        for (accounts, expected) in [(false, [0; 4]), (true, [2, 2 * request, 1, reply])] {
            let maps = node(&[ALLOW]);
            maps.accounts.set(accounts);
            for (is_reply, flags) in [(false, SYN), (true, SYN | ACK), (false, ACK)] {
                assert_eq!(send(&maps, family, is_reply, flags), Ok(()));
            }
            let four = maps.flows4().into_iter().map(|(_, _, entry)| entry);
            let six = maps.flows6().into_iter().map(|(_, _, entry)| entry);
            let counted: Vec<_> = four
                .chain(six)
                .map(|entry| {
                    [
                        entry.rx_packets,
                        entry.rx_bytes,
                        entry.tx_packets,
                        entry.tx_bytes,
                    ]
                })
                .collect();
            assert_eq!(counted, [expected], "{family:?}, accounts: {accounts}");
        }
    }
}

#[test]
fn a_connection_lives_as_long_as_its_state_says() {
    for family in FAMILIES {
        let maps = node(&[ALLOW]);
        let step = |reply, flags, table, life| {
            assert_eq!(send(&maps, family, reply, flags), Ok(()));
            let (seen, left, _) = only_flow(&maps);
            assert_eq!((seen, left), (table, life), "{family:?} {reply} {flags}");
        };
        step(false, SYN, CtTable::Unanswered, CT_SYN_TIMEOUT);
        step(true, SYN | ACK, CtTable::Answered, CT_SYN_TIMEOUT);
        step(false, ACK, CtTable::Answered, CT_TCP_LIFETIME);
        step(false, FIN | ACK, CtTable::Answered, CT_TCP_LIFETIME);
        step(true, FIN | ACK, CtTable::Answered, CT_CLOSE_TIMEOUT);
        maps.clock.set(maps.clock.get() + 3 * SECOND);
        // What comes after both FINs does not keep it.
        assert_eq!(send(&maps, family, false, ACK), Ok(()));
        assert_eq!(only_flow(&maps).1, CT_CLOSE_TIMEOUT - 3);
        // A SYN begins it anew.
        assert_eq!(send(&maps, family, false, SYN), Ok(()));
        assert_eq!(only_flow(&maps), (CtTable::Unanswered, CT_SYN_TIMEOUT, 0));
    }
}

#[test]
fn a_reset_ends_a_connection_in_seconds() {
    for family in FAMILIES {
        let maps = established(family);
        assert_eq!(send(&maps, family, true, RST), Ok(()));
        assert_eq!(only_flow(&maps).1, CT_CLOSE_TIMEOUT);
    }
}

#[test]
fn an_entry_ends_with_its_time() {
    for family in FAMILIES {
        let maps = established(family);
        maps.clock
            .set(maps.clock.get() + u64::from(CT_TCP_LIFETIME) * SECOND);
        assert_eq!(send(&maps, family, true, ACK), Ok(()));
        maps.clock
            .set(maps.clock.get() + u64::from(CT_TCP_LIFETIME + 1) * SECOND);
        assert_eq!(
            send(&maps, family, true, ACK),
            Err(DropReason::PolicyDenied)
        );
    }
}

#[test]
fn what_a_denied_flow_drops_keeps_it_denied() {
    for family in FAMILIES {
        let maps = established(family);
        maps.write_all(&World::policy(6, &[]));
        maps.write_all(&World::switch(6, 2));
        for _ in 0..3 {
            assert_eq!(send(&maps, family, true, ACK), Err(DropReason::FlowDenied));
            let (table, left, _) = only_flow(&maps);
            assert_eq!((table, left), (CtTable::Denied, CT_TCP_LIFETIME));
            maps.clock.set(maps.clock.get() + 5000 * SECOND);
        }
    }
}

fn socket(
    namespace: Option<u32>,
    local: ([u8; 16], u16),
    remote: Option<([u8; 16], u16)>,
) -> SocketRecord {
    SocketRecord {
        namespace,
        local: local.0,
        local_port: local.1,
        remote,
    }
}

fn wide(family: Family, v4: [u8; 4], v6: [u8; 16]) -> [u8; 16] {
    match family {
        Family::V4 => {
            let [a, b, c, d] = v4;
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        Family::V6 => v6,
    }
}

/// A node whose pod's namespace is known, with the pod's end of the connection in it.
fn adopting(family: Family, policy: &[PolicyEntry], listens: bool) -> MemoryMaps<'static> {
    let maps = node(policy);
    let netns_id = i32::try_from(World::NETNS).unwrap_or(0);
    maps.write(&Write::Interface(
        World::IFINDEX,
        Some(InterfaceConfig {
            netns_id,
            ..World::config()
        }),
    ));
    let pod = (wide(family, World::POD4, World::POD6), 80);
    let peer = (wide(family, World::PEER4, World::PEER6), 4000);
    maps.add_socket(socket(Some(World::NETNS), pod, Some(peer)));
    if listens {
        maps.add_socket(socket(Some(World::NETNS), pod, None));
    }
    maps
}

#[test]
fn a_connection_that_the_pod_serves_is_ingress_whichever_way_its_packet_goes() {
    for family in FAMILIES {
        for reply in [false, true] {
            let maps = adopting(family, &[ALLOW], true);
            assert_eq!(send(&maps, family, reply, ACK), Ok(()));
            let (table, _, flags) = only_flow(&maps);
            assert_eq!(table, CtTable::Answered);
            assert_ne!(flags & CtFlags::ADOPTED, 0);
            assert_eq!(send(&maps, family, !reply, ACK), Ok(()));

            let egress = PolicyEntry::allow_all(Direction::Egress, 0);
            let maps = adopting(family, &[egress], true);
            assert_eq!(
                send(&maps, family, reply, ACK),
                Err(DropReason::PolicyDenied)
            );
        }
    }
}

#[test]
fn a_connection_that_the_pod_began_is_egress_whichever_way_its_packet_goes() {
    let egress = PolicyEntry::allow(Direction::Egress, World::PEER, 6, 4000);
    for family in FAMILIES {
        for reply in [false, true] {
            let maps = adopting(family, &[egress], false);
            assert_eq!(send(&maps, family, reply, ACK), Ok(()));
            let maps = adopting(family, &[ALLOW], false);
            assert_eq!(
                send(&maps, family, reply, ACK),
                Err(DropReason::PolicyDenied)
            );
        }
    }
}

#[test]
fn a_syn_and_a_reset_are_not_adopted() {
    let egress = PolicyEntry::allow(Direction::Egress, World::PEER, 6, 4000);
    for family in FAMILIES {
        for flags in [SYN, RST] {
            let maps = adopting(family, &[egress], false);
            assert_eq!(
                send(&maps, family, false, flags),
                Err(DropReason::PolicyDenied)
            );
        }
    }
}

#[test]
fn a_connection_of_the_host_is_adopted_as_the_hosts_if_the_host_has_its_end() {
    let allow_host = PolicyEntry::allow_all(Direction::Ingress, 1);
    for family in FAMILIES {
        for host_has_it in [true, false] {
            let maps = adopting(family, &[allow_host], true);
            let pod = (wide(family, World::POD4, World::POD6), 80);
            let host = (wide(family, World::HOST4, World::HOST6), 4000);
            maps.add_socket(socket(Some(World::NETNS), pod, Some(host)));
            if host_has_it {
                maps.add_socket(socket(None, host, Some(pod)));
            }
            let answer = family.from(Who::Host, 6, &tcp(80, 4000, ACK, b""));
            assert_eq!(maps.from_container(&answer).is_ok(), host_has_it);
        }
    }
}

#[test]
fn a_flow_that_cannot_be_remembered_is_not_let_in() {
    for family in FAMILIES {
        let maps = node(&[ALLOW]);
        maps.full.set(true);
        assert_eq!(
            send(&maps, family, false, SYN),
            Err(DropReason::CtInsertFailed)
        );
    }
}

#[test]
fn a_dry_run_judges_and_writes_nothing() {
    for family in FAMILIES {
        let maps = established(family);
        let before = (
            maps.flows4(),
            maps.flows6(),
            maps.counted(0, Direction::Ingress),
        );
        maps.write_all(&World::policy(6, &[]));
        maps.write_all(&World::switch(6, 2));
        maps.write(&Write::NodeWord(NodeWord::EventReaders, 1));
        maps.dry_run.set(true);
        assert_eq!(send(&maps, family, true, ACK), Err(DropReason::FlowDenied));
        assert_eq!(send(&maps, family, false, SYN), Err(DropReason::FlowDenied));
        let after = (
            maps.flows4(),
            maps.flows6(),
            maps.counted(0, Direction::Ingress),
        );
        assert_eq!(before, after);
        assert!(maps.take_events().is_empty());
    }
}

#[test]
fn an_entry_that_was_given_to_another_flow_is_no_entry() {
    let maps = established(Family::V4);
    let (table, key, entry) = maps.flows4()[0];
    let mut other = key;
    other.remote_port = oxilium_abi::Be16::new(4001);
    maps.alias_flow4(table, other, entry);
    let reply = Family::V4.from(Who::Peer, 6, &tcp(80, 4001, ACK, b""));
    assert_eq!(maps.from_container(&reply), Err(DropReason::PolicyDenied));
    assert!(CtWord(entry.word).allowed());
}

#[test]
fn a_policy_value_of_another_key_is_read_again_and_never_believed() {
    let other = PolicyEntry::allow(Direction::Ingress, 1, 6, 81);
    let Write::Policy(_, Some(value)) = other.write(World::TABLE) else {
        panic_with(&other)
    };
    for (times, expected) in [
        (0, Err(DropReason::PolicyDeny)),
        (2, Err(DropReason::PolicyDeny)),
        (3, Err(DropReason::MapRace)),
    ] {
        let maps = node(&[ALLOW.denied()]);
        maps.moved_policy
            .replace(vec![PolicyValue { ..value }; times]);
        assert_eq!(send(&maps, Family::V4, false, SYN), expected, "{times}");
    }
}

#[test]
fn an_interface_of_another_index_is_read_again_and_never_believed() {
    let other = InterfaceConfig {
        ifindex: 99,
        ..World::config()
    };
    for (times, expected) in [(0, Ok(())), (1, Ok(())), (2, Err(DropReason::MapRace))] {
        let maps = node(&[ALLOW]);
        maps.moved_interfaces.replace(vec![other; times]);
        assert_eq!(send(&maps, Family::V4, false, SYN), expected, "{times}");
    }
}

#[test]
fn events_tell_first_packets_drops_and_one_packet_of_a_flow_and_interval() {
    let maps = node(&[PolicyEntry::allow(Direction::Egress, World::PEER, 17, 53)]);
    maps.write(&Write::NodeWord(NodeWord::EventReaders, 1));
    let query = Family::V4.from(Who::Peer, 17, &udp(999, 53, b"?"));
    let kinds = |maps: &MemoryMaps<'_>| -> Vec<_> {
        let events = maps.take_events();
        events
            .iter()
            .map(|event| (event.kind, event.reason, event.state))
            .collect()
    };
    assert_eq!(maps.from_container(&query), Ok(()));
    assert_eq!(kinds(&maps), [(2, 0, 0), (3, 0, 0)]);
    assert_eq!(maps.from_container(&query), Ok(()));
    assert_eq!(kinds(&maps), []);
    maps.clock.set(maps.clock.get() + 5 * SECOND);
    assert_eq!(maps.from_container(&query), Ok(()));
    assert_eq!(kinds(&maps), [(3, 0, 1)]);
    let denied = Family::V4.from(Who::Peer, 17, &udp(999, 54, b"?"));
    assert_eq!(maps.from_container(&denied), Err(DropReason::PolicyDenied));
    assert_eq!(kinds(&maps), [(1, 133, 0), (2, 133, 0)]);
    assert_eq!(only_flow(&maps).1, CT_NON_TCP_LIFETIME);
}

#[test]
fn a_denial_that_moves_between_lookups_of_one_packet_still_denies() {
    let deny = |prefix, port| PolicyEntry {
        prefix: Some(prefix),
        port,
        precedence: u32::MAX,
        ..PolicyEntry::allow(Direction::Ingress, World::PEER, 17, 53)
    };
    let everyone = PolicyEntry::allow_all(Direction::Ingress, 0);
    let (narrow, broad) = (deny(16, 53), deny(0, 0));
    for at in 0..24 {
        let maps = MemoryMaps::default();
        maps.write_all(&World::writes(&[everyone, narrow, broad]));
        // In force is the narrow one; the shapes of both are looked for.
        maps.write(&remove(&broad));
        let seen = std::cell::Cell::new(0);
        maps.before_each_access(move |maps, _| {
            if seen.replace(seen.get() + 1) == at {
                maps.write(&Write::NodeWord(NodeWord::HighWater, 2));
                maps.write(&broad.write(World::TABLE));
                maps.write(&remove(&narrow));
            }
        });
        let seen = maps.to_container(&World::to4(World::PEER4, 17, &udp(999, 53, b"?")));
        assert_eq!(seen, Err(DropReason::PolicyDeny), "before access {at}");
    }
}

fn remove(entry: &PolicyEntry) -> Write {
    Write::Policy(entry.key(World::TABLE), None)
}

#[test]
fn a_reset_is_no_answer() {
    for family in FAMILIES {
        let maps = node(&[ALLOW]);
        assert_eq!(send(&maps, family, false, SYN), Ok(()));
        assert_eq!(send(&maps, family, true, RST | ACK), Ok(()));
        let (table, left, flags) = only_flow(&maps);
        assert_eq!(table, CtTable::Unanswered, "{family:?}");
        assert_eq!(left, CT_CLOSE_TIMEOUT, "{family:?}");
        assert_eq!(flags & CtFlags::ANSWERED, 0, "{family:?}");
    }
}
