//! What stands for a policy that was admitted once and that this agent no longer admits: another version of the
//! agent, or another configuration, judged it then.
//!
//! If it just left, all that it denied would be allowed. So it stays, *closed*: nothing of what it allowed is allowed,
//! and where it could deny, everything is denied.

use std::collections::BTreeMap;
use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::policy::peer::Peers;
use oxilium_model::policy::rule::{
    Action, Policy, PolicyKind, PortRules, Rule, RulePriority, Subject, Tier,
};
use oxilium_model::policy::selector::LabelSelector;

use super::{LowerConfig, Lowered, Lowering, read, reference};
use crate::diagnostic::{Diagnostic, Located};
use crate::kind::Header;
use crate::tree::Node;

/// Fields of a rule set that say whom it is for.
const SUBJECT: [&str; 4] = ["endpointSelector", "nodeSelector", "podSelector", "subject"];

/// The closed form of a policy object; none for other objects. What cannot be read of it is taken for the worst:
/// without a subject it is for all that such an object can be for, without rules it denies both directions.
pub(crate) fn closed_policy(
    root: &Node,
    file: Option<&Arc<str>>,
    config: &LowerConfig<'_>,
) -> Option<Lowered> {
    let header = Header::of(root);
    let kind = [
        PolicyKind::CiliumNetworkPolicy,
        PolicyKind::CiliumClusterwideNetworkPolicy,
        PolicyKind::NetworkPolicy,
        PolicyKind::ClusterNetworkPolicy,
    ]
    .into_iter()
    .find(|kind| kind.name() == header.object.kind)?;
    let policy = reference(root, &header, kind);
    let mut lowering = Lowering::new(config, policy.clone(), file);
    let audit = lowering.metadata(root);
    let rules = read(&mut lowering, root, kind);
    let everybody = Subject::Endpoints(lowering.scope().endpoints(&LabelSelector::default()).0);
    let origin = |direction| lowering.origin("spec", root, direction);
    let origins = [Direction::Ingress, Direction::Egress].map(origin);
    let Located { errors, .. } = lowering.findings.locate(root, &header.object, file);
    let subject_unsure = rules.is_empty() || errors.iter().any(is_of_the_subject);
    let mut closed = BTreeMap::new();
    for rule in &rules {
        let subject = if subject_unsure {
            &everybody
        } else {
            &rule.subject
        };
        let place = (subject.clone(), direction_index(rule.direction));
        let form = closed.entry(place).or_insert(Form::of(rule));
        *form = form.and(Form::of(rule));
    }
    if rules.is_empty() {
        for direction in [Direction::Ingress, Direction::Egress] {
            let place = (everybody.clone(), direction_index(direction));
            closed.insert(place, Form::DENY);
        }
    }
    let rules = closed
        .into_iter()
        .filter(|(_, form)| form.denies || form.default_deny)
        .map(|((subject, direction), form)| form.rule(subject, origins[direction].clone()))
        .collect();
    Some(Lowered {
        policy: Policy {
            reference: policy,
            audit,
            rules,
        },
        names_services: false,
        warnings: Vec::new(),
    })
}

const fn direction_index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// Something is wrong with the field that says whom the rules are for.
fn is_of_the_subject(error: &Diagnostic) -> bool {
    let (_, rest) = error.path.split_once('.').unwrap_or_default();
    SUBJECT.iter().any(|field| rest.starts_with(field))
}

/// What the rules of one subject and direction come to.
#[derive(Clone, Copy)]
struct Form {
    /// Something was denied, or left to the next tier before anything else could allow it.
    denies: bool,
    default_deny: bool,
    tier: Tier,
    priority: RulePriority,
}

impl Form {
    const DENY: Self = Self {
        denies: true,
        default_deny: true,
        tier: Tier::Admin,
        priority: RulePriority { policy: 0, rule: 0 },
    };

    fn of(rule: &Rule) -> Self {
        Self {
            denies: rule.action != Action::Allow,
            default_deny: rule.default_deny,
            tier: rule.tier,
            priority: rule.priority,
        }
    }

    /// Both: denied where one denies, at the first place of either.
    fn and(self, other: Self) -> Self {
        let (tier, priority) = (self.tier, self.priority).min((other.tier, other.priority));
        Self {
            denies: self.denies || other.denies,
            default_deny: self.default_deny || other.default_deny,
            tier,
            priority,
        }
    }

    fn rule(self, subject: Subject, origin: Arc<oxilium_model::policy::rule::RuleRef>) -> Rule {
        let (action, peers) = if self.denies {
            (Action::Deny, Peers::Anyone)
        } else {
            (Action::Allow, Peers::Nobody)
        };
        Rule {
            direction: origin.direction,
            origin,
            subject,
            action,
            tier: self.tier,
            priority: self.priority,
            default_deny: self.default_deny,
            peers,
            ports: PortRules::All,
            auth: None,
        }
    }
}
