//! What rules say of one selector and port, put together: the place where rules can contradict each other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use thiserror::Error;

use super::l7::{AuthMode, L7, L7Rules, Parser, Redirect};
use super::peer::{Entity, Peer, Peers};
use super::rule::{Action, PortMatch, PortRules, PortSpec, Rule, RuleRef, Tier};
use crate::identity::Protocol;

/// Protocol and ports as rules name them. Ranges and names are resolved later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The protocol; [`Protocol::ANY`] only together with every port.
    pub protocol: Protocol,
    /// The ports.
    pub port: PortSpec,
}

impl Ports {
    /// Everything.
    pub const ALL: Self = Self {
        protocol: Protocol::ANY,
        port: PortSpec::Any,
    };

    /// A rule's ports; `ANY` becomes the protocols that have ports.
    fn of(ports: &PortMatch) -> impl Iterator<Item = Self> {
        let protocols: &[Protocol] = if ports.protocol == Protocol::ANY {
            &Protocol::WITH_PORTS
        } else {
            std::slice::from_ref(&ports.protocol)
        };
        protocols.iter().map(|protocol| Self {
            protocol: *protocol,
            port: ports.port.clone(),
        })
    }
}

/// Of what a statement speaks: within a tier there is one for each. `P` stands for a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Claim<P> {
    pub(crate) tier: Tier,
    pub(crate) ports: Ports,
    /// Anyone where there is no peer.
    pub(crate) peer: Option<P>,
}

/// What the rules of a tier say together of one selector and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Level within the tier, from 0.
    pub(crate) level: u32,
    /// Allow, deny or pass.
    pub action: Action,
    /// The explicit authentication mode.
    pub auth: Option<AuthMode>,
    /// The proxy that flows are handed to.
    pub redirect: Option<Redirect>,
    /// What the proxy has to do, where there is one.
    pub l7: Option<Box<MergedL7>>,
    /// The rules.
    pub origins: Vec<Arc<RuleRef>>,
}

/// What a proxy has to do for one selector and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedL7 {
    /// The rule set. Rules of other selectors never get in here.
    pub l7: L7,
    /// A rule without L7 rules allows the same: requests that match no L7 rule are allowed too.
    pub unrestricted: bool,
}

/// Two rules contradict each other; nothing can be enforced for the subject.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Conflict {
    /// Two kinds of proxy.
    #[error(
        "{first} and {second} send the same flows to different proxies ({first_parser}, {second_parser}); give them different ports or peers"
    )]
    Parsers {
        /// The rule that came first.
        first: Arc<RuleRef>,
        /// The other.
        second: Arc<RuleRef>,
        /// What the first asks for.
        first_parser: &'static str,
        /// What the other asks for.
        second_parser: &'static str,
    },
    /// Two listeners of equal priority.
    #[error(
        "{first} and {second} send the same flows to different listeners of the same priority; give one a lower `priority`"
    )]
    Listeners {
        /// The rule that came first.
        first: Arc<RuleRef>,
        /// The other.
        second: Arc<RuleRef>,
    },
    /// Two authentication modes.
    #[error(
        "{first} and {second} ask for different authentication of the same flows; use one `authentication.mode`"
    )]
    Auth {
        /// The rule that came first.
        first: Arc<RuleRef>,
        /// The other.
        second: Arc<RuleRef>,
    },
}

impl Conflict {
    /// The two rules.
    pub fn rules(&self) -> [&Arc<RuleRef>; 2] {
        match self {
            Self::Parsers { first, second, .. }
            | Self::Listeners { first, second }
            | Self::Auth { first, second } => [first, second],
        }
    }
}

/// All statements of one direction.
pub(crate) type Statements<P> = BTreeMap<Claim<P>, Statement>;

/// A rule with its place and its peers.
pub(crate) struct Placed<'a, P> {
    pub(crate) rule: &'a Rule,
    /// Level within its tier, from 0.
    pub(crate) level: u32,
    /// Anyone where there is no peer.
    pub(crate) peers: &'a [Option<P>],
}

/// Adds what a rule says. Rules come in the order of tier and level.
///
/// # Errors
/// [`Conflict`] with an earlier rule of the same level.
pub(crate) fn add_rule<P: Clone + Ord>(
    statements: &mut Statements<P>,
    placed: &Placed<'_, P>,
    default_deny: bool,
    selects_nobody: impl Fn(&P) -> bool,
) -> Result<(), Conflict> {
    let Placed { rule, level, peers } = *placed;
    let ports = port_rules(&rule.ports);
    for peer in peers {
        for (ports, l7) in &ports {
            let claim = Claim {
                tier: rule.tier,
                ports: ports.clone(),
                peer: peer.clone(),
            };
            let new = Statement::of(rule, level, *l7, ports.protocol, default_deny);
            match statements.entry(claim) {
                Entry::Vacant(vacant) => {
                    vacant.insert(new);
                }
                // What nobody can match contradicts nothing.
                Entry::Occupied(_) if peer.as_ref().is_some_and(&selects_nobody) => {}
                Entry::Occupied(mut old) => old.get_mut().merge(new)?,
            }
        }
    }
    Ok(())
}

/// The peers of a rule, `None` for anyone.
pub(crate) fn peers(peers: &Peers) -> impl Iterator<Item = Option<&Peer>> {
    let (anyone, listed): (_, &[Peer]) = match peers {
        Peers::Anyone => (Some(None), &[]),
        Peers::Nobody => (None, &[]),
        Peers::AnyOf(list) => (None, list),
    };
    let listed = listed.iter().map(|peer| match peer {
        Peer::Entity(Entity::All) => None,
        other => Some(other),
    });
    anyone.into_iter().chain(listed)
}

/// The entity `none`.
pub(crate) fn selects_nobody(peer: &Peer) -> bool {
    *peer == Peer::Entity(Entity::None)
}

fn port_rules(rules: &PortRules) -> Vec<(Ports, Option<&L7>)> {
    match rules {
        PortRules::All => vec![(Ports::ALL, None)],
        PortRules::AnyOf(rules) => rules
            .iter()
            .flat_map(|rule| rule.ports.iter().map(move |ports| (ports, &rule.l7)))
            .flat_map(|(ports, l7)| Ports::of(ports).map(move |ports| (ports, Some(l7))))
            .collect(),
    }
}

impl Statement {
    fn of(
        rule: &Rule,
        level: u32,
        l7: Option<&L7>,
        protocol: Protocol,
        default_deny: bool,
    ) -> Self {
        let l7 = l7.filter(|_| rule.action == Action::Allow);
        let redirect = l7.and_then(|l7| Redirect::of(l7, protocol));
        let merged = l7.filter(|_| redirect.is_some()).map(|l7| MergedL7 {
            l7: l7.clone(),
            unrestricted: !default_deny,
        });
        Self {
            level,
            action: rule.action,
            auth: rule.auth.filter(|_| rule.action == Action::Allow),
            redirect,
            l7: merged.map(Box::new),
            origins: vec![rule.origin.clone()],
        }
    }

    fn merge(&mut self, new: Self) -> Result<(), Conflict> {
        if self.level < new.level {
            return Ok(());
        }
        // On one level deny beats allow, and allow beats pass.
        let strength = |action| match action {
            Action::Deny => 2,
            Action::Allow => 1,
            Action::Pass => 0,
        };
        if strength(self.action) > strength(new.action) {
            return Ok(());
        }
        if strength(new.action) > strength(self.action) {
            *self = new;
            return Ok(());
        }
        if self.action == Action::Allow {
            self.merge_redirect(&new)?;
            self.merge_auth(&new)?;
            self.merge_l7(new.l7);
        }
        self.origins.extend(new.origins);
        Ok(())
    }

    fn merge_redirect(&mut self, new: &Self) -> Result<(), Conflict> {
        let Some(theirs) = &new.redirect else {
            return Ok(());
        };
        let Some(ours) = &mut self.redirect else {
            self.redirect = Some(theirs.clone());
            return Ok(());
        };
        let Some(parser) = ours.parser.merge(theirs.parser) else {
            return Err(Conflict::Parsers {
                first: self.origins[0].clone(),
                second: new.origins[0].clone(),
                first_parser: ours.parser.name(),
                second_parser: theirs.parser.name(),
            });
        };
        if parser == Parser::Listener {
            if ours.priority == theirs.priority && ours.listener != theirs.listener {
                return Err(Conflict::Listeners {
                    first: self.origins[0].clone(),
                    second: new.origins[0].clone(),
                });
            }
            if theirs.priority < ours.priority {
                *ours = theirs.clone();
            }
        } else {
            ours.parser = parser;
            ours.priority = parser.default_priority();
        }
        Ok(())
    }

    fn merge_l7(&mut self, new: Option<Box<MergedL7>>) {
        match (&mut self.l7, new) {
            (Some(ours), Some(theirs)) => ours.merge(&theirs),
            // Of the two rules one asks nothing of a proxy, and lets everything through.
            (Some(ours), None) => ours.unrestricted = true,
            (None, Some(theirs)) => {
                let unrestricted = MergedL7 {
                    unrestricted: true,
                    ..*theirs
                };
                self.l7 = Some(Box::new(unrestricted));
            }
            (None, None) => {}
        }
    }

    fn merge_auth(&mut self, new: &Self) -> Result<(), Conflict> {
        match (self.auth, new.auth) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(Conflict::Auth {
                first: self.origins[0].clone(),
                second: new.origins[0].clone(),
            }),
            (ours, theirs) => {
                self.auth = ours.or(theirs);
                Ok(())
            }
        }
    }
}

impl MergedL7 {
    fn merge(&mut self, other: &Self) {
        self.unrestricted |= other.unrestricted;
        self.l7.intercepts_tls |= other.l7.intercepts_tls;
        self.l7
            .server_names
            .extend(other.l7.server_names.iter().cloned());
        if self.l7.listener.is_none() {
            self.l7.listener.clone_from(&other.l7.listener);
        }
        match (&mut self.l7.rules, &other.l7.rules) {
            (_, L7Rules::None) => {}
            (L7Rules::Http(ours), L7Rules::Http(theirs)) => ours.extend(theirs.iter().cloned()),
            (L7Rules::Dns(ours), L7Rules::Dns(theirs)) => ours.extend(theirs.iter().cloned()),
            (ours, theirs) => ours.clone_from(theirs),
        }
    }
}
