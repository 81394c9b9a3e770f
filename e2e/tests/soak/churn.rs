//! What happens on a node all the time, and its agent's deaths.

use anyhow::Result;
use oxilium_e2e::{pod::Pod, scenario::policy};

use crate::{Kind, dice::Dice, stage::Stage, tamper};

/// Guests at once.
const GUESTS: usize = 5;
/// Files of policies at once.
const POLICIES: usize = 4;
const APPS: [&str; 4] = ["friend", "stranger", "guest", "ghost"];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    PodComesOrGoes,
    LabelsChange,
    PolicyChanges,
    PolicyGoes,
    PolicyIsRefused,
    AgentDies,
    PodGoesWhileNoAgentRuns,
    Tampering,
}

impl Deed {
    pub(crate) fn drawn(kind: Kind, dice: &mut Dice) -> Self {
        let special = match kind {
            Kind::Calm => None,
            Kind::Tampering => Some(Self::Tampering),
            Kind::Deadly if dice.below(3) == 0 => Some(Self::PodGoesWhileNoAgentRuns),
            Kind::Deadly => Some(Self::AgentDies),
        };
        match special {
            // The more of it, the less is undone by pods and policies.
            Some(special) if dice.below(8) < 3 => special,
            _ => match dice.below(9) {
                0..4 => Self::PodComesOrGoes,
                4 => Self::LabelsChange,
                5 | 6 => Self::PolicyChanges,
                7 => Self::PolicyGoes,
                _ => Self::PolicyIsRefused,
            },
        }
    }

    pub(crate) fn done(self, stage: &mut Stage, dice: &mut Dice) -> Result<()> {
        match self {
            Self::PodComesOrGoes => pod_comes_or_goes(stage, dice),
            Self::LabelsChange => labels_change(stage, dice),
            Self::PolicyChanges => policy_changes(stage, dice),
            Self::PolicyGoes => policy_goes(stage, dice),
            Self::PolicyIsRefused => {
                let half = policy("half", "  ingress:\n    - fromEndpoint");
                put_policy(stage, dice.below(POLICIES), &half)
            }
            Self::AgentDies => {
                stage.agent()?.process().crash()?;
                stage.note("agents killed", "");
                stage.launch()
            }
            Self::PodGoesWhileNoAgentRuns => {
                stage.agent()?.process().crash()?;
                stage.note("agents killed", "");
                if let Some((_, guest)) = stage.guests.pop_first() {
                    goes(stage, guest)?;
                }
                stage.launch()
            }
            Self::Tampering => tamper::something(stage, dice),
        }
    }
}

fn pod_comes_or_goes(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    let number = dice.below(GUESTS);
    if let Some(guest) = stage.guests.remove(&number) {
        return goes(stage, guest);
    }
    // ADD is refused, in a way that a runtime tries again, until the agent takes pods.
    stage.until_answers()?;
    let app = dice.one_of(&APPS).copied().unwrap_or_default();
    let guest = stage
        .lab
        .pod(&format!("guest-{number}"))
        .label("app", app)
        .start()?;
    stage.note("pods made", &format!("({number}, {app})"));
    stage.guests.insert(number, guest);
    Ok(())
}

fn goes(stage: &mut Stage, guest: Pod) -> Result<()> {
    stage.note("pods deleted", guest.name());
    guest.delete()
}

fn labels_change(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    let app = dice.one_of(&APPS).copied().unwrap_or_default();
    let numbers: Vec<usize> = stage.guests.keys().copied().collect();
    if let Some(guest) = dice
        .one_of(&numbers)
        .and_then(|number| stage.guests.get_mut(number))
    {
        guest.set_labels(&[("app", app)])?;
        stage.note("labels changed", app);
    }
    Ok(())
}

/// A policy for guests, friends and strangers: what is about the subject's own traffic stays.
fn drawn_policy(name: &str, dice: &mut Dice) -> String {
    let peers = match dice.below(3) {
        0 => {
            let app = dice.one_of(&APPS).copied().unwrap_or_default();
            format!("    - fromEndpoints:\n        - matchLabels: {{app: {app}}}\n")
        }
        1 => {
            let prefixes: Vec<String> = (0..=dice.below(20))
                .map(|_| format!("192.0.2.{}/32", dice.below(256)))
                .collect();
            format!("    - fromCIDR: [{}]\n", prefixes.join(", "))
        }
        _ => "    - fromEntities: [host]\n".to_owned(),
    };
    let port = 1 + dice.below(9000);
    let end = port + dice.below(500);
    let ports = format!(
        "      toPorts:\n        - ports: [{{port: \"{port}\", endPort: {end}, protocol: TCP}}]\n"
    );
    let subject = ["guest", "ghost", "nobody"];
    let subject = dice.one_of(&subject).copied().unwrap_or_default();
    policy(name, &format!("  ingress:\n{peers}{ports}"))
        .replace("app: subject", &format!("app: {subject}"))
}

fn policy_changes(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    let number = dice.below(POLICIES);
    let text = drawn_policy(&format!("drawn-{number}"), dice);
    put_policy(stage, number, &text)?;
    stage.note("policies written", &number.to_string());
    Ok(())
}

fn put_policy(stage: &mut Stage, number: usize, text: &str) -> Result<()> {
    let file = format!("drawn-{number}.yaml");
    stage.lab.manifests.put(&file, text)?;
    stage.policies.insert(number, file);
    Ok(())
}

fn policy_goes(stage: &mut Stage, dice: &mut Dice) -> Result<()> {
    let numbers: Vec<usize> = stage.policies.keys().copied().collect();
    if let Some(file) = dice
        .one_of(&numbers)
        .and_then(|number| stage.policies.remove(number))
    {
        stage.lab.manifests.remove(&file)?;
        stage.note("policies removed", &file);
    }
    Ok(())
}
