//! JSON as YAML in blocks, one field a line: what a review and a diff can be read in.

use std::fmt::Write as _;

use serde_json::Value;

/// The text of a document, `\n` at its end.
pub fn to_yaml(document: &Value) -> String {
    let mut text = String::new();
    match document {
        Value::Object(fields) if !fields.is_empty() => block(document, 0, &mut text),
        Value::Array(items) if !items.is_empty() => block(document, 0, &mut text),
        _ => line(document, &mut text),
    }
    text
}

/// The lines of a list or a mapping that is not empty. The first has been indented already.
fn block(value: &Value, depth: usize, text: &mut String) {
    let mut first = true;
    let mut begin = |text: &mut String| {
        if !std::mem::take(&mut first) {
            indent(depth, text);
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                begin(text);
                scalar(name, text);
                text.push(':');
                child(field, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                begin(text);
                text.push('-');
                if is_block(item) {
                    text.push(' ');
                    block(item, depth + 1, text);
                } else {
                    text.push(' ');
                    line(item, text);
                }
            }
        }
        _ => line(value, text),
    }
}

/// What stands after `name:`.
fn child(value: &Value, depth: usize, text: &mut String) {
    if is_block(value) {
        text.push('\n');
        indent(depth + 1, text);
        block(value, depth + 1, text);
    } else {
        text.push(' ');
        line(value, text);
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn indent(depth: usize, text: &mut String) {
    for _ in 0..depth {
        text.push_str("  ");
    }
}

fn line(value: &Value, text: &mut String) {
    match value {
        Value::String(value) => scalar(value, text),
        // Writing to a String cannot fail. Numbers, booleans, null, [] and {} are the same in YAML.
        other => drop(write!(text, "{other}")),
    }
    text.push('\n');
}

/// A text as it is where no reader takes it for something else, and in JSON's quotes otherwise, which are YAML's too.
fn scalar(value: &str, text: &mut String) {
    let plain = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.')
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " -_./$()|".contains(c))
        && !value.ends_with(' ')
        && !value.contains(" -")
        && value.parse::<f64>().is_err()
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&value.to_lowercase().as_str());
    if plain {
        text.push_str(value);
    } else {
        text.push_str(&Value::from(value).to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_yaml;

    #[test]
    fn a_document_reads_as_people_write_it() {
        let document = json!({
            "a": {"b": [1, "two", {"c": true, "d": []}], "e": {}},
            "f": [[1, 2], "x: y"],
            "yes": "no", "text": "two\nlines", "number": "1e3", "dot": ".5", "path": ".a.b",
        });
        let expected = "\
a:
  b:
    - 1
    - two
    - c: true
      d: []
  e: {}
f:
  - - 1
    - 2
  - \"x: y\"
\"yes\": \"no\"
text: \"two\\nlines\"
number: \"1e3\"
dot: \".5\"
path: .a.b
";
        assert_eq!(to_yaml(&document), expected);
    }
}
