//! What the API server's schemas say, as data, and one walk that checks a tree against them.
//!
//! Tables of the kinds: `schema::cilium`, `schema::kubernetes`. What no schema can say is checked while lowering
//! (`crate::policy`).

pub(crate) mod cilium;
pub(crate) mod kubernetes;

use crate::diagnostic::{Findings, Problem, nearest};
use crate::tree::{Node, Value};

/// Who checked the object before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Nobody: check what an API server with Cilium's resource definitions checks, too.
    #[default]
    Schema,
    /// An API server, whose definitions may be of another version: accept what Cilium's agent accepts by itself.
    /// That is more in some places: protocols in any case of letters, the entities `world-ipv4` and `world-ipv6`,
    /// single addresses in `fromCIDR` and `toCIDR`; in a NetworkPolicy single addresses in `ipBlock`, port 0 and an
    /// `endPort` without port, both of which are every port; and fields that are `null`, which are as if absent.
    Agent,
}

/// The form of a value.
pub(crate) enum Schema {
    /// Anything.
    Any,
    /// A boolean.
    Bool,
    /// A text.
    Text(Text),
    /// A whole number from … to.
    Integer(i64, i64),
    /// A whole number or a text.
    IntegerOrText,
    /// A list.
    List(List),
    /// A mapping with free names.
    Map(&'static Schema),
    /// A mapping with given fields.
    Object(Object),
}

/// The form of a text.
pub(crate) struct Text {
    /// Whether it may be so; the schema's pattern or format.
    pub(crate) check: fn(&str) -> bool,
    /// What may be, for people.
    pub(crate) allowed: &'static str,
    /// The values that may be; empty: all.
    pub(crate) values: &'static [&'static str],
    /// More values that only [`Admission::Agent`] lets pass, in any case of letters.
    pub(crate) agent: &'static [&'static str],
    /// What [`Admission::Agent`] lets pass instead of `check`.
    pub(crate) agent_check: fn(&str) -> bool,
}

/// The form of a list.
pub(crate) struct List {
    pub(crate) item: &'static Schema,
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Of what to write several when there are too many items.
    pub(crate) split: &'static str,
}

/// Whether fields may be `null`, which then is as if absent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// As an API server has it.
    Absent,
    /// Not in what nobody checked before.
    Refused,
}

/// The form of a mapping.
pub(crate) struct Object {
    pub(crate) nulls: Nulls,
    pub(crate) fields: &'static [(&'static str, &'static Schema)],
    /// Fields that must be there, each with what belongs there.
    pub(crate) required: &'static [(&'static str, &'static str)],
    /// Exactly one of these must be there (empty: no such rule).
    pub(crate) one_of: &'static [&'static str],
}

/// Any text.
pub(crate) const TEXT: Schema = Schema::Text(Text {
    check: |_| true,
    allowed: "a text",
    values: &[],
    agent: &[],
    agent_check: |_| true,
});

/// Any texts, by name.
pub(crate) const TEXTS: Schema = Schema::Map(&TEXT);

/// A list of any length.
pub(crate) const fn list(item: &'static Schema) -> Schema {
    Schema::List(List {
        item,
        min: 0,
        max: usize::MAX,
        split: "lists",
    })
}

/// A mapping of which no field must be there.
pub(crate) const fn object(fields: &'static [(&'static str, &'static Schema)]) -> Schema {
    Schema::Object(Object {
        nulls: Nulls::Refused,
        fields,
        required: &[],
        one_of: &[],
    })
}

/// A text with a pattern.
pub(crate) const fn text(check: fn(&str) -> bool, allowed: &'static str) -> Schema {
    Schema::Text(Text {
        check,
        allowed,
        values: &[],
        agent: &[],
        agent_check: check,
    })
}

/// One of some texts.
pub(crate) const fn choice(
    values: &'static [&'static str],
    agent: &'static [&'static str],
) -> Schema {
    Schema::Text(Text {
        check: |_| true,
        allowed: "",
        values,
        agent,
        agent_check: |_| true,
    })
}

/// In a policy absent, `[]` and `{}` mean different things: whoever wrote nothing after the colon meant one of them, or
/// was not done writing. (An API server would take it for absent.)
fn null() -> Problem {
    Problem::WrongType {
        value: "null".into(),
        found: "nothing",
        expected: "a value: write [] or {} for an empty one, or take the field away",
    }
}

/// Checks a tree against a schema.
pub(crate) fn check<'t>(
    node: &'t Node,
    schema: &Schema,
    admission: Admission,
    findings: &mut Findings<'t>,
) {
    match (schema, &node.value) {
        (Schema::Any, _)
        | (Schema::Bool, Value::Bool(_))
        | (Schema::IntegerOrText, Value::Integer(_) | Value::Text(_)) => {}
        (Schema::Text(form), Value::Text(found)) => {
            check_text(node, found, form, admission, findings);
        }
        (Schema::Integer(min, max), Value::Integer(n)) => {
            if n < min || n > max {
                findings.invalid(node, format!("write a whole number from {min} to {max}"));
            }
        }
        (Schema::List(form), Value::List(items)) => {
            if items.len() > form.max {
                findings.error(
                    node,
                    Problem::TooMany {
                        count: items.len(),
                        limit: form.max,
                        split: form.split,
                    },
                );
            }
            if items.len() < form.min {
                findings.invalid(node, "write at least one item, or leave the field out");
            }
            for item in items {
                check(item, form.item, admission, findings);
            }
        }
        (Schema::Map(form), Value::Object(members)) => {
            for member in members {
                check(&member.node, form, admission, findings);
            }
        }
        (Schema::Object(form), Value::Object(_)) => check_object(node, form, admission, findings),
        (schema, _) => findings.error(
            node,
            Problem::WrongType {
                value: node.shown(),
                found: node.kind(),
                expected: expected(schema),
            },
        ),
    }
}

fn expected(schema: &Schema) -> &'static str {
    match schema {
        Schema::Any => "anything",
        Schema::Bool => "true or false",
        Schema::Text(_) => "a text",
        Schema::Integer(..) => "a whole number",
        Schema::IntegerOrText => "a whole number or a text",
        Schema::List(_) => "a list",
        Schema::Map(_) | Schema::Object(_) => "a mapping",
    }
}

fn check_text<'t>(
    node: &'t Node,
    found: &str,
    form: &Text,
    admission: Admission,
    findings: &mut Findings<'t>,
) {
    if !form.values.is_empty() {
        let agent = admission == Admission::Agent
            && form
                .agent
                .iter()
                .any(|value| value.eq_ignore_ascii_case(found));
        if !agent && !form.values.contains(&found) {
            let meant = nearest(found, form.values.iter().copied())
                .map_or(String::new(), |value| format!(", did you mean {value:?}?"));
            findings.invalid(
                node,
                format!("allowed are {}{meant}", form.values.join(", ")),
            );
        }
    } else if !(if admission == Admission::Agent {
        form.agent_check
    } else {
        form.check
    })(found)
    {
        findings.invalid(node, format!("write {}", form.allowed));
    }
}

fn check_object<'t>(
    node: &'t Node,
    form: &Object,
    admission: Admission,
    findings: &mut Findings<'t>,
) {
    for member in node.members() {
        match form.fields.iter().find(|(name, _)| *name == &*member.name) {
            Some(_) if member.node.value == Value::Null => {
                if form.nulls == Nulls::Refused && admission == Admission::Schema {
                    findings.error_at(node, &member.name, null());
                }
            }
            Some((_, schema)) => check(&member.node, schema, admission, findings),
            None => {
                let allowed: Vec<&str> = form.fields.iter().map(|(name, _)| *name).collect();
                findings.error_at(
                    node,
                    &member.name,
                    Problem::UnknownField {
                        name: member.name.to_string(),
                        nearest: nearest(&member.name, allowed.iter().copied()).map(str::to_owned),
                        allowed: allowed.into_iter().map(str::to_owned).collect(),
                    },
                );
            }
        }
    }
    for (name, meaning) in form.required {
        let said = form.nulls == Nulls::Refused
            && admission == Admission::Schema
            && node.get(name).is_some();
        if node.set(name).is_none() && !said {
            findings.error_at(
                node,
                name,
                Problem::Missing {
                    meaning: (*meaning).to_owned(),
                },
            );
        }
    }
    if form.one_of.is_empty() {
        return;
    }
    let given: Vec<&str> = form
        .one_of
        .iter()
        .copied()
        .filter(|name| node.set(name).is_some())
        .collect();
    let names = |fields: &[&str]| fields.iter().map(|name| (*name).to_owned()).collect();
    match given.len() {
        0 => findings.error(
            node,
            Problem::NoneOf {
                fields: names(form.one_of),
                meaning: "add it".into(),
            },
        ),
        1 => {}
        _ => findings.error(
            node,
            Problem::Exclusive {
                fields: names(&given),
                fix: "keep one, and write another item for the other".into(),
            },
        ),
    }
}
