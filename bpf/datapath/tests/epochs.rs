//! The epoch contract, exhaustively: a packet whose accesses are interleaved with the writes of two
//! plans in every way there is, and with a packet of another CPU between any two of them.
//!
//! What must hold, whatever the order:
//! - a packet gets the verdict of a plan that was in force while it was judged, never of an older one;
//! - what is recorded as current when the writes are done is the verdict of the last plan.

use std::{cell::Cell, rc::Rc};

use oxilium_abi::{
    CtWord, Direction, EndpointWord, Epoch, IpcacheKey, IpcacheValue, IpcacheWord, NodeWord,
    endpoint_word_index,
};
use oxilium_datapath::testing::{Access, Frame, MemoryMaps, PolicyEntry, World, Write, udp};

/// Accesses of a packet to what plans write, before each of which writes are tried; the other CPU's packet
/// counts as one. A packet that has to ask policy again makes more; before those, no write is tried.
const MEETINGS: usize = 11;
/// As before, where another CPU's packet comes in between.
const MEETINGS_WITH_OTHER: usize = 8;
/// The most accesses of any kind.
const ACCESSES: usize = 14;

/// A plan: its writes, in steps that no packet can see a part of, and whether the flow is allowed under it.
struct Plan {
    steps: Vec<Vec<Write>>,
    /// Before this step it waits until every packet has ended that began before.
    barrier: Option<usize>,
    allows: bool,
}

/// Where the flow is when the packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Nowhere: this is its first packet.
    Unknown,
    /// In the table of answered flows, with its verdict of epoch 1.
    Answered,
    /// In the table of flows without an answer.
    Unanswered,
}

const ENTRY: PolicyEntry = PolicyEntry::allow(Direction::Ingress, World::PEER, 17, 53);

fn query() -> Frame {
    World::to4(World::PEER4, 17, &udp(999, 53, b"?"))
}

fn answer() -> Frame {
    World::from4(World::PEER4, 17, &udp(53, 999, b"!"))
}

const fn begin(epoch: u64) -> Write {
    Write::NodeWord(NodeWord::HighWater, epoch)
}

const fn publish(epoch: u64) -> Write {
    Write::NodeWord(NodeWord::Published, epoch)
}

fn word(bank: u32, table: u32, epoch: u64) -> Write {
    let word = EndpointWord::new(table, Epoch::new(epoch)).0;
    Write::EndpointWord(endpoint_word_index(World::ENDPOINT, bank), word)
}

/// The new table is filled beside the old one, and the endpoint's word switches.
fn staged(epoch: u64, allows: bool) -> Plan {
    let table = 100 + epoch as u32;
    let entries = if allows { vec![ENTRY] } else { vec![] };
    let mut fill = World::policy(table, &entries);
    // The bank that is not in use.
    fill.extend([word(1, table, epoch), begin(epoch)]);
    Plan {
        steps: vec![fill, vec![word(0, table, epoch)], vec![publish(epoch)]],
        barrier: None,
        allows,
    }
}

/// The entry comes or goes in the table that is in use.
fn in_place(epoch: u64, allows: bool) -> Plan {
    let key = ENTRY.key(World::TABLE);
    let entry = match ENTRY.write(World::TABLE) {
        Write::Policy(key, value) => Write::Policy(key, value.filter(|_| allows)),
        other => other,
    };
    assert_eq!(key.table, World::TABLE);
    Plan {
        steps: vec![
            vec![begin(epoch)],
            vec![entry],
            vec![word(0, World::TABLE, epoch)],
            vec![publish(epoch)],
        ],
        barrier: None,
        allows,
    }
}

/// The peer's address gets another identity, in place.
fn identity(epoch: u64, allows: bool) -> Plan {
    let identity = if allows { World::PEER } else { 20_000 };
    let ipcache = IpcacheWord::new(0, Epoch::new(epoch)).0;
    Plan {
        steps: vec![
            vec![begin(epoch)],
            vec![World::address(IpcacheKey::v4(World::PEER4, 32), identity)],
            vec![Write::NodeWord(NodeWord::Ipcache, ipcache)],
            vec![publish(epoch)],
        ],
        barrier: None,
        allows,
    }
}

/// Identity and table change at once, by the banks: the other bank is filled, the ipcache word switches,
/// and then the first bank is brought level.
fn banks(epoch: u64, allows: bool) -> Plan {
    // Each epoch has an identity and a table of its own, so that a mixture allows nothing.
    let (identity, table) = (30_000 + epoch as u32, 100 + epoch as u32);
    let bank = (epoch & 1) as u32 ^ 1;
    let key = IpcacheKey::v4(World::PEER4, 32);
    let entry = PolicyEntry { identity, ..ENTRY };
    let entries = if allows { vec![entry] } else { vec![] };
    let filled = IpcacheValue::level(identity - 1).with_identity(bank, identity);
    let mut fill = World::policy(table, &entries);
    fill.extend([
        Write::Ipcache(key, Some(filled)),
        word(bank, table, epoch),
        begin(epoch),
    ]);
    let ipcache = IpcacheWord::new(bank, Epoch::new(epoch)).0;
    Plan {
        steps: vec![
            fill,
            vec![Write::NodeWord(NodeWord::Ipcache, ipcache)],
            vec![publish(epoch)],
            vec![World::address(key, identity), word(bank ^ 1, table, epoch)],
        ],
        barrier: Some(3),
        allows,
    }
}

/// All ways to do `steps` things, in order, before meetings 0 to `meetings`, or not before the end.
fn schedules(steps: usize, meetings: usize, mut visit: impl FnMut(&[usize])) {
    fn go(
        schedule: &mut Vec<usize>,
        (steps, meetings): (usize, usize),
        from: usize,
        visit: &mut impl FnMut(&[usize]),
    ) {
        if schedule.len() == steps {
            visit(schedule);
            return;
        }
        for at in from..=meetings {
            schedule.push(at);
            go(schedule, (steps, meetings), at, visit);
            schedule.pop();
        }
    }
    go(&mut Vec::new(), (steps, meetings), 0, &mut visit);
}

/// The node under a plan of epoch 1 that allows the flow or not, with the flow in its place.
fn node(flow: Flow, first: &Plan) -> MemoryMaps<'static> {
    let maps = MemoryMaps::default();
    maps.write_all(&World::writes(&[ENTRY]));
    for step in &first.steps {
        maps.write_all(step);
    }
    if flow != Flow::Unknown {
        assert_eq!(maps.to_container(&query()), Ok(()));
    }
    if flow == Flow::Answered {
        assert_eq!(maps.from_container(&answer()), Ok(()));
    }
    maps
}

/// The packet whose accesses are interleaved, and where another CPU's comes between them.
#[derive(Clone, Copy, Debug)]
struct Case {
    flow: Flow,
    reply: bool,
    other_at: Option<usize>,
}

impl Case {
    const fn meetings(self) -> usize {
        match self.other_at {
            None => MEETINGS,
            Some(_) => MEETINGS_WITH_OTHER,
        }
    }
}

/// Whether it passes.
fn send(maps: &MemoryMaps<'_>, reply: bool) -> bool {
    if reply {
        maps.from_container(&answer()).is_ok()
    } else {
        maps.to_container(&query()).is_ok()
    }
}

/// How far writer and packet are.
#[derive(Clone, Copy, Default)]
struct Progress {
    done: usize,
    accesses: usize,
    meetings: usize,
    /// Steps done when the packet read G.
    before: usize,
}

/// Runs one packet under one schedule and checks what must hold.
fn check(case: Case, plans: &[Plan; 3], steps: &[Vec<Write>], schedule: &[usize]) {
    let meetings = case.meetings();
    let maps = node(case.flow, &plans[0]);
    let progress = Rc::new(Cell::new(Progress::default()));
    let shared = Rc::clone(&progress);
    let (writer, order) = (steps.to_vec(), schedule.to_vec());
    maps.before_each_access(move |maps, access| {
        let mut now = shared.get();
        let other = case.other_at == Some(now.accesses);
        now.accesses += 1;
        // A write of a plan and an access to conntrack can change places without anybody noticing.
        let meets_writes = !matches!(
            access,
            Access::Ct(_) | Access::CtWrite(_) | Access::Interface
        );
        if meets_writes || other {
            while now.done < writer.len()
                && order[now.done] <= now.meetings
                && now.meetings < meetings
            {
                maps.write_all(&writer[now.done]);
                now.done += 1;
            }
            if now.meetings == 0 {
                now.before = now.done;
            }
            now.meetings += 1;
        }
        shared.set(now);
        if other {
            send(maps, !case.reply);
        }
    });
    let passed = send(&maps, case.reply);
    let now = progress.get();
    maps.before_each_access(|_, _| {});

    // In force: from the last plan published before the first access to the last one begun.
    let in_force: Vec<bool> = (published(plans, now.before)..=begun(plans, now.done))
        .map(|plan| plans[plan].allows)
        .collect();
    assert!(
        in_force.contains(&passed),
        "{case:?}, {schedule:?}: passed {passed}, in force {in_force:?}"
    );

    for step in &steps[now.done..] {
        maps.write_all(step);
    }
    let last = plans[2].allows;
    for (table, _, entry) in maps.flows4() {
        let word = CtWord(entry.word);
        assert!(
            word.stamp().get() < 3 || word.allowed() == last,
            "{case:?}, {schedule:?}: {table:?} has {word:?} as current"
        );
    }
    assert_eq!(
        send(&maps, case.reply),
        // An answer to a flow that was never let in has no flow.
        last && (!case.reply || !maps.flows4().is_empty()),
        "{case:?}, {schedule:?}: after all writes"
    );
}

/// How many plans are published when `done` steps are.
fn published(plans: &[Plan; 3], done: usize) -> usize {
    let written = plans[1..]
        .iter()
        .flat_map(|plan| &plan.steps)
        .take(done)
        .flatten();
    written
        .filter(|write| matches!(write, Write::NodeWord(NodeWord::Published, _)))
        .count()
}

/// How many plans are begun when `done` steps are.
fn begun(plans: &[Plan; 3], done: usize) -> usize {
    match done {
        0 => 0,
        done if done <= plans[1].steps.len() => 1,
        _ => 2,
    }
}

/// Whether no packet that began before a barrier meets what comes behind it.
fn heeds_barriers(case: Case, plans: &[Plan; 3], schedule: &[usize]) -> bool {
    let mut first = 0;
    plans[1..].iter().all(|plan| {
        let met = plan.barrier.map(|behind| {
            let (before, behind) = (schedule[first + behind - 1], schedule[first + behind]);
            before > 0 && behind < case.meetings()
        });
        first += plan.steps.len();
        met != Some(true)
    })
}

fn exhaustively(plan: fn(u64, bool) -> Plan, others: &[usize]) {
    for verdicts in [[false, true], [true, false], [false, false], [true, true]] {
        for (flow, reply) in [
            (Flow::Unknown, false),
            (Flow::Answered, false),
            (Flow::Answered, true),
            (Flow::Unanswered, true),
        ] {
            // Where every plan allows it, the flow is never dropped.
            let at_first = flow != Flow::Unknown || !verdicts[0] || verdicts[1];
            let plans = [
                plan(1, at_first),
                plan(2, verdicts[0]),
                plan(3, verdicts[1]),
            ];
            let steps: Vec<_> = plans[1..]
                .iter()
                .flat_map(|plan| plan.steps.clone())
                .collect();
            for other_at in [None].into_iter().chain(others.iter().copied().map(Some)) {
                let case = Case {
                    flow,
                    reply,
                    other_at,
                };
                schedules(steps.len(), case.meetings(), |schedule| {
                    // Without the barrier a packet may meet a mixture of two plans: that allows nothing, but may deny what both allow.
                    if verdicts != [true, true] || heeds_barriers(case, &plans, schedule) {
                        check(case, &plans, &steps, schedule);
                    }
                });
            }
        }
    }
}

#[test]
fn staged_tables() {
    let everywhere: Vec<_> = (0..ACCESSES).collect();
    exhaustively(staged, &everywhere);
}

#[test]
fn entries_in_place() {
    exhaustively(in_place, &[3, 6, 9]);
}

#[test]
fn identities_of_addresses() {
    exhaustively(identity, &[3, 6, 9]);
}

#[test]
fn identities_and_tables_by_banks() {
    exhaustively(banks, &[3, 6, 9]);
}
