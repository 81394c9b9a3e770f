//! One packet, judged straight from the rules, without tables: the third opinion, and what `explain` shows.
//!
//! Every rule that selects the subject is asked in order, and says whether it matches and, if not, why.

use oxilium_abi::{Direction, POLICY_CLASS_ALLOW, POLICY_CLASS_DENY, Precedence};

use super::auth;
use super::config::PolicyConfig;
use super::enforce::{Enforcement, SubjectView};
use super::l7::{L7, Parser, Redirect};
use super::peer::{Entity, Peer, Peers};
use super::port::PortPrefix;
use super::rule::{Action, Policy, PortMatch, PortRules, PortSpec, Rule, Tier};
use super::select;
use super::table::{Entry, EntryKey, Origin, Packet};
use crate::identity::{Identities, IdentityLabels, NumericIdentity, Protocol};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing allows it: dropped.
    NoMatch,
    /// A rule denies it.
    Denied,
    /// A rule allows it.
    Allowed {
        /// After a proxy has agreed.
        redirect: Option<Redirect>,
        /// The authentication type in force, 0 for none.
        auth: u8,
    },
}

/// How a packet was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The direction is enforced.
    pub enforced: bool,
    /// The result.
    pub outcome: Outcome,
    /// Every rule that selects the subject, in the order in which they are asked.
    pub steps: Vec<Step>,
}

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub origin: Origin,
    /// What it does with what it matches.
    pub action: Action,
    /// What came of it.
    pub answer: Answer,
}

/// What came of asking a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It decided.
    Decides,
    /// It matches and its level decided, but another rule of the level counted more.
    Overruled,
    /// It passed the packet on to the next tier.
    Passes,
    /// It matches, but an earlier level had decided: it would have decided otherwise.
    TooLate,
    /// It matches, but a Pass had left its tier.
    PassedOver,
    /// The remote identity is not among its peers.
    OtherPeer,
    /// The protocol or port is not among its ports.
    OtherPort,
}

/// Judges a packet to or from a subject.
pub fn judge(
    policies: &[Policy],
    identities: &Identities,
    subject: &SubjectView,
    config: &PolicyConfig,
    direction: Direction,
    packet: Packet,
) -> Judgement {
    Judge::new(policies, identities, subject, config, direction).judge(packet)
}

/// Judges the packets of a subject in one direction, one by one.
#[derive(Clone, Debug)]
pub struct Judge<'a> {
    identities: &'a Identities,
    subject: &'a SubjectView,
    config: &'a PolicyConfig,
    direction: Direction,
    enforcement: Enforcement<'a>,
    aggregates: Vec<(NumericIdentity, IdentityLabels)>,
}

impl<'a> Judge<'a> {
    /// Finds the rules that apply.
    pub fn new(
        policies: &'a [Policy],
        identities: &'a Identities,
        subject: &'a SubjectView,
        config: &'a PolicyConfig,
        direction: Direction,
    ) -> Self {
        Self {
            identities,
            subject,
            config,
            direction,
            enforcement: Enforcement::new(policies, subject, config, direction),
            aggregates: select::aggregates().collect(),
        }
    }

    /// Judges a packet.
    pub fn judge(&self, packet: Packet) -> Judgement {
        let witness = Witness {
            judge: self,
            packet,
        };
        let mut trial = Trial::default();
        let mut rest = self.enforcement.rules.as_slice();
        while let Some(first) = rest.first() {
            let same = |rule: &&Rule| (rule.tier, rule.priority) == (first.tier, first.priority);
            let (level, after) = rest.split_at(rest.iter().take_while(|r| same(r)).count());
            trial.level(&witness, level);
            rest = after;
        }
        for rule in &self.enforcement.built_in {
            let applies = rule.peer == NumericIdentity::ANY || rule.peer == packet.identity;
            let action = if rule.deny {
                Action::Deny
            } else {
                Action::Allow
            };
            trial.built_in(Origin::BuiltIn(rule.name), action, applies);
        }
        Judgement {
            enforced: self.enforcement.enforced,
            outcome: trial.outcome.unwrap_or(Outcome::NoMatch),
            steps: trial.steps,
        }
    }
}

/// How far the judgement has come.
#[derive(Default)]
struct Trial {
    outcome: Option<Outcome>,
    /// The tier that a Pass has left.
    left: Option<Tier>,
    steps: Vec<Step>,
}

impl Trial {
    fn level(&mut self, witness: &Witness<'_>, rules: &[&Rule]) {
        let answers: Vec<Result<Vec<Match>, Answer>> =
            rules.iter().map(|rule| witness.matches(rule)).collect();
        let matching = || {
            rules
                .iter()
                .zip(&answers)
                .filter(|(_, answer)| answer.is_ok())
                .map(|(rule, _)| rule.action)
        };
        let tier = rules[0].tier;
        let strongest = [Action::Deny, Action::Allow, Action::Pass]
            .into_iter()
            .find(|action| matching().any(|a| a == *action));
        let too_late = match self.left {
            Some(left) if left == tier => Some(Answer::PassedOver),
            _ if self.outcome.is_some() => Some(Answer::TooLate),
            _ => None,
        };
        for (rule, answer) in rules.iter().zip(&answers) {
            let answer = match answer {
                Err(miss) => *miss,
                Ok(_) => too_late.unwrap_or(if Some(rule.action) != strongest {
                    Answer::Overruled
                } else if rule.action == Action::Pass {
                    Answer::Passes
                } else {
                    Answer::Decides
                }),
            };
            self.steps.push(Step {
                origin: Origin::Rule(rule.origin.clone()),
                action: rule.action,
                answer,
            });
        }
        if too_late.is_some() {
            return;
        }
        match strongest {
            None => {}
            Some(Action::Deny) => self.outcome = Some(Outcome::Denied),
            Some(Action::Pass) => self.left = Some(tier),
            Some(Action::Allow) => {
                let allows = rules
                    .iter()
                    .zip(answers)
                    .filter(|(rule, _)| rule.action == Action::Allow)
                    .filter_map(|(rule, answer)| Some((*rule, answer.ok()?)));
                self.outcome = Some(allowed(allows));
            }
        }
    }

    fn built_in(&mut self, origin: Origin, action: Action, applies: bool) {
        let answer = if !applies {
            Answer::OtherPeer
        } else if self.outcome.is_some() {
            Answer::TooLate
        } else {
            self.outcome = Some(match action {
                Action::Deny => Outcome::Denied,
                Action::Allow | Action::Pass => Outcome::Allowed {
                    redirect: None,
                    auth: 0,
                },
            });
            Answer::Decides
        };
        self.steps.push(Step {
            origin,
            action,
            answer,
        });
    }
}

/// How a rule matched: as what identity, with which port prefix, and what a proxy is to do.
struct Match {
    key: EntryKey,
    redirect: Option<Redirect>,
}

/// A packet, with what is known of it.
struct Witness<'a> {
    judge: &'a Judge<'a>,
    packet: Packet,
}

impl Witness<'_> {
    fn matches(&self, rule: &Rule) -> Result<Vec<Match>, Answer> {
        let identities = match &rule.peers {
            Peers::Anyone => vec![NumericIdentity::ANY],
            Peers::Nobody => Vec::new(),
            Peers::AnyOf(peers) => peers
                .iter()
                .flat_map(|peer| self.stands_for(peer))
                .collect(),
        };
        if identities.is_empty() {
            return Err(Answer::OtherPeer);
        }
        let none = L7::default();
        let all = [PortMatch {
            protocol: Protocol::ANY,
            port: PortSpec::Any,
        }];
        let ports: Vec<(&PortMatch, &L7, bool)> = match &rule.ports {
            PortRules::All => all.iter().map(|ports| (ports, &none, true)).collect(),
            PortRules::AnyOf(rules) => rules
                .iter()
                .flat_map(|rule| rule.ports.iter().map(|ports| (ports, &rule.l7, false)))
                .collect(),
        };
        let mut found = Vec::new();
        for (ports, l7, everything) in ports {
            let Some((protocol, port)) = self.port(ports, everything) else {
                continue;
            };
            let redirect = (rule.action == Action::Allow)
                .then(|| Redirect::of(l7, protocol))
                .flatten();
            let by_receiver = self.judge.direction == Direction::Egress
                && matches!(ports.port, PortSpec::Named(_));
            for identity in &identities {
                // Receivers name their ports one by one, never as part of an aggregate.
                let identity = match *identity {
                    identity if by_receiver && identity.is_aggregate() => continue,
                    _ if by_receiver => self.packet.identity,
                    identity => identity,
                };
                found.push(Match {
                    key: EntryKey {
                        identity,
                        protocol,
                        port,
                    },
                    redirect: redirect.clone(),
                });
            }
        }
        if found.is_empty() {
            return Err(Answer::OtherPort);
        }
        Ok(found)
    }

    /// As what a peer selects the remote: as itself, by its aggregate, as anyone.
    fn stands_for(&self, peer: &Peer) -> Vec<NumericIdentity> {
        if *peer == Peer::Entity(Entity::All) {
            return vec![NumericIdentity::ANY];
        }
        let remote = self.packet.identity;
        let aggregate = remote.aggregate(self.judge.config.cluster_id);
        let as_itself = self
            .judge
            .identities
            .get(remote)
            .is_some_and(|identity| peer.selects(&identity.labels, self.judge.config));
        let as_aggregate = self
            .judge
            .aggregates
            .iter()
            .any(|(id, labels)| *id == aggregate && peer.selects(labels, self.judge.config));
        let mut found = Vec::new();
        if as_itself {
            found.push(remote);
        }
        if as_aggregate {
            found.push(aggregate);
        }
        found
    }

    /// The protocol and the largest aligned block of the rule's ports that holds the packet's.
    fn port(&self, ports: &PortMatch, everything: bool) -> Option<(Protocol, PortPrefix)> {
        if everything {
            return Some((Protocol::ANY, PortPrefix::ANY));
        }
        let Packet { protocol, port, .. } = self.packet;
        let of_protocol = ports.protocol == protocol
            || ports.protocol == Protocol::ANY && Protocol::WITH_PORTS.contains(&protocol);
        if !of_protocol {
            return None;
        }
        let prefix = match &ports.port {
            PortSpec::Any => PortPrefix::ANY,
            PortSpec::Range { first, last } => PortPrefix::of_range(*first, *last)
                .into_iter()
                .find(|prefix| prefix.contains(port))?,
            PortSpec::Named(name) => {
                let names = match self.judge.direction {
                    Direction::Ingress => &self.judge.subject.named_ports,
                    Direction::Egress => {
                        &self.judge.identities.get(self.packet.identity)?.named_ports
                    }
                };
                names
                    .resolve(name, protocol)
                    .any(|(_, number)| number == port)
                    .then_some(PortPrefix::exact(port))?
            }
        };
        Some((protocol, prefix))
    }
}

/// What the allowing rules of one level make of a packet together.
fn allowed<'a>(rules: impl Iterator<Item = (&'a Rule, Vec<Match>)>) -> Outcome {
    let mut entries: Vec<(EntryKey, Entry)> = Vec::new();
    for (rule, matches) in rules {
        for Match { key, redirect } in matches {
            let class = match &redirect {
                Some(redirect) => POLICY_CLASS_DENY - redirect.priority,
                None => POLICY_CLASS_ALLOW,
            };
            let new = Entry {
                precedence: Precedence(u32::from(class)),
                auth: auth::requirement(rule.auth),
                redirect,
                origins: [Origin::Rule(rule.origin.clone())].into(),
            };
            match entries.iter_mut().find(|(k, _)| *k == key) {
                None => entries.push((key, new)),
                Some((_, old)) => {
                    let auth = auth::merge(old.auth, new.auth);
                    let first = (new.precedence, old.redirect.as_ref())
                        > (old.precedence, new.redirect.as_ref());
                    if first {
                        *old = new;
                    }
                    old.auth = auth;
                }
            }
        }
    }
    let matching: Vec<(EntryKey, &Entry)> = entries.iter().map(|(k, e)| (*k, e)).collect();
    match auth::decide(&matching) {
        None => Outcome::NoMatch,
        Some((_, entry, auth)) => Outcome::Allowed {
            redirect: entry.redirect.clone(),
            auth: auth.kind(),
        },
    }
}

impl Outcome {
    /// What a table's entry says.
    pub fn of(entry: Option<&Entry>) -> Self {
        let Some(entry) = entry else {
            return Self::NoMatch;
        };
        if entry.precedence.is_deny() {
            return Self::Denied;
        }
        Self::Allowed {
            redirect: entry.redirect.clone(),
            auth: entry.auth.kind(),
        }
    }

    /// The kind of proxy, if any.
    pub fn parser(&self) -> Option<Parser> {
        match self {
            Self::Allowed { redirect, .. } => redirect.as_ref().map(|redirect| redirect.parser),
            _ => None,
        }
    }
}
