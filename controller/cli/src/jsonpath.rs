//! `-o jsonpath=TEMPLATE`, as kubectl and cilium take it: text, and expressions in braces.
//!
//! An expression is a path (`{.items[*].name}`; the leading `$` may be left out), a text in quotes (`{"\n"}`), or
//! `{range PATH}…{end}`, which repeats what is in between for each value. What a path finds is printed with
//! spaces in between, texts without quotes. A path that finds nothing prints nothing. Paths are RFC 9535's, and as in kubectl
//! a name may hold `-`, and `\.` for a dot.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use serde_json_path::JsonPath;

/// A template that was read.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Path(JsonPath),
    Range(JsonPath, Vec<Part>),
}

/// What a pair of braces holds.
enum Expression {
    Part(Part),
    Range(JsonPath),
    End,
}

impl std::str::FromStr for Template {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        // The parts of the template, and of each range that is open.
        let mut open: Vec<(Option<JsonPath>, Vec<Part>)> = vec![(None, Vec::new())];
        let mut rest = text;
        loop {
            let (before, found) = match rest.split_once('{') {
                Some((before, after)) => (before, Some(after)),
                None => (rest, None),
            };
            let (_, parts) = open.last_mut().context("a range ends that did not begin")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some(after) = found else {
                break;
            };
            let (inside, behind) =
                until_brace(after).with_context(|| format!("a brace is not closed: {{{after}"))?;
            rest = behind;
            match expression(inside.trim())? {
                Expression::Part(part) => parts.push(part),
                Expression::Range(path) => open.push((Some(path), Vec::new())),
                Expression::End => {
                    let Some((Some(path), inner)) = open.pop() else {
                        bail!("{{end}} without a {{range …}} before it");
                    };
                    let (_, parts) = open.last_mut().context("a range ends that did not begin")?;
                    parts.push(Part::Range(path, inner));
                }
            }
        }
        match (open.pop(), open.is_empty()) {
            (Some((None, parts)), true) => Ok(Self(parts)),
            _ => bail!("a {{range …}} has no {{end}}"),
        }
    }
}

impl Template {
    /// The template with what its paths find in `value`.
    pub(crate) fn fill(&self, value: &Value) -> String {
        let mut text = String::new();
        fill(&self.0, value, &mut text);
        text
    }
}

fn fill(parts: &[Part], value: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Path(path) => {
                let found: Vec<String> = path.query(value).into_iter().map(plain).collect();
                text.push_str(&found.join(" "));
            }
            Part::Range(path, inner) => {
                for item in path.query(value) {
                    fill(inner, item, text);
                }
            }
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Up to the closing brace, and what comes after it; braces in quotes do not count.
fn until_brace(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        match (c, quote) {
            _ if escaped => escaped = false,
            ('\\', Some(_)) => escaped = true,
            ('}', None) => return Some((&text[..place], &text[place + 1..])),
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn expression(inside: &str) -> Result<Expression> {
    if inside == "end" {
        return Ok(Expression::End);
    }
    if let Some(path) = inside.strip_prefix("range ") {
        return Ok(Expression::Range(parse(path.trim())?));
    }
    if inside.starts_with(['"', '\'']) {
        let text = serde_json::from_str(&inside.replace('\'', "\""))
            .with_context(|| format!("{inside} is no text in quotes"))?;
        return Ok(Expression::Part(Part::Text(text)));
    }
    Ok(Expression::Part(Part::Path(parse(inside)?)))
}

/// A path as kubectl takes it.
fn parse(path: &str) -> Result<JsonPath> {
    let standard = standard(path);
    JsonPath::parse(&standard).with_context(|| format!("{path} is no JSONPath"))
}

/// The path in RFC 9535's words: from `$`, and names as they may be there.
fn standard(path: &str) -> String {
    let path = path.strip_prefix(['$', '@']).unwrap_or(path);
    let mut standard = "$".to_owned();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        if first == '[' {
            let end = bracket_end(rest);
            standard.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let after = rest.trim_start_matches('.');
        let dots = &rest[..rest.len() - after.len()];
        let (name, behind) = name(after);
        match name.as_str() {
            // As written: what is wrong with it is told by whoever parses it.
            _ if dots.is_empty() && standard.len() > 1 => {
                standard.push_str(rest);
                break;
            }
            "" => standard.push_str(if dots.len() > 1 { dots } else { "" }),
            "*" => {
                standard.push_str(if dots.len() > 1 { ".." } else { "." });
                standard.push('*');
            }
            name => {
                if dots.len() > 1 {
                    standard.push_str(dots);
                }
                let quoted = name.replace('\\', "\\\\").replace('\'', "\\'");
                standard.extend(["['", &quoted, "']"]);
            }
        }
        if after.is_empty() || behind.len() == after.len() && !behind.starts_with('[') {
            break;
        }
        rest = behind;
    }
    standard
}

/// A name up to the next `.` or `[`, with `\` before what is meant as it stands.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((place, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[place..]),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket ends that `text` begins with; its end if it does not.
fn bracket_end(text: &str) -> usize {
    let (mut depth, mut quote) = (0_u32, None);
    for (place, c) in text.char_indices() {
        match (c, quote) {
            ('[', None) => depth += 1,
            (']', None) => depth -= 1,
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_print_what_kubectl_prints() {
        let value = json!({
            "revision": 7,
            "items": [
                {"name": "a", "labels": {"io.x/y": "1"}, "ports": [80, 81]},
                {"name": "b", "labels": {}, "ports": []},
            ],
            "input-revision": null,
            "it's": true,
        });
        for (template, expected) in [
            ("{.revision}", "7"),
            ("{$.revision}", "7"),
            ("{ .revision }", "7"),
            ("revision={.revision}!", "revision=7!"),
            ("{.items[*].name}", "a b"),
            ("{.items[0]['name']}", "a"),
            ("{.items[-1].name}", "b"),
            ("{.items[0].ports}", "[80,81]"),
            ("{.items[0].labels.io\\.x/y}", "1"),
            ("{.items[?(@.name==\"b\")].name}", "b"),
            ("{..name}", "a b"),
            ("{.items.*.name}", "a b"),
            ("{range .items[*]}{.name}{\"\\n\"}{end}", "a\nb\n"),
            (
                "{range .items[*]}{@.name}:{range .ports[*]}{@},{end};{end}",
                "a:80,81,;b:;",
            ),
            ("{.input-revision}", "null"),
            ("{.it's}", ""),
            ("{.nothing}", ""),
            ("{'{}'}", "{}"),
            ("", ""),
        ] {
            let read: Result<Template> = template.parse();
            match read {
                Ok(read) => assert_eq!(read.fill(&value), expected, "{template}"),
                Err(_) => assert_eq!(template, "{.it's}", "a quote opens"),
            }
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_the_place() {
        for (template, problem) in [
            ("{.a", "a brace is not closed: {.a"),
            ("{.a[}", ".a[ is no JSONPath"),
            ("{.a[b]}", ".a[b] is no JSONPath"),
            ("{end}", "{end} without a {range …} before it"),
            ("{range .a}", "a {range …} has no {end}"),
            ("{'a}", "a brace is not closed: {'a}"),
        ] {
            let error = template.parse::<Template>().map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }
}
