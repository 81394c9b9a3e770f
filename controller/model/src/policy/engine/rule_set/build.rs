//! From rules to clauses: all of a rule set that does not depend on identities.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Clause, ClausePorts, RuleSet, RuleSetKey};
use crate::policy::enforce::Enforcement;
use crate::policy::engine::columns::ColumnTable;
use crate::policy::engine::selectors::{PeerId, Selectors};
use crate::policy::filter::{self, Claim, Placed, Ports, Statement, Statements};
use crate::policy::level::Levels;
use crate::policy::port::PortPrefix;
use crate::policy::prune::ShapesPresent;
use crate::policy::resolve::{ResolveError, origins};
use crate::policy::rule::{Action, PortSpec};
use crate::policy::table::EntryMap;

/// How to build a rule set.
pub(in crate::policy::engine) struct Blueprint<'a> {
    pub(in crate::policy::engine) key: &'a RuleSetKey,
    pub(in crate::policy::engine) enforcement: Enforcement<'a>,
    /// The peers of each rule of `enforcement`, in order.
    pub(in crate::policy::engine) peers: Vec<&'a [Option<PeerId>]>,
    /// The peer that everyone is, for ports that receivers name.
    pub(in crate::policy::engine) everyone: PeerId,
    pub(in crate::policy::engine) local_cluster: u8,
}

impl RuleSet {
    /// Everything but the table.
    pub(in crate::policy::engine) fn new(blueprint: &Blueprint<'_>, selectors: &Selectors) -> Self {
        let enforced = blueprint.enforcement.enforced;
        let mut set = Self {
            table: Arc::new(ColumnTable::new(enforced)),
            subjects: BTreeSet::new(),
            error: None,
            levels: None,
            clauses: Vec::new(),
            of_peer: HashMap::new(),
            of_anyone: Vec::new(),
            built_in: Vec::new(),
            has_auth: blueprint.enforcement.has_auth(),
            has_pass: false,
            names_receivers_ports: false,
            local_cluster: blueprint.local_cluster,
            of_aggregates: HashMap::new(),
            wide: EntryMap::default(),
            wide_shapes: ShapesPresent::default(),
            columns: HashMap::new(),
            key: blueprint.key.clone(),
        };
        if let Err(error) = set.take(blueprint, selectors) {
            set.error = Some(error);
            set.table = Arc::new(ColumnTable::new(true));
            set.clauses.clear();
            set.of_peer.clear();
            set.of_anyone.clear();
            set.built_in.clear();
        }
        set
    }

    fn take(
        &mut self,
        blueprint: &Blueprint<'_>,
        selectors: &Selectors,
    ) -> Result<(), ResolveError> {
        let enforcement = &blueprint.enforcement;
        let levels = Levels::new(
            enforcement.rules.iter().copied(),
            enforcement.built_in.len(),
        )?;
        let mut statements = Statements::new();
        let nobody = |id: &PeerId| selectors.peer(*id).is_some_and(filter::selects_nobody);
        for (rule, peers) in enforcement.rules.iter().zip(&blueprint.peers) {
            let placed = Placed {
                rule,
                level: levels.of(rule),
                peers,
            };
            filter::add_rule(&mut statements, &placed, enforcement.default_deny, nobody)?;
        }
        self.built_in.clone_from(&enforcement.built_in);
        for (claim, statement) in statements {
            self.add_clause(claim, statement, &levels, blueprint.everyone);
        }
        self.levels = Some(levels);
        Ok(())
    }

    fn add_clause(
        &mut self,
        claim: Claim<PeerId>,
        statement: Statement,
        levels: &Levels,
        everyone: PeerId,
    ) {
        let place = levels
            .tiers
            .iter()
            .position(|(tier, _)| *tier == claim.tier);
        let Some(tier) = place else { return };
        let offsets = &levels.tiers[tier].1.offsets;
        let Some(offset) = offsets.get(statement.level as usize) else {
            return;
        };
        let ports = self.ports(&claim.ports);
        let by_receiver = matches!(ports, ClausePorts::OfReceiver(..));
        let index = self.clauses.len();
        match claim.peer {
            None if !by_receiver => self.of_anyone.push(index),
            peer => self
                .of_peer
                .entry(peer.unwrap_or(everyone))
                .or_default()
                .push(index),
        }
        self.has_pass |= statement.action == Action::Pass;
        self.names_receivers_ports |= by_receiver;
        self.clauses.push(Clause {
            tier,
            offset: *offset,
            ports,
            origins: origins(&statement),
            statement,
            claim,
        });
    }

    fn ports(&self, ports: &Ports) -> ClausePorts {
        let protocol = ports.protocol;
        ClausePorts::Fixed(match &ports.port {
            PortSpec::Any => vec![(protocol, PortPrefix::ANY)],
            PortSpec::Range { first, last } => PortPrefix::of_range(*first, *last)
                .into_iter()
                .map(|prefix| (protocol, prefix))
                .collect(),
            PortSpec::Named(name) if self.key.egress => {
                return ClausePorts::OfReceiver(protocol, name.clone());
            }
            PortSpec::Named(name) => self
                .key
                .named_ports
                .resolve(name, protocol)
                .map(|(protocol, port)| (protocol, PortPrefix::exact(port)))
                .collect(),
        })
    }
}
