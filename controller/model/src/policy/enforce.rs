//! Whether a direction of a subject is enforced, and by which rules.

use oxilium_abi::Direction;

use super::config::{AllowLocalhost, EnforcementMode, PolicyConfig};
use super::rule::{Action, Policy, Rule, RulePriority, Subject, Tier};
use super::table::BuiltIn;
use crate::identity::{IdentityLabels, NamedPorts, NumericIdentity};

/// Whose policy is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectView {
    /// The labels of its identity.
    pub labels: IdentityLabels,
    /// Its own named ports, for ingress.
    pub named_ports: NamedPorts,
}

impl SubjectView {
    /// It is the local node.
    pub fn is_host(&self) -> bool {
        self.labels.has_reserved("host")
    }
}

impl Subject {
    /// Selects a subject with these labels. A selector of endpoints never selects the host, whatever labels
    /// its node shares with pods, and a selector of nodes selects nothing else.
    pub fn selects(&self, labels: &IdentityLabels) -> bool {
        match self {
            Self::Endpoints(selector) => !labels.has_reserved("host") && selector.matches(labels),
            Self::Nodes(selector) => selector.matches(labels),
        }
    }
}

/// A direction of a subject.
#[derive(Clone, Debug)]
pub(crate) struct Enforcement<'a> {
    /// What nothing allows is dropped.
    pub(crate) enforced: bool,
    /// Some rule, or the mode, asks for default deny.
    pub(crate) default_deny: bool,
    /// The rules that select the subject, in the order in which they are asked.
    pub(crate) rules: Vec<&'a Rule>,
    /// What holds without a rule: one level each, after all rules.
    pub(crate) built_in: Vec<BuiltInRule>,
}

/// A rule that no object states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuiltInRule {
    /// Whom it is about; [`NumericIdentity::ANY`] anyone.
    pub(crate) peer: NumericIdentity,
    pub(crate) deny: bool,
    pub(crate) name: BuiltIn,
}

impl<'a> Enforcement<'a> {
    /// Of a subject, by all policies that are not staged.
    pub(crate) fn new(
        policies: impl IntoIterator<Item = &'a Policy>,
        subject: &SubjectView,
        config: &PolicyConfig,
        direction: Direction,
    ) -> Self {
        let mut rules: Vec<&Rule> = policies
            .into_iter()
            .filter(|policy| !policy.audit)
            .flat_map(|policy| &policy.rules)
            .filter(|rule| rule.direction == direction && rule.subject.selects(&subject.labels))
            .collect();
        sort(&mut rules);
        Self::of_rules(rules, subject, config, direction)
    }

    /// Of a subject, by the rules of `direction` that select it, in the order of tier and priority.
    pub(crate) fn of_rules(
        rules: Vec<&'a Rule>,
        subject: &SubjectView,
        config: &PolicyConfig,
        direction: Direction,
    ) -> Self {
        let is_host = subject.is_host();
        if config.mode == EnforcementMode::Never || is_host && !config.host_firewall {
            return Self::off();
        }
        let always = config.mode == EnforcementMode::Always || subject.labels.has_reserved("init");
        if rules.is_empty() && !always {
            return Self::off();
        }
        let default_deny = always || rules.iter().any(|rule| rule.default_deny);
        let built_in = if default_deny {
            let localhost = direction == Direction::Ingress
                && !is_host
                && !rules.is_empty()
                && config.allow_localhost == AllowLocalhost::Always;
            let has_pass = rules.iter().any(|rule| rule.action == Action::Pass);
            default_deny_rules(localhost, has_pass)
        } else {
            vec![BuiltInRule {
                peer: NumericIdentity::ANY,
                deny: false,
                name: BuiltIn::AllowAny,
            }]
        };
        Self {
            enforced: true,
            default_deny,
            rules,
            built_in,
        }
    }

    /// Some rule speaks of authentication.
    pub(crate) fn has_auth(&self) -> bool {
        self.rules.iter().any(|rule| rule.auth.is_some())
    }

    fn off() -> Self {
        Self {
            enforced: false,
            default_deny: false,
            rules: Vec::new(),
            built_in: vec![BuiltInRule {
                peer: NumericIdentity::ANY,
                deny: false,
                name: BuiltIn::AllowAny,
            }],
        }
    }
}

/// Puts rules into the order in which they are asked; those of one level into that of their names.
pub(crate) fn sort(rules: &mut [&Rule]) {
    rules.sort_by(|a, b| {
        order(a)
            .cmp(&order(b))
            .then_with(|| a.origin.cmp(&b.origin))
    });
}

/// Tier and priority.
pub(crate) fn order(rule: &Rule) -> (Tier, RulePriority) {
    (rule.tier, rule.priority)
}

/// Default deny needs no entry, except behind a Pass: there something else could match again.
fn default_deny_rules(localhost: bool, has_pass: bool) -> Vec<BuiltInRule> {
    let localhost = localhost.then_some(BuiltInRule {
        peer: NumericIdentity::HOST,
        deny: false,
        name: BuiltIn::AllowLocalhost,
    });
    let deny = has_pass.then_some(BuiltInRule {
        peer: NumericIdentity::ANY,
        deny: true,
        name: BuiltIn::DenyAny,
    });
    localhost.into_iter().chain(deny).collect()
}
