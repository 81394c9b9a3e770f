//! Flows: told, expired, purged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilium_abi::{
    Be16, CtEntry, CtKey4, CtKey6, FlowKind, FragmentEntry, FragmentKey4, ServiceFlow,
};
use oxilium_model::plan::Write;

use crate::common::on_kernel;
use crate::port::{AttachMode, CtTable, Node};

pub(super) fn key4(endpoint: u16, port: u16) -> CtKey4 {
    CtKey4 {
        local: [10, 0, 0, 1],
        remote: [10, 0, 0, 2],
        local_port: Be16::new(port),
        remote_port: Be16::new(80),
        endpoint,
        protocol: 6,
        kind: FlowKind::Plain as u8,
    }
}

fn living() -> u32 {
    super::super::conntrack::now().expect("there is a clock") + 1000
}

pub(super) fn entry(expires: u32) -> CtEntry {
    CtEntry {
        expires,
        remote_identity: 9,
        ..CtEntry::default()
    }
}

#[test]
fn flows_of_all_tables_are_told_with_the_life_left_to_them() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        let tables = &node.tables;
        tables.ct4[0]
            .update(&key4(7, 1000), &entry(end))
            .expect("room");
        tables.ct4[2]
            .update(&key4(7, 1001), &entry(1))
            .expect("room");
        let key6 = CtKey6 {
            local: Ipv6Addr::LOCALHOST.octets(),
            kind: 77,
            ..CtKey6::default()
        };
        tables.ct6[1].update(&key6, &entry(end)).expect("room");
        let flows = node.flows().expect("readable");
        assert_eq!(flows.len(), 3);
        let of = |table| {
            flows
                .iter()
                .find(|flow| flow.table == table)
                .copied()
                .expect("one each")
        };
        let answered = of(CtTable::Answered);
        assert_eq!(answered.local, IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!((answered.local_port, answered.remote_port), (1000, 80));
        assert_eq!((answered.endpoint, answered.protocol), (7, 6));
        assert_eq!(answered.kind, Some(FlowKind::Plain));
        assert!((990..=1000).contains(&answered.remaining));
        assert!(of(CtTable::Denied).remaining < 0);
        let strange = of(CtTable::Unanswered);
        assert_eq!(strange.local, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(strange.kind, None);
    });
}

#[test]
fn garbage_is_what_has_expired_and_no_more_than_the_budget_at_a_time() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        for port in 0..30 {
            let expires = if port < 20 { 1 } else { end };
            let table = &node.tables.ct4[usize::from(port) % 3];
            table.update(&key4(1, port), &entry(expires)).expect("room");
        }
        node.tables
            .fragments4
            .update(
                &FragmentKey4::default(),
                &FragmentEntry {
                    expires: 1,
                    ..FragmentEntry::default()
                },
            )
            .expect("room");
        let first = node.collect_garbage(15).expect("readable");
        assert_eq!((first.scanned, first.deleted, first.left), (31, 15, 6));
        let second = node.collect_garbage(15).expect("readable");
        assert_eq!((second.scanned, second.deleted, second.left), (16, 6, 0));
        let third = node.collect_garbage(15).expect("readable");
        assert_eq!((third.scanned, third.deleted, third.left), (10, 0, 0));
        assert!(
            node.flows()
                .expect("readable")
                .iter()
                .all(|flow| flow.remaining > 0)
        );
    });
}

#[test]
fn a_purge_takes_all_of_one_endpoint_and_nothing_of_others() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        for port in 0..300 {
            let table = &node.tables.ct4[usize::from(port) % 3];
            table
                .update(&key4(1 + port % 2, port), &entry(end))
                .expect("room");
        }
        for endpoint in [1, 2] {
            let key = FragmentKey4 {
                endpoint,
                ..FragmentKey4::default()
            };
            node.tables
                .fragments4
                .update(&key, &FragmentEntry::default())
                .expect("room");
        }
        node.apply(&Write::PurgeConntrack { endpoint: 1 })
            .expect("writable");
        let left = node.flows().expect("readable");
        assert_eq!(left.len(), 150);
        assert!(left.iter().all(|flow| flow.endpoint == 2));
        let fragments = node.tables.fragments4.read_all().expect("readable");
        assert_eq!(fragments.len(), 1);
        assert_eq!(fragments[0].0.endpoint, 2);
    });
}

#[test]
fn choices_of_backends_go_when_their_life_has_ended() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let end = living();
        for (port, expires) in [(1, 1), (2, end), (3, 1)] {
            let choice = ServiceFlow {
                expires,
                ..ServiceFlow::default()
            };
            for table in &node.tables.choices4 {
                table.update(&key4(1, port), &choice).expect("room");
            }
        }
        let first = node.collect_garbage(3).expect("readable");
        assert_eq!(first.left, 1, "no more than the budget");
        let second = node.collect_garbage(3).expect("readable");
        assert_eq!(second.left, 0);
        for table in &node.tables.choices4 {
            let left = table.read_all().expect("readable");
            let left: Vec<_> = left.iter().map(|(key, _)| key.local_port.get()).collect();
            assert_eq!(left, [2]);
        }
    });
}
