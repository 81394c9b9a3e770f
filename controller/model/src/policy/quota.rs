//! Tables that do not fit: a smaller one, computed from the same input, that allows a subset.
//!
//! What denies, passes on, or restricts (proxies, authentication) stays, and so do the allows of the node and
//! of the API server; then come the allows of whole policies, in order of their names, as far as they fit. If not even
//! the first part fits, nothing is allowed. Leaving allows out can only shrink what is allowed: every
//! packet that one of them decided falls to what is asked later, and that was part of the same rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use oxilium_abi::Direction;

use super::config::PolicyConfig;
use super::enforce::{self, Enforcement, SubjectView};
use super::peer::{Entity, Peer, Peers};
use super::resolve::{DirectionPolicy, ResolveError, SubjectPolicy, resolve_direction};
use super::rule::{Action, Policy, PolicyRef, Rule};
use super::table::DirectionTable;
use crate::identity::Identities;

/// A direction needs more entries than there is room for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WouldOverflow {
    /// Which.
    pub direction: Direction,
    /// Entries of the whole table.
    pub needed: usize,
    /// Entries that there is room for.
    pub available: usize,
    /// The policies whose allows are not in force; all of them when nothing is allowed.
    pub left_out: Vec<Arc<PolicyRef>>,
}

/// A subject's policy within a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The policy; its directions have at most as many entries as there is room for.
    pub policy: SubjectPolicy,
    /// What did not fit.
    pub overflow: Vec<WouldOverflow>,
}

/// Computes a subject's policy with at most `available` entries in each direction.
///
/// The same input and room give the same table.
pub fn resolve_within(
    policies: &[Policy],
    identities: &Identities,
    subject: &SubjectView,
    config: &PolicyConfig,
    available: usize,
) -> Fitted {
    let mut overflow = Vec::new();
    let mut direction = |direction| {
        let fitting = Fitting {
            identities,
            subject,
            config,
            direction,
            available,
        };
        let enforcement = Enforcement::new(policies, subject, config, direction);
        let (policy, too_large) = fitting.fit(&enforcement)?;
        overflow.extend(too_large);
        Ok(policy)
    };
    let (ingress, egress) = (direction(Direction::Ingress), direction(Direction::Egress));
    let policy = SubjectPolicy::of(ingress, egress);
    // Nothing is allowed then, and that fits.
    if policy.error.is_some() {
        overflow.clear();
    }
    Fitted { policy, overflow }
}

struct Fitting<'a> {
    identities: &'a Identities,
    subject: &'a SubjectView,
    config: &'a PolicyConfig,
    direction: Direction,
    available: usize,
}

type Fit = Result<(DirectionPolicy, Option<WouldOverflow>), ResolveError>;

impl Fitting<'_> {
    fn resolve(&self, enforcement: &Enforcement<'_>) -> Result<DirectionPolicy, ResolveError> {
        resolve_direction(
            enforcement,
            self.identities,
            self.subject,
            self.config,
            self.direction,
        )
    }

    fn fits(&self, policy: &DirectionPolicy) -> bool {
        policy.table.entries().len() <= self.available
    }

    fn fit(&self, enforcement: &Enforcement<'_>) -> Fit {
        let whole = self.resolve(enforcement)?;
        if self.fits(&whole) {
            return Ok((whole, None));
        }
        let needed = whole.table.entries().len();
        let optional = optional(&enforcement.rules);
        let overflow = |left_out: &[Arc<PolicyRef>]| {
            Some(WouldOverflow {
                direction: self.direction,
                needed,
                available: self.available,
                left_out: left_out.to_vec(),
            })
        };
        let with = |count: usize| self.resolve(&reduced(enforcement, &optional[..count]).borrow());
        let least = with(0)?;
        if !self.fits(&least) {
            let nothing = DirectionPolicy {
                table: DirectionTable::new(true, []),
                l7: Vec::new(),
            };
            return Ok((nothing, overflow(&all_policies(&enforcement.rules))));
        }
        // The last count that fits, between one that does and one that does not.
        let (mut fitting, mut too_many, mut best) = (0, optional.len(), least);
        while too_many - fitting > 1 {
            let middle = usize::midpoint(fitting, too_many);
            let policy = with(middle)?;
            if self.fits(&policy) {
                (fitting, best) = (middle, policy);
            } else {
                too_many = middle;
            }
        }
        Ok((best, overflow(&optional[fitting..])))
    }
}

/// The policies with allows that can be left out, by name.
fn optional(rules: &[&Rule]) -> Vec<Arc<PolicyRef>> {
    let mut policies: Vec<Arc<PolicyRef>> = rules
        .iter()
        .filter(|rule| !is_essential(rule))
        .map(|rule| rule.origin.policy.clone())
        .collect();
    policies.sort_unstable_by(|a, b| (&a.name, a).cmp(&(&b.name, b)));
    policies.dedup();
    policies
}

fn all_policies(rules: &[&Rule]) -> Vec<Arc<PolicyRef>> {
    let all: BTreeSet<Arc<PolicyRef>> = rules.iter().map(|r| r.origin.policy.clone()).collect();
    all.into_iter().collect()
}

/// It denies, passes on or restricts.
fn is_essential(rule: &Rule) -> bool {
    rule.action != Action::Allow || rule.auth.is_some() || !rule.parsers().is_empty()
}

/// The rules of a smaller table; some are narrower than the object's own.
struct Reduced<'a> {
    enforcement: Enforcement<'a>,
    narrowed: Vec<Rule>,
}

impl Reduced<'_> {
    fn borrow(&self) -> Enforcement<'_> {
        let mut enforcement = self.enforcement.clone();
        enforcement.rules.extend(&self.narrowed);
        enforce::sort(&mut enforcement.rules);
        enforcement
    }
}

/// What is essential, the allows of node and API server, and the allows of `kept`. Whether default deny
/// holds stays as all rules together say.
fn reduced<'a>(enforcement: &Enforcement<'a>, kept: &[Arc<PolicyRef>]) -> Reduced<'a> {
    let kept: BTreeSet<&Arc<PolicyRef>> = kept.iter().collect();
    let (whole, others): (Vec<&Rule>, Vec<&Rule>) = enforcement
        .rules
        .iter()
        .partition(|rule| is_essential(rule) || kept.contains(&rule.origin.policy));
    let narrowed = others.into_iter().filter_map(|rule| {
        let peers = node_and_api_server(&rule.peers);
        (!peers.is_empty()).then(|| Rule {
            peers: Peers::AnyOf(peers),
            ..rule.clone()
        })
    });
    Reduced {
        narrowed: narrowed.collect(),
        enforcement: Enforcement {
            rules: whole,
            ..enforcement.clone()
        },
    }
}

/// Of a rule's peers, the node and the API server.
fn node_and_api_server(peers: &Peers) -> Vec<Peer> {
    let host = Peer::Entity(Entity::Host);
    let api_server = Peer::Entity(Entity::KubeApiserver);
    let list: &[Peer] = match peers {
        Peers::Nobody => return Vec::new(),
        Peers::Anyone => return vec![host, api_server],
        Peers::AnyOf(list) => list,
    };
    let holds_both = |peer: &Peer| {
        matches!(
            peer,
            Peer::Entity(Entity::All | Entity::Cluster | Entity::ClusterMesh)
        )
    };
    if list.iter().any(holds_both) {
        return vec![host, api_server];
    }
    [host, api_server]
        .into_iter()
        .filter(|peer| list.contains(peer))
        .collect()
}
