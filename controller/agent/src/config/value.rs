//! Values of configuration keys, as Cilium's command line reads them.

use std::fmt;
use std::time::Duration;

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Go's booleans: `true`, `false`, `1`, `0`, `t`, `f`.
    Bool,
    /// A whole number in this range.
    Number(u64, u64),
    /// A number from 0 to 1.
    Ratio,
    /// Go's durations, e.g. `1h5m0s`; a bare number is seconds.
    Duration,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text.
    Text,
    /// An absolute path.
    Path,
}

impl Kind {
    /// The value in one spelling.
    ///
    /// # Errors
    /// What is allowed instead.
    pub fn canonical(self, text: &str) -> Result<String, Allowed> {
        let text = text.trim();
        let canonical = match self {
            Self::Bool => boolean(text).map(|value| value.to_string()),
            Self::Number(least, most) => text
                .parse::<u64>()
                .ok()
                .filter(|value| (least..=most).contains(value))
                .map(|value| value.to_string()),
            Self::Ratio => text
                .parse::<f64>()
                .ok()
                .filter(|value| (0.0..=1.0).contains(value))
                .map(|value| value.to_string()),
            Self::Duration => duration(text).map(|_| text.to_owned()),
            Self::OneOf(words) => words.contains(&text).then(|| text.to_owned()),
            Self::Text => Some(text.to_owned()),
            Self::Path => text.starts_with('/').then(|| text.to_owned()),
        };
        canonical.ok_or(Allowed(self))
    }
}

/// What a value may be, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed(Kind);

impl Kind {
    /// What is allowed, for people.
    pub fn allowed(self) -> Allowed {
        Allowed(self)
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Bool => f.write_str("true or false"),
            Kind::Number(least, u64::MAX) => write!(f, "a number from {least}"),
            Kind::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Kind::Ratio => f.write_str("a number from 0 to 1"),
            Kind::Duration => f.write_str("a duration such as 30s or 1h5m0s"),
            Kind::OneOf(words) => write!(f, "{}", words.join(", ")),
            Kind::Text => f.write_str("any text"),
            Kind::Path => f.write_str("an absolute path"),
        }
    }
}

/// Go's strconv.ParseBool.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's time.ParseDuration without a sign; a bare number is seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        whole = whole.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(whole)
}

/// For clap: a boolean as Go spells it.
///
/// # Errors
/// What is allowed.
pub fn parse_boolean(text: &str) -> Result<bool, String> {
    boolean(text).ok_or_else(|| format!("allowed: {}", Kind::Bool.allowed()))
}

/// For clap: a duration in whole seconds, rounded up.
///
/// # Errors
/// What is allowed.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let value = duration(text).ok_or_else(|| format!("allowed: {}", Kind::Duration.allowed()))?;
    Ok(value.as_secs() + u64::from(value.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_go_takes_them_for() {
        let words = Kind::OneOf(&["default", "always"]);
        let cases = [
            (Kind::Bool, "T", Some("true")),
            (Kind::Bool, " false\n", Some("false")),
            (Kind::Bool, "yes", None),
            (Kind::Number(0, 255), "255", Some("255")),
            (Kind::Number(0, 255), "256", None),
            (Kind::Number(0, 255), "-1", None),
            (Kind::Ratio, "0.0025", Some("0.0025")),
            (Kind::Ratio, "1.5", None),
            (Kind::Ratio, "NaN", None),
            (words, "always", Some("always")),
            (words, "Always", None),
            (Kind::Path, "/run/cilium", Some("/run/cilium")),
            (Kind::Path, "run", None),
        ];
        for (kind, text, expected) in cases {
            let found = kind.canonical(text).ok();
            assert_eq!(found.as_deref(), expected, "{kind:?} {text:?}");
        }
    }

    #[test]
    fn durations_are_go_s() {
        let cases = [
            ("15m0s", Some(900)),
            ("1h5m", Some(3900)),
            ("1.5h", Some(5400)),
            ("300ms", Some(1)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("10", Some(10)),
            ("", None),
            ("5", Some(5)),
            ("5x", None),
            ("s", None),
            ("1m5", None),
            ("-1s", None),
            ("1e300h", None),
            ("99999999999999999999s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_seconds(text).ok(), expected, "{text:?}");
        }
    }
}
