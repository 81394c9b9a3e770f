//! Services joined with their EndpointSlices.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use oxilium_crds::core::ServicePort as PortSpec;
use oxilium_crds::{EndpointSlice, Service, discovery};
use oxilium_model::world;
use oxilium_model::world::{BackendAddress, BackendCondition, ServicePort, ServiceRef, Services};

use super::lower::transport;

/// Label of services and slices that somebody else than the nodes' proxies looks after.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label of slices of headless services.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where nothing is said.
const AFFINITY_TIMEOUT: u32 = 10_800;

/// Services with ClusterIPs, each with the backends that its slices list; in any order. What is equal to
/// `before` is the same allocation.
///
/// Left out: headless services, those of type ExternalName, and what another proxy looks after. An address
/// or port that is none is left out as well; the API server admits no such thing.
pub fn cluster_services<'o>(
    services: impl IntoIterator<Item = &'o Service>,
    slices: impl IntoIterator<Item = &'o EndpointSlice>,
    node: &str,
    before: &Services,
) -> Services {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        if let Some(key) = service_of(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let joined: Services = services
        .into_iter()
        .filter_map(|service| {
            let key = (
                service.metadata.namespace.as_str(),
                service.metadata.name.as_str(),
            );
            let slices = by_service.get(&key).map_or(&[][..], Vec::as_slice);
            let joined = join_service(service, slices, node)?;
            let reference = joined.reference.clone();
            let shared = match before.get(&reference) {
                Some(old) if **old == joined => Arc::clone(old),
                _ => Arc::new(joined),
            };
            Some((reference, shared))
        })
        .collect();
    // The same map, so that who compares sees it at once.
    if *before == joined {
        return before.clone();
    }
    joined
}

/// Namespace and name of the service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.get(discovery::SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_str(), name.as_str()))
}

/// One service with all of its slices, as [`cluster_services`] joins it; none for one that has no ClusterIP of ours.
pub fn join_service(
    service: &Service,
    slices: &[&EndpointSlice],
    node: &str,
) -> Option<world::Service> {
    let (metadata, spec) = (&service.metadata, &service.spec);
    if metadata.labels.contains_key(OTHER_PROXY) || spec.kind.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut addresses: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .chain(&spec.cluster_ip)
        .filter_map(|text| text.parse().ok())
        .filter(is_reachable)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        spec.session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .unwrap_or(AFFINITY_TIMEOUT)
    });
    Some(world::Service {
        reference: ServiceRef::new(&metadata.namespace, &metadata.name),
        addresses,
        affinity,
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        ports: spec
            .ports
            .iter()
            .filter_map(|port| join_port(port, slices, node))
            .collect(),
    })
}

fn join_port(spec: &PortSpec, slices: &[&EndpointSlice], node: &str) -> Option<ServicePort> {
    let name = spec.name.as_deref().unwrap_or_default();
    let protocol = transport(spec.protocol.as_deref())?;
    let mut backends = BTreeMap::new();
    let ours = slices.iter().filter(|slice| {
        let labels = &slice.metadata.labels;
        !labels.contains_key(OTHER_PROXY) && !labels.contains_key(HEADLESS)
    });
    for slice in ours {
        let ports = slice
            .ports
            .iter()
            .filter(|port| port.name.as_deref().unwrap_or_default() == name)
            .filter(|port| transport(port.protocol.as_deref()) == Some(protocol))
            .filter_map(|port| port_number(port.port?));
        for port in ports {
            add_backends(&mut backends, slice, port, node);
        }
    }
    Some(ServicePort {
        name: name.into(),
        protocol: protocol.0,
        port: port_number(spec.port)?,
        backends,
    })
}

fn add_backends(
    backends: &mut BTreeMap<BackendAddress, BackendCondition>,
    slice: &EndpointSlice,
    port: u16,
    node: &str,
) {
    for endpoint in &slice.endpoints {
        let conditions = &endpoint.conditions;
        let ready = conditions.ready.unwrap_or(true);
        let condition = BackendCondition {
            ready,
            serving: conditions.serving.unwrap_or(ready),
            local: endpoint.node_name.as_deref() == Some(node),
        };
        let addresses = endpoint
            .addresses
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .filter(is_reachable);
        for address in addresses {
            // While a backend moves from one slice to another it is in both.
            let known = backends
                .entry(BackendAddress { address, port })
                .or_insert(condition);
            known.ready |= condition.ready;
            known.serving |= condition.serving;
            known.local |= condition.local;
        }
    }
}

/// An address that a pod can reach somebody else at: not its own loopback, not its link, not all.
fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}
