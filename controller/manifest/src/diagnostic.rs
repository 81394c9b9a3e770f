//! What is wrong with a document, where, and how to put it right.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use crate::reader::{ReadError, ReadProblem};
use crate::tree::{Node, Position, Value};

/// The object that a document describes.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize,
)]
pub struct ObjectId {
    /// Its kind; empty when the document names none.
    pub kind: String,
    /// Its namespace; empty for objects of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name; empty when the document names none.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("document");
        }
        let or = |text: &str, other: &str| {
            if text.is_empty() {
                other.to_owned()
            } else {
                text.to_owned()
            }
        };
        f.write_str(&or(&self.kind, "object without kind"))?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&or(&self.name, "without name"))
    }
}

/// What is wrong. The display of each says what is allowed and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The file is no YAML.
    #[error("{0}")]
    Unreadable(ReadProblem),
    /// A field that the object does not have here.
    #[error("unknown field {name:?}{}; allowed here: {}", nearest.as_ref().map_or(String::new(), |n| format!(", did you mean {n:?}?")), list(allowed))]
    UnknownField {
        /// As written.
        name: String,
        /// The most similar field that is allowed.
        nearest: Option<String>,
        /// All that are allowed.
        allowed: Vec<String>,
    },
    /// A value of the wrong kind.
    #[error("{value} is {found}; allowed is {expected}{}", hint(found, expected))]
    WrongType {
        /// The value.
        value: String,
        /// What it is.
        found: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A field that must be there.
    #[error("this field is required: {meaning}")]
    Missing {
        /// What belongs there.
        meaning: String,
    },
    /// A value that is not allowed.
    #[error("{value} is not allowed: {allowed}")]
    Invalid {
        /// The value.
        value: String,
        /// What is allowed, and how to get there.
        allowed: String,
    },
    /// More items than allowed.
    #[error("{}", too_many(*count, *limit, split))]
    TooMany {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
        /// Of what to write several.
        split: &'static str,
    },
    /// Fields that exclude each other.
    #[error("{} exclude each other: {fix}", list(fields))]
    Exclusive {
        /// The fields.
        fields: Vec<String>,
        /// What to do.
        fix: String,
    },
    /// None of the fields of which one is needed.
    #[error("one of {} is required: {meaning}", list(fields))]
    NoneOf {
        /// The fields.
        fields: Vec<String>,
        /// What for.
        meaning: String,
    },
    /// Something that the agent's configuration switches off.
    #[error("{feature} needs the agent's option {option}; switch it on or take this away")]
    SwitchedOff {
        /// What.
        feature: &'static str,
        /// The option.
        option: &'static str,
    },
    /// Something that contradicts something else in the object.
    #[error("{0}")]
    Conflict(String),
    /// A kind that is no policy, or none that is known.
    #[error("{kind:?} of {api_version:?} is no kind that is known{}; policies are {}", nearest.as_ref().map_or(String::new(), |n| format!(", did you mean {n}?")), list(policies))]
    UnknownKind {
        /// As written.
        kind: String,
        /// As written.
        api_version: String,
        /// The most similar kind that is known.
        nearest: Option<String>,
        /// The kinds of policies, with their versions.
        policies: Vec<String>,
    },
}

fn too_many(count: usize, limit: usize, split: &str) -> String {
    if limit == 0 {
        return format!("this list must be empty: {split}");
    }
    format!("{count} items; at most {limit} are allowed, split them over several {split}")
}

fn list<S: AsRef<str>>(names: &[S]) -> String {
    names
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}

fn hint(found: &str, expected: &str) -> &'static str {
    match (found, expected) {
        ("a whole number" | "a number with a fraction" | "a boolean", "a text") => {
            "; put it in quotes"
        }
        ("a mapping", "a list") => "; start each item with \"- \"",
        ("a list", "a mapping") => "; take the \"- \" away",
        _ => "",
    }
}

/// A problem in its place. Displays as `file:line:column: error: object: path: problem`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Diagnostic {
    /// The file, if the object came from one.
    pub file: Option<Arc<str>>,
    /// The place in the file; [`Position::NONE`] when the object came from elsewhere.
    pub position: Position,
    /// The object.
    pub object: ObjectId,
    /// The field, as `spec.ingress[0].toPorts[0].ports[0].port`; empty for the whole document.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl Diagnostic {
    /// `file:line:column`, as far as known.
    pub fn place(&self) -> String {
        let file = self.file.as_deref().unwrap_or("");
        match (file, self.position) {
            (file, Position::NONE) => file.to_owned(),
            ("", Position { line, column }) => format!("line {line}, column {column}"),
            (file, Position { line, column }) => format!("{file}:{line}:{column}"),
        }
    }

    /// The diagnostic of a file that could not be read to its end.
    pub fn unreadable(file: Option<Arc<str>>, error: ReadError) -> Self {
        Self {
            file,
            position: error.position,
            object: ObjectId::default(),
            path: String::new(),
            problem: Problem::Unreadable(error.problem),
        }
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Diagnostic", 6)?;
        out.serialize_field("file", &self.file)?;
        out.serialize_field("line", &self.position.line)?;
        out.serialize_field("column", &self.position.column)?;
        out.serialize_field("object", &self.object)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("message", &self.problem.to_string())?;
        out.end()
    }
}

struct Finding<'t> {
    node: &'t Node,
    field: Option<Box<str>>,
    position: Position,
    problem: Problem,
}

/// Collects what is found in one document; paths are worked out at the end, only for what was found.
#[derive(Default)]
pub(crate) struct Findings<'t> {
    errors: Vec<Finding<'t>>,
    warnings: Vec<Finding<'t>>,
}

impl<'t> Findings<'t> {
    /// Something wrong with a value.
    pub(crate) fn error(&mut self, node: &'t Node, problem: Problem) {
        self.errors.push(Finding {
            node,
            field: None,
            position: node.position,
            problem,
        });
    }

    /// Something wrong with a field of a mapping that may be absent.
    pub(crate) fn error_at(&mut self, node: &'t Node, field: &str, problem: Problem) {
        let position = node
            .members()
            .iter()
            .find(|member| &*member.name == field)
            .map_or(node.position, |member| member.position);
        self.errors.push(Finding {
            node,
            field: Some(field.into()),
            position,
            problem,
        });
    }

    /// A value that is not allowed.
    pub(crate) fn invalid(&mut self, node: &'t Node, allowed: impl Into<String>) {
        self.error(
            node,
            Problem::Invalid {
                value: node.shown(),
                allowed: allowed.into(),
            },
        );
    }

    /// Something that is accepted, but probably not meant.
    pub(crate) fn warning(&mut self, node: &'t Node, problem: Problem) {
        self.warnings.push(Finding {
            node,
            field: None,
            position: node.position,
            problem,
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Gives each finding its path, in the order of the document.
    pub(crate) fn locate(self, root: &Node, object: &ObjectId, file: Option<&Arc<str>>) -> Located {
        let mut paths = HashMap::new();
        for finding in self.errors.iter().chain(&self.warnings) {
            paths.insert(std::ptr::from_ref(finding.node), String::new());
        }
        if !paths.is_empty() {
            name_paths(root, &mut String::new(), &mut paths);
        }
        let place = |finding: Finding<'_>| {
            let mut path = paths
                .get(&std::ptr::from_ref(finding.node))
                .cloned()
                .unwrap_or_default();
            if let Some(field) = finding.field {
                push_field(&mut path, &field);
            }
            Diagnostic {
                file: file.cloned(),
                position: finding.position,
                object: object.clone(),
                path,
                problem: finding.problem,
            }
        };
        let sorted = |findings: Vec<Finding<'_>>| {
            let mut all: Vec<Diagnostic> = findings.into_iter().map(place).collect();
            all.sort_by_key(|diagnostic| diagnostic.position);
            one_reason_per_value(&mut all);
            all
        };
        Located {
            errors: sorted(self.errors),
            warnings: sorted(self.warnings),
        }
    }
}

/// A value that the schema refuses is often refused again by the rules behind the schema: the first reason is enough.
fn one_reason_per_value(all: &mut Vec<Diagnostic>) {
    let mut refused = std::collections::HashSet::new();
    all.retain(|diagnostic| {
        !matches!(
            diagnostic.problem,
            Problem::Invalid { .. } | Problem::Missing { .. }
        ) || refused.insert(diagnostic.path.clone())
    });
}

/// What was found in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located {
    /// Why it is refused.
    pub errors: Vec<Diagnostic>,
    /// What is accepted, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

fn push_field(path: &mut String, name: &str) {
    let plain = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !plain {
        path.extend(["[", &format!("{name:?}"), "]"]);
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn name_paths(node: &Node, path: &mut String, wanted: &mut HashMap<*const Node, String>) {
    if let Some(found) = wanted.get_mut(&std::ptr::from_ref(node)) {
        found.clone_from(path);
    }
    let len = path.len();
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.extend(["[", &index.to_string(), "]"]);
                name_paths(item, path, wanted);
                path.truncate(len);
            }
        }
        Value::Object(members) => {
            for member in members {
                push_field(path, &member.name);
                name_paths(&member.node, path, wanted);
                path.truncate(len);
            }
        }
        _ => {}
    }
}

/// The most similar of some names, if one is similar at all.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let limit = (name.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|candidate| {
            (
                distance(&name.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Damerau–Levenshtein distance (with transpositions of neighbours).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
