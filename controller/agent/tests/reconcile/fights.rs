//! What somebody else undoes again and again is named, and put right less and less often.

use std::path::Path;
use std::time::{Duration, Instant};

use oxilium_model::observed::Observed;

use crate::lab::Lab;
use crate::{DENY_ALL, two_pods};

/// So often that a test need not wait for one.
const OFTEN: Duration = Duration::from_millis(1);

fn lab() -> Lab {
    let mut lab = Lab::sweeping(OFTEN);
    lab.manifests(&(two_pods() + DENY_ALL));
    lab.pod("web", 7);
    lab
}

/// Somebody does that, and a sweep finds it and puts it right; when that sweep was.
fn repaired(lab: &mut Lab, undo: impl FnOnce(&mut Observed)) -> Instant {
    let before = lab.kernel.tables();
    lab.kernel.tamper(undo);
    assert_ne!(lab.kernel.tables(), before);
    let writes = lab.view().sweep.repaired;
    lab.until(|lab| lab.view().sweep.repaired > writes);
    lab.view().sweep.last.unwrap()
}

fn objects(lab: &Lab) -> Vec<String> {
    let view = lab.view();
    view.failing.iter().map(|f| f.object.clone()).collect()
}

#[test]
fn the_table_that_is_fought_over_is_named_and_no_other_that_its_repair_writes() {
    let mut lab = lab();
    let mut sweeps = Vec::new();
    for round in 1..=6 {
        assert_eq!(objects(&lab).is_empty(), round <= 4, "round {round}");
        sweeps.push(repaired(&mut lab, |tables| {
            // To put one right is an update, to put the other back an insertion: one round all the same.
            let mut values = tables.policy.values_mut();
            std::mem::swap(values.next().unwrap(), values.next().unwrap());
            tables.policy.pop_last();
        }));
    }
    assert_eq!(objects(&lab), ["a fight over the table `policy`"]);
    let told = lab.view().unwell.clone().unwrap();
    assert!(told.reason.contains("6 times"), "{told:?}");
    // The waits are 0, 0, 0, 100, 200 and 400 ms.
    let last = repaired(&mut lab, |tables| tables.policy.clear());
    assert!(last - sweeps[5] > Duration::from_millis(200));
}

#[test]
fn repairs_of_this_and_that_are_no_fight() {
    let mut lab = lab();
    repaired(&mut lab, |tables| tables.policy.clear());
    repaired(&mut lab, |tables| tables.shapes.clear());
    repaired(&mut lab, |tables| tables.ipcache.clear());
    repaired(&mut lab, |tables| tables.interfaces.clear());
    repaired(&mut lab, |tables| tables.endpoint_words.clear());
    repaired(&mut lab, |tables| tables.node_words = Default::default());
    assert_eq!(objects(&lab), [""; 0]);
    assert_eq!(lab.view().unwell, None);
}

#[test]
fn a_pin_that_is_removed_again_and_again_is_counted_and_named() {
    let mut lab = lab();
    let place = Path::new("/sys/fs/bpf/oxilium");
    for round in 1..=4 {
        assert_eq!(objects(&lab), [""; 0], "round {round}");
        // With its place goes all that is in it.
        lab.kernel.remove_pin(place);
        lab.kernel.remove_pin(&place.join("ox_policy"));
        lab.until(|lab| lab.view().sweep.pins_restored == 2 * round);
    }
    assert_eq!(objects(&lab), ["a fight over the pin /sys/fs/bpf/oxilium"]);
    assert!(lab.view().unwell.is_some());
}
