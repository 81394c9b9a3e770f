//! The reconcile loop on a node in memory: what it promises to pods, to CNI, to a restart.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that fails should say where"
)]

mod adopt;
mod crash;
mod fights;
mod full;
mod lab;
mod staged;
mod status;
mod synced;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use lab::{Lab, attach, key, pod_yaml};
use oxilium_agent::reconcile::Input;
use oxilium_api::{CollectGarbage, ErrorCode};
use oxilium_kernel::fake::{Fault, Faults};
use oxilium_kernel::port::{AddressInfo, AddressScope};
use oxilium_model::observed::Place;
use oxilium_model::plan::Write;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_mins(1);

const DENY_ALL: &str = "---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny-all, namespace: default}
spec:
  endpointSelector: {}
  ingress: [{}]
";

fn two_pods() -> String {
    pod_yaml("web", "{app: web}") + &pod_yaml("db", "{app: db}")
}

#[test]
fn nothing_is_written_before_every_source_has_told_what_it_knows() {
    let mut lab = Lab::new();
    lab.veth(7);
    let mut answer = lab.add("web", 7, LONG);
    lab.turn();
    assert_eq!(lab.writes(), []);
    assert!(answer.try_get().is_none());
    assert!(lab.view().ready().unwrap_err().contains("policies"));
    lab.manifests(&two_pods());
    lab.settle();
    assert!(answer.get().is_ok());
}

#[test]
fn add_is_answered_when_the_pod_is_enforced_and_programs_come_last() {
    let mut lab = Lab::with(&two_pods());
    lab.kernel.clear_history();
    let attached = lab.pod("web", 7);
    assert!(lab.attached(7));
    assert!(attached.identity >= 256);
    let writes = lab.writes();
    let first_attach = writes
        .iter()
        .position(|write| matches!(write, Write::Attach { .. }))
        .unwrap();
    let after = &writes[first_attach..];
    assert!(
        after
            .iter()
            .all(|write| matches!(write, Write::Attach { .. } | Write::Barrier)),
        "{after:?}"
    );
    let published = writes
        .iter()
        .position(|write| matches!(write, Write::Publish(_)))
        .unwrap();
    assert!(published < first_attach);
}

/// Where the programs of all hooks are.
fn places(lab: &Lab) -> Vec<Place> {
    let attachments = lab.kernel.tables().attachments;
    attachments.values().map(|there| there.place).collect()
}

fn burst() -> (Lab, Vec<lab::Answer<oxilium_api::Attached>>) {
    let names = ["a", "b", "c"];
    let mut lab = Lab::with(&names.map(|name| pod_yaml(name, "{app: web}")).concat());
    lab.kernel.clear_history();
    let mut answers = Vec::new();
    for (index, name) in (7..).zip(names) {
        lab.veth(index);
        answers.push(lab.add(name, index, LONG));
    }
    (lab, answers)
}

#[test]
fn a_burst_is_enforced_by_filters_and_gets_its_links_when_nobody_waits() {
    let (mut lab, answers) = burst();
    lab.turn();
    for mut answer in answers {
        assert!(answer.get().is_ok());
    }
    let staged = |write: &&Write| matches!(write, Write::Attach { staged: true, .. });
    assert_eq!(lab.writes().iter().filter(staged).count(), 6);
    assert!(places(&lab).contains(&Place::Staged), "one link a turn");
    lab.until(|lab| places(lab) == [Place::Settled; 6]);
    let settled = |write: &&Write| matches!(write, Write::Replace { .. });
    assert_eq!(lab.writes().iter().filter(settled).count(), 6);
    let writes = lab.writes().len();
    lab.settle();
    assert_eq!(lab.writes().len(), writes, "and that is all");
}

#[test]
fn a_restart_in_a_burst_settles_what_is_left_and_no_more() {
    let (mut lab, _answers) = burst();
    let manifests = ["a", "b", "c"]
        .map(|name| pod_yaml(name, "{app: web}"))
        .concat();
    lab.turn();
    let left = places(&lab)
        .iter()
        .filter(|place| **place == Place::Staged)
        .count();
    assert!(left > 0);
    lab.restart(&manifests);
    lab.until(|lab| places(lab) == [Place::Settled; 6]);
    let writes = lab.writes();
    assert!(
        writes
            .iter()
            .all(|write| matches!(write, Write::Replace { .. })),
        "{writes:?}"
    );
    assert_eq!(writes.len(), left);
}

#[test]
fn a_pod_that_is_not_known_is_waited_for_and_then_to_be_tried_again() {
    let mut lab = Lab::with("");
    lab.veth(7);
    let mut answer = lab.add("web", 7, Duration::ZERO);
    lab.turn();
    let error = answer.get().unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Timeout, true));
    assert!(error.message.contains("no Pod default/web"), "{error}");
    // A device that lives is not let loose, but its deletion is noted.
    assert!(lab.attached(7));
    lab.remove_veth(7);
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn a_pod_that_comes_within_the_wait_is_enforced() {
    let mut lab = Lab::with("");
    lab.veth(7);
    let mut answer = lab.add("web", 7, LONG);
    lab.settle();
    assert!(answer.try_get().is_none());
    lab.manifests(&two_pods());
    lab.settle();
    assert!(answer.get().is_ok());
}

#[test]
fn another_life_of_a_pod_of_the_same_name_is_another_pod() {
    let former = two_pods().replace("uid-web", "uid-of-another-life");
    let mut lab = Lab::with(&former);
    lab.veth(7);
    let mut answer = lab.add("web", 7, Duration::ZERO);
    lab.turn();
    assert!(answer.get().unwrap_err().retryable);
}

#[test]
fn an_attachment_that_is_no_veth_here_is_refused() {
    let mut lab = Lab::with(&two_pods());
    let mut nowhere = lab.add("web", 7, LONG);
    assert_eq!(nowhere.get().unwrap_err().code, ErrorCode::Conflict);
    lab.veth(7);
    for change in ["index", "mac", "no mac"] {
        let mut request = attach("web", 7, LONG);
        match change {
            "index" => request.container.ifindex = 3,
            "mac" => request.host.mac = "02:00:00:00:00:99".to_owned(),
            _ => request.container.mac = "nonsense".to_owned(),
        }
        let (reply, mut answer) = oneshot::channel();
        lab.take(Input::Attach(Box::new(request), Instant::now(), reply));
        let error = answer.try_recv().unwrap().unwrap_err();
        assert!(!error.retryable, "{change}: {error}");
    }
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn del_leaves_a_device_that_lives_enforced_until_it_is_gone() {
    let mut lab = Lab::with(&two_pods());
    let endpoint = lab.pod("web", 7).endpoint;
    lab.del(7);
    lab.settle();
    assert!(lab.attached(7));
    assert!(lab.kernel.tables().interfaces.contains_key(&7));
    lab.remove_veth(7);
    lab.settle();
    let tables = lab.kernel.tables();
    assert!(!tables.interfaces.contains_key(&7));
    assert_eq!(tables.endpoint_word_in_use(endpoint).table(), 0);
    assert!(lab.view().state.endpoints.is_empty());
    // What is gone can be deleted again.
    lab.del(7);
}

#[test]
fn a_device_that_goes_without_del_takes_its_endpoint_with_it() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.remove_veth(7);
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
    assert!(lab.kernel.tables().interfaces.is_empty());
}

#[test]
fn another_device_with_the_index_of_one_that_went_is_not_taken_for_it() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.kernel.remove_link(7);
    let mut other = lab::link(7);
    other.mac = Some([2, 9, 9, 9, 9, 9]);
    lab.kernel.set_link(other);
    lab.take(Input::KernelChanged { hooks: false });
    lab.settle();
    assert!(lab.kernel.tables().interfaces.is_empty());
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn a_pod_that_gives_its_end_another_index_keeps_its_endpoint() {
    let mut lab = Lab::with(&two_pods());
    let before = lab.pod("web", 7);
    let tables = lab.kernel.tables();
    // Moved through a namespace of the pod's own: another index, and for a while another namespace.
    let mut moved = lab::link(7);
    moved.peer = Some(99);
    lab.kernel.set_link(moved.clone());
    lab.take(Input::KernelChanged { hooks: false });
    lab.settle();
    let endpoints = lab.view().state.endpoints.clone();
    assert_eq!(endpoints.keys().collect::<Vec<_>>(), [&before.endpoint]);
    assert_eq!(lab.kernel.tables().interfaces, tables.interfaces);
    lab.restart(&two_pods());
    lab.settle();
    assert_eq!(lab.writes(), [], "nor does a restart forget it");

    // What has its index and its address, and not our programs, is another device.
    lab.kernel.remove_link(7);
    lab.kernel.set_link(moved);
    lab.take(Input::KernelChanged { hooks: false });
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn a_device_that_another_attachment_has_is_not_taken_for_ones_own() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    // A plugin that gives all its links one address, and the index served again at once.
    lab.kernel.remove_link(7);
    let mut other = lab::link(7);
    other.peer = Some(5);
    lab.kernel.set_link(other);
    let mut request = attach("db", 7, LONG);
    request.key.container_id = "another".to_owned();
    request.container.ifindex = 5;
    let (reply, mut answer) = oneshot::channel();
    lab.take(Input::Attach(Box::new(request), Instant::now(), reply));
    lab.settle();
    assert!(answer.try_recv().unwrap().is_ok());
    let view = lab.view();
    let pods: Vec<String> = view
        .state
        .endpoints
        .values()
        .map(|endpoint| endpoint.pod.to_string())
        .collect();
    assert_eq!(pods, ["default/db"]);
}

#[test]
fn a_namespace_that_cannot_be_looked_into_is_not_one_that_is_gone() {
    const EIO: i32 = 5;
    const EMFILE: i32 = 24;
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.settle();
    let tables = lab.kernel.tables();
    let netns = std::path::Path::new("/run/netns/web");
    let mut link = lab::link(7);
    link.mac = Some([2, 9, 9, 9, 9, 9]);
    lab.kernel.set_link(link);
    for errno in [EIO, EMFILE] {
        lab.kernel.bar_netns(netns, Some(errno));
        lab.take(Input::KernelChanged { hooks: false });
        lab.turn();
        assert_eq!(lab.kernel.tables().interfaces, tables.interfaces);
        assert_eq!(lab.view().state.endpoints.len(), 1);
        let failing = lab.view().failing.clone();
        assert_eq!(failing[0].object, "reading interfaces");
    }
    // Now it can be told that it is gone.
    lab.kernel.bar_netns(netns, None);
    lab.settle();
    assert!(lab.view().state.endpoints.is_empty());
}

#[test]
fn addresses_of_services_are_not_the_nodes_own() {
    let mut lab = Lab::new();
    let mut device = lab::link(3);
    device.name = "kube-ipvs0".to_owned();
    device.kind = "dummy".to_owned();
    lab.kernel.set_link(device);
    for (ifindex, address) in [(2, "192.0.2.1"), (3, "10.96.0.10")] {
        lab.kernel.add_address(AddressInfo {
            ifindex,
            address: address.parse().unwrap(),
            prefix_len: 32,
            scope: AddressScope::Global,
        });
    }
    lab.manifests(&two_pods());
    lab.settle();
    let own = lab.view().world.local_addresses.clone();
    assert_eq!(own, BTreeSet::from(["192.0.2.1".parse().unwrap()]));
}

#[test]
fn a_recycled_address_gets_an_endpoint_of_its_own() {
    let mut lab = Lab::with(&two_pods());
    let first = lab.pod("web", 7);
    lab.del(7);
    lab.remove_veth(7);
    lab.settle();
    lab.veth(9);
    let mut request = attach("db", 9, LONG);
    request.container.addresses = attach("web", 7, LONG).container.addresses;
    let (reply, mut answer) = oneshot::channel();
    lab.take(Input::Attach(Box::new(request), Instant::now(), reply));
    lab.settle();
    let second = answer.try_recv().unwrap().unwrap();
    assert_ne!(first.endpoint, second.endpoint);
    assert_ne!(first.identity, second.identity);
    let births: Vec<u64> = lab
        .kernel
        .tables()
        .interfaces
        .values()
        .map(|config| config.birth)
        .collect();
    assert!(births[0] > 0);
}

#[test]
fn a_policy_reaches_the_kernel_and_a_converged_node_gets_no_write() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.kernel.clear_history();
    lab.manifests(&(two_pods() + DENY_ALL));
    lab.settle();
    assert!(!lab.writes().is_empty());
    assert!(
        lab.view()
            .state
            .endpoints
            .values()
            .all(|e| e.policy.ingress_enforced)
    );
    lab.kernel.clear_history();
    lab.manifests(&(two_pods() + DENY_ALL));
    lab.settle();
    assert_eq!(lab.writes(), []);
}

#[test]
fn a_program_that_cannot_be_attached_does_not_keep_other_pods_waiting() {
    let mut lab = Lab::with(&two_pods());
    lab.veth(7);
    lab.veth(9);
    let mut bad = lab.add("web", 7, LONG);
    lab.turn_with_faults_on_attach(7, Fault::Busy);
    assert!(bad.try_get().is_none());
    assert!(lab.view().unwell.is_some(), "no pod works");
    let mut good = lab.add("db", 9, LONG);
    lab.turn();
    assert!(good.get().is_ok());
    assert_eq!(lab.view().unwell, None, "one does");
    lab.settle();
    assert!(bad.get().is_ok());
}

#[test]
fn failing_writes_are_tried_again_until_the_node_is_as_it_should_be() {
    let mut lab = Lab::with(&two_pods());
    let faults = [Fault::Busy, Fault::Memory, Fault::Refused, Fault::Partial];
    let good_writes = [0, 3, 1, 7, 2];
    let next = good_writes
        .iter()
        .zip(faults.iter().cycle())
        .flat_map(|(good, fault)| std::iter::repeat_n(None, *good).chain([Some(*fault)]))
        .collect();
    lab.kernel.set_faults(Faults {
        next,
        ..Faults::default()
    });
    lab.veth(7);
    let mut answer = lab.add("web", 7, LONG);
    lab.manifests(&(two_pods() + DENY_ALL));
    lab.settle();
    assert!(answer.get().is_ok());
    lab.kernel.set_faults(Faults::default());
    lab.kernel.clear_history();
    lab.restart(&(two_pods() + DENY_ALL));
    lab.settle();
    assert_eq!(lab.writes(), [], "nothing was left undone");
}

#[test]
fn a_source_that_goes_away_freezes_what_it_fed() {
    let mut lab = Lab::with(&(two_pods() + DENY_ALL));
    lab.pod("web", 7);
    lab.kernel.clear_history();
    lab.take(Input::Objects(oxilium_agent::source::Delivery::frozen(
        std::sync::Arc::default(),
    )));
    lab.settle();
    assert_eq!(lab.writes(), []);
    assert_eq!(lab.view().world.policies.len(), 1);
}

#[test]
fn word_that_cni_left_while_the_agent_was_down_is_heeded_once() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.agent = None;
    let stone = lab.directory.path().join("deleted/c7:eth0.json");
    fs::write(&stone, serde_json::to_string(&key(7)).unwrap()).unwrap();
    lab.restart(&two_pods());
    lab.take(Input::Tombstones);
    lab.settle();
    assert!(!stone.exists());
    let states: Vec<String> = lab
        .view()
        .state
        .endpoints
        .values()
        .map(|endpoint| endpoint.state.to_string())
        .collect();
    assert_eq!(states, ["disconnecting"]);
    assert!(lab.attached(7));
}

#[test]
fn garbage_collection_marks_what_the_runtime_does_not_list() {
    let mut lab = Lab::with(&two_pods());
    lab.pod("web", 7);
    lab.pod("db", 9);
    let (reply, _answer) = oneshot::channel();
    let gc = CollectGarbage {
        valid: vec![key(9)],
    };
    lab.take(Input::CollectGarbage(gc, reply));
    lab.settle();
    let states: Vec<String> = lab
        .view()
        .state
        .endpoints
        .values()
        .map(|endpoint| format!("{} {}", endpoint.pod.name, endpoint.state))
        .collect();
    let mut sorted = states;
    sorted.sort();
    assert_eq!(sorted, ["db ready", "web disconnecting"]);
}

#[test]
fn check_says_whether_the_attachment_is_known_here_and_enforced() {
    let mut lab = Lab::with(&two_pods());
    assert_eq!(lab.check(7).unwrap_err().code, ErrorCode::NotFound);
    lab.pod("web", 7);
    assert!(lab.check(7).is_ok());
    lab.del(7);
    lab.settle();
    assert_eq!(lab.check(7).unwrap_err().code, ErrorCode::NotReady);
}
