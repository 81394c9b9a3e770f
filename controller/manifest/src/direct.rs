//! The objects of which a cluster has tens of thousands, straight from the JSON of an API server: CiliumEndpoints and
//! CiliumIdentities.
//!
//! What is read here is what [`crate::object::admit`] reads; it builds a tree first, which can say where a mistake is and
//! takes ten times as long. Whatever is out of the ordinary is not read here at all: then it is for `admit` to say what
//! is wrong, if anything is. Fields that nobody uses are not looked at.
//!
//! Most of those objects say the same of themselves as many others: [`Shared`] keeps one copy.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oxilium_crds::identity::MARKS;
use oxilium_model::identity::{IdentityLabels, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::world::{ClusterIdentity, PodRef, RemoteEndpoint};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::forms;

/// An object, and which version of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct<T> {
    /// What it says.
    pub object: T,
    /// `metadata.resourceVersion`; empty where there is none.
    pub version: String,
}

/// Values that many objects have, one copy of each. Those that nobody has any more go now and then.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    /// Labels by the JSON that they were read from.
    read: HashMap<Box<str>, IdentityLabels>,
    labels: HashSet<IdentityLabels>,
    ports: HashSet<NamedPorts>,
    names: HashSet<Arc<str>>,
    /// Of all that, how much was left the last time.
    kept: usize,
}

/// So many values are no reason to look which of them can go.
const FEW: usize = 1024;

impl Shared {
    fn values(&self) -> MutexGuard<'_, Values> {
        // Whoever panicked left whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values().count()
    }

    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels in that JSON list; none if it is none, or one of them is no label.
    fn labels_of(&self, json: &str) -> Option<IdentityLabels> {
        if let Some(known) = self.values().read.get(json) {
            return Some(known.clone());
        }
        let texts: Vec<Text<'_>> = serde_json::from_str(json).ok()?;
        let labels = texts.iter().map(|text| Label::parse(&text.0).ok());
        let labels = self.labels(labels.collect::<Option<_>>()?);
        self.values().read.insert(json.into(), labels.clone());
        Some(labels)
    }

    /// The one copy of these labels.
    pub fn labels(&self, labels: IdentityLabels) -> IdentityLabels {
        let mut values = self.values();
        values.tidy();
        if let Some(known) = values.labels.get(&labels) {
            return known.clone();
        }
        values.labels.insert(labels.clone());
        labels
    }

    fn ports(&self, ports: NamedPorts) -> NamedPorts {
        let mut values = self.values();
        if let Some(known) = values.ports.get(&ports) {
            return known.clone();
        }
        values.ports.insert(ports.clone());
        ports
    }

    fn name(&self, name: &str) -> Arc<str> {
        let mut values = self.values();
        if let Some(known) = values.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        values.names.insert(Arc::clone(&name));
        name
    }
}

impl Values {
    fn count(&self) -> usize {
        self.read.len() + self.labels.len() + self.ports.len() + self.names.len()
    }

    /// Lets go of what nobody else has, once there is twice as much as there was after the last time.
    fn tidy(&mut self) {
        if self.count() < FEW.max(2 * self.kept) {
            return;
        }
        // Two are held here: by the text, and by itself.
        self.read.retain(|_, labels| labels.holders() > 2);
        self.labels.retain(|labels| labels.holders() > 1);
        self.ports.retain(|ports| ports.holders() > 1);
        self.names.retain(|name| Arc::strong_count(name) > 1);
        self.kept = self.count();
    }
}

/// A text that is borrowed unless something in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'j>(#[serde(borrow)] Cow<'j, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    #[serde(borrow, default)]
    namespace: Cow<'j, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'j, str>,
    #[serde(borrow, default)]
    annotations: HashMap<Cow<'j, str>, Cow<'j, str>>,
}

#[derive(Deserialize)]
struct Endpoint<'j> {
    #[serde(borrow)]
    metadata: Metadata<'j>,
    #[serde(borrow)]
    status: Status<'j>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status<'j> {
    #[serde(borrow)]
    identity: EndpointIdentity<'j>,
    #[serde(borrow)]
    networking: Networking<'j>,
    #[serde(borrow, default)]
    named_ports: Vec<Named<'j>>,
}

#[derive(Deserialize)]
struct EndpointIdentity<'j> {
    id: u32,
    #[serde(borrow)]
    labels: &'j RawValue,
}

#[derive(Deserialize)]
struct Networking<'j> {
    #[serde(borrow)]
    addressing: Vec<Pair<'j>>,
    #[serde(borrow, default)]
    node: Cow<'j, str>,
}

#[derive(Deserialize)]
struct Pair<'j> {
    #[serde(borrow, default)]
    ipv4: Cow<'j, str>,
    #[serde(borrow, default)]
    ipv6: Cow<'j, str>,
}

#[derive(Deserialize)]
struct Named<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    #[serde(borrow)]
    protocol: Cow<'j, str>,
    port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity<'j> {
    #[serde(borrow)]
    metadata: Metadata<'j>,
    #[serde(borrow)]
    security_labels: HashMap<Cow<'j, str>, Cow<'j, str>>,
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && forms::is_object_name(text)
}

/// A CiliumEndpoint; none if it is for `admit` to read.
pub fn endpoint(json: &str, shared: &Shared) -> Option<Direct<RemoteEndpoint>> {
    let Endpoint { metadata, status } = serde_json::from_str(json).ok()?;
    if !is_name(&metadata.name) || metadata.namespace.is_empty() || status.identity.id == 0 {
        return None;
    }
    let mut addresses = Vec::new();
    for pair in &status.networking.addressing {
        for text in [&pair.ipv4, &pair.ipv6] {
            if !text.is_empty() {
                addresses.push(text.parse::<IpAddr>().ok()?);
            }
        }
    }
    addresses.shrink_to_fit();
    let mut named_ports = NamedPorts::default();
    for port in &status.named_ports {
        let protocol = match &*port.protocol {
            "TCP" => Protocol::TCP,
            "UDP" => Protocol::UDP,
            "SCTP" => Protocol::SCTP,
            _ => return None,
        };
        named_ports.insert(&port.name, protocol, port.port);
    }
    let node_address: Option<Ipv4Addr> = match &*status.networking.node {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    Some(Direct {
        object: RemoteEndpoint {
            reference: PodRef {
                namespace: shared.name(&metadata.namespace),
                name: (&*metadata.name).into(),
            },
            addresses,
            identity: NumericIdentity(status.identity.id),
            labels: shared.labels_of(status.identity.labels.get())?,
            named_ports: if named_ports.is_empty() {
                named_ports
            } else {
                shared.ports(named_ports)
            },
            node_address,
        },
        version: metadata.resource_version.into_owned(),
    })
}

/// A CiliumIdentity; none if it is for `admit` to read.
pub fn identity(json: &str, shared: &Shared) -> Option<Direct<(NumericIdentity, ClusterIdentity)>> {
    let Identity {
        metadata,
        security_labels,
    } = serde_json::from_str(json).ok()?;
    let number = metadata.name.parse().ok().map(NumericIdentity)?;
    let is_canonical = number.0.to_string() == metadata.name;
    if !is_canonical || number.0 < NumericIdentity::FIRST_CLUSTER || number.cluster_id().is_none() {
        return None;
    }
    let labels = security_labels
        .iter()
        .map(|(key, value)| Label::parse(&format!("{key}={value}")).ok())
        .collect::<Option<IdentityLabels>>()?;
    let identity = ClusterIdentity {
        labels: Some(shared.labels(labels)),
        marked: MARKS
            .iter()
            .any(|mark| metadata.annotations.contains_key(*mark)),
    };
    Some(Direct {
        object: (number, identity),
        version: metadata.resource_version.into_owned(),
    })
}
