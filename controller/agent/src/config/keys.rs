//! What becomes of each configuration key of Cilium's: one table, for the programs and for the page in docs.
//!
//! A key is an option of ours; or says what is done anyway; or something that is not done, which is told in the log and
//! in `status`. Where leaving it undone would leave the node less protected than its owner believes, the agent does
//! not start.

mod datapath;
mod elsewhere;
mod node;
mod policy;

use super::value::Kind;

/// Who has an option of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `oxilium agent`.
    Agent,
    /// `oxilium operator`.
    Operator,
    /// `oxilium cni install`.
    Installer,
}

impl Program {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Installer => "cni install",
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// An option of these programs.
    Option(&'static [Program]),
    /// These values say what is done anyway. Others are accepted and told of.
    Always(&'static [&'static str]),
    /// These values say what is done anyway. With others the agent does not start.
    Only(&'static [&'static str]),
    /// Whatever it says concerns something that is not there.
    Unused,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, as flag and as key of the ConfigMap.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What becomes of it.
    pub treatment: Treatment,
    /// Why, or what it does.
    pub why: &'static str,
}

impl Key {
    /// The environment variable of this key.
    pub fn variable(&self) -> String {
        format!("CILIUM_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// Is it an option of the agent?
    pub fn is_agents(&self) -> bool {
        matches!(self.treatment, Treatment::Option(programs) if programs.contains(&Program::Agent))
    }
}

/// All keys, in the order of their groups.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [node::KEYS, policy::KEYS, datapath::KEYS, elsewhere::KEYS]
        .into_iter()
        .flatten()
}

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

const AGENT: &[Program] = &[Program::Agent];
const ALL: &[Program] = &[Program::Agent, Program::Operator, Program::Installer];
const CLIENTS: &[Program] = &[Program::Agent, Program::Operator];
const OPERATOR: &[Program] = &[Program::Operator];
const INSTALLER: &[Program] = &[Program::Installer];
const TRUE: &[&str] = &["true"];
const FALSE: &[&str] = &["false"];

const fn option(
    programs: &'static [Program],
    name: &'static str,
    kind: Kind,
    why: &'static str,
) -> Key {
    Key {
        name,
        kind,
        treatment: Treatment::Option(programs),
        why,
    }
}

const fn always(
    name: &'static str,
    kind: Kind,
    values: &'static [&'static str],
    why: &'static str,
) -> Key {
    Key {
        name,
        kind,
        treatment: Treatment::Always(values),
        why,
    }
}

const fn only(
    name: &'static str,
    kind: Kind,
    values: &'static [&'static str],
    why: &'static str,
) -> Key {
    Key {
        name,
        kind,
        treatment: Treatment::Only(values),
        why,
    }
}

const fn unused(name: &'static str, kind: Kind, why: &'static str) -> Key {
    Key {
        name,
        kind,
        treatment: Treatment::Unused,
        why,
    }
}
