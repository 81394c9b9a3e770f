//! Every story of the datapath, told to the kernel.

use anyhow::Result;
use oxilium_abi::Direction;
use oxilium_datapath::testing::{
    Frame,
    stories::{self, Step},
};
use oxilium_e2e::require::{Need, require};
use oxilium_program_tests::{Constants, Object, REDIRECT, enter_namespace};

/// Packets of all stories that [`can_be_run`] leaves to the tests on devices.
const LEFT_OUT: usize = 5;

#[test]
fn each_story_goes_as_told() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    enter_namespace()?;
    for weak_order in [false, true] {
        let constants = Constants {
            weak_order,
            ..Constants::default()
        };
        tell_all(&mut Object::load(constants)?)?;
    }
    Ok(())
}

fn tell_all(object: &mut Object) -> Result<()> {
    let (mut wrong, mut left_out) = (Vec::new(), 0);
    for story in stories::all() {
        object.forget_all()?;
        for (number, step) in story.steps.iter().enumerate() {
            let (direction, frame, expected) = match step {
                Step::From(frame, expected) => (Direction::Egress, frame, *expected),
                Step::To(frame, expected) => (Direction::Ingress, frame, *expected),
                Step::Sent(frame, _) => (Direction::Egress, frame, Ok(())),
                Step::Received(frame, _) => (Direction::Ingress, frame, Ok(())),
                Step::Plan(writes) => {
                    for write in writes {
                        object.write(write)?;
                    }
                    continue;
                }
                Step::Purge => {
                    object.forget_flows()?;
                    continue;
                }
            };
            if !can_be_run(frame) {
                left_out += 1;
                continue;
            }
            let seen = match object.run(direction, frame) {
                Ok(run) => {
                    if let (None, Step::Sent(_, goes_on) | Step::Received(_, goes_on)) =
                        (run.reason, step)
                        && (run.bytes != goes_on.bytes
                            || (run.action == REDIRECT) != goes_on.turned)
                    {
                        wrong.push(format!(
                            "{}, step {number}: expected {goes_on:x?}, saw {:x?} and action {}",
                            story.name, run.bytes, run.action
                        ));
                    }
                    run.reason.map_or(Ok(()), Err)
                }
                Err(error) => {
                    wrong.push(format!("{}, step {number}: {error:#}", story.name));
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
    assert_eq!(left_out, LEFT_OUT, "packets that were not told");
    Ok(())
}

/// A test run cannot have a tag beside the bytes, nor (since 6.18) less than an IP header behind such an
/// ethertype. The tests on devices have both.
fn can_be_run(frame: &Frame) -> bool {
    let least = match frame.bytes[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xDD] => 14 + 40,
        _ => 15,
    };
    !frame.vlan && frame.bytes.len() >= least
}
