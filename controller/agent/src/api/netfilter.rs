//! Whether netfilter sees both halves of the connections that are translated here.
//!
//! A pod's packet to a service is routed, since a ClusterIP is on no link; what a pod on the same bridge answers is
//! not, but goes to it directly. netfilter then sees only half of the connection unless bridges show it what they carry, and
//! kube-proxy's rules drop what is invalid to it.

use std::collections::BTreeMap;

use oxilium_api::{ApiError, ErrorCode};
use oxilium_kernel::Node;
use oxilium_kernel::port::LinkInfo;

use crate::reconcile::View;

/// Family, and the sysctl that has bridges show its packets to netfilter.
const FAMILIES: [(&str, bool, &str); 2] = [
    ("IPv4", true, "net.bridge.bridge-nf-call-iptables"),
    ("IPv6", false, "net.bridge.bridge-nf-call-ip6tables"),
];

/// What is wrong, and how to put it right; none where both halves are seen or nobody minds.
pub(super) fn half_seen<N: Node>(node: &mut N, view: &View) -> Result<Option<String>, ApiError> {
    let failed =
        |error: oxilium_kernel::NetlinkError| ApiError::new(ErrorCode::Kernel, error.to_string());
    if view.state.services.is_empty() {
        return Ok(None);
    }
    let links: BTreeMap<u32, LinkInfo> = node
        .links()
        .map_err(failed)?
        .into_iter()
        .map(|link| (link.ifindex, link))
        .collect();
    let bridges = [true, false].map(|ipv4| bridge(view, &links, ipv4));
    if bridges.iter().all(Option::is_none) {
        return Ok(None);
    }
    let seen = node.bridge_netfilter().map_err(failed)?;
    let wrong = FAMILIES
        .iter()
        .zip(bridges)
        .zip(seen)
        .filter(|(_, seen)| seen.kube_proxy && !seen.calls)
        .find_map(|((family, bridge), _)| Some((family, bridge?)));
    Ok(wrong.map(|((family, _, sysctl), bridge)| {
        format!(
            "bridge {bridge} carries pods and {sysctl} is 0: kube-proxy's rules see half of an {family} connection through a \
             service between two pods of this node, and drop it; load br_netfilter and set {sysctl} to 1"
        )
    }))
}

/// A bridge that has a pod with an address of the family as its port.
fn bridge(view: &View, links: &BTreeMap<u32, LinkInfo>, ipv4: bool) -> Option<String> {
    view.state
        .endpoints
        .values()
        .filter(|endpoint| endpoint.addresses.iter().any(|a| a.is_ipv4() == ipv4))
        .filter_map(|endpoint| links.get(&endpoint.ifindex?)?.master)
        .filter_map(|master| links.get(&master))
        .find(|master| master.kind == "bridge")
        .map(|bridge| bridge.name.clone())
}
