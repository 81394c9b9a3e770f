//! Numbers that were given out, and to whom.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{AttachmentId, Table};
use crate::identity::{IdentityLabels, NumericIdentity};

/// Seconds since 1970. Only the ends of quarantines depend on it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A number that is resting between two owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// When its owner was last there. Another one may have it [`super::NodeConfig::quarantine`] seconds later.
    pub since: Timestamp,
}

/// An identity number and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityClaim {
    /// Its labels: the owner.
    pub labels: IdentityLabels,
    /// For identities of prefixes: a prefix that has it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    /// Set while nobody uses the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

/// An endpoint id and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointClaim {
    /// The owner.
    pub owner: AttachmentId,
    /// The identity that it had last: what it keeps while its Pod object is not to be found.
    pub identity: NumericIdentity,
    /// Set once the attachment is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

/// All numbers given out so far. Kept on disk *before* a plan uses them, read back at start.
///
/// Table ids and epochs are claims as well; these the kernel's pinned maps hold
/// ([`crate::observed::Observed`]), and the planner takes them from there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Cluster identities (256…65535) and those of prefixes (from 2²⁴).
    pub identities: Table<NumericIdentity, IdentityClaim>,
    /// Endpoint ids, 1…65535.
    pub endpoints: Table<u16, EndpointClaim>,
}

/// A claim that cannot be honoured; it is dropped and the owner gets another number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClaimsError {
    /// Not a number that this node or the cluster gives out.
    #[error(
        "identity {0} is claimed but is no number that is given out (256…65535 of a cluster, 16777216…33554431 of this node); the claim is dropped"
    )]
    IdentityRange(u32),
    /// Two numbers for the same labels.
    #[error("identities {kept} and {dropped} are claimed by the same labels; {dropped} is dropped")]
    IdentityTwice {
        /// The lower one.
        kept: u32,
        /// The other one.
        dropped: u32,
    },
    /// Endpoint id 0.
    #[error("endpoint id 0 is claimed by {0}; the claim is dropped")]
    EndpointRange(AttachmentId),
    /// Two ids for the same attachment.
    #[error("endpoint ids {kept} and {dropped} are claimed by {owner}; {dropped} is dropped")]
    EndpointTwice {
        /// Whose.
        owner: AttachmentId,
        /// The lower one.
        kept: u16,
        /// The other one.
        dropped: u16,
    },
}

/// Claims without contradictions, and what was wrong with the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidClaims {
    /// In range and unique.
    pub claims: Claims,
    /// One for each claim that was dropped.
    pub errors: Vec<ClaimsError>,
}

impl Claims {
    /// The same tables: nothing that is in them can differ.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identities.is_same(&other.identities) && self.endpoints.is_same(&other.endpoints)
    }

    /// Keeps what is in range and unique: numbers read back are claims, not facts.
    #[must_use]
    pub fn validated(&self) -> ValidClaims {
        let mut claims = self.clone();
        let mut errors = Vec::new();
        let mut owners: HashMap<&IdentityLabels, NumericIdentity> = HashMap::new();
        for (id, claim) in &self.identities {
            // One owner may have two numbers while the older one rests.
            let error = if !is_given_out(*id) {
                Some(ClaimsError::IdentityRange(id.0))
            } else if claim.quarantine.is_some() {
                None
            } else {
                let kept = *owners.entry(&claim.labels).or_insert(*id);
                (kept != *id).then_some(ClaimsError::IdentityTwice {
                    kept: kept.0,
                    dropped: id.0,
                })
            };
            if let Some(error) = error {
                errors.push(error);
                claims.identities.remove(id);
            }
        }
        let mut seen: HashMap<&AttachmentId, u16> = HashMap::new();
        for (id, claim) in &self.endpoints {
            let error = if *id == 0 {
                Some(ClaimsError::EndpointRange(claim.owner.clone()))
            } else if claim.quarantine.is_some() {
                None
            } else {
                let kept = *seen.entry(&claim.owner).or_insert(*id);
                (kept != *id).then_some(ClaimsError::EndpointTwice {
                    owner: claim.owner.clone(),
                    kept,
                    dropped: *id,
                })
            };
            if let Some(error) = error {
                errors.push(error);
                claims.endpoints.remove(id);
            }
        }
        ValidClaims { claims, errors }
    }

    /// The ids of all endpoints that are or were lately in use.
    pub fn endpoint_ids(&self) -> BTreeSet<u16> {
        self.endpoints.keys().copied().collect()
    }
}

/// A number of pods' labels (256…65535 in the low 16 bits, the cluster's id above) or of a prefix.
fn is_given_out(id: NumericIdentity) -> bool {
    let of_cluster = id.cluster_id().is_some() && id.0 & 0xFFFF >= NumericIdentity::FIRST_CLUSTER;
    of_cluster || id.is_cidr()
}
