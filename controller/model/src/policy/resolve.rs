//! From rules and identities to a subject's policy table: the specification, without caches.
//!
//! A flow is judged tier by tier and level by level: on the first level where a rule matches it, deny beats
//! allow, and allow beats pass; a pass leaves it to the next tier. The built-in tier comes last. A table
//! says the same with precedences, and every other implementation must give the same tables.

use oxilium_abi::Direction;
use thiserror::Error;

use super::auth;
use super::compose::{TierTable, compose};
use super::config::PolicyConfig;
use super::enforce::{Enforcement, SubjectView};
use super::filter::{self, Claim, Conflict, MergedL7, Placed, Ports, Statement, Statements};
use super::l7::Redirect;
use super::level::{Levels, TooManyLevels};
use super::peer::Peer;
use super::port::PortPrefix;
use super::prune::prune;
use super::rule::{Policy, PortSpec, Tier};
use super::select;
use super::table::{DirectionTable, Entry, EntryKey, EntryMap, Origin, Origins, PolicyTable};
use crate::identity::{Identities, NumericIdentity, Protocol};

/// Why a subject's rules cannot be enforced together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// Two rules contradict each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Too many priorities.
    #[error(transparent)]
    Levels(#[from] TooManyLevels),
}

/// A subject's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPolicy {
    /// The table. With an error, both directions are enforced and allow nothing.
    pub table: PolicyTable,
    /// What proxies have to do, by direction, port and peer.
    pub l7: Vec<L7Filter>,
    /// Why the rules cannot be enforced together.
    pub error: Option<ResolveError>,
}

impl SubjectPolicy {
    /// From both directions; an error in one fails both, closed.
    pub(crate) fn of(
        ingress: Result<DirectionPolicy, ResolveError>,
        egress: Result<DirectionPolicy, ResolveError>,
    ) -> Self {
        let nothing = || DirectionTable::new(true, []);
        match ingress.and_then(|ingress| Ok((ingress, egress?))) {
            Ok((ingress, egress)) => Self {
                table: PolicyTable {
                    ingress: ingress.table,
                    egress: egress.table,
                },
                l7: ingress.l7.into_iter().chain(egress.l7).collect(),
                error: None,
            },
            Err(error) => Self {
                table: PolicyTable {
                    ingress: nothing(),
                    egress: nothing(),
                },
                l7: Vec::new(),
                error: Some(error),
            },
        }
    }
}

/// One direction of a subject's policy.
#[derive(Clone, Debug)]
pub(crate) struct DirectionPolicy {
    pub(crate) table: DirectionTable,
    pub(crate) l7: Vec<L7Filter>,
}

/// What a proxy has to do for one direction, port and peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L7Filter {
    /// The direction.
    pub direction: Direction,
    /// The ports.
    pub ports: Ports,
    /// The peer; anyone where there is none.
    pub peer: Option<Peer>,
    /// The proxy.
    pub redirect: Redirect,
    /// The rule set.
    pub l7: MergedL7,
}

/// Computes a subject's policy. Staged policies ([`Policy::audit`]) are left out; what one of them would do
/// is what this function says with its `audit` off.
pub fn resolve(
    policies: &[Policy],
    identities: &Identities,
    subject: &SubjectView,
    config: &PolicyConfig,
) -> SubjectPolicy {
    let direction = |direction| {
        let enforcement = Enforcement::new(policies, subject, config, direction);
        resolve_direction(&enforcement, identities, subject, config, direction)
    };
    SubjectPolicy::of(direction(Direction::Ingress), direction(Direction::Egress))
}

pub(crate) fn resolve_direction(
    enforcement: &Enforcement<'_>,
    identities: &Identities,
    subject: &SubjectView,
    config: &PolicyConfig,
    direction: Direction,
) -> Result<DirectionPolicy, ResolveError> {
    let levels = Levels::new(
        enforcement.rules.iter().copied(),
        enforcement.built_in.len(),
    )?;
    let statements = statements(enforcement, &levels)?;
    let expand = |claim: &Claim<Peer>| keys(claim, direction, identities, subject, config);
    let entries = tabulate(enforcement, &levels, &statements, config.cluster_id, expand);
    Ok(DirectionPolicy {
        table: finish(entries, enforcement, config.cluster_id),
        l7: l7_filters(&statements, direction),
    })
}

/// What the rules say of each selector and port.
pub(crate) fn statements(
    enforcement: &Enforcement<'_>,
    levels: &Levels,
) -> Result<Statements<Peer>, Conflict> {
    let mut statements = Statements::new();
    for rule in &enforcement.rules {
        let peers: Vec<Option<Peer>> = filter::peers(&rule.peers)
            .map(Option::<&_>::cloned)
            .collect();
        let placed = Placed {
            rule,
            level: levels.of(rule),
            peers: &peers,
        };
        let default_deny = enforcement.default_deny;
        filter::add_rule(
            &mut statements,
            &placed,
            default_deny,
            filter::selects_nobody,
        )?;
    }
    Ok(statements)
}

/// All entries of a direction, as yet with idle ones; `expand` tells the keys of a claim.
pub(crate) fn tabulate(
    enforcement: &Enforcement<'_>,
    levels: &Levels,
    statements: &Statements<Peer>,
    local_cluster: u8,
    expand: impl Fn(&Claim<Peer>) -> Vec<EntryKey>,
) -> EntryMap<Entry> {
    let mut tiers: Vec<(Tier, TierTable)> = levels
        .tiers
        .iter()
        .map(|(tier, _)| (*tier, TierTable::default()))
        .collect();
    for (claim, statement) in statements {
        let place = levels
            .tiers
            .iter()
            .position(|(tier, _)| *tier == claim.tier);
        let Some(index) = place else { continue };
        let offsets = &levels.tiers[index].1.offsets;
        let Some(offset) = offsets.get(statement.level as usize) else {
            continue;
        };
        let origins = origins(statement);
        for key in expand(claim) {
            tiers[index].1.add(key, statement, *offset, &origins);
        }
    }
    let mut built_in = TierTable::default();
    for (rule, offset) in enforcement.built_in.iter().zip(&levels.built_in.offsets) {
        let key = EntryKey {
            identity: rule.peer,
            ..EntryKey::ALL
        };
        built_in.add_built_in(key, rule.deny, *offset, rule.name);
    }
    let tiers = tiers
        .into_iter()
        .zip(&levels.tiers)
        .map(|((_, table), (_, levels))| (table, levels))
        .chain(std::iter::once((built_in, &levels.built_in)))
        .collect();
    compose(tiers, local_cluster)
}

pub(crate) fn origins(statement: &Statement) -> Origins {
    let mut origins: Vec<Origin> = statement
        .origins
        .iter()
        .cloned()
        .map(Origin::Rule)
        .collect();
    origins.sort_unstable();
    origins.dedup();
    origins.into()
}

/// Makes authentication final, leaves idle entries out, and sorts.
fn finish(
    entries: EntryMap<Entry>,
    enforcement: &Enforcement<'_>,
    local_cluster: u8,
) -> DirectionTable {
    let has_auth = enforcement.has_auth();
    let mut sorted = prune(
        &auth::settle(entries, local_cluster),
        has_auth,
        local_cluster,
    );
    sorted.sort_unstable_by_key(|(key, _)| *key);
    DirectionTable::from_sorted(enforcement.enforced, sorted)
}

/// The keys of a claim: its ports, for each identity that its peer selects.
fn keys(
    claim: &Claim<Peer>,
    direction: Direction,
    identities: &Identities,
    subject: &SubjectView,
    config: &PolicyConfig,
) -> Vec<EntryKey> {
    let protocol = claim.ports.protocol;
    let selected = || match &claim.peer {
        None => vec![NumericIdentity::ANY],
        Some(peer) => select::selection(peer, identities, config),
    };
    let product = |ports: Vec<PortPrefix>| -> Vec<EntryKey> {
        selected()
            .into_iter()
            .flat_map(|identity| ports.iter().map(move |port| key(identity, protocol, *port)))
            .collect()
    };
    match (&claim.ports.port, direction) {
        (PortSpec::Any, _) => product(vec![PortPrefix::ANY]),
        (PortSpec::Range { first, last }, _) => product(PortPrefix::of_range(*first, *last)),
        (PortSpec::Named(name), Direction::Ingress) => product(
            subject
                .named_ports
                .resolve(name, protocol)
                .map(|(_, port)| PortPrefix::exact(port))
                .collect(),
        ),
        // The receiver names its ports: each identity has its own, and what is not known has none.
        (PortSpec::Named(name), Direction::Egress) => {
            let receivers = match &claim.peer {
                None => identities.iter().map(|(id, _)| id).collect(),
                Some(_) => selected(),
            };
            receivers
                .into_iter()
                .filter_map(|id| Some((id, identities.get(id)?)))
                .flat_map(|(id, identity)| {
                    identity
                        .named_ports
                        .resolve(name, protocol)
                        .map(move |(_, port)| key(id, protocol, PortPrefix::exact(port)))
                })
                .collect()
        }
    }
}

fn key(identity: NumericIdentity, protocol: Protocol, port: PortPrefix) -> EntryKey {
    EntryKey {
        identity,
        protocol,
        port,
    }
}

pub(crate) fn l7_filters(statements: &Statements<Peer>, direction: Direction) -> Vec<L7Filter> {
    statements
        .iter()
        .filter_map(|(claim, statement)| {
            Some(L7Filter {
                direction,
                ports: claim.ports.clone(),
                peer: claim.peer.clone(),
                redirect: statement.redirect.clone()?,
                l7: statement.l7.as_deref()?.clone(),
            })
        })
        .collect()
}
