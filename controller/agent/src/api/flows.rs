//! Conntrack entries, in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use oxilium_abi::{CtWord, Direction, NatWord};
use oxilium_api::{ApiError, ConntrackFlow};
use oxilium_kernel::Node;
use oxilium_kernel::port::Flow;
use oxilium_model::plan::lb_address;
use oxilium_model::world::BackendAddress;

use super::dumps::kernel;

/// Flows of one endpoint or of all.
pub(super) fn conntrack<N: Node>(
    node: &mut N,
    endpoint: Option<u16>,
) -> Result<Vec<ConntrackFlow>, ApiError> {
    let mut read = node.flows().map_err(|error| kernel(&error))?;
    read.retain(|flow| endpoint.is_none_or(|id| flow.endpoint == id));
    let backends = if read.iter().any(|flow| flow.entry.nat != 0) {
        backends(node)?
    } else {
        BTreeMap::new()
    };
    let mut flows: Vec<ConntrackFlow> = read.iter().map(|flow| describe(flow, &backends)).collect();
    flows.sort_by(|a, b| (a.endpoint, &a.local, &a.remote).cmp(&(b.endpoint, &b.local, &b.remote)));
    Ok(flows)
}

/// A frontend's id, and where one of its backends is.
type BackendKey = (u16, BackendAddress);

/// Ids of backends.
fn backends<N: Node>(node: &mut N) -> Result<BTreeMap<BackendKey, u32>, ApiError> {
    let observed = node.observe().map_err(|error| kernel(&error))?;
    let backends = observed.backends.iter();
    Ok(backends
        .filter_map(|(id, value)| {
            let address = lb_address(*id, value)?;
            Some(((value.frontend, address), *id))
        })
        .collect())
}

fn describe(flow: &Flow, backends: &BTreeMap<BackendKey, u32>) -> ConntrackFlow {
    let entry = &flow.entry;
    let rev_nat = NatWord(entry.nat).frontend();
    let backend = BackendAddress {
        address: flow.remote,
        port: flow.remote_port,
    };
    let word = CtWord(entry.word);
    let with_port = |address: IpAddr, port: u16| match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    ConntrackFlow {
        endpoint: flow.endpoint,
        protocol: flow.protocol,
        direction: match word.direction() {
            Direction::Ingress => "IN",
            Direction::Egress => "OUT",
        }
        .to_owned(),
        local: with_port(flow.local, flow.local_port),
        remote: with_port(flow.remote, flow.remote_port),
        verdict: if word.allowed() { "allowed" } else { "denied" }.to_owned(),
        stamp: word.stamp().get(),
        expires: entry.expires,
        remaining: flow.remaining,
        rx_packets: entry.rx_packets,
        rx_bytes: entry.rx_bytes,
        tx_packets: entry.tx_packets,
        tx_bytes: entry.tx_bytes,
        rx_flags_seen: entry.rx_tcp_flags,
        tx_flags_seen: entry.tx_tcp_flags,
        last_rx_report: entry.last_rx_report,
        last_tx_report: entry.last_tx_report,
        flags: entry.flags,
        remote_identity: entry.remote_identity,
        rev_nat,
        backend_id: backends
            .get(&(rev_nat, backend))
            .copied()
            .unwrap_or_default(),
    }
}
