//! Labels, typed by where they come from.
//!
//! A label's *source* is a type, never a prefix of its key: what a pod's author writes can only become a
//! [`LabelSource::K8s`] label, and [`Label::of_pod`] refuses the keys that Oxilium itself derives from the
//! pod's namespace, service account and cluster. So a crafted pod label can stand in neither for a
//! `reserved:` label nor for a label of the pod's namespace.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Key of the label with the namespace of a pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Start of the key of a label that a pod inherits from its namespace.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the label with the name of the cluster that a pod or node is in.
pub const POLICY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Key of the label with a pod's service account.
pub const POLICY_SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Start of the key of the label with the name of a `CiliumCIDRGroup`.
pub const CIDR_GROUP_NAME: &str = "io.cilium.policy.cidrgroupname/";

/// Start of keys that only Oxilium derives, never a pod's author.
const DERIVED: [&str; 2] = ["io.cilium.k8s.", "io.cilium.policy."];

/// Where a label comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelSource {
    /// Kubernetes: the pod itself, its namespace, service account, cluster.
    K8s,
    /// Built in: `reserved:host`, `reserved:world`…
    Reserved,
    /// A prefix, for identities outside the cluster. The key is the prefix with `-` for `:`.
    Cidr,
    /// A label of a `CiliumCIDRGroup` that the identity's prefix is in.
    CidrGroup,
    /// A name or pattern of `toFQDNs` whose DNS answers hold the identity's address.
    Fqdn,
    /// A label of a Kubernetes node, on the identity of that (remote) node.
    Node,
    /// Any other source in a label read from elsewhere, by its name.
    Other(Arc<str>),
}

impl LabelSource {
    /// The name before the colon.
    pub fn name(&self) -> &str {
        match self {
            Self::K8s => "k8s",
            Self::Reserved => "reserved",
            Self::Cidr => "cidr",
            Self::CidrGroup => "cidrgroup",
            Self::Fqdn => "fqdn",
            Self::Node => "node",
            Self::Other(name) => name,
        }
    }

    /// The source of that name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "k8s" => Self::K8s,
            "reserved" => Self::Reserved,
            "cidr" => Self::Cidr,
            "cidrgroup" => Self::CidrGroup,
            "fqdn" => Self::Fqdn,
            "node" => Self::Node,
            other => Self::Other(Arc::from(other)),
        }
    }
}

/// Why a text or a pair is no label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LabelError {
    /// No source, or nothing after it.
    #[error("label {text:?} is not `source:key=value`; write for example `k8s:app=web`")]
    Syntax {
        /// The label as read.
        text: String,
    },
    /// The key of a `cidr:` label is no prefix.
    #[error(
        "label {text:?} does not name a prefix; write `cidr:10.0.0.0/8` or `cidr:2001-db8--/32`"
    )]
    Prefix {
        /// The label as read.
        text: String,
    },
    /// A pod's own label has a key that is derived from its namespace, service account or cluster.
    #[error(
        "pod label key {key:?} is kept for labels that are derived from the pod's namespace, service account or cluster; rename it"
    )]
    Derived {
        /// The key.
        key: String,
    },
}

/// A label of an identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    key: Arc<str>,
    source: LabelSource,
    value: Arc<str>,
}

impl Label {
    fn new(source: LabelSource, key: &str, value: &str) -> Self {
        Self {
            key: key.into(),
            source,
            value: value.into(),
        }
    }

    /// A label that a pod's author wrote.
    ///
    /// # Errors
    /// [`LabelError::Derived`] for a key that only Oxilium may derive: the caller leaves the label out.
    pub fn of_pod(key: &str, value: &str) -> Result<Self, LabelError> {
        if key == POD_NAMESPACE || DERIVED.iter().any(|start| key.starts_with(start)) {
            return Err(LabelError::Derived { key: key.into() });
        }
        Ok(Self::new(LabelSource::K8s, key, value))
    }

    /// The namespace that a pod is in.
    pub fn pod_namespace(namespace: &str) -> Self {
        Self::new(LabelSource::K8s, POD_NAMESPACE, namespace)
    }

    /// A label of the namespace that a pod is in.
    pub fn of_namespace(key: &str, value: &str) -> Self {
        Self::new(LabelSource::K8s, &format!("{NAMESPACE_LABELS}{key}"), value)
    }

    /// The cluster that a pod or node is in.
    pub fn cluster(name: &str) -> Self {
        Self::new(LabelSource::K8s, POLICY_CLUSTER, name)
    }

    /// The service account that a pod runs as.
    pub fn service_account(name: &str) -> Self {
        Self::new(LabelSource::K8s, POLICY_SERVICE_ACCOUNT, name)
    }

    /// A label of the local node on the host identity: Cilium gives these the source `k8s`.
    pub fn of_local_node(key: &str, value: &str) -> Self {
        Self::new(LabelSource::K8s, key, value)
    }

    /// A label of a remote node on its identity.
    pub fn of_remote_node(key: &str, value: &str) -> Self {
        Self::new(LabelSource::Node, key, value)
    }

    /// A built-in label, by its name: `host`, `world`, `world-ipv4`…
    pub fn reserved(name: &str) -> Self {
        Self::new(LabelSource::Reserved, name, "")
    }

    /// A prefix; host bits are masked.
    pub fn cidr(prefix: IpNet) -> Self {
        Self::new(LabelSource::Cidr, &cidr_key(prefix), "")
    }

    /// Membership in the `CiliumCIDRGroup` of that name.
    pub fn cidr_group(name: &str) -> Self {
        Self::new(
            LabelSource::CidrGroup,
            &format!("{CIDR_GROUP_NAME}{name}"),
            "",
        )
    }

    /// A label of a `CiliumCIDRGroup` object, on the identities of its prefixes.
    pub fn of_cidr_group(key: &str, value: &str) -> Self {
        Self::new(LabelSource::CidrGroup, key, value)
    }

    /// A name or pattern whose DNS answers hold the identity's address, as the policy writes it.
    pub fn fqdn(name_or_pattern: &str) -> Self {
        Self::new(LabelSource::Fqdn, name_or_pattern, "")
    }

    /// Reads `source:key=value` as it stands in a CiliumIdentity or CiliumEndpoint; `=` and value may be absent.
    ///
    /// # Errors
    /// [`LabelError::Syntax`] without source or key, [`LabelError::Prefix`] for a `cidr:` label without a prefix.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let syntax = || LabelError::Syntax { text: text.into() };
        let (source, rest) = text.split_once(':').ok_or_else(syntax)?;
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        if source.is_empty() || key.is_empty() {
            return Err(syntax());
        }
        let label = Self::new(LabelSource::from_name(source), key, value);
        if label.source == LabelSource::Cidr && label.prefix().is_none() {
            return Err(LabelError::Prefix { text: text.into() });
        }
        Ok(label)
    }

    /// Where it comes from.
    pub fn source(&self) -> &LabelSource {
        &self.source
    }

    /// The key, without the source.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value; empty when there is none.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The key, shared.
    pub fn shared_key(&self) -> &Arc<str> {
        &self.key
    }

    /// The value, shared.
    pub fn shared_value(&self) -> &Arc<str> {
        &self.value
    }

    /// The prefix of a `cidr:` label.
    pub fn prefix(&self) -> Option<IpNet> {
        if self.source != LabelSource::Cidr {
            return None;
        }
        parse_cidr_key(&self.key)
    }

    /// This is the built-in label `reserved:NAME`.
    pub fn is_reserved(&self, name: &str) -> bool {
        self.source == LabelSource::Reserved && &*self.key == name
    }
}

/// The key of a prefix: `:` is no character of a label key, and it neither starts nor ends with `-`.
fn cidr_key(prefix: IpNet) -> String {
    let prefix = prefix.trunc();
    let IpAddr::V6(address) = prefix.addr() else {
        return prefix.to_string();
    };
    let mut text = address.to_string().replace(':', "-");
    if text.starts_with('-') {
        text.insert(0, '0');
    }
    if text.ends_with('-') {
        text.push('0');
    }
    format!("{text}/{}", prefix.prefix_len())
}

pub(crate) fn parse_cidr_key(key: &str) -> Option<IpNet> {
    let text = key.replace('-', ":");
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .map(|prefix| prefix.trunc())
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.name(), self.key)?;
        if self.value.is_empty() {
            return Ok(());
        }
        write!(f, "={}", self.value)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_and_write_as_in_a_cilium_identity() {
        let cases = [
            ("k8s:app=web", LabelSource::K8s, "app", "web"),
            ("reserved:host", LabelSource::Reserved, "host", ""),
            ("k8s:a.b/c=d=e", LabelSource::K8s, "a.b/c", "d=e"),
            ("fqdn:*.example.com", LabelSource::Fqdn, "*.example.com", ""),
            ("cidr:10.0.0.0/8", LabelSource::Cidr, "10.0.0.0/8", ""),
            (
                "cidr:2001-db8--0/32",
                LabelSource::Cidr,
                "2001-db8--0/32",
                "",
            ),
            ("mine:x=y", LabelSource::Other("mine".into()), "x", "y"),
        ];
        for (text, source, key, value) in cases {
            let label = Label::parse(text).unwrap();
            assert_eq!(
                (label.source(), label.key(), label.value()),
                (&source, key, value)
            );
            assert_eq!(label.to_string(), text);
        }
        for text in ["app=web", ":app", "k8s:", "k8s:=x", "cidr:web"] {
            assert!(Label::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_become_keys_and_come_back() {
        let cases = [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001-db8--0/32"),
            ("::/0", "0--0/0"),
            ("::1/128", "0--1/128"),
            ("fe80::1/10", "fe80--0/10"),
        ];
        for (net, key) in cases {
            let net: IpNet = net.parse().unwrap();
            let label = Label::cidr(net);
            assert_eq!(label.key(), key);
            assert_eq!(label.prefix(), Some(net.trunc()));
            assert_eq!(Label::parse(&label.to_string()).unwrap(), label);
        }
    }
}
