//! Documents as trees in which every node knows its line and column.
//!
//! The tree keeps what YAML and JSON can tell apart: an absent field is not in [`Node::get`], `null`, `[]` and
//! `{}` are three different values.

mod json;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

pub use json::FromJson;

/// Where a node starts. Lines and columns count from 1, columns in characters; 0/0 means that the document did not come from a text.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, in characters.
    pub column: u32,
}

impl Position {
    /// The document has no text: it came as a value from an API.
    pub const NONE: Self = Self { line: 0, column: 0 };
}

/// A value with its position.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Where it starts.
    #[serde(with = "compact")]
    pub position: Position,
}

/// The kinds of values that manifests are made of.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Value {
    /// `null`, `~` or nothing after a colon.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number that is not whole, as written.
    Float(Box<str>),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the document; names are unique.
    Object(Vec<Member>),
}

/// A field of a mapping.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// The field's name.
    pub name: Box<str>,
    /// Where the name stands.
    #[serde(with = "compact")]
    pub position: Position,
    /// Its value.
    pub node: Node,
}

/// Positions in stored trees: `[line, column]`.
mod compact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Position;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        position: &Position,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (position.line, position.column).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Position, D::Error> {
        let (line, column) = <(u32, u32)>::deserialize(deserializer)?;
        Ok(Position { line, column })
    }
}

/// A number from its text: one without a fraction is whole, however it is written.
pub(crate) fn number(text: &str) -> Value {
    /// Whole numbers up to this are exact in every JSON library.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(whole) = text.parse() {
        return Value::Integer(whole);
    }
    match text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        Ok(float) if float.fract() == 0.0 && float.abs() < EXACT => Value::Integer(float as i64),
        _ => Value::Float(text.into()),
    }
}

impl Node {
    /// A tree without positions, from a value of the Kubernetes API.
    pub fn from_json(value: &Json) -> Self {
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => number(&n.to_string()),
            Json::String(s) => Value::Text(s.as_str().into()),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(name, value)| Member {
                        name: name.as_str().into(),
                        position: Position::NONE,
                        node: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self {
            value,
            position: Position::NONE,
        }
    }

    /// The same value without positions.
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Integer(n) => Json::from(*n),
            Value::Float(text) => text
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::String(text.to_string()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Object(members) => Json::Object(
                members
                    .iter()
                    .map(|member| (member.name.to_string(), member.node.to_json()))
                    .collect(),
            ),
        }
    }

    /// A field of a mapping, whatever its value. None when it is absent or this is no mapping.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.members()
            .iter()
            .find(|member| &*member.name == name)
            .map(|member| &member.node)
    }

    /// A field that is present and not `null`: the API server drops fields that are `null`.
    pub fn set(&self, name: &str) -> Option<&Node> {
        self.get(name).filter(|node| node.value != Value::Null)
    }

    /// The fields of a mapping; none for everything else.
    pub fn members(&self) -> &[Member] {
        match &self.value {
            Value::Object(members) => members,
            _ => &[],
        }
    }

    /// The items of a list; none for everything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The items of a field that is a list; none when it is absent or something else.
    pub fn list(&self, name: &str) -> &[Node] {
        self.get(name).map_or(&[], Self::items)
    }

    /// The text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a field that is a text.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Self::text)
    }

    /// The whole number.
    pub fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(n) => Some(n),
            _ => None,
        }
    }

    /// The boolean.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// What kind of value this is, for people.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "a mapping",
        }
    }

    /// The value in one short line, for messages.
    pub fn shown(&self) -> String {
        const LONGEST: usize = 80;
        let text = match &self.value {
            Value::Float(text) => text.to_string(),
            _ => self.to_json().to_string(),
        };
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    /// The tree as a typed object. Unknown fields are the type's business; positions are lost.
    ///
    /// # Errors
    /// When a field has another type than the object's.
    pub fn decode<T: DeserializeOwned>(
        &self,
    ) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
        serde_path_to_error::deserialize(self.to_json())
    }
}
