//! Conditions: what could not be done as asked, and why.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use oxilium_abi::Direction;

use crate::identity::NumericIdentity;
use crate::policy::rule::PolicyRef;
use crate::world::{AttachmentId, PodRef, ServiceRef};

/// Something about an object that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// The object.
    pub object: Object,
    /// What of it.
    pub reason: Reason,
}

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A policy object.
    Policy(Arc<PolicyRef>),
    /// A pod.
    Pod(PodRef),
    /// An attachment.
    Attachment(AttachmentId),
    /// A prefix in the ipcache.
    Prefix(IpNet),
    /// A service.
    Service(ServiceRef),
    /// A claim read back.
    Claims,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Part of the policy has no enforcing component: what it concerns is dropped (or, for a host policy, left alone).
    NotEnforced {
        /// Which part, with its field.
        part: Arc<str>,
    },
    /// The table needs more entries than there is room for; a smaller table that allows less is in force.
    WouldOverflow {
        /// Whose table.
        pod: PodRef,
        /// Which half of it.
        direction: Direction,
        /// Entries needed.
        needed: usize,
        /// Entries that there is room for.
        available: usize,
    },
    /// The endpoint's policy could not be resolved: nothing is allowed to or from it.
    Unresolvable {
        /// Why.
        error: Arc<str>,
    },
    /// The Pod object is not there, or is another life of that name.
    PodUnknown,
    /// The cluster has not agreed on a number for the pod's labels yet.
    IdentityPending {
        /// The number that was asked for; none when none is free.
        asked: Option<NumericIdentity>,
    },
    /// The attachment is of another boot and is ignored.
    OtherBoot,
    /// Two owners for one address: who has it, and who does not.
    AddressConflict {
        /// Which address.
        address: IpAddr,
        /// The one that is served.
        kept: Arc<str>,
        /// The one that is not.
        refused: Arc<str>,
    },
    /// More addresses than an interface can have here; these are not served.
    TooManyAddresses {
        /// Left out: packets from them are dropped.
        refused: Vec<IpAddr>,
    },
    /// The tables of services have no room for it: its addresses are not translated, and left to kube-proxy
    /// behind egress policy.
    ServicesExhausted,
    /// No number is left.
    NumbersExhausted {
        /// Of what kind.
        kind: NumberKind,
    },
    /// A claim read back contradicts another or is out of range, and was dropped.
    ClaimDropped {
        /// Which and why.
        error: Arc<str>,
    },
}

/// A kind of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NumberKind {
    /// Identities of pods' labels.
    ClusterIdentity,
    /// Identities of prefixes.
    CidrIdentity,
    /// Endpoint ids.
    Endpoint,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Pod(pod) => write!(f, "Pod {pod}"),
            Self::Attachment(id) => write!(f, "attachment {id}"),
            Self::Prefix(prefix) => write!(f, "prefix {prefix}"),
            Self::Service(service) => write!(f, "Service {service}"),
            Self::Claims => f.write_str("claims"),
        }
    }
}

impl Reason {
    /// The condition's type, one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotEnforced { .. } => "NotEnforced",
            Self::WouldOverflow { .. } => "WouldOverflow",
            Self::Unresolvable { .. } => "Unresolvable",
            Self::PodUnknown => "PodUnknown",
            Self::IdentityPending { .. } => "IdentityPending",
            Self::OtherBoot => "OtherBoot",
            Self::AddressConflict { .. } => "AddressConflict",
            Self::TooManyAddresses { .. } => "TooManyAddresses",
            Self::ServicesExhausted => "ServicesExhausted",
            Self::NumbersExhausted { .. } => "NumbersExhausted",
            Self::ClaimDropped { .. } => "ClaimDropped",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnforced { part } => f.write_str(part),
            Self::WouldOverflow {
                pod,
                direction,
                needed,
                available,
            } => {
                let direction = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                write!(
                    f,
                    "the {direction} table of {pod} needs {needed} entries and {available} are available; a table that allows less is in force"
                )
            }
            Self::Unresolvable { error } => write!(f, "nothing is allowed: {error}"),
            Self::PodUnknown => f.write_str("no Pod object of this name and UID"),
            Self::IdentityPending {
                asked: Some(number),
            } => write!(
                f,
                "waiting for the cluster to agree on identity {number} for its labels"
            ),
            Self::IdentityPending { asked: None } => {
                f.write_str("no identity is free for its labels")
            }
            Self::OtherBoot => f.write_str("it was made before the node's last boot; ignored"),
            Self::AddressConflict {
                address,
                kept,
                refused,
            } => write!(f, "{address} belongs to {kept}, not to {refused}"),
            Self::TooManyAddresses { refused } => {
                f.write_str("more than two addresses of one family; not served:")?;
                refused
                    .iter()
                    .try_for_each(|address| write!(f, " {address}"))
            }
            Self::ServicesExhausted => f.write_str(
                "no room in the service tables: its addresses are not translated; raise bpf-lb-map-max",
            ),
            Self::NumbersExhausted { kind } => {
                let kind = match kind {
                    NumberKind::ClusterIdentity => "identity",
                    NumberKind::CidrIdentity => "prefix identity",
                    NumberKind::Endpoint => "endpoint id",
                };
                write!(f, "no {kind} is free")
            }
            Self::ClaimDropped { error } => f.write_str(error),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.object,
            self.reason.kind(),
            self.reason
        )
    }
}
