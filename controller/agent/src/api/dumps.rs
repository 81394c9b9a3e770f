//! What the kernel holds, in words: read there, for people who do not trust pictures.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use oxilium_abi::{COUNTER_FORWARDED, Counter, Direction, DropReason, PolicyCountKey, ShapeMask};
use oxilium_api::{
    ApiError, BpfEndpoint, BpfMetric, BpfPolicyTable, ConntrackTalker, ErrorCode, ExplainQuery,
    ExplainReport, IpcacheEntry, ManifestFile, PlanReport, PolicyEntry, PolicyEntryType,
};
use oxilium_kernel::{Node, ObserveError};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::EntryKey;
use oxilium_model::observed::Observed;
use oxilium_model::plan::ipcache_prefix;

use super::talkers::talkers;
use crate::config::AgentOptions;
use crate::explain::{self, ExplainError};
use crate::offline;
use crate::reconcile::{View, mac_text};

pub(super) fn kernel(error: &ObserveError) -> ApiError {
    ApiError::new(ErrorCode::Kernel, error.to_string())
}

/// What becomes of a packet, by the tables and by the programs.
pub(super) fn explain_packet<N: Node>(
    node: &mut N,
    view: &View,
    query: &ExplainQuery,
) -> Result<ExplainReport, ApiError> {
    explain::explain_packet(node, view.known(), query).map_err(|error| match error {
        ExplainError::Kernel(error) => kernel(&error),
        error => ApiError::new(ErrorCode::InvalidRequest, error.to_string()),
    })
}

/// Policy tables of one endpoint or of all.
pub(super) fn policy<N: Node>(
    node: &mut N,
    view: &View,
    endpoint: Option<u16>,
) -> Result<Vec<BpfPolicyTable>, ApiError> {
    let observed = node.observe().map_err(|error| kernel(&error))?;
    if let Some(id) = endpoint
        && !observed.endpoint_words.contains_key(&id)
    {
        let message = format!("there is no endpoint {id} in the kernel");
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    let counts = node.policy_counts().map_err(|error| kernel(&error))?;
    Ok(observed
        .endpoint_words
        .keys()
        .copied()
        .filter(|id| endpoint.is_none_or(|wanted| wanted == *id))
        .map(|id| table(&observed, &counts, view, id))
        .collect())
}

fn table(
    observed: &Observed,
    counts: &BTreeMap<PolicyCountKey, Counter>,
    view: &View,
    endpoint: u16,
) -> BpfPolicyTable {
    let table = observed.endpoint_word_in_use(endpoint).table();
    let mut entries: Vec<PolicyEntry> = observed
        .table(table)
        .map(|(key, value)| {
            let identity = NumericIdentity(key.identity);
            let shape = key.shape();
            let precedence = value.precedence();
            let decided = counts.get(&PolicyCountKey::of(endpoint, key));
            let decided = decided.copied().unwrap_or_default();
            PolicyEntry {
                kind: if precedence.is_deny() {
                    PolicyEntryType::Deny
                } else {
                    PolicyEntryType::Allow
                },
                direction: direction_word(key.direction()).to_owned(),
                identity: identity.0,
                labels: view.labels(identity),
                port: key.port.get(),
                port_prefix: u8::try_from(ShapeMask::port_mask(shape).count_ones()).unwrap_or(0),
                protocol: key.protocol,
                proxy_port: value.proxy_port(),
                auth: value.auth().kind(),
                precedence: precedence.0,
                packets: decided.packets,
                bytes: decided.bytes,
                origins: origins(view, endpoint, &EntryKey::of(key)),
            }
        })
        .collect();
    entries.sort_by_key(|entry| (entry.direction != "Ingress", entry.identity, entry.port));
    BpfPolicyTable {
        endpoint,
        table,
        entries,
    }
}

/// The policies that an entry of the kernel's is made from.
fn origins(view: &View, endpoint: u16, key: &EntryKey) -> Vec<String> {
    view.state
        .endpoints
        .get(&endpoint)
        .map(|endpoint| crate::explain::origins_of(endpoint, key))
        .unwrap_or_default()
}

fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

/// The ipcache.
pub(super) fn ipcache<N: Node>(node: &mut N, view: &View) -> Result<Vec<IpcacheEntry>, ApiError> {
    let observed = node.observe().map_err(|error| kernel(&error))?;
    let bank = observed.ipcache_word().bank();
    Ok(observed
        .ipcache
        .iter()
        .map(|(key, value)| {
            let identity = NumericIdentity(value.identity(bank));
            let prefix = ipcache_prefix(key);
            IpcacheEntry {
                cidr: prefix.map_or_else(
                    || format!("damaged key {:?}", key.address),
                    |prefix| prefix.to_string(),
                ),
                identity: identity.0,
                labels: view.labels(identity),
                tunnelendpoint: {
                    let [a, b, c, d, ..] = value.tunnel_endpoint;
                    Ipv4Addr::new(a, b, c, d).to_string()
                },
            }
        })
        .collect())
}

/// Who fills the conntrack tables, the most first.
pub(super) fn conntrack_top<N: Node>(
    node: &mut N,
    view: &View,
) -> Result<Vec<ConntrackTalker>, ApiError> {
    let flows = node.flows().map_err(|error| kernel(&error))?;
    Ok(talkers(&flows, view))
}

/// Packets by their fate, as `cilium bpf metrics list` sorts them.
pub(super) fn metrics<N: Node>(node: &mut N) -> Result<Vec<BpfMetric>, ApiError> {
    let counters = node.counters().map_err(|error| kernel(&error))?;
    let mut metrics: Vec<BpfMetric> = counters
        .iter()
        .filter_map(|((direction, reason), counter)| {
            let reason = match *reason {
                COUNTER_FORWARDED => "Success",
                // What else is counted is counted besides.
                reason => DropReason::from_number(reason)?.text(),
            };
            Some(BpfMetric {
                reason: reason.to_owned(),
                direction: direction_word(*direction).to_lowercase(),
                packets: counter.packets,
                bytes: counter.bytes,
            })
        })
        .collect();
    metrics.sort_by(|a, b| (&a.reason, &a.direction).cmp(&(&b.reason, &b.direction)));
    Ok(metrics)
}

/// Interfaces and endpoint words.
pub(super) fn endpoints<N: Node>(node: &mut N) -> Result<Vec<BpfEndpoint>, ApiError> {
    let observed = node.observe().map_err(|error| kernel(&error))?;
    Ok(observed
        .interfaces
        .iter()
        .map(|(ifindex, config)| {
            let word = observed.endpoint_word_in_use(config.endpoint);
            let four = config
                .ipv4
                .iter()
                .filter(|address| **address != [0; 4])
                .map(|address| Ipv4Addr::from(*address).to_string());
            let six = config
                .ipv6
                .iter()
                .filter(|address| **address != [0; 16])
                .map(|address| Ipv6Addr::from(*address).to_string());
            BpfEndpoint {
                addresses: four.chain(six).collect(),
                id: config.endpoint,
                ifindex: *ifindex,
                identity: config.identity,
                mac: mac_text(config.mac),
                table: word.table(),
                epoch: word.epoch().get(),
                birth: config.birth,
            }
        })
        .collect())
}

/// What would be written if the manifests were these.
pub(super) fn plan<N: Node>(
    node: &mut N,
    view: &View,
    options: &AgentOptions,
    files: &[ManifestFile],
) -> Result<PlanReport, ApiError> {
    let observed = node.observe().map_err(|error| kernel(&error))?;
    offline::plan_on(&view.world, &observed, options, files)
        .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.to_string()))
}
