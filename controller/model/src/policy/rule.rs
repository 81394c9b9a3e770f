//! The normalised rule: what CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy and
//! ClusterNetworkPolicy are lowered to.
//!
//! # How to lower
//!
//! A policy object becomes a [`Policy`] with one [`Rule`] for each item of its `ingress`, `egress`,
//! `ingressDeny` and `egressDeny` (of `spec` and each of `specs`).
//!
//! | object | becomes |
//! | --- | --- |
//! | CNP/CCNP item | `tier: Normal`, `priority: 0`, `default_deny` = `enableDefaultDeny.DIRECTION`, which is true when absent (and always true where the agent is told to ignore that field) |
//! | NetworkPolicy item | as CNP, `default_deny: true`; `from`/`to` absent or `[]`: [`Peers::Anyone`]; a direction of `policyTypes` without any item: one rule with [`Peers::Nobody`] |
//! | ClusterNetworkPolicy item i | its tier, `priority: (priority, i)`, `default_deny: false`; Accept is [`Action::Allow`] |
//! | no item in a direction | no rule |
//!
//! Peers: see [`Peers`]. Ports: see [`PortRules`]. An item with `icmps` has a [`PortRule`] of
//! [`PortMatch::icmp`] for these; `icmps` and `toPorts` never come together.
//! Selectors come from a [`Scope`](super::selector::Scope), which puts in namespace and cluster.

use std::fmt;
use std::sync::Arc;

use oxilium_abi::Direction;

use super::l7::{AuthMode, L7};
use super::peer::Peers;
use super::selector::{EndpointSelector, NodeSelector};
use crate::identity::Protocol;

/// A policy object, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which object.
    pub reference: Arc<PolicyRef>,
    /// `policy.oxilium.io/enforcement: audit`: computed beside the others, changes no verdict.
    pub audit: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Kind of a policy object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// Names a policy object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; `None` when it is cluster-scoped.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Its UID; empty when it comes from a file.
    pub uid: Arc<str>,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match &self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

/// One rule of a policy object: one direction, one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it comes from.
    pub origin: Arc<RuleRef>,
    /// Whom it applies to.
    pub subject: Subject,
    /// The direction of the flows, seen from the subject.
    pub direction: Direction,
    /// What becomes of a flow that matches.
    pub action: Action,
    /// Before all lower tiers, after all higher ones.
    pub tier: Tier,
    /// Within the tier.
    pub priority: RulePriority,
    /// Once it selects a subject, flows in this direction that nothing allows are dropped.
    pub default_deny: bool,
    /// The other side.
    pub peers: Peers,
    /// Protocols and ports.
    pub ports: PortRules,
    /// `authentication.mode`; `None` when absent. Allow rules only.
    pub auth: Option<AuthMode>,
}

/// Names a rule in its object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// The object.
    pub policy: Arc<PolicyRef>,
    /// The field path: `spec.ingressDeny[0]`.
    pub path: Arc<str>,
    /// The direction.
    pub direction: Direction,
    /// Where in a file, for objects from the manifest directory.
    pub location: Option<Location>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy, self.path)?;
        match &self.location {
            Some(at) => write!(f, " ({}:{})", at.file, at.line),
            None => Ok(()),
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

/// Whom a rule applies to: pods or nodes, never both (a selector of one cannot reach the other).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `endpointSelector`, `podSelector`, subjects of a ClusterNetworkPolicy.
    Endpoints(EndpointSelector),
    /// `nodeSelector`: a host policy.
    Nodes(NodeSelector),
}

/// What becomes of a flow that matches a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Allowed; to a proxy if [`PortRule::l7`] says so.
    Allow,
    /// Dropped.
    Deny,
    /// Left to the next tier.
    Pass,
}

/// Groups of rules, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// ClusterNetworkPolicy, tier Admin.
    Admin,
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy.
    Normal,
    /// ClusterNetworkPolicy, tier Baseline.
    Baseline,
}

/// Order within a tier, lower first; equal priorities are one level, on which deny beats allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulePriority {
    /// `spec.priority` of a ClusterNetworkPolicy; 0 otherwise.
    pub policy: u32,
    /// Index of the rule in a ClusterNetworkPolicy's list; 0 otherwise.
    pub rule: u32,
}

/// Protocols and ports of a rule. Absent (or `[]`) and a list are different.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRules {
    /// Every protocol and port: `toPorts` and `icmps` absent or `[]`.
    All,
    /// These. A list whose items name no port (`toPorts: [{}]`, `fields: []`) is a list without a port: nothing.
    AnyOf(Vec<PortRule>),
}

/// An item of `toPorts` or `icmps`: ports and what a proxy has to do with flows to them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRule {
    /// Any of these; none selects nothing.
    pub ports: Vec<PortMatch>,
    /// For the proxy; [`L7::default`] for none.
    pub l7: L7,
}

/// A protocol with its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol; [`Protocol::ANY`] stands for TCP, UDP and SCTP, one by one.
    pub protocol: Protocol,
    /// The ports.
    pub port: PortSpec,
}

impl PortMatch {
    /// One ICMP or ICMPv6 type.
    pub const fn icmp(protocol: Protocol, icmp_type: u8) -> Self {
        let number = icmp_type as u16;
        Self {
            protocol,
            port: PortSpec::Range {
                first: number,
                last: number,
            },
        }
    }
}

/// Destination ports; for ICMP the type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// Every port: `port: "0"`, or a protocol without a port.
    Any,
    /// From `first` to `last`, both included, `first` ≤ `last`. One port: both equal.
    Range {
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// By name, in lower case; resolved on the receiving side.
    Named(Arc<str>),
}
