//! What scalars mean, and which tags go with them.

use saphyr_parser::{ScalarStyle, Tag};

use super::{ReadError, ReadProblem, refuse};
use crate::tree::{Position, Value};

fn shown(tag: &Tag) -> String {
    if tag.is_yaml_core_schema() {
        return format!("!!{}", tag.suffix);
    }
    tag.to_string()
}

pub(super) fn collection_tag(
    tag: Option<&Tag>,
    allowed: &str,
    at: Position,
) -> Result<(), ReadError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == allowed => Ok(()),
        Some(tag) => Err(refuse(at, ReadProblem::Tag { tag: shown(tag) })),
    }
}

pub(super) fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Position,
) -> Result<Value, ReadError> {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain {
            plain(text, at)
        } else {
            Ok(Value::Text(text.into()))
        };
    };
    let fits = |value: Value| {
        let name = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Integer(_) => "int",
            Value::Float(_) => "float",
            _ => "str",
        };
        (name == tag.suffix).then_some(value)
    };
    let value = match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
        (true, "str") => Some(Value::Text(text.into())),
        (true, _) => fits(plain(text, at)?),
        (false, _) => None,
    };
    value.ok_or_else(|| refuse(at, ReadProblem::Tag { tag: shown(tag) }))
}

/// What an unquoted scalar means.
fn plain(text: &str, at: Position) -> Result<Value, ReadError> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => {
            return Err(refuse(at, ReadProblem::Number { text: text.into() }));
        }
        _ => {}
    }
    let starts_number = text
        .trim_start_matches(['+', '-'])
        .starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !starts_number {
        return Ok(Value::Text(text.into()));
    }
    number(text, at)
}

fn number(text: &str, at: Position) -> Result<Value, ReadError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = digits.replace('_', "");
    let sign = |n: i64| if negative { -n } else { n };
    for (start, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(start) {
            return Ok(match i64::from_str_radix(rest, radix) {
                Ok(n) if !rest.starts_with(['+', '-']) => Value::Integer(sign(n)),
                _ => Value::Text(text.into()),
            });
        }
    }
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        let octal = (digits.len() > 1 && digits.starts_with('0'))
            .then(|| i64::from_str_radix(&digits, 8).ok())
            .flatten();
        return match (octal, digits.parse::<i64>()) {
            (Some(octal), Ok(decimal)) if octal != decimal => Err(refuse(
                at,
                ReadProblem::LeadingZero {
                    text: text.into(),
                    octal: sign(octal).to_string(),
                    decimal: sign(decimal).to_string(),
                },
            )),
            (_, Ok(n)) => Ok(Value::Integer(sign(n))),
            (_, Err(_)) => Err(refuse(at, ReadProblem::Number { text: text.into() })),
        };
    }
    let float = digits
        .bytes()
        .all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|c| c.is_ascii_digit());
    match digits.parse::<f64>() {
        Ok(n) if float && n.is_finite() => {
            let shown = format!("{}{digits}", if negative { "-" } else { "" });
            Ok(crate::tree::number(&shown))
        }
        Ok(_) if float => Err(refuse(at, ReadProblem::Number { text: text.into() })),
        _ => Ok(Value::Text(text.into())),
    }
}
