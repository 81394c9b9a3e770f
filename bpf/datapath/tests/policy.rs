//! The lookup finds what a reader of the whole table would find.

use oxilium_abi::{Direction, DropReason, IDENTITY_UNRESOLVED};
use oxilium_datapath::{
    Query, aggregate,
    testing::{MemoryMaps, PolicyEntry, World},
};
use proptest::prelude::*;

/// Every entry that matches; the highest by precedence, then longest prefix, then most specific identity.
fn naive(entries: &[PolicyEntry], query: &Query) -> Option<DropReason> {
    let own = aggregate(query.identity, 0);
    let matches = |entry: &&PolicyEntry| {
        let identity =
            entry.identity == 0 || entry.identity == query.identity || entry.identity == own;
        let port = match entry.prefix {
            None => true,
            Some(length) => {
                let shift = 16 - u32::from(length);
                entry.protocol == query.protocol
                    && u32::from(entry.port) >> shift == u32::from(query.port) >> shift
            }
        };
        entry.direction == query.direction && identity && port
    };
    let specificity = |identity: u32| match identity {
        0 => 0,
        identity if identity == query.identity => 2,
        _ => 1,
    };
    let found: Vec<_> = entries.iter().filter(matches).collect();
    let rank = |entry: &&&PolicyEntry| {
        (
            entry.precedence,
            entry.prefix.map_or(-1, i32::from),
            specificity(entry.identity),
        )
    };
    let Some(best) = found.iter().max_by_key(rank) else {
        return Some(DropReason::PolicyDenied);
    };
    let auth = if best.auth & 0x80 != 0 {
        best.auth & 0x7F
    } else {
        let level = best.precedence >> 8;
        let others = found.iter().filter(|entry| entry.precedence >> 8 >= level);
        others.map(|entry| entry.auth & 0x7F).max().unwrap_or(0)
    };
    match best.precedence & 0xFF {
        255 => Some(DropReason::PolicyDeny),
        1 if best.proxy_port == 0 && auth == 0 => None,
        1 if best.proxy_port == 0 => Some(DropReason::AuthRequired),
        _ => Some(DropReason::ProxyUnavailable),
    }
}

fn identities() -> impl Strategy<Value = u32> {
    // Own, of the cluster, world, remote node, and the aggregates.
    prop::sample::select(vec![1, 2, 9, 300, 301, 70_000, 1 << 24, 1 << 25])
}

fn entries() -> impl Strategy<Value = PolicyEntry> {
    let prefix = prop::option::of(prop::sample::select(vec![0_u8, 1, 12, 13, 15, 16]));
    let class = prop::sample::select(vec![1_u32, 1, 1, 2, 154, 255]);
    let identity = prop_oneof![Just(0), 11..=14_u32, identities()];
    let auth = prop::sample::select(vec![0_u8, 0, 0, 1, 0x80, 0x81, 0x82]);
    (
        any::<bool>(),
        identity,
        any::<bool>(),
        78..90_u16,
        prefix,
        0..3_u32,
        class,
        auth,
    )
        .prop_map(
            |(egress, identity, tcp, port, prefix, level, class, auth)| {
                let protocol = match prefix {
                    None => 0,
                    Some(_) if tcp => 6,
                    Some(_) => 17,
                };
                let mask = prefix.map_or(0, |length| 0xFFFF_u32 << (16 - u32::from(length)));
                PolicyEntry {
                    direction: if egress {
                        Direction::Egress
                    } else {
                        Direction::Ingress
                    },
                    identity,
                    protocol,
                    port: (u32::from(port) & mask) as u16,
                    prefix,
                    precedence: ((0x00FF_FFFF - level) << 8) | class,
                    proxy_port: if class > 1 && class < 255 { 10_000 } else { 0 },
                    auth,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_best_of_all_that_match_decides(
        mut table in prop::collection::vec(entries(), 0..40),
        queries in prop::collection::vec((any::<bool>(), identities(), any::<bool>(), 76..92_u16), 32),
    ) {
        // A key has one value: the later one.
        let mut seen = std::collections::HashSet::new();
        table.reverse();
        table.retain(|entry| seen.insert(entry.key(World::TABLE)));
        let maps = MemoryMaps::default();
        maps.write_all(&World::policy(World::TABLE, &table));
        for (egress, identity, tcp, port) in queries {
            let query = Query {
                table: World::TABLE,
                direction: if egress { Direction::Egress } else { Direction::Ingress },
                identity,
                protocol: if tcp { 6 } else { 17 },
                port,
            };
            prop_assert_eq!(maps.lookup(query).denied, naive(&table, &query), "{:?}", query);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// It may be anybody: whom a label denies must not get in because there is no room for its address.
    #[test]
    fn what_is_unresolved_may_nothing_that_is_denied_to_anybody(
        mut table in prop::collection::vec(entries(), 0..12),
        queries in prop::collection::vec((any::<bool>(), any::<bool>(), 76..92_u16), 16),
    ) {
        let mut seen = std::collections::HashSet::new();
        table.retain(|entry| seen.insert(entry.key(World::TABLE)));
        let maps = MemoryMaps::default();
        maps.write_all(&World::policy(World::TABLE, &table));
        for (egress, tcp, port) in queries {
            let of = |identity| Query {
                table: World::TABLE,
                direction: if egress { Direction::Egress } else { Direction::Ingress },
                identity,
                protocol: if tcp { 6 } else { 17 },
                port,
            };
            let unresolved = maps.lookup(of(IDENTITY_UNRESOLVED)).denied;
            if unresolved.is_some() {
                prop_assert_eq!(unresolved, Some(DropReason::NoRoomForIdentity));
                continue;
            }
            for identity in [1, 2, 9, 300, 301, 70_000, 1 << 24, 1 << 25] {
                let denied = maps.lookup(of(identity)).denied;
                prop_assert_eq!(denied, None, "{} at port {}", identity, port);
            }
        }
    }
}

#[test]
fn what_is_unresolved_may_what_everybody_may() {
    let everybody = PolicyEntry::allow(Direction::Ingress, 0, 6, 80);
    let somebody = PolicyEntry::allow(Direction::Ingress, 300, 6, 81);
    let of = |port| Query {
        table: World::TABLE,
        direction: Direction::Ingress,
        identity: IDENTITY_UNRESOLVED,
        protocol: 6,
        port,
    };
    let maps = MemoryMaps::default();
    maps.write_all(&World::policy(World::TABLE, &[everybody, somebody]));
    assert_eq!(maps.lookup(of(80)).denied, None);
    let no_room = Some(DropReason::NoRoomForIdentity);
    assert_eq!(maps.lookup(of(81)).denied, no_room);
    // The denial of one may be meant for it.
    maps.write_all(&World::policy(
        World::TABLE,
        &[everybody, somebody.denied()],
    ));
    assert_eq!(maps.lookup(of(80)).denied, no_room);
}

#[test]
fn a_table_out_of_range_matches_nothing() {
    let maps = MemoryMaps::default();
    maps.write_all(&World::policy(
        0,
        &[PolicyEntry::allow_all(Direction::Ingress, 0)],
    ));
    for table in [0, 1, 0x00FF_FFFF] {
        let query = Query {
            table,
            direction: Direction::Ingress,
            identity: 300,
            protocol: 6,
            port: 80,
        };
        assert_eq!(maps.lookup(query).denied, Some(DropReason::PolicyDenied));
    }
}

#[test]
fn identities_have_the_aggregates_of_the_field() {
    for (identity, expected) in [
        (0, 0),
        (1, 0),
        (10, 0),
        (11, 11),
        (14, 14),
        (15, 0),
        (99, 0),
        (100, 11),
        (65_535, 11),
        (65_536, 12),
        (1 << 24, 13),
        ((1 << 25) - 1, 13),
        (1 << 25, 14),
        (3 << 24, 12),
    ] {
        assert_eq!(aggregate(identity, 0), expected, "{identity}");
    }
    assert_eq!(aggregate(65_536, 1), 11);
    assert_eq!(aggregate(300, 1), 12);
}
