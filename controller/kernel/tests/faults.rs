//! The fake's failures: what a test may rely on when it lets a node fail.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use oxilium_abi::{CtEntry, Epoch, IpcacheKey, IpcacheValue};
use oxilium_kernel::fake::{FakeKernel, Fault, Faults};
use oxilium_kernel::port::{CtTable, Flow};
use oxilium_kernel::{ApplyError, Node, Retry};
use oxilium_model::plan::Write;
use oxilium_model::world::Capacities;

fn kernel() -> FakeKernel {
    FakeKernel::new(Capacities::default())
}

fn upsert(n: u8) -> Write {
    Write::IpcacheUpsert {
        key: IpcacheKey::v4([10, 0, 0, n], 32),
        value: IpcacheValue::level(u32::from(n)),
    }
}

fn flow(endpoint: u16, remaining: i64) -> Flow {
    Flow {
        table: CtTable::Answered,
        local: IpAddr::from(Ipv4Addr::LOCALHOST),
        remote: IpAddr::from(Ipv4Addr::LOCALHOST),
        local_port: 1,
        remote_port: 2,
        endpoint,
        protocol: 6,
        kind: None,
        entry: CtEntry::default(),
        remaining,
    }
}

#[test]
fn scripted_faults_come_one_each_and_change_nothing() {
    let kernel = kernel();
    let mut node = kernel.node(BTreeMap::new());
    let script = [
        (Fault::Full, Retry::AfterChange),
        (Fault::Memory, Retry::Backoff),
        (Fault::Busy, Retry::Backoff),
        (Fault::Permission, Retry::Never),
        (Fault::Refused, Retry::Backoff),
        (Fault::Partial, Retry::Backoff),
    ];
    kernel.set_faults(Faults {
        next: script.iter().map(|(fault, _)| Some(*fault)).collect(),
        ..Faults::default()
    });
    for (fault, retry) in script {
        let error = node.apply(&upsert(1)).expect_err("it was scripted");
        assert_eq!(error.retry(), retry, "{fault:?}: {error}");
        assert!(kernel.tables().ipcache.is_empty());
    }
    node.apply(&upsert(1)).expect("the script is over");
    assert_eq!(kernel.history(), [upsert(1)]);
}

#[test]
fn a_process_that_died_changes_nothing_until_the_next_one_starts() {
    let kernel = kernel();
    let mut node = kernel.node(BTreeMap::new());
    kernel.set_faults(Faults {
        crash_after: Some(2),
        ..Faults::default()
    });
    node.apply(&upsert(1)).expect("the first of two");
    node.apply(&upsert(2)).expect("the second of two");
    for write in [upsert(3), Write::Publish(Epoch::new(1)), Write::Barrier] {
        node.apply(&write).expect_err("it is dead");
    }
    node.observe().expect_err("it is dead");
    node.links().expect_err("it is dead");
    assert_eq!(kernel.history(), [upsert(1), upsert(2)]);
    let mut next = kernel.node(BTreeMap::new());
    assert_eq!(next.observe().expect("readable").ipcache.len(), 2);
    assert!(next.writes().is_empty());
    next.apply(&upsert(3)).expect("it lives");
}

#[test]
fn a_purge_may_stop_half_way() {
    let kernel = kernel();
    let mut node = kernel.node(BTreeMap::new());
    kernel.set_flows((0..10).map(|n| flow(1 + n % 2, 5)).collect());
    kernel.set_faults(Faults {
        next: VecDeque::from([Some(Fault::Partial)]),
        ..Faults::default()
    });
    let purge = Write::PurgeConntrack { endpoint: 1 };
    node.apply(&purge).expect_err("half way");
    let left = |node: &mut dyn Node| {
        let flows = node.flows().expect("readable");
        let theirs = flows.iter().filter(|flow| flow.endpoint == 1).count();
        (theirs, flows.len() - theirs)
    };
    assert_eq!(left(&mut node), (3, 5));
    node.apply(&purge).expect("nothing is in the way");
    assert_eq!(left(&mut node), (0, 5));
}

#[test]
fn random_faults_come_as_often_as_asked_and_alike_for_a_seed() {
    let run = |seed| {
        let kernel = kernel();
        let mut node = kernel.node(BTreeMap::new());
        kernel.set_faults(Faults {
            writes_per_mille: 300,
            reads_per_mille: 100,
            seed,
            ..Faults::default()
        });
        let writes: Vec<bool> = (0..2000).map(|_| node.apply(&upsert(1)).is_ok()).collect();
        let reads = (0..2000).filter(|_| node.observe().is_ok()).count();
        (writes, reads)
    };
    let (writes, reads) = run(7);
    let failed = writes.iter().filter(|ok| !**ok).count();
    assert!((500..700).contains(&failed), "{failed} of 2000 failed");
    assert!((1700..1900).contains(&reads), "{reads} of 2000 succeeded");
    assert_eq!(run(7), (writes.clone(), reads));
    assert_ne!(run(8).0, writes);
}

#[test]
fn garbage_goes_within_its_budget() {
    let kernel = kernel();
    let mut node = kernel.node(BTreeMap::new());
    kernel.set_flows((0..10_u8).map(|n| flow(1, i64::from(n) - 6)).collect());
    let report = node.collect_garbage(4).expect("nothing fails");
    assert_eq!((report.scanned, report.deleted, report.left), (10, 4, 2));
    let report = node.collect_garbage(4).expect("nothing fails");
    assert_eq!((report.scanned, report.deleted, report.left), (6, 2, 0));
}

#[test]
fn errors_tell_what_to_do() {
    let kernel = kernel();
    let mut node = kernel.node(BTreeMap::new());
    kernel.set_faults(Faults {
        next: VecDeque::from([Some(Fault::Memory)]),
        ..Faults::default()
    });
    let error: ApplyError = node.apply(&upsert(1)).expect_err("no memory");
    assert_eq!(
        error.to_string(),
        "no memory for the ipcache table: raise the memory limit of the agent's cgroup (Cannot allocate memory (os error 12))"
    );
}
