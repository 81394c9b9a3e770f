//! What `status` warns of, and what keeps the agent from being ready.

use oxilium_agent::http::Answer;
use oxilium_api::{ComponentState, StatusReport, call};
use oxilium_kernel::fake::{Fault, Faults};
use oxilium_kernel::port::{BridgeNetfilter, LinkInfo};

use crate::node::{Node, PODS, attach};
use crate::until;

/// The status, once it is so.
fn status(node: &Node, so: impl Fn(&StatusReport) -> bool) -> StatusReport {
    let client = node.client();
    let mut found = None;
    until(|| {
        let status = client.call(call::Status).unwrap();
        let is_so = so(&status);
        found = Some(status);
        is_so
    });
    found.unwrap()
}

fn is_ok(status: &StatusReport) -> bool {
    status.cilium.state == ComponentState::Ok
}

fn is_well(node: &Node) -> bool {
    match node.health() {
        Answer::Well(_) => true,
        Answer::Unwell(_) => false,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_pod_in_doubt_is_warned_of_and_the_agent_is_ready_for_all_others() {
    let node = Node::ready();
    node.client().call(attach()).unwrap();
    status(&node, is_ok);
    node.manifests(&format!(
        "{PODS}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: old, namespace: default, uid: uid-old}}\n\
         spec: {{nodeName: worker}}\nstatus: {{podIPs: [{{ip: 10.1.0.99}}]}}\n"
    ));
    let told = status(&node, |status| {
        status.cilium.state == ComponentState::Warning && !status.not_enforced.is_empty()
    });
    assert_eq!(
        told.cilium.msg,
        "policy is not enforced on 1 pods that were made without the agent, restart them: first default/old: no network \
         namespace on this node has its addresses"
    );
    assert_eq!(told.not_enforced[0].object, "Pod default/old");
    assert!(is_well(&node));
    node.manifests(PODS);
    status(&node, is_ok);
}

#[test]
fn what_fails_for_the_node_makes_it_unwell() {
    let node = Node::ready();
    node.client().call(attach()).unwrap();
    node.kernel.set_faults(Faults {
        next: vec![Some(Fault::Busy); 1000].into(),
        ..Faults::default()
    });
    node.manifests(&PODS.replace("ingress: [{}]", "egress: [{}]"));
    let told = status(&node, |status| !status.reconcile.failing.is_empty());
    assert_eq!(told.cilium.state, ComponentState::Failure);
    assert!(!is_well(&node));
    node.kernel.set_faults(Faults::default());
    status(&node, is_ok);
    assert!(is_well(&node));
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIPs: [10.96.0.1], ports: [{port: 80}]}
";

fn link(ifindex: u32, kind: &str, master: Option<u32>) -> LinkInfo {
    LinkInfo {
        ifindex,
        name: format!("{kind}{ifindex}"),
        kind: kind.to_owned(),
        mac: Some([2, 1, 0, 0, 0, 7]),
        peer: Some(2),
        netns_id: Some(1),
        master,
        up: true,
        mtu: 1500,
        tx_queue_len: 1000,
    }
}

#[test]
fn kube_proxy_that_sees_half_of_each_connection_is_warned_of() {
    let node = Node::ready();
    node.client().call(attach()).unwrap();
    let netfilter = |kube_proxy, calls| BridgeNetfilter { calls, kube_proxy };
    let said = || node.client().call(call::Status).unwrap().cilium.msg;
    let warns = || said().contains("net.bridge.bridge-nf-call-iptables is 0");
    let services = PODS.to_owned() + SERVICE;
    let bridge = link(3, "bridge", None);
    let (port, routed) = (link(7, "veth", Some(3)), link(7, "veth", None));
    node.kernel.set_link(bridge);

    // What there is, and whether somebody minds: kube-proxy, calls of IPv4, a bridge, services.
    let cases = [
        (true, false, true, true, true),
        (true, true, true, true, false),
        (false, false, true, true, false),
        (true, false, false, true, false),
        (true, false, true, false, false),
    ];
    for case in cases {
        let (kube_proxy, calls, bridged, served, expected) = case;
        // The pod has no IPv6 address: whatever is there of that family is nobody's loss.
        let other_family = netfilter(true, false);
        node.kernel
            .set_bridge_netfilter([netfilter(kube_proxy, calls), other_family]);
        let veth = if bridged { &port } else { &routed };
        node.kernel.set_link(veth.clone());
        node.manifests(if served { &services } else { PODS });
        let client = node.client();
        until(|| client.call(call::BpfServices).unwrap().services.is_empty() != served);
        assert_eq!(warns(), expected, "{case:?}: {}", said());
    }
}
