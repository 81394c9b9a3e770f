//! Pods that nobody asked an attachment for.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use oxilium_kernel::port::PodInterface;
use oxilium_model::node_state::EndpointState;
use oxilium_model::world::Capacities;

use super::lab::{Lab, link};

/// A pod that has those addresses, as a kubelet says.
fn running(name: &str, addresses: &[&str]) -> String {
    let ips: Vec<String> = addresses.iter().map(|ip| format!("{{ip: {ip}}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, uid: uid-{name}, labels: {{app: {name}}}}}\nspec: {{nodeName: worker, containers: []}}\nstatus: {{podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

/// A namespace with a pod's interface, whose other end is the link of that index.
fn namespace(lab: &Lab, name: &str, index: u32, addresses: &[&str]) {
    let directory = lab.directory.path().join("netns");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, "").unwrap();
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let inside = PodInterface {
        ifindex: 2,
        mac: [2, 2, 0, 0, 0, index.to_be_bytes()[3]],
        peer: Some(index),
        addresses,
        link_local: BTreeSet::new(),
        netns_id: index.cast_signed(),
    };
    lab.kernel.set_pod_interface(&path, "eth0", inside);
    lab.kernel.set_link(link(index));
}

/// Pods with an endpoint that is enforced.
fn enforced(lab: &Lab) -> Vec<String> {
    let view = lab.view();
    let endpoints = view.state.endpoints.values();
    endpoints
        .filter(|endpoint| {
            endpoint.state == EndpointState::Ready && view.endpoints[&endpoint.id].ready
        })
        .map(|endpoint| endpoint.pod.name.to_string())
        .collect()
}

/// What is told of pods that are not adopted. The agent is well all the same.
fn doubts(lab: &Lab) -> String {
    let view = lab.view();
    assert_eq!((&view.unwell, &view.failing[..]), (&None, &[][..]));
    let doubts = view.in_doubt.iter();
    let told: Vec<String> = doubts
        .map(|(pod, reason)| format!("{pod}: {reason}\n"))
        .collect();
    told.concat()
}

#[test]
fn a_pod_that_runs_already_is_adopted_and_stays_so_over_a_restart() {
    let manifests = running("a", &["10.0.0.1", "fd00::1"]) + &running("b", &["10.0.0.2"]);
    let mut lab = Lab::with("");
    namespace(&lab, "cni-a", 7, &["10.0.0.1", "fd00::1"]);
    namespace(&lab, "same-as-a", 7, &["10.0.0.1", "fd00::1"]);
    namespace(&lab, "cni-b", 8, &["10.0.0.2"]);
    lab.manifests(&manifests);
    lab.settle();
    assert_eq!(enforced(&lab), ["a", "b"]);
    let ids = |lab: &Lab| {
        lab.view()
            .state
            .endpoints
            .keys()
            .copied()
            .collect::<Vec<_>>()
    };
    let before = ids(&lab);
    lab.restart(&manifests);
    lab.settle();
    assert_eq!(
        (enforced(&lab), ids(&lab)),
        (vec!["a".into(), "b".into()], before)
    );
}

#[test]
fn a_pod_in_doubt_is_not_adopted_and_told_of_while_the_agent_is_well() {
    // Who holds what; the pods of those addresses; why not.
    type Case<'c> = (
        &'c [(&'c str, u32, &'c [&'c str])],
        &'c [(&'c str, &'c [&'c str])],
        &'c str,
    );
    let cases: [Case<'_>; 4] = [
        (
            &[],
            &[("a", &["10.0.0.1"])],
            "no network namespace on this node has its addresses",
        ),
        (
            &[("x", 7, &["10.0.0.1"]), ("y", 8, &["10.0.0.1"])],
            &[("a", &["10.0.0.1"])],
            "both have an address of its",
        ),
        // One that took another's address passes for nobody.
        (
            &[("x", 7, &["10.0.0.1", "10.0.0.9"])],
            &[("a", &["10.0.0.1"])],
            "has the addresses {10.0.0.1, 10.0.0.9}",
        ),
        (
            &[("x", 7, &["10.0.0.1"])],
            &[("a", &["10.0.0.1"]), ("b", &["10.0.0.1"])],
            "pod default/b has the same address",
        ),
    ];
    for (namespaces, pods, expected) in cases {
        let mut lab = Lab::with("");
        for (name, index, addresses) in namespaces {
            namespace(&lab, name, *index, addresses);
        }
        let manifests: String = pods.iter().map(|(name, ips)| running(name, ips)).collect();
        lab.manifests(&manifests);
        lab.turn();
        assert_eq!(enforced(&lab), Vec::<String>::new(), "{expected}");
        let told = doubts(&lab);
        assert!(
            told.starts_with("default/a: ") && told.contains(expected),
            "{told}"
        );
        // Once it is beyond doubt, it is adopted.
        for (name, ..) in namespaces {
            fs::remove_file(lab.directory.path().join("netns").join(name)).unwrap();
        }
        namespace(&lab, "right", 9, &["10.0.0.1"]);
        lab.manifests(&running("a", &["10.0.0.1"]));
        lab.settle();
        assert_eq!(enforced(&lab), ["a"], "{expected}");
        assert_eq!(doubts(&lab), "", "{expected}");
    }
}

#[test]
fn a_namespace_that_is_another_pods_is_out_of_the_question() {
    let mut lab = Lab::with("");
    namespace(&lab, "cni-a", 7, &["10.0.0.1"]);
    lab.manifests(&running("a", &["10.0.0.1"]));
    lab.settle();
    // It takes a second address, and a pod of that address appears.
    namespace(&lab, "cni-a", 7, &["10.0.0.2"]);
    lab.manifests(&(running("a", &["10.0.0.1"]) + &running("b", &["10.0.0.2"])));
    lab.turn();
    assert_eq!(enforced(&lab), ["a"]);
    let told = doubts(&lab);
    assert!(
        told.starts_with("default/b: no network namespace"),
        "{told}"
    );
}

#[test]
fn a_pod_that_ended_is_nobody_to_be_adopted() {
    let mut lab = Lab::with("");
    namespace(&lab, "cni-a", 7, &["10.0.0.1"]);
    lab.manifests(&running("a", &["10.0.0.1"]));
    lab.settle();
    // Its namespace goes before its object does.
    fs::remove_file(lab.directory.path().join("netns/cni-a")).unwrap();
    lab.kernel.remove_link(7);
    lab.take(oxilium_agent::reconcile::Input::KernelChanged { hooks: false });
    lab.settle();
    lab.manifests(&running("a", &["10.0.0.1"]));
    lab.settle();
    assert_eq!(doubts(&lab), "");
}

#[test]
fn a_pod_without_room_for_its_interface_is_adopted_when_another_has_gone() {
    let manifests = running("a", &["10.0.0.1"]) + &running("b", &["10.0.0.2"]);
    let mut lab = Lab::of_size(Capacities {
        interfaces: 1,
        ..Capacities::default()
    });
    namespace(&lab, "cni-a", 7, &["10.0.0.1"]);
    namespace(&lab, "cni-b", 8, &["10.0.0.2"]);
    lab.manifests(&manifests);
    lab.settle();
    assert_eq!(enforced(&lab), ["a"]);
    let doubts = doubts(&lab);
    assert!(
        doubts.contains("default/b: the table of interfaces is full, 1 of 1"),
        "{doubts}"
    );
    lab.remove_veth(7);
    lab.until(|lab| enforced(lab) == ["b"]);
}
