//! Options from three places: a flag counts before the environment, that before the configuration directory.
//!
//! The directory's values become flags of a second pass over the command line, so one parser reads all of them; the
//! values that the table of [`keys`] knows are checked before, where it is still known whence they came.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::directory;
use super::keys::{self, Key, Treatment};
use super::value::{Allowed, Kind};

/// Whence a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(String),
    /// This variable.
    Environment(String),
    /// A file of the configuration directory.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or the directory cannot be read.
    #[error("cannot read the configuration in {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file's name is no key.
    #[error("{} is no name of a key: it is not UTF-8", .0.display())]
    Name(PathBuf),
    /// A value is none of the allowed ones.
    #[error("{key} has the value {value:?} ({origin}); allowed: {allowed}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it has.
        value: String,
        /// Whence.
        origin: Origin,
        /// What it may have.
        allowed: Allowed,
    },
    /// What it asks for is not done, and leaving it undone is not safe.
    #[error(
        "{key}={value} ({origin}) is not supported, so the agent does not start: {why}. {}",
        instead(values)
    )]
    Refused {
        /// Which key.
        key: &'static str,
        /// What it has.
        value: String,
        /// Whence.
        origin: Origin,
        /// What would be wrong.
        why: &'static str,
        /// Values that are supported.
        values: &'static [&'static str],
    },
}

fn instead(values: &[&str]) -> String {
    match values {
        [] => "Leave it out".to_owned(),
        values => format!("Supported: {}; or leave it out", values.join(", ")),
    }
}

/// A command line that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Its own error, or the help that was asked for.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The environment or the directory.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A key that is told of, because what it says is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Whence.
    pub origin: Origin,
    /// Why it is not done.
    pub why: &'static str,
}

/// What is to be told about the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Keys whose value says what is not done.
    pub unsupported: Vec<Unsupported>,
    /// Keys of the directory that nobody knows.
    pub unknown: Vec<String>,
}

/// Makes flags, out of sight, of all keys that are no option of the agent's, so that they can be given there too.
#[must_use]
pub fn with_other_keys(agent: Command) -> Command {
    keys::all()
        .filter(|key| !key.is_agents())
        .fold(agent, |agent, key| agent.arg(flag(key)))
}

fn flag(key: &'static Key) -> Arg {
    let arg = Arg::new(key.name)
        .long(key.name)
        .hide(true)
        .env(key.variable());
    if key.kind == Kind::Bool {
        // As Cilium's command line: `--key`, or `--key=false`.
        return arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
    }
    arg.num_args(1)
}

/// Parses a command line of which the innermost sub-command may have an option `--config-dir`. `agent`: the name of the
/// sub-command that answers for all keys.
///
/// # Errors
/// [`ParseError`].
pub fn parse(
    command: &mut Command,
    arguments: Vec<OsString>,
    agent: &str,
) -> Result<(ArgMatches, Configured), ParseError> {
    let matches = match command.try_get_matches_from_mut(arguments.clone()) {
        Ok(matches) => matches,
        Err(error) => return Err(better(error, &arguments)),
    };
    let (name, leaf) = innermost(command, &matches);
    if !leaf.has("config_dir") {
        return Ok((matches, Configured::default()));
    }
    let directory = leaf.matches.get_one::<PathBuf>("config_dir");
    let values = match directory {
        Some(directory) => Values::of(directory)?,
        None => Values::default(),
    };
    let takes_all = name == Some(agent);
    let configured = if takes_all {
        judge(&leaf, &values)?
    } else {
        Configured::default()
    };
    let more = values.flags(&leaf)?;
    if more.is_empty() {
        return Ok((matches, configured));
    }
    let whole = arguments.into_iter().chain(more);
    Ok((command.try_get_matches_from_mut(whole)?, configured))
}

/// A sub-command, and what it was given.
struct Leaf<'a> {
    /// Options that it has. Its matches do not say: without debug assertions they take any name for one of an option.
    options: BTreeSet<&'a str>,
    matches: &'a ArgMatches,
}

impl Leaf<'_> {
    fn has(&self, option: &str) -> bool {
        self.options.contains(option)
    }
}

/// The sub-command that runs.
fn innermost<'a>(
    mut command: &'a Command,
    mut matches: &'a ArgMatches,
) -> (Option<&'a str>, Leaf<'a>) {
    let mut name = None;
    while let Some((inner, given)) = matches.subcommand() {
        (name, matches) = (Some(inner), given);
        command = command.find_subcommand(inner).unwrap_or(command);
    }
    let options = command
        .get_arguments()
        .map(|argument| argument.get_id().as_str());
    let leaf = Leaf {
        options: options.collect(),
        matches,
    };
    (name, leaf)
}

/// A value from the environment that is bad is named with its variable.
fn better(error: clap::Error, arguments: &[OsString]) -> ParseError {
    let about_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    if !about_value {
        return error.into();
    }
    for key in keys::all() {
        let given = format!("--{}", key.name);
        let on_line = arguments
            .iter()
            .any(|argument| argument.to_string_lossy().starts_with(&given));
        let Ok(value) = std::env::var(key.variable()) else {
            continue;
        };
        if on_line {
            continue;
        }
        let origin = Origin::Environment(key.variable());
        if let Err(bad) = check(key, &value, &origin) {
            return bad.into();
        }
    }
    error.into()
}

fn check(key: &'static Key, value: &str, origin: &Origin) -> Result<String, ConfigError> {
    key.kind
        .canonical(value)
        .map_err(|allowed| ConfigError::Value {
            key: key.name,
            value: value.to_owned(),
            origin: origin.clone(),
            allowed,
        })
}

/// What the configuration directory holds.
#[derive(Debug, Default)]
struct Values {
    directory: PathBuf,
    by_key: BTreeMap<String, String>,
}

impl Values {
    fn of(directory: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            directory: directory.to_owned(),
            by_key: directory::read(directory)?,
        })
    }

    /// An empty value is none: Cilium's ConfigMaps are full of them.
    fn get(&self, key: &str) -> Option<(&str, Origin)> {
        let value = self.by_key.get(key).filter(|value| !value.is_empty())?;
        Some((value, Origin::File(self.directory.join(key))))
    }

    /// Flags for options of this command that neither a flag nor the environment gives.
    fn flags(&self, leaf: &Leaf<'_>) -> Result<Vec<OsString>, ConfigError> {
        let mut flags = Vec::new();
        for key in keys::all() {
            if !matches!(key.treatment, Treatment::Option(_)) || given(leaf, key).is_some() {
                continue;
            }
            let id = key.name.replace('-', "_");
            let Some((value, origin)) = self.get(key.name) else {
                continue;
            };
            if leaf.has(&id) {
                let value = check(key, value, &origin)?;
                flags.push(format!("--{}={value}", key.name).into());
            }
        }
        Ok(flags)
    }

    fn unknown(&self) -> Vec<String> {
        let mut unknown: Vec<_> = self.by_key.keys().cloned().collect();
        unknown.retain(|name| keys::find(name).is_none());
        unknown
    }
}

/// The value that a flag or the environment gives, as it was written.
fn given(leaf: &Leaf<'_>, key: &Key) -> Option<(Option<String>, Origin)> {
    let option = key.name.replace('-', "_");
    let id = [key.name, option.as_str()]
        .into_iter()
        .find(|id| leaf.has(id))?;
    let origin = match leaf.matches.value_source(id)? {
        ValueSource::CommandLine => Origin::Flag(key.name.to_owned()),
        ValueSource::EnvVariable => Origin::Environment(key.variable()),
        _ => return None,
    };
    let value = leaf.matches.get_raw(id)?.next()?;
    Some((value.to_str().map(ToOwned::to_owned), origin))
}

/// Goes through all keys that somebody gave.
fn judge(leaf: &Leaf<'_>, values: &Values) -> Result<Configured, ConfigError> {
    let mut unsupported = Vec::new();
    for key in keys::all() {
        let (value, origin) = match (given(leaf, key), values.get(key.name)) {
            (Some((value, origin)), _) => (value.unwrap_or_default(), origin),
            (None, Some((value, origin))) => (value.to_owned(), origin),
            (None, None) => continue,
        };
        if value.is_empty() {
            continue;
        }
        let canonical = check(key, &value, &origin)?;
        let (values, refuse) = match key.treatment {
            Treatment::Option(_) => continue,
            Treatment::Always(values) => (values, false),
            Treatment::Only(values) => (values, true),
            Treatment::Unused => (&[][..], false),
        };
        if values.contains(&canonical.as_str()) {
            continue;
        }
        if refuse {
            return Err(ConfigError::Refused {
                key: key.name,
                value,
                origin,
                why: key.why,
                values,
            });
        }
        unsupported.push(Unsupported {
            key: key.name,
            value,
            origin,
            why: key.why,
        });
    }
    Ok(Configured {
        unsupported,
        unknown: values.unknown(),
    })
}
