//! `fromGroups` and `toGroups`: prefixes that an operator looks up at a cloud provider and keeps in a
//! CiliumCIDRGroup, which it marks with a label whose key is a hash of the group as written in the policy.

use sha2::{Digest, Sha224};

use crate::tree::{Node, Value};

/// Start of that label's key.
const KEY: &str = "extgrp.cilium.io/";

/// The key of the label of the CiliumCIDRGroup that stands for a group.
pub(super) fn label_key(group: &Node) -> String {
    let mut json = String::from("{");
    if let Some(aws) = group.set("aws") {
        json.push_str("\"aws\":{");
        let fields = [
            "labels",
            "securityGroupsIds",
            "securityGroupsNames",
            "region",
        ];
        let mut first = true;
        for name in fields {
            let Some(field) = aws.set(name).filter(|field| !is_empty(field)) else {
                continue;
            };
            if !std::mem::take(&mut first) {
                json.push(',');
            }
            json.extend(["\"", name, "\":"]);
            canonical(field, &mut json);
        }
        json.push('}');
    }
    json.push('}');
    format!("{KEY}{}", base64_url(&Sha224::digest(json.as_bytes())))
}

fn is_empty(field: &Node) -> bool {
    match &field.value {
        Value::Text(text) => text.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// JSON as Go writes it: names sorted, `<`, `>` and `&` escaped.
fn canonical(node: &Node, out: &mut String) {
    match &node.value {
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|a, b| a.name.cmp(&b.name));
            out.push('{');
            for (index, member) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                text(&member.name, out);
                out.push(':');
                canonical(&member.node, out);
            }
            out.push('}');
        }
        Value::Text(value) => text(value, out),
        _ => out.push_str(&node.to_json().to_string()),
    }
}

fn text(value: &str, out: &mut String) {
    let json = serde_json::Value::String(value.to_owned()).to_string();
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.extend(["\\u", &format!("{:04x}", u32::from(c))]);
            }
            c => out.push(c),
        }
    }
}

/// RFC 4648 section 5, without padding.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for index in 0..=chunk.len() {
            let six = (bits >> (18 - 6 * index)) & 0x3f;
            out.push(char::from(ALPHABET[six as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{base64_url, label_key};
    use crate::tree::Node;

    #[test]
    fn base64_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
        ] {
            assert_eq!(base64_url(bytes.as_bytes()), text);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let group = |json: &str| label_key(&Node::from_json(&serde_json::from_str(json).unwrap()));
        assert_eq!(
            group(r#"{"aws":{"region":"eu","labels":{"b":"<","a":"1"}}}"#),
            group(r#"{"aws":{"labels":{"a":"1","b":"<"},"region":"eu","securityGroupsIds":[]}}"#)
        );
        // sha224 of {"aws":{"securityGroupsIds":["sg-1"]}}
        assert_eq!(
            group(r#"{"aws":{"securityGroupsIds":["sg-1"]}}"#),
            "extgrp.cilium.io/zbNb9W6aenSjAJK8RoTgcPT5ygDqKmqJKoQb4w"
        );
    }
}
