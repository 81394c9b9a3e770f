//! kill -9 between any two writes, and restarts.

use oxilium_kernel::fake::Faults;
use oxilium_model::plan::Write;

use crate::lab::{Lab, pod_yaml};
use crate::{DENY_ALL, LONG, two_pods};

#[test]
fn a_restart_with_unchanged_input_makes_no_write() {
    let manifests = two_pods() + DENY_ALL;
    let mut lab = Lab::with(&manifests);
    let web = lab.pod("web", 7);
    lab.pod("db", 9);
    lab.restart(&manifests);
    lab.settle();
    assert_eq!(lab.writes(), []);
    let view = lab.view();
    assert_eq!(view.endpoint("default/web").unwrap().id, web.endpoint);
    assert!(view.endpoints.values().all(|endpoint| endpoint.ready));
}

#[test]
fn a_restart_learns_what_changed_while_it_was_down() {
    let mut lab = Lab::with(&(two_pods() + DENY_ALL));
    lab.pod("web", 7);
    lab.kernel.remove_link(7);
    lab.restart(&two_pods());
    lab.settle();
    assert!(lab.kernel.tables().interfaces.is_empty());
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn another_boot_has_no_attachments() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.restart_in("boot-2", &two_pods());
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
}

/// What the kernel's tables come to, without what counts how often something happened.
fn content(lab: &Lab) -> String {
    let tables = lab.kernel.tables();
    let mut policy: Vec<String> = lab
        .view()
        .state
        .endpoints
        .values()
        .map(|endpoint| {
            let table = tables.endpoint_word_in_use(endpoint.id).table();
            let entries: Vec<_> = tables
                .table(table)
                .map(|(key, value)| {
                    (
                        key.identity,
                        key.port.get(),
                        key.direction_shape,
                        value.word,
                    )
                })
                .collect();
            format!("{} {entries:?}", endpoint.pod)
        })
        .collect();
    policy.sort();
    let bank = tables.ipcache_word().bank();
    let ipcache: Vec<_> = tables
        .ipcache
        .iter()
        .map(|(key, value)| (key, value.identity(bank)))
        .collect();
    let attached: Vec<_> = tables.attachments.keys().collect();
    format!("{policy:?}\n{ipcache:?}\n{attached:?}")
}

#[test]
fn death_after_any_write_is_made_good_by_the_next_start() {
    let before = two_pods();
    let after = pod_yaml("web", "{app: other}") + &pod_yaml("db", "{app: db}") + DENY_ALL;
    let run = |crash_after: Option<usize>| -> (String, bool) {
        let mut lab = Lab::with(&before);
        lab.pod("web", 7);
        lab.veth(9);
        let mut answer = lab.add("db", 9, LONG);
        lab.manifests(&after);
        lab.kernel.set_faults(Faults {
            crash_after,
            ..Faults::default()
        });
        lab.turn();
        let answered = answer.try_get().is_some_and(|answer| answer.is_ok());
        let died = crash_after.is_some() && !answered;
        lab.kernel.set_faults(Faults::default());
        lab.restart(&after);
        lab.settle();
        let result = content(&lab);
        // And then all is well: another start has nothing to do.
        lab.restart(&after);
        lab.settle();
        let barriers = lab
            .writes()
            .iter()
            .all(|write| matches!(write, Write::Barrier));
        assert!(barriers, "{:?}", lab.writes());
        (result, died)
    };
    let (undisturbed, _) = run(None);
    let mut deaths = 0;
    for crash_after in 0.. {
        let (result, died) = run(Some(crash_after));
        assert_eq!(result, undisturbed, "death after {crash_after} writes");
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 10, "only {deaths} places to die");
}
