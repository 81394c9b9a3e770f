//! Trees straight from the JSON of an API, without a value in between.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Member, Node, Position, Value, number};

/// A tree without positions, read from JSON as an API server sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct FromJson(pub Node);

impl<'de> Deserialize<'de> for FromJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(Self)
    }
}

struct Tree;

fn node(value: Value) -> Node {
    Node {
        value,
        position: Position::NONE,
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(node(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(node(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(node(Value::Integer(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(node(number(&value.to_string())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(node(number(&value.to_string())))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(node(Value::Text(value.into())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Node, E> {
        Ok(node(Value::Text(value.into_boxed_str())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(FromJson(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(node(Value::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = fields.next_key::<Box<str>>()? {
            let FromJson(node) = fields.next_value()?;
            members.push(Member {
                name,
                position: Position::NONE,
                node,
            });
        }
        Ok(node(Value::Object(members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_tree_that_the_value_gives() {
        let texts = [
            r#"{"a": [1, -1, 1.5, 2.0, 18446744073709551615, true, null], "b": {"c": "d"}}"#,
            r#""text""#,
            "[]",
        ];
        for text in texts {
            let FromJson(tree) = serde_json::from_str(text).unwrap();
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(tree, Node::from_json(&value), "{text}");
        }
    }
}
