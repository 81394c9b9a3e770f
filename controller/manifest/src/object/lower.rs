//! From Kubernetes objects to the model's inputs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use oxilium_crds::identity::is_marked;
use oxilium_crds::{
    CiliumCIDRGroup, CiliumEndpoint, CiliumIdentity, CiliumNode, EndpointSlice, Namespace, Pod,
    Service, discovery,
};
use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::world::{self, NodeOrigin, PodRef};

use super::{Input, LabelFilter, decode};
use crate::diagnostic::{Findings, Problem};
use crate::forms;
use crate::kind::{Header, Kind};
use crate::policy::service::{self, Services};
use crate::schema::Admission;
use crate::tree::Node;

/// The work on one object.
pub(super) struct ObjectLowering<'t, 'c> {
    pub(super) root: &'t Node,
    pub(super) header: &'c Header,
    pub(super) node: &'c str,
    pub(super) admission: Admission,
    pub(super) labels: Option<&'c LabelFilter>,
    pub(super) findings: Findings<'t>,
}

impl<'t> ObjectLowering<'t, '_> {
    /// None: reported.
    pub(super) fn lower(&mut self) -> Option<Input> {
        match self.header.kind {
            Kind::Pod => self.pod().map(Box::new).map(Input::Pod),
            Kind::Node => self.kubernetes_node().map(Box::new).map(Input::Node),
            Kind::CiliumNode => self.cilium_node().map(Box::new).map(Input::Node),
            Kind::Namespace => self.namespace().map(Box::new).map(Input::Namespace),
            Kind::Service => {
                let mut service: Service = decode(self.root, &mut self.findings)?;
                service
                    .metadata
                    .namespace
                    .clone_from(&self.header.object.namespace);
                Some(Input::Service(Box::new(service)))
            }
            Kind::EndpointSlice => {
                let mut slice: EndpointSlice = decode(self.root, &mut self.findings)?;
                slice
                    .metadata
                    .namespace
                    .clone_from(&self.header.object.namespace);
                Some(Input::EndpointSlice(Box::new(slice)))
            }
            Kind::CiliumEndpoint => self
                .remote_endpoint()
                .map(Box::new)
                .map(Input::RemoteEndpoint),
            Kind::CiliumIdentity => self.identity(),
            Kind::CiliumCIDRGroup => self.cidr_group().map(Box::new).map(Input::CidrGroup),
            Kind::Policy(_) | Kind::Unread | Kind::Unknown => None,
        }
    }

    fn reference(&self) -> PodRef {
        PodRef::new(&self.header.object.namespace, &self.header.object.name)
    }

    fn pod(&mut self) -> Option<world::Pod> {
        let pod: Pod = decode(self.root, &mut self.findings)?;
        let labels = self.pod_labels(&pod);
        let named_ports = self.named_ports(&pod);
        let status = self.root.get("status").unwrap_or(self.root);
        let listed = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str());
        let texts: Vec<&str> = match pod.status.pod_ips.as_slice() {
            [] => pod.status.pod_ip.as_deref().into_iter().collect(),
            _ => listed.collect(),
        };
        let addresses = texts
            .into_iter()
            .filter_map(|text| self.address(status, text))
            .collect();
        Some(world::Pod {
            reference: self.reference(),
            uid: pod.metadata.uid.as_str().into(),
            labels,
            service_account: pod
                .spec
                .service_account_name
                .filter(|name| !name.is_empty())
                .map(Into::into),
            addresses,
            named_ports,
            node: pod
                .spec
                .node_name
                .filter(|name| !name.is_empty())
                .map(Into::into),
            host_network: pod.spec.host_network,
        })
    }

    /// Labels that a pod's author may not write are left out, with a warning.
    fn pod_labels(&mut self, pod: &Pod) -> IdentityLabels {
        let default = LabelFilter::default();
        let filter = self.labels.unwrap_or(&default);
        let mut labels = Vec::new();
        for (key, value) in &pod.metadata.labels {
            match Label::of_pod(key, value) {
                Ok(label) if filter.takes(key) => labels.push(label),
                Ok(_) => {}
                Err(error) => {
                    let at = self
                        .root
                        .get("metadata")
                        .and_then(|metadata| metadata.get("labels"))
                        .and_then(|labels| labels.get(key))
                        .unwrap_or(self.root);
                    self.findings
                        .warning(at, Problem::Conflict(error.to_string()));
                }
            }
        }
        labels.into()
    }

    fn named_ports(&mut self, pod: &Pod) -> NamedPorts {
        let mut ports = NamedPorts::default();
        let nodes = self
            .root
            .get("spec")
            .map_or(&[][..], |spec| spec.list("containers"));
        for (container, node) in pod.spec.containers.iter().zip(nodes) {
            for (port, node) in container.ports.iter().zip(node.list("ports")) {
                let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
                    continue;
                };
                let number = u16::try_from(port.container_port)
                    .ok()
                    .filter(|number| *number != 0);
                let protocol = transport(port.protocol.as_deref());
                match (number, protocol) {
                    (Some(number), Some(protocol)) if forms::is_service_name(name) => {
                        ports.insert(name, protocol, number);
                    }
                    _ => self.findings.warning(
                        node,
                        Problem::Conflict(format!(
                            "port {name:?} is no named port and is left out: it needs a name of at most 15 letters, digits and dashes, a number from 1 to 65535, and TCP, UDP or SCTP"
                        )),
                    ),
                }
            }
        }
        ports
    }

    fn address(&mut self, at: &'t Node, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.findings.error(
                at,
                Problem::Invalid {
                    value: format!("{text:?}"),
                    allowed: "write an address such as 10.0.0.1 or fd00::1".into(),
                },
            );
        }
        address
    }

    fn prefix(&mut self, at: &'t Node, text: &str) -> Option<IpNet> {
        let prefix = forms::prefix(text).map(|prefix| prefix.trunc());
        if prefix.is_none() {
            self.findings.error(
                at,
                Problem::Invalid {
                    value: format!("{text:?}"),
                    allowed: "write a prefix such as 10.0.0.0/8 or 2001:db8::/32".into(),
                },
            );
        }
        prefix
    }

    /// Labels of a node: of source `k8s` on the host itself, `node` on the identity of another node.
    fn node_labels(&self, labels: &std::collections::BTreeMap<String, String>) -> IdentityLabels {
        let local = self.header.object.name == self.node;
        labels
            .iter()
            .map(|(key, value)| {
                if local {
                    Label::of_local_node(key, value)
                } else {
                    Label::of_remote_node(key, value)
                }
            })
            .collect()
    }

    fn kubernetes_node(&mut self) -> Option<world::Node> {
        let node: oxilium_crds::Node = decode(self.root, &mut self.findings)?;
        let (spec, status) = (
            self.root.get("spec").unwrap_or(self.root),
            self.root.get("status").unwrap_or(self.root),
        );
        let is_address = |kind: &str| matches!(kind, "InternalIP" | "ExternalIP");
        let addresses: BTreeSet<IpAddr> = node
            .status
            .addresses
            .iter()
            .filter(|address| is_address(&address.kind))
            .filter_map(|address| self.address(status, &address.address))
            .collect();
        let texts = match node.spec.pod_cidrs.as_slice() {
            [] => node.spec.pod_cidr.into_iter().collect(),
            listed => listed.to_vec(),
        };
        let pod_cidrs = texts
            .iter()
            .filter_map(|text| self.prefix(spec, text))
            .collect();
        Some(world::Node {
            name: self.header.object.name.as_str().into(),
            origin: NodeOrigin::Node,
            addresses,
            pod_cidrs,
            labels: self.node_labels(&node.metadata.labels),
        })
    }

    fn cilium_node(&mut self) -> Option<world::Node> {
        let node: CiliumNode = decode(self.root, &mut self.findings)?;
        let spec = self.root.get("spec").unwrap_or(self.root);
        let addresses = node
            .spec
            .addresses
            .iter()
            .filter_map(|address| self.address(spec, &address.ip))
            .collect();
        let pod_cidrs = node
            .spec
            .ipam
            .pod_cidrs
            .iter()
            .filter_map(|text| self.prefix(spec, text))
            .collect();
        Some(world::Node {
            name: self.header.object.name.as_str().into(),
            origin: NodeOrigin::CiliumNode,
            addresses,
            pod_cidrs,
            labels: self.node_labels(&node.metadata.labels),
        })
    }

    fn namespace(&mut self) -> Option<world::Namespace> {
        let namespace: Namespace = decode(self.root, &mut self.findings)?;
        let name = self.header.object.name.as_str();
        let mut labels: Vec<Label> = namespace
            .metadata
            .labels
            .iter()
            .map(|(key, value)| Label::of_namespace(key, value))
            .collect();
        // The API server puts this label on every namespace.
        if !namespace.metadata.labels.contains_key(NAMESPACE_NAME) {
            labels.push(Label::of_namespace(NAMESPACE_NAME, name));
        }
        if let Some(filter) = self.labels {
            labels.retain(|label| filter.takes_inherited(label.key()));
        }
        Some(world::Namespace {
            name: name.into(),
            uid: namespace.metadata.uid.as_str().into(),
            labels: labels.into(),
        })
    }

    fn remote_endpoint(&mut self) -> Option<world::RemoteEndpoint> {
        let endpoint: CiliumEndpoint = decode(self.root, &mut self.findings)?;
        let status = self.root.get("status").unwrap_or(self.root);
        let identity = endpoint.status.identity.unwrap_or_default();
        let number = identity
            .id
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id != 0);
        if number.is_none() {
            self.findings.error(
                status,
                Problem::Missing {
                    meaning: "identity.id, the number of the pod's identity".into(),
                },
            );
        }
        let labels = identity
            .labels
            .iter()
            .filter_map(|text| self.label(status, text))
            .collect();
        let networking = endpoint.status.networking.unwrap_or_default();
        let texts = networking
            .addressing
            .iter()
            .flat_map(|pair| pair.ipv4.iter().chain(&pair.ipv6));
        let addresses = texts
            .filter(|text| !text.is_empty())
            .filter_map(|text| self.address(status, text))
            .collect();
        let mut named_ports = NamedPorts::default();
        for port in &endpoint.status.named_ports {
            if let Some(protocol) = transport(Some(&port.protocol)) {
                named_ports.insert(&port.name, protocol, port.port);
            }
        }
        let node_address: Option<Ipv4Addr> = networking
            .node
            .filter(|text| !text.is_empty())
            .and_then(|text| self.address(status, &text))
            .and_then(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
        Some(world::RemoteEndpoint {
            reference: self.reference(),
            addresses,
            identity: NumericIdentity(number?),
            labels,
            named_ports,
            node_address,
        })
    }

    fn label(&mut self, at: &'t Node, text: &str) -> Option<Label> {
        match Label::parse(text) {
            Ok(label) => Some(label),
            Err(error) => {
                self.findings
                    .error(at, Problem::Conflict(error.to_string()));
                None
            }
        }
    }

    fn identity(&mut self) -> Option<Input> {
        let identity: CiliumIdentity = decode(self.root, &mut self.findings)?;
        let metadata = self.root.get("metadata").unwrap_or(self.root);
        let number = self
            .header
            .object
            .name
            .parse::<u32>()
            .ok()
            .map(NumericIdentity);
        let number =
            number.filter(|id| id.0 >= NumericIdentity::FIRST_CLUSTER && id.cluster_id().is_some());
        if number.is_none() {
            self.findings.error_at(
                metadata,
                "name",
                Problem::Invalid {
                    value: format!("{:?}", self.header.object.name),
                    allowed:
                        "the name of a CiliumIdentity is its number, 256 or more and below 16777216"
                            .into(),
                },
            );
        }
        let labels = self.security_labels(&identity);
        let marked = is_marked(&identity.metadata);
        Some(Input::ClusterIdentity(
            number?,
            world::ClusterIdentity { labels, marked },
        ))
    }

    /// None where they cannot be read. An object that an API server holds takes its number all the same, so it is
    /// no error there.
    fn security_labels(&mut self, identity: &CiliumIdentity) -> Option<IdentityLabels> {
        let at = self.root.get("security-labels").unwrap_or(self.root);
        let mut labels = Vec::new();
        for (key, value) in &identity.security_labels {
            match Label::parse(&format!("{key}={value}")) {
                Ok(label) => labels.push(label),
                Err(error) if self.admission == Admission::Agent => {
                    let told = Problem::Conflict(format!("{error}; nobody gets this number"));
                    self.findings.warning(at, told);
                    return None;
                }
                Err(error) => self
                    .findings
                    .error(at, Problem::Conflict(error.to_string())),
            }
        }
        Some(labels.into())
    }

    fn cidr_group(&mut self) -> Option<world::CidrGroup> {
        let group: CiliumCIDRGroup = decode(self.root, &mut self.findings)?;
        let labels = group
            .metadata
            .labels
            .iter()
            .map(|(key, value)| Label::of_cidr_group(key, value))
            .collect();
        let prefixes = group
            .spec
            .external_cidrs
            .iter()
            .filter_map(|text| forms::prefix_or_address(text))
            .map(|p| p.trunc());
        Some(world::CidrGroup {
            name: self.header.object.name.as_str().into(),
            labels,
            prefixes: prefixes.collect(),
        })
    }
}

/// The label that every namespace has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn transport(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::TCP),
        Some("UDP") => Some(Protocol::UDP),
        Some("SCTP") => Some(Protocol::SCTP),
        Some(_) => None,
    }
}

/// What `toServices` can name, from Services and EndpointSlices in any order.
pub fn services<'o>(
    services: impl IntoIterator<Item = &'o Service>,
    slices: impl IntoIterator<Item = &'o EndpointSlice>,
) -> Services {
    let mut all = Services::new();
    for service in services {
        all.insert(
            &service.metadata.namespace,
            &service.metadata.name,
            service::Service {
                labels: service.metadata.labels.clone(),
                selector: service.spec.selector.clone(),
                backends: Vec::new(),
            },
        );
    }
    for slice in slices {
        let Some(name) = slice.metadata.labels.get(discovery::SERVICE_NAME) else {
            continue;
        };
        let Some(service) = all.get_mut(&slice.metadata.namespace, name) else {
            continue;
        };
        let addresses = slice
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses);
        service
            .backends
            .extend(addresses.filter_map(|text| text.parse::<IpAddr>().ok()));
        service.backends.sort_unstable();
        service.backends.dedup();
    }
    all
}
