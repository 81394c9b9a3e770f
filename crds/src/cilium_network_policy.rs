//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, as Cilium 1.20 defines them.
//!
//! `None` is an absent field, `Some(vec![])` an empty list: the former says nothing, the latter selects nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{Condition, LabelSelector, null_is_default};
use crate::schema::{form, rules};

mod ports;

pub use clusterwide::CiliumClusterwideNetworkPolicy;
pub use namespaced::CiliumNetworkPolicy;
pub use ports::*;

mod namespaced {
    use super::{PolicyStatus, Rule};

    crate::object! {
        /// `cilium.io/v2` CiliumNetworkPolicy: for pods of its namespace.
        #[derive(schemars::JsonSchema)]
        #[schemars(transform = crate::schema::rules::namespaced)]
        CiliumNetworkPolicy, "cilium.io/v2", true {
            /// Its rule.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            spec: Option<Rule>,
            /// More rules.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            specs: Option<Vec<Rule>>,
            /// What agents say of it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            status: Option<PolicyStatus>,
        }
    }
}

mod clusterwide {
    use super::{PolicyStatus, Rule};

    crate::object! {
        /// `cilium.io/v2` CiliumClusterwideNetworkPolicy: for pods of all namespaces, or for nodes.
        #[derive(schemars::JsonSchema)]
        #[schemars(transform = crate::schema::rules::clusterwide)]
        CiliumClusterwideNetworkPolicy, "cilium.io/v2", false {
            /// Its rule.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            spec: Option<Rule>,
            /// More rules.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            specs: Option<Vec<Rule>>,
            /// What agents say of it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            status: Option<PolicyStatus>,
        }
    }
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// Whether it is valid, among others.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    #[schemars(transform = rules::conditions)]
    pub conditions: Vec<Condition>,
    /// What Cilium's operator says of the policies that it derives for groups of a cloud provider.
    #[serde(rename = "derivativePolicies", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Anything>")]
    pub derivative_policies: Option<serde_json::Value>,
}

/// One rule: whom it is for, and what is allowed or denied to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::rule)]
pub struct Rule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The pods that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_selector: Option<LabelSelector>,
    /// The nodes that it is for, in cluster-wide policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Allowed towards them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// Denied towards them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_deny: Option<Vec<IngressDenyRule>>,
    /// Allowed from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
    /// Denied from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_deny: Option<Vec<EgressDenyRule>>,
    /// Whether what nothing allows is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_default_deny: Option<DefaultDeny>,
    /// To find the rule by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<RuleLabel>>,
    /// For flow logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
}

/// Whether what nothing allows is dropped; absent: where there are rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultDeny {
    /// Towards them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    /// From them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
}

/// A label of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleLabel {
    /// The key.
    #[schemars(with = "form::NotEmpty")]
    pub key: String,
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// For flow logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Log {
    /// Shown with each flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::LogValue>")]
    pub value: Option<String>,
}

/// An item of `ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::ingress_proxy)]
pub struct IngressRule {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Entity>>")]
    pub from_entities: Option<Vec<String>>,
    /// Prefixes.
    #[serde(rename = "fromCIDR", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Prefix>>")]
    pub from_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions, or groups of prefixes.
    #[serde(
        rename = "fromCIDRSet",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Prefixes of a cloud provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,
    /// Removed: only an empty list is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_requires: Option<Vec<String>>,
    /// Ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
    /// Authentication that the flow needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// An item of `ingressDeny`.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::ingress)]
pub struct IngressDenyRule {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Entity>>")]
    pub from_entities: Option<Vec<String>>,
    /// Prefixes.
    #[serde(rename = "fromCIDR", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Prefix>>")]
    pub from_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions, or groups of prefixes.
    #[serde(
        rename = "fromCIDRSet",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Prefixes of a cloud provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,
    /// Removed: only an empty list is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_requires: Option<Vec<String>>,
    /// Ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}

/// An item of `egress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::egress)]
pub struct EgressRule {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Entity>>")]
    pub to_entities: Option<Vec<String>>,
    /// Prefixes.
    #[serde(rename = "toCIDR", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Prefix>>")]
    pub to_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions, or groups of prefixes.
    #[serde(rename = "toCIDRSet", default, skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<ServiceSelector>>,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Prefixes of a cloud provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,
    /// Removed: only an empty list is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_requires: Option<Vec<String>>,
    /// DNS names.
    #[serde(rename = "toFQDNs", default, skip_serializing_if = "Option::is_none")]
    pub to_fqdns: Option<Vec<Fqdn>>,
    /// Ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
    /// Authentication that the flow needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// An item of `egressDeny`.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::egress_deny)]
pub struct EgressDenyRule {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Entity>>")]
    pub to_entities: Option<Vec<String>>,
    /// Prefixes.
    #[serde(rename = "toCIDR", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Prefix>>")]
    pub to_cidr: Option<Vec<String>>,
    /// Prefixes with exceptions, or groups of prefixes.
    #[serde(rename = "toCIDRSet", default, skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<ServiceSelector>>,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Prefixes of a cloud provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,
    /// Removed: only an empty list is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_requires: Option<Vec<String>>,
    /// Ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}

/// One of a prefix, the name of a group or the labels of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::cidr_rule)]
pub struct CidrRule {
    /// A prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::Prefix>")]
    pub cidr: Option<String>,
    /// The name of a CiliumCIDRGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::ObjectName>")]
    pub cidr_group_ref: Option<String>,
    /// Labels of CiliumCIDRGroups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr_group_selector: Option<LabelSelector>,
    /// What is taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<form::Prefix>>")]
    pub except: Option<Vec<String>>,
}

/// Prefixes that an operator looks up.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    /// At AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsGroup>,
}

/// Interfaces at AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsGroup {
    /// By labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// By ids of security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups_ids: Option<Vec<String>>,
    /// By names of security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups_names: Option<Vec<String>>,
    /// Not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A service: by name or by labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSelector {
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_service: Option<ServiceName>,
    /// By labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_service_selector: Option<ServiceLabels>,
}

/// A service by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceName {
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The namespace; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Services by labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceLabels {
    /// The labels.
    pub selector: LabelSelector,
    /// The namespace; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A DNS name or a pattern of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::fqdn)]
pub struct Fqdn {
    /// A name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::DnsName>")]
    pub match_name: Option<String>,
    /// A pattern, with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<form::DnsPattern>")]
    pub match_pattern: Option<String>,
}
