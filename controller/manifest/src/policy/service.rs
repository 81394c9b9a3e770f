//! `toServices`: services, and the peers that they stand for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use oxilium_model::policy::peer::{CidrPeer, Peer};
use oxilium_model::policy::selector::{LabelSelector, Operator, PeerScope, SelectorKey};

use super::Lowering;
use super::selector::Keys;
use crate::tree::Node;

/// What a policy needs to know of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The service's own labels.
    pub labels: BTreeMap<String, String>,
    /// `spec.selector`; empty for a service without one.
    pub selector: BTreeMap<String, String>,
    /// Addresses of its backends, used for a service without a selector.
    pub backends: Vec<IpAddr>,
}

/// All services, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<(String, String), Service>);

impl Services {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds or replaces a service.
    pub fn insert(&mut self, namespace: &str, name: &str, service: Service) {
        self.0
            .insert((namespace.to_owned(), name.to_owned()), service);
    }

    /// The backends of a service that is already there; others are left out until it is.
    pub(crate) fn get_mut(&mut self, namespace: &str, name: &str) -> Option<&mut Service> {
        self.0.get_mut(&(namespace.to_owned(), name.to_owned()))
    }
}

fn holds(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let value = |key: &SelectorKey| labels.get(&*key.key).map(String::as_str);
    selector
        .labels
        .iter()
        .all(|(key, wanted)| value(key) == Some(&**wanted))
        && selector.expressions.iter().all(|requirement| {
            let found = value(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => found.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => !found.is_some_and(|v| values.contains(v)),
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            }
        })
}

/// The pods that a service's selector selects, in its namespace, or the addresses of its backends.
fn peers(namespace: &str, service: &Service, scope: &PeerScope) -> Vec<Peer> {
    if service.selector.is_empty() {
        return service
            .backends
            .iter()
            .map(|address| Peer::Cidr(CidrPeer::new(IpNet::from(*address), [])))
            .collect();
    }
    let mut selector = LabelSelector::default();
    for (key, value) in &service.selector {
        selector
            .labels
            .insert(SelectorKey::k8s(key), value.as_str().into());
    }
    selector.labels.insert(
        SelectorKey::k8s(oxilium_model::label::POD_NAMESPACE),
        namespace.into(),
    );
    vec![Peer::Endpoints(scope.endpoints(&selector))]
}

impl<'t> Lowering<'t, '_> {
    /// An item of `toServices`. A service that is not there stands for nobody.
    pub(super) fn services(&mut self, node: &'t Node, scope: &PeerScope) -> Vec<Peer> {
        self.names_services = true;
        let services = self.config.services;
        if let Some(by_labels) = node.set("k8sServiceSelector") {
            let namespace = by_labels.text_of("namespace").unwrap_or_default();
            let Some(node) = by_labels.set("selector") else {
                return Vec::new();
            };
            let selector = self.selector(node, Keys::Cilium);
            return services
                .0
                .iter()
                .filter(|((of, _), service)| {
                    (namespace.is_empty() || of == namespace) && holds(&selector, &service.labels)
                })
                .flat_map(|((of, _), service)| peers(of, service, scope))
                .collect();
        }
        let Some(by_name) = node.set("k8sService") else {
            return Vec::new();
        };
        let namespace = by_name.text_of("namespace").unwrap_or_default();
        let wanted = by_name.text_of("serviceName").unwrap_or_default();
        services
            .0
            .iter()
            .filter(|((of, name), _)| (namespace.is_empty() || of == namespace) && name == wanted)
            .flat_map(|((of, _), service)| peers(of, service, scope))
            .collect()
    }
}
