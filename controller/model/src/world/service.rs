//! Services and their backends, joined.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::Table;

/// Names a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ServiceRef {
    /// The service of that name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All services that pods reach by a ClusterIP.
pub type Services = Table<ServiceRef, Arc<Service>>;

/// A service with ClusterIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub reference: ServiceRef,
    /// Its ClusterIPs, one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// Seconds that a client stays with its backend (`sessionAffinity: ClientIP`).
    pub affinity: Option<u32>,
    /// Only backends of the client's node count (`internalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty for a service's only one.
    pub name: Arc<str>,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The number.
    pub port: u16,
    /// Who answers there, of both families.
    pub backends: BTreeMap<BackendAddress, BackendCondition>,
}

/// Where a backend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddress {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// How a backend is, as its EndpointSlice says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCondition {
    /// It takes new connections (or the service asks for those that are not ready, too).
    pub ready: bool,
    /// It answers, ready or not: while it terminates it is used where no backend is ready.
    pub serving: bool,
    /// It is on this node.
    pub local: bool,
}
