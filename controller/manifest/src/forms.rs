//! Forms of texts: names, labels, ports, prefixes, DNS names. What the patterns and formats of the schemas say.

use std::net::IpAddr;

use ipnet::IpNet;

/// At most this many bytes in a label's value or in the name part of its key.
const LABEL_PART: usize = 63;
/// At most this many bytes in a DNS subdomain.
const SUBDOMAIN: usize = 253;

fn is_alphanumeric(c: u8) -> bool {
    c.is_ascii_alphanumeric()
}

/// `[A-Za-z0-9]`, and between them also `-`, `_` and `.`.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_alphanumeric(*first)
        && is_alphanumeric(*last)
        && bytes
            .iter()
            .all(|c| is_alphanumeric(*c) || matches!(c, b'-' | b'_' | b'.'))
}

/// The value of a label.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || (text.len() <= LABEL_PART && is_qualified(text))
}

/// The key of a Kubernetes label: a name, or a DNS subdomain, `/` and a name.
pub(crate) fn is_label_key(text: &str) -> bool {
    let name = |part: &str| part.len() <= LABEL_PART && is_qualified(part);
    match text.split_once('/') {
        None => name(text),
        Some((prefix, rest)) => is_subdomain(prefix) && name(rest),
    }
}

/// The key of a requirement in a Cilium selector: a label key, with or without `source:` before it.
pub(crate) fn is_selector_key(text: &str) -> bool {
    match text.split_once(':') {
        None => is_label_key(text),
        Some((source, key)) => {
            !source.is_empty() && source.bytes().all(is_alphanumeric) && is_label_key(key)
        }
    }
}

/// A DNS subdomain (RFC 1123) in lower case.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let bytes = part.as_bytes();
        let ends = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(bytes.first())
            && ends(bytes.last())
            && bytes
                .iter()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
    };
    text.len() <= SUBDOMAIN && text.split('.').all(label)
}

/// The name of an object: something that can be a part of a path.
pub(crate) fn is_object_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '%'])
}

/// The name of a service (RFC 6335): letters, digits and single dashes between them, a letter at least, 15 at most.
pub(crate) fn is_service_name(text: &str) -> bool {
    text.len() <= 15 && is_service_name_of_any_length(text)
}

fn is_service_name_of_any_length(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|c| is_alphanumeric(c) || c == b'-')
        && text.bytes().any(|c| c.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// The pattern of `port` in Cilium's schema. It is not anchored at both ends of both of its branches, so it takes
/// what starts with digits or ends like a name; what a port is, says [`port_number`].
pub(crate) fn is_schema_port(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        || (0..text.len())
            .filter(|start| text.is_char_boundary(*start))
            .any(|start| is_service_name_of_any_length(&text[start..]))
}

/// A port number as Go reads it with base prefix: `80`, `0x50`, `0o120`, `0120`, `0b1010000`, `1_000`.
pub(crate) fn port_number(text: &str) -> Option<u16> {
    let (digits, radix, prefixed) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16, true),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8, true),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2, true),
        [b'0', _, ..] => (&text[1..], 8, true),
        _ => (text, 10, false),
    };
    // An underscore may stand between digits and after the base prefix only, and only where base prefixes are read.
    let mut before_is_digit = prefixed;
    for c in digits.bytes() {
        if c == b'_' && !before_is_digit {
            return None;
        }
        before_is_digit = c != b'_';
    }
    if !before_is_digit
        || digits.is_empty()
        || !digits.bytes().all(|c| is_alphanumeric(c) || c == b'_')
    {
        return None;
    }
    u16::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// A prefix `address/length` as Go's `net/netip` reads it: no zone, no leading zeros, no IPv4 address in IPv6 clothes with a zone.
pub(crate) fn prefix(text: &str) -> Option<IpNet> {
    let (address, length) = text.rsplit_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let plain = length == "0"
        || (!length.starts_with('0')
            && !length.is_empty()
            && length.bytes().all(|c| c.is_ascii_digit()));
    let length: u8 = if plain {
        length.parse().ok()?
    } else {
        return None;
    };
    IpNet::new(address, length).ok()
}

/// A prefix or a single address.
pub(crate) fn prefix_or_address(text: &str) -> Option<IpNet> {
    prefix(text).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// `^([-a-zA-Z0-9_]+[.]?)+$`, at most 255.
pub(crate) fn is_fqdn(text: &str) -> bool {
    dotted(text, |c| is_alphanumeric(c) || matches!(c, b'-' | b'_'))
}

/// `^([-a-zA-Z0-9_*]+[.]?)+$`, at most 255.
pub(crate) fn is_fqdn_pattern(text: &str) -> bool {
    dotted(text, |c| {
        is_alphanumeric(c) || matches!(c, b'-' | b'_' | b'*')
    })
}

fn dotted(text: &str, allowed: fn(u8) -> bool) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.starts_with('.')
        && !text.contains("..")
        && text.bytes().all(|c| allowed(c) || c == b'.')
}

/// Printable characters only (no control characters, format characters, surrogates or private use), at most 32 characters.
pub(crate) fn is_log_value(text: &str) -> bool {
    text.chars().count() <= 32 && text.chars().all(|c| !is_other(c))
}

/// Unicode category C: the control and format characters that can stand in a manifest.
fn is_other(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}'
            | '\u{f0000}'..='\u{10ffff}')
}

/// A host name that may have labels of other scripts. A regular expression passes only if it looks like one.
pub(crate) fn is_nonempty(text: &str) -> bool {
    !text.is_empty()
}
