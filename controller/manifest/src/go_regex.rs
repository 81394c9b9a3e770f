//! Whether a text is a regular expression for Go's `regexp` (RE2 syntax), which is what Cilium's validation asks of
//! `path` and `method`.
//!
//! Only the syntax is checked here, nothing is compiled: <https://pkg.go.dev/regexp/syntax>.

/// Why a text is no regular expression.
pub(crate) type Reason = String;

/// At most this often may an expression repeat something, nested repetitions multiplied.
const MAX_REPEAT: u32 = 1000;

/// Checks the syntax.
pub(crate) fn check(text: &str) -> Result<(), Reason> {
    let mut parser = Checker {
        rest: text,
        repeat: vec![1],
        open: 0,
    };
    parser.expression()
}

struct Checker<'a> {
    rest: &'a str,
    /// Largest product of counted repetitions seen in each open group.
    repeat: Vec<u32>,
    open: usize,
}

impl Checker<'_> {
    fn expression(&mut self) -> Result<(), Reason> {
        // How much the last item repeats inside, or None when there is nothing to repeat.
        let mut last: Option<u32> = None;
        let mut repeated = false;
        while let Some(c) = self.rest.chars().next() {
            let at = self.rest;
            match c {
                '(' => {
                    last = self.open_group()?;
                    repeated = false;
                }
                ')' => {
                    if self.open == 0 {
                        return Err("unexpected ): each ) needs its (".into());
                    }
                    self.open -= 1;
                    self.bump(1);
                    last = Some(self.repeat.pop().unwrap_or(1));
                    repeated = false;
                }
                '|' => {
                    self.bump(1);
                    last = None;
                    repeated = false;
                }
                '*' | '+' | '?' => {
                    self.bump(1);
                    last = Some(self.quantify(at, last, repeated, 1)?);
                    repeated = true;
                }
                '{' => {
                    let times = self.counted()?;
                    last = match times {
                        Some(times) => Some(self.quantify(at, last, repeated, times)?),
                        None => Some(1),
                    };
                    repeated = times.is_some();
                }
                '[' => {
                    self.class()?;
                    last = Some(1);
                    repeated = false;
                }
                '\\' => {
                    // An empty quotation is nothing: what was before it can still be repeated.
                    if self.escape()? {
                        last = Some(1);
                        repeated = false;
                    }
                }
                other => {
                    self.bump(other.len_utf8());
                    last = Some(1);
                    repeated = false;
                }
            }
        }
        if self.open > 0 {
            return Err("missing closing )".into());
        }
        Ok(())
    }

    fn bump(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// After a quantifier; a `?` behind it makes it lazy.
    fn quantify(
        &mut self,
        at: &str,
        last: Option<u32>,
        repeated: bool,
        times: u32,
    ) -> Result<u32, Reason> {
        if self.rest.starts_with('?') {
            self.bump(1);
        }
        let shown = &at[..at.len() - self.rest.len()];
        if repeated {
            return Err(format!("invalid nested repetition operator at {shown}"));
        }
        let Some(inside) = last else {
            return Err(format!("missing argument to repetition operator {shown}"));
        };
        let product = inside.saturating_mul(times.max(1));
        if product > MAX_REPEAT {
            return Err(format!("repeats more than {MAX_REPEAT} times at {shown}"));
        }
        if let Some(most) = self.repeat.last_mut() {
            *most = product.max(*most);
        }
        Ok(product)
    }

    /// `{n}`, `{n,}` or `{n,m}`; anything else is a literal brace.
    fn counted(&mut self) -> Result<Option<u32>, Reason> {
        let body = self
            .rest
            .find('}')
            .map(|end| (&self.rest[1..end], end + 1))
            .and_then(|(body, len)| {
                let (low, high) = match body.split_once(',') {
                    None => (body, Some(body)),
                    Some((low, "")) => (low, None),
                    Some((low, high)) => (low, Some(high)),
                };
                Some((
                    count(low)?,
                    high.map_or(Some(None), |h| count(h).map(Some))?,
                    len,
                ))
            });
        let Some((low, high, len)) = body else {
            self.bump(1);
            return Ok(None);
        };
        let shown = self.rest[..len].to_owned();
        self.bump(len);
        if low > MAX_REPEAT || high.is_some_and(|high| high > MAX_REPEAT || high < low) {
            return Err(format!("invalid repeat count {shown}"));
        }
        Ok(Some(high.unwrap_or(low)))
    }

    /// `(`, `(?:`, `(?P<name>`, `(?<name>`, `(?flags)` or `(?flags:`. None when it was flags alone.
    fn open_group(&mut self) -> Result<Option<u32>, Reason> {
        let Some(rest) = self.rest.strip_prefix("(?") else {
            self.bump(1);
            return Ok(self.enter());
        };
        if let Some(named) = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<')) {
            let invalid = || format!("invalid named capture {}", self.rest);
            let (name, after) = named.split_once('>').ok_or_else(invalid)?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(invalid());
            }
            self.rest = after;
            return Ok(self.enter());
        }
        let mut negated = false;
        let mut any = false;
        for (index, c) in rest.char_indices() {
            match c {
                'i' | 'm' | 's' | 'U' => any = true,
                '-' if !negated => {
                    negated = true;
                    any = false;
                }
                ':' | ')' if !negated || any => {
                    self.rest = &rest[index + 1..];
                    return Ok(if c == ':' { self.enter() } else { None });
                }
                _ => break,
            }
        }
        let shown: String = self.rest.chars().take(4).collect();
        Err(format!("invalid or unsupported syntax {shown}"))
    }

    fn enter(&mut self) -> Option<u32> {
        self.open += 1;
        self.repeat.push(1);
        None
    }

    /// False for an empty quotation.
    fn escape(&mut self) -> Result<bool, Reason> {
        let Some(c) = self.rest[1..].chars().next() else {
            return Err("trailing backslash at the end".into());
        };
        match c {
            'Q' => {
                let quoted = &self.rest[2..];
                let text = quoted.split_once("\\E").map_or(quoted, |(text, _)| text);
                let ends = text.len() < quoted.len();
                let any = !text.is_empty();
                self.bump(2 + text.len() + if ends { 2 } else { 0 });
                Ok(any)
            }
            'A' | 'b' | 'B' | 'z' | 'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                self.bump(2);
                Ok(true)
            }
            'p' | 'P' => self.unicode_class().map(|()| true),
            _ => self.escaped_char().map(|_| true),
        }
    }

    /// An escape that stands for one character, in and outside of brackets.
    fn escaped_char(&mut self) -> Result<char, Reason> {
        let invalid = |rest: &str| {
            let shown: String = rest.chars().take(2).collect();
            format!("invalid escape sequence {shown}")
        };
        let whole = self.rest;
        let body = &whole[1..];
        let Some(c) = body.chars().next() else {
            return Err("trailing backslash at the end".into());
        };
        let simple = match c {
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        if let Some(simple) = simple {
            self.bump(2);
            return Ok(simple);
        }
        if c == 'x' {
            let digits = match body[1..].strip_prefix('{') {
                Some(open) => open.split_once('}').map(|(hex, _)| (hex, hex.len() + 4)),
                None => body.get(1..3).map(|hex| (hex, 4)),
            };
            let (hex, len) = digits.ok_or_else(|| invalid(whole))?;
            let plain = !hex.is_empty() && hex.bytes().all(|c| c.is_ascii_hexdigit());
            let found = u32::from_str_radix(hex, 16)
                .ok()
                .filter(|_| plain)
                .and_then(char::from_u32)
                .ok_or_else(|| invalid(whole))?;
            self.bump(len);
            return Ok(found);
        }
        // One digit alone from 1 to 7 would be a reference to a group, which RE2 does not have.
        let octal: String = body
            .chars()
            .take(3)
            .take_while(|c| ('0'..='7').contains(c))
            .collect();
        if octal.is_empty() || (octal.len() == 1 && octal != "0") {
            return Err(invalid(whole));
        }
        self.bump(1 + octal.len());
        u32::from_str_radix(&octal, 8)
            .ok()
            .and_then(char::from_u32)
            .ok_or_else(|| invalid(whole))
    }

    /// `\pL`, `\p{Greek}`, `\P{^Lu}`.
    fn unicode_class(&mut self) -> Result<(), Reason> {
        let body = &self.rest[2..];
        let (name, len) = if let Some(open) = body.strip_prefix('{') {
            let end = open
                .find('}')
                .ok_or("invalid character class range: missing }")?;
            (&open[..end], end + 4)
        } else {
            let c = body
                .chars()
                .next()
                .ok_or("invalid character class range \\p")?;
            (&body[..c.len_utf8()], 2 + c.len_utf8())
        };
        let shown = &self.rest[..len];
        let plain = name.trim_start_matches('^');
        let known = plain == "Any"
            || regex_syntax::Parser::new()
                .parse(&format!("\\p{{{plain}}}"))
                .is_ok();
        if plain.is_empty() || plain.contains(['=', ':', ' ']) || !known {
            return Err(format!("invalid character class range {shown}"));
        }
        self.bump(len);
        Ok(())
    }

    fn class(&mut self) -> Result<(), Reason> {
        let start = self.rest;
        self.bump(1);
        if self.rest.starts_with('^') {
            self.bump(1);
        }
        let mut first = true;
        loop {
            let Some(c) = self.rest.chars().next() else {
                return Err(format!("missing closing ] for {start}"));
            };
            if c == ']' && !first {
                self.bump(1);
                return Ok(());
            }
            first = false;
            if self.posix_class()? {
                continue;
            }
            if self.rest.starts_with("\\p") || self.rest.starts_with("\\P") {
                self.unicode_class()?;
                continue;
            }
            if ["\\d", "\\D", "\\s", "\\S", "\\w", "\\W"]
                .iter()
                .any(|class| self.rest.starts_with(class))
            {
                self.bump(2);
                continue;
            }
            let at = self.rest;
            let low = self.class_char()?;
            let mut next = self.rest.chars();
            if next.next() == Some('-') && next.next().is_some_and(|c| c != ']') {
                self.bump(1);
                if self.class_char()? < low {
                    let shown = &at[..at.len() - self.rest.len()];
                    return Err(format!("invalid character class range {shown}"));
                }
            }
        }
    }

    fn class_char(&mut self) -> Result<char, Reason> {
        match self.rest.chars().next() {
            Some('\\') => self.escaped_char(),
            Some(c) => {
                self.bump(c.len_utf8());
                Ok(c)
            }
            None => Err("missing closing ]".into()),
        }
    }

    fn posix_class(&mut self) -> Result<bool, Reason> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        let Some((name, _)) = self
            .rest
            .strip_prefix("[:")
            .and_then(|rest| rest.split_once(":]"))
        else {
            return Ok(false);
        };
        let plain = name.strip_prefix('^').unwrap_or(name);
        if !NAMES.contains(&plain) {
            return Err(format!("invalid character class range [:{name}:]"));
        }
        self.bump(name.len() + 4);
        Ok(true)
    }
}

/// A repeat count: no leading zeros. Larger than any limit when it does not fit.
fn count(text: &str) -> Option<u32> {
    let plain = !text.is_empty()
        && text.bytes().all(|c| c.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_go_compiles_passes() {
        for text in [
            "",
            "/public",
            "GET|POST",
            "^/a(b|c)*$",
            "/[a-z]+/[^/]*",
            "a{2}",
            "a{2,}",
            "a{2,3}?",
            "a{,3}",
            "a{",
            "]",
            "}",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[-a]",
            "[[:alpha:]_]",
            r"\.\-\_\<",
            r"\x41\x{1F600}\101\0",
            r"\pL\p{Greek}\P{^Lu}",
            "(?i)x",
            "(?i:x)",
            "(?P<name>x)",
            "(?<name>x)",
            "(?i-s)x",
            r"\Qa(b\E",
            "a**?".get(..2).unwrap_or(""),
            "(a*)*",
            "x*|y+",
            "(|a)",
            "(a{10}){100}",
            "$host",
            "/bücher",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "/a(",
            "a)",
            "*",
            "a**",
            "a+*",
            "a??*",
            "|*",
            "(?:*)",
            "[a",
            "[",
            "[z-a]",
            "[[:foo:]]",
            r"\",
            r"\y",
            r"\1",
            r"\8",
            r"\p{Foo}",
            "a{3,2}",
            "a{1001}",
            "(a{100}){11}",
            "(?x)a",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?P=n)",
            "(?P<a-b>x)",
            "(?P<>x)",
            "(?i-)x",
            "a{2}{3}",
            r"\x{110000}",
            r"\xg1",
            r"[\A]",
            r"\C",
            r"\Q\E*",
        ] {
            assert!(check(text).is_err(), "{text:?}");
        }
    }
}
