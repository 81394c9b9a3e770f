//! Parts of policies that have no enforcing component yet.
//!
//! They are computed and shown all the same. None ever becomes a plain allow: what a proxy or an
//! authentication should decide is dropped, and names that nobody resolves allow nothing.

use std::collections::BTreeSet;
use std::fmt;

use super::l7::{AuthMode, Parser};
use super::peer::{Peer, Peers};
use super::rule::{Action, Policy, PortRules, Rule, Subject};

/// A part of a policy that has no enforcing component yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotEnforced {
    /// Flows that a proxy should judge.
    L7(Parser),
    /// Flows that need authentication.
    Authentication,
    /// `toFQDNs`, `domainNames`.
    Fqdn,
    /// A policy of nodes.
    HostPolicy,
}

impl NotEnforced {
    /// The field.
    pub const fn field(self) -> &'static str {
        match self {
            Self::L7(Parser::Http) => "toPorts.rules.http",
            Self::L7(Parser::Dns) => "toPorts.rules.dns",
            Self::L7(Parser::Tls) => "toPorts.serverNames",
            Self::L7(Parser::Listener) => "toPorts.listener",
            Self::Authentication => "authentication",
            Self::Fqdn => "toFQDNs",
            Self::HostPolicy => "nodeSelector",
        }
    }

    /// What happens instead.
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::L7(_) => "there is no proxy yet: these flows are dropped",
            Self::Authentication => "there is no authentication yet: these flows are dropped",
            Self::Fqdn => {
                "names are not resolved yet: only addresses that are known by other means are allowed"
            }
            Self::HostPolicy => "nodes are not enforced yet: the policy is computed and shown only",
        }
    }
}

impl fmt::Display for NotEnforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field(), self.consequence())
    }
}

impl Policy {
    /// What of this policy has no enforcing component yet.
    pub fn not_enforced(&self) -> BTreeSet<NotEnforced> {
        self.rules.iter().flat_map(Rule::not_enforced).collect()
    }
}

impl Rule {
    /// What of this rule has no enforcing component yet.
    pub fn not_enforced(&self) -> BTreeSet<NotEnforced> {
        let mut parts = BTreeSet::new();
        if matches!(self.subject, Subject::Nodes(_)) {
            parts.insert(NotEnforced::HostPolicy);
        }
        if let Peers::AnyOf(peers) = &self.peers
            && peers.iter().any(|peer| matches!(peer, Peer::Fqdn(_)))
        {
            parts.insert(NotEnforced::Fqdn);
        }
        if self.action != Action::Allow {
            return parts;
        }
        if self.auth.is_some_and(|mode| mode != AuthMode::Disabled) {
            parts.insert(NotEnforced::Authentication);
        }
        parts.extend(self.parsers().into_iter().map(NotEnforced::L7));
        parts
    }

    /// The kinds of proxy that the rule sends flows to.
    pub fn parsers(&self) -> BTreeSet<Parser> {
        let PortRules::AnyOf(rules) = &self.ports else {
            return BTreeSet::new();
        };
        rules
            .iter()
            .flat_map(|rule| {
                rule.ports
                    .iter()
                    .filter_map(|ports| Parser::of_any(&rule.l7, ports.protocol))
            })
            .collect()
    }
}
