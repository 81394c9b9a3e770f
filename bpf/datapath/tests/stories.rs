//! Every story, over memory. The program tests tell the same ones to the kernel.

use oxilium_abi::DropReason;
use oxilium_datapath::testing::{
    MemoryMaps,
    stories::{self, Step},
};

#[test]
fn each_story_goes_as_told() {
    let mut wrong = Vec::new();
    for story in stories::all() {
        let maps = MemoryMaps::default();
        for (number, step) in story.steps.iter().enumerate() {
            let (seen, expected) = match step {
                Step::From(frame, expected) => (maps.from_container(frame), *expected),
                Step::To(frame, expected) => (maps.to_container(frame), *expected),
                Step::Sent(frame, goes_on) | Step::Received(frame, goes_on) => {
                    let seen = match step {
                        Step::Sent(..) => maps.sent(frame),
                        _ => maps.received(frame),
                    };
                    if let Ok(seen) = &seen
                        && seen != goes_on
                    {
                        wrong.push(format!(
                            "{}, step {number}: expected {goes_on:x?}, saw {seen:x?}",
                            story.name
                        ));
                    }
                    (seen.map(drop), Ok(()))
                }
                Step::Plan(writes) => {
                    maps.write_all(writes);
                    continue;
                }
                Step::Purge => {
                    maps.forget_flows();
                    continue;
                }
            };
            if seen != expected {
                wrong.push(format!(
                    "{}, step {number}: expected {expected:?}, saw {seen:?}",
                    story.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_that_a_packet_alone_can_have_is_told_of() {
    // These need a map that races or is full (flows.rs), or a packet that cannot be written to (rewrites.rs).
    let elsewhere = [
        DropReason::MapRace,
        DropReason::CtInsertFailed,
        DropReason::RewriteFailed,
    ];
    let told: std::collections::BTreeSet<_> = stories::all()
        .iter()
        .flat_map(|story| &story.steps)
        .filter_map(|step| match step {
            Step::From(_, Err(reason)) | Step::To(_, Err(reason)) => Some(*reason),
            _ => None,
        })
        .collect();
    let missing: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !told.contains(reason) && !elsewhere.contains(reason))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
