//! The rules that select a subject in one direction, and the table that they make: shared by all subjects
//! with the same rules.

mod build;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use oxilium_abi::Direction;

use super::columns::{Column, ColumnTable};
use super::rules::RuleId;
use super::selectors::{PeerId, Selectors};
use crate::identity::{Identities, NamedPorts, NumericIdentity, Protocol};
use crate::policy::auth;
use crate::policy::compose::{TierTable, compose};
use crate::policy::enforce::BuiltInRule;
use crate::policy::filter::{Claim, Statement};
use crate::policy::level::Levels;
use crate::policy::port::PortPrefix;
use crate::policy::prune::{Pruner, ShapesPresent, prune};
use crate::policy::resolve::{L7Filter, ResolveError};
use crate::policy::rule::Tier;
use crate::policy::table::{Entry, EntryKey, EntryMap, Origins};

pub(super) use build::Blueprint;

/// A rule set, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RuleSetId(pub(super) u32);

/// What two subjects must have in common to share a rule set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RuleSetKey {
    pub(super) egress: bool,
    pub(super) is_host: bool,
    pub(super) is_init: bool,
    /// Sorted.
    pub(super) rules: Vec<RuleId>,
    /// The subject's, where rules name ports of it.
    pub(super) named_ports: NamedPorts,
}

/// A statement with what is the same for every identity.
#[derive(Debug)]
struct Clause {
    /// Index among the tiers.
    tier: usize,
    /// Offset of its level in its tier.
    offset: u32,
    ports: ClausePorts,
    statement: Statement,
    origins: Origins,
    /// For what is handed to a proxy.
    claim: Claim<PeerId>,
}

#[derive(Debug)]
enum ClausePorts {
    Fixed(Vec<(Protocol, PortPrefix)>),
    /// Of the receiver, by name.
    OfReceiver(Protocol, Arc<str>),
}

/// What beside the peers that select it decides an identity's column.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nature {
    aggregate: NumericIdentity,
    /// The node, which a built-in rule may speak of.
    is_host: bool,
    /// Its named ports, where rules name them.
    named_ports: NamedPorts,
}

/// A rule set and its table.
#[derive(Debug)]
pub(super) struct RuleSet {
    pub(super) key: RuleSetKey,
    pub(super) subjects: BTreeSet<u64>,
    pub(super) table: Arc<ColumnTable>,
    pub(super) error: Option<ResolveError>,
    levels: Option<Levels>,
    clauses: Vec<Clause>,
    of_peer: HashMap<PeerId, Vec<usize>>,
    of_anyone: Vec<usize>,
    built_in: Vec<BuiltInRule>,
    has_auth: bool,
    has_pass: bool,
    names_receivers_ports: bool,
    local_cluster: u8,
    /// Peers that select the aggregates.
    of_aggregates: HashMap<NumericIdentity, Vec<PeerId>>,
    /// Final entries for anyone and the aggregates, by which an identity's may be idle.
    wide: EntryMap<Entry>,
    wide_shapes: ShapesPresent,
    /// The columns of identities that the same peers select, and that are of the same nature.
    columns: HashMap<Vec<PeerId>, Vec<(Nature, Column)>>,
}

impl RuleSet {
    /// The peers that it uses.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.of_peer.keys().copied()
    }

    /// Uses this peer.
    pub(super) fn uses(&self, peer: PeerId) -> bool {
        self.of_peer.contains_key(&peer)
    }

    /// Computes the table from scratch.
    pub(super) fn fill(&mut self, selectors: &Selectors, identities: &Identities) {
        if self.error.is_some() {
            return;
        }
        let mut selected: Vec<(NumericIdentity, PeerId)> = self
            .peers()
            .flat_map(|peer| {
                let selection = selectors.selection(peer).iter();
                selection.map(move |identity| (*identity, peer))
            })
            .collect();
        selected.sort_unstable();
        let groups = || selected.chunk_by(|(a, _), (b, _)| a == b);
        let peers = |group: &[(NumericIdentity, PeerId)]| -> Vec<PeerId> {
            group.iter().map(|(_, peer)| *peer).collect()
        };
        self.of_aggregates = groups()
            .filter(|group| group[0].0.is_aggregate())
            .map(|group| (group[0].0, peers(group)))
            .collect();
        let mut columns = self.fill_wide();
        let host = NumericIdentity::HOST;
        if self.speaks_of_host() && !selected.iter().any(|(identity, _)| *identity == host) {
            columns.push((host, self.column(host, &[], identities)));
        }
        for group in groups().filter(|group| !group[0].0.is_aggregate()) {
            let identity = group[0].0;
            columns.push((identity, self.column(identity, &peers(group), identities)));
        }
        columns.sort_unstable_by_key(|(identity, _)| *identity);
        self.table = Arc::new(ColumnTable::of(self.table.enforced, columns));
    }

    fn speaks_of_host(&self) -> bool {
        self.built_in
            .iter()
            .any(|rule| rule.peer == NumericIdentity::HOST)
    }

    /// What holds for anyone and for the aggregates, once and for all.
    fn fill_wide(&mut self) -> Vec<(NumericIdentity, Column)> {
        let mut draft = self.draft();
        self.add_anyone(&mut draft);
        for (aggregate, peers) in &self.of_aggregates {
            self.add_clauses(&mut draft, *aggregate, peers, &NamedPorts::default());
        }
        let settled = auth::settle(self.compose(draft), self.local_cluster);
        let mut columns: HashMap<NumericIdentity, Vec<_>> = HashMap::new();
        for (key, entry) in prune(&settled, self.has_auth, self.local_cluster) {
            let column = columns.entry(key.identity).or_default();
            column.push((key.protocol, key.port, entry.clone()));
            self.wide_shapes.add(&key);
            self.wide.insert(key, entry);
        }
        columns
            .into_iter()
            .map(|(identity, column)| (identity, sorted(column)))
            .collect()
    }

    /// An identity is new, has other labels or ports, or is gone: `peers` select it now. Tells how many
    /// entries came or went.
    pub(super) fn update(
        &mut self,
        identity: NumericIdentity,
        peers: &[PeerId],
        identities: &Identities,
    ) -> usize {
        if self.error.is_some() {
            return 0;
        }
        let concerned =
            !peers.is_empty() || identity == NumericIdentity::HOST && self.speaks_of_host();
        let column = concerned.then(|| self.column(identity, peers, identities));
        if self.table.column(identity) == column.as_ref() {
            return 0;
        }
        Arc::make_mut(&mut self.table).set(identity, column)
    }

    /// The entries of one identity, which `peers` select.
    fn column(
        &mut self,
        identity: NumericIdentity,
        peers: &[PeerId],
        identities: &Identities,
    ) -> Column {
        let named_ports = identities
            .get(identity)
            .filter(|_| self.names_receivers_ports)
            .map(|identity| identity.named_ports.clone());
        let nature = Nature {
            aggregate: identity.aggregate(self.local_cluster),
            is_host: identity == NumericIdentity::HOST,
            named_ports: named_ports.unwrap_or_default(),
        };
        let known = self.columns.get(peers).into_iter().flatten();
        if let Some((_, column)) = known.into_iter().find(|(known, _)| *known == nature) {
            return column.clone();
        }
        let column = self.compute(identity, peers, &nature);
        // What no identity has any more is forgotten now and then.
        if self.columns.len() > 64 + 2 * self.table.columns() {
            self.columns.clear();
        }
        let of_peers = self.columns.entry(peers.to_vec()).or_default();
        of_peers.push((nature, column.clone()));
        column
    }

    fn compute(&self, identity: NumericIdentity, peers: &[PeerId], nature: &Nature) -> Column {
        let mut draft = self.draft();
        self.add_clauses(&mut draft, identity, peers, &nature.named_ports);
        self.add_built_in(&mut draft, |peer| peer == identity);
        // A Pass lets wide rules of lower tiers speak of this identity, and so does authentication.
        let whole = self.has_pass || self.has_auth;
        if whole {
            self.add_anyone(&mut draft);
            if let Some(peers) = self.of_aggregates.get(&nature.aggregate) {
                self.add_clauses(&mut draft, nature.aggregate, peers, &NamedPorts::default());
            }
        }
        let mut entries = self.compose(draft);
        if whole {
            entries = auth::settle(entries, self.local_cluster);
        }
        let mut shapes = self.wide_shapes;
        for key in entries.keys() {
            shapes.add(key);
        }
        let pruner = Pruner {
            shapes,
            has_auth: self.has_auth,
            local_cluster: self.local_cluster,
        };
        let get = |key: &EntryKey| entries.get(key).or_else(|| self.wide.get(key));
        sorted(
            entries
                .iter()
                .filter(|(key, entry)| key.identity == identity && !pruner.is_idle(key, entry, get))
                .map(|(key, entry)| (key.protocol, key.port, entry.clone()))
                .collect(),
        )
    }

    /// A tier table for each tier, the built-in one last.
    fn draft(&self) -> Vec<TierTable> {
        let tiers = self.levels.as_ref().map_or(0, |levels| levels.tiers.len());
        (0..=tiers).map(|_| TierTable::default()).collect()
    }

    fn add_anyone(&self, draft: &mut [TierTable]) {
        let none = NamedPorts::default();
        for index in &self.of_anyone {
            self.add_clause_to(draft, *index, NumericIdentity::ANY, &none);
        }
        self.add_built_in(draft, |peer| peer == NumericIdentity::ANY);
    }

    fn add_built_in(&self, draft: &mut [TierTable], of: impl Fn(NumericIdentity) -> bool) {
        let Some((levels, tier)) = self.levels.as_ref().zip(draft.last_mut()) else {
            return;
        };
        for (rule, offset) in self.built_in.iter().zip(&levels.built_in.offsets) {
            if of(rule.peer) {
                let key = EntryKey {
                    identity: rule.peer,
                    ..EntryKey::ALL
                };
                tier.add_built_in(key, rule.deny, *offset, rule.name);
            }
        }
    }

    fn add_clauses(
        &self,
        draft: &mut [TierTable],
        identity: NumericIdentity,
        peers: &[PeerId],
        named_ports: &NamedPorts,
    ) {
        for index in peers
            .iter()
            .filter_map(|peer| self.of_peer.get(peer))
            .flatten()
        {
            self.add_clause_to(draft, *index, identity, named_ports);
        }
    }

    fn add_clause_to(
        &self,
        draft: &mut [TierTable],
        index: usize,
        identity: NumericIdentity,
        named_ports: &NamedPorts,
    ) {
        let clause = &self.clauses[index];
        let mut add = |protocol, port| {
            let key = EntryKey {
                identity,
                protocol,
                port,
            };
            draft[clause.tier].add(key, &clause.statement, clause.offset, &clause.origins);
        };
        match &clause.ports {
            ClausePorts::Fixed(ports) => {
                for (protocol, port) in ports {
                    add(*protocol, *port);
                }
            }
            ClausePorts::OfReceiver(protocol, name) => {
                for (protocol, port) in named_ports.resolve(name, *protocol) {
                    add(protocol, PortPrefix::exact(port));
                }
            }
        }
    }

    fn compose(&self, draft: Vec<TierTable>) -> EntryMap<Entry> {
        let Some(levels) = &self.levels else {
            return EntryMap::default();
        };
        let of_tiers = levels
            .tiers
            .iter()
            .map(|(_, levels)| levels)
            .chain([&levels.built_in]);
        compose(
            draft.into_iter().zip(of_tiers).collect(),
            self.local_cluster,
        )
    }

    /// What proxies have to do.
    pub(super) fn l7(&self, selectors: &Selectors) -> Vec<L7Filter> {
        let mut filters: Vec<(Tier, L7Filter)> = self
            .clauses
            .iter()
            .filter_map(|clause| {
                let claim = &clause.claim;
                let peer = claim.peer.and_then(|peer| selectors.peer(peer)).cloned();
                let filter = L7Filter {
                    direction: self.direction(),
                    ports: claim.ports.clone(),
                    peer,
                    redirect: clause.statement.redirect.clone()?,
                    l7: clause.statement.l7.as_deref()?.clone(),
                };
                Some((claim.tier, filter))
            })
            .collect();
        filters.sort_by(|(a_tier, a), (b_tier, b)| {
            (a_tier, &a.ports, &a.peer).cmp(&(b_tier, &b.ports, &b.peer))
        });
        filters.into_iter().map(|(_, filter)| filter).collect()
    }

    fn direction(&self) -> Direction {
        if self.key.egress {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }
}

fn sorted(mut column: Vec<(Protocol, PortPrefix, Entry)>) -> Column {
    column.sort_unstable_by_key(|(protocol, port, _)| (*protocol, *port));
    column.into()
}
