//! What is published: the picture and the status directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use oxilium_api::ErrorCode;
use oxilium_kernel::fake::{Fault, Faults};
use oxilium_model::plan::Write;

use crate::lab::{Lab, pod_yaml};
use crate::{DENY_ALL, two_pods};

fn files(directory: &Path) -> BTreeMap<String, (String, SystemTime)> {
    let mut all = BTreeMap::new();
    for kind in fs::read_dir(directory).unwrap() {
        for file in fs::read_dir(kind.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            all.insert(name, (fs::read_to_string(&path).unwrap(), modified));
        }
    }
    all
}

#[test]
fn the_status_directory_has_what_would_go_to_kubernetes() {
    let mut lab = Lab::with(&(two_pods() + DENY_ALL));
    let web = lab.pod("web", 7);
    let status = lab.directory.path().join("status");
    let files = files(&status);
    let identity = web.identity.to_string();
    let shown: Vec<String> = files
        .iter()
        .filter(|(name, _)| !name.contains("Identity") || name.contains(&identity))
        .map(|(name, (content, _))| format!("# {name}\n{content}\n"))
        .collect();
    insta::assert_snapshot!(shown.concat().replace(&identity, "IDENTITY"));
}

#[test]
fn a_file_is_written_only_when_it_changes_and_goes_with_its_object() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    let status = lab.directory.path().join("status");
    let before = files(&status);
    lab.manifests(&(two_pods() + &pod_yaml("third", "{app: third}")));
    lab.settle();
    assert_eq!(files(&status), before);
    lab.restart(&two_pods());
    lab.settle();
    assert_eq!(files(&status), before);
    lab.remove_veth(7);
    lab.settle();
    let endpoints = |files: &BTreeMap<String, _>| {
        files
            .keys()
            .filter(|name| name.contains("CiliumEndpoint"))
            .count()
    };
    assert_eq!((endpoints(&before), endpoints(&files(&status))), (1, 0));
}

#[test]
fn the_picture_is_not_ready_and_names_the_failure_while_something_fails() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.kernel.set_faults(Faults {
        next: [Some(Fault::Memory)].into(),
        ..Faults::default()
    });
    lab.manifests(&(two_pods() + DENY_ALL));
    lab.turn();
    let view = lab.view();
    assert_eq!(view.failing.len(), 1);
    assert!(
        view.failing[0].reason.contains("memory"),
        "{:?}",
        view.failing
    );
    assert!(view.revisions.applied < view.revisions.input);
    lab.settle();
    assert!(lab.view().failing.is_empty());
}

#[test]
fn an_endpoint_tells_what_keeps_it_from_what_is_wanted_and_since_when() {
    let port = |port| {
        two_pods()
            + &DENY_ALL.replace(
                "[{}]",
                &format!("[{{toPorts: [{{ports: [{{port: \"{port}\"}}]}}]}}]"),
            )
    };
    let changes = [
        ("as many entries as before, but others", port(81)),
        (
            "another identity",
            port(80).replace("app: web", "app: shop"),
        ),
    ];
    for (what, changed) in changes {
        let mut lab = Lab::with(&port(80));
        let web = lab.pod("web", 7).endpoint;
        let told = |lab: &Lab| lab.view().endpoints[&web].clone();
        let before = told(&lab);
        assert_eq!((before.ready, &before.failing), (true, &None), "{what}");
        lab.kernel.set_faults(Faults {
            next: [Some(Fault::Memory)].into(),
            ..Faults::default()
        });
        lab.manifests(&changed);
        lab.turn();
        let failing = told(&lab);
        assert!(!failing.ready, "{what}");
        let reason = failing.failing.unwrap();
        assert!(reason.contains("memory"), "{what}: {reason}");
        assert!(reason.contains("tried 1 times since"), "{what}: {reason}");
        assert_eq!(lab.check(7).unwrap_err().code, ErrorCode::NotReady);
        lab.settle();
        let after = told(&lab);
        assert_eq!((after.ready, after.failing), (true, None), "{what}");
        let log = &after.log[before.log.len()..];
        let states: Vec<(&str, &str)> = log
            .iter()
            .filter(|entry| {
                !entry.message.contains("computed") && !entry.message.contains("identity")
            })
            .map(|entry| {
                (
                    entry.state.as_str(),
                    entry.message.split([' ', ',']).next().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            states,
            [
                ("not-ready", "fails"),
                ("regenerating", "works"),
                ("ready", "revision")
            ],
            "{what}: {log:?}"
        );
    }
}

#[test]
fn what_somebody_else_changed_is_repaired_by_a_sweep_and_counted() {
    let mut lab = Lab::with(&(two_pods() + DENY_ALL));
    lab.pod("web", 7);
    let before = lab.kernel.tables();
    lab.kernel.tamper(|tables| {
        tables.attachments.clear();
        tables.policy.clear();
    });
    lab.until(|lab| lab.kernel.tables().attachments == before.attachments);
    let after = lab.kernel.tables();
    assert_eq!(after.policy.len(), before.policy.len());
    assert!(lab.view().sweep.repaired > 0);
}

#[test]
fn a_program_taken_off_its_hook_is_back_although_nothing_announced_it() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.pod("db", 8);
    lab.settle();
    let before = lab.kernel.tables();
    for (what, taken) in [("one hook", 1), ("all hooks", 4)] {
        lab.kernel.clear_history();
        let drifted = lab.view().sweep.hooks_drifted;
        lab.kernel.tamper(|tables| {
            for _ in 0..taken {
                tables.attachments.pop_first();
            }
        });
        lab.until(|lab| lab.kernel.tables().attachments == before.attachments);
        let writes = lab.writes();
        let attached = writes
            .iter()
            .filter(|write| matches!(write, Write::Attach { .. }));
        assert_eq!(attached.count(), taken, "{what}: {writes:?}");
        let view = lab.view();
        assert_eq!(view.sweep.hooks_drifted, drifted + taken as u64, "{what}");
    }
    assert_eq!(lab.view().sweep.repaired, 5);
}

#[test]
fn looks_at_hooks_that_are_as_they_were_left_write_nothing_and_tell_nothing_new() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.settle();
    lab.kernel.clear_history();
    let view = lab.view();
    let first = lab.turn();
    lab.until(|lab| lab.turn() > first);
    assert_eq!(lab.writes(), []);
    assert!(std::sync::Arc::ptr_eq(&view, &lab.view()));
}

#[test]
fn hooks_that_cannot_be_asked_are_read_again() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.settle();
    let before = lab.kernel.tables();
    lab.kernel.tamper(|tables| tables.attachments.clear());
    lab.kernel.set_faults(Faults {
        reads_per_mille: 500,
        ..Faults::default()
    });
    lab.until(|lab| lab.kernel.tables().attachments == before.attachments);
}
