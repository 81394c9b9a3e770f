//! The report: a line a figure, ratio first, absolute figures beside.

use std::fmt;

use crate::figures::Pairs;

/// What a quantity is counted in. Printing picks a prefix that a person can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bits per second.
    BitsPerSecond,
    /// Per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Just how many.
    Count,
}

impl Unit {
    /// `value` of this unit, for people.
    pub fn show(self, value: f64) -> String {
        let (value, unit) = match self {
            Self::BitsPerSecond => {
                scale(value, &[(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1.0, "bit/s")])
            }
            Self::PerSecond => scale(value, &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
            Self::Seconds => scale(
                value,
                &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
            ),
            Self::Bytes => scale(value, &[(1e6, "MB"), (1e3, "kB"), (1.0, "bytes")]),
            Self::Count => return format!("{value}"),
        };
        let digits = if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        format!("{value:.digits$} {unit}")
    }
}

fn scale(value: f64, steps: &[(f64, &'static str)]) -> (f64, &'static str) {
    let last = steps.len() - 1;
    let (factor, unit) = steps
        .iter()
        .copied()
        .find(|(factor, _)| value.abs() >= *factor)
        .unwrap_or(steps[last]);
    (value / factor, unit)
}

/// What a figure should be. Told beside it, never enforced: another machine, another moment, another figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

impl Goal {
    /// True when `value` is as it should be.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn show(self, value: f64, number: impl Fn(f64) -> String) -> String {
        let (word, bound) = match self {
            Self::AtLeast(bound) => ("at least", bound),
            Self::AtMost(bound) => ("at most", bound),
        };
        let verdict = if self.is_met(value) { "met" } else { "NOT met" };
        format!("goal {word} {}: {verdict}", number(bound))
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Line {
    name: String,
    figure: String,
    beside: String,
    goal: Option<String>,
}

impl Line {
    /// A ratio of two things that were measured in turns.
    pub fn ratio(name: &str, pairs: &Pairs, unit: Unit, goal: Option<Goal>) -> Self {
        let ratio = pairs.ratio();
        let (least, most) = pairs.spread();
        Self {
            name: name.to_owned(),
            figure: format!("{ratio:.3}"),
            beside: format!(
                "{} against {} (pairs from {least:.2} to {most:.2})",
                unit.show(pairs.subject.median()),
                unit.show(pairs.baseline.median()),
            ),
            goal: goal.map(|goal| goal.show(ratio, |bound| format!("{bound:.2}"))),
        }
    }

    /// An absolute figure, with what else there is to say of it.
    pub fn absolute(name: &str, value: f64, unit: Unit, beside: &str, goal: Option<Goal>) -> Self {
        Self {
            name: name.to_owned(),
            figure: unit.show(value),
            beside: beside.to_owned(),
            goal: goal.map(|goal| goal.show(value, |bound| unit.show(bound))),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<44} {:>12}", self.name, self.figure)?;
        if !self.beside.is_empty() {
            write!(f, "   {}", self.beside)?;
        }
        if let Some(goal) = &self.goal {
            write!(f, "; {goal}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_people_say_them() {
        for (unit, value, text) in [
            (Unit::BitsPerSecond, 31.24e9, "31.2 Gbit/s"),
            (Unit::BitsPerSecond, 940e6, "940 Mbit/s"),
            (Unit::PerSecond, 41_234.0, "41.2 k/s"),
            (Unit::Seconds, 0.0123, "12.3 ms"),
            (Unit::Seconds, 95e-9, "95.0 ns"),
            (Unit::Seconds, 0.0, "0.00 ns"),
            (Unit::Bytes, 25e6, "25.0 MB"),
            (Unit::Count, 12.0, "12"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn a_line_says_the_ratio_what_it_is_of_and_whether_it_is_as_wished() {
        let pairs = Pairs::new(&[(9.0e9, 10.0e9), (9.5e9, 10.0e9)]).unwrap();
        let lines = [
            Line::ratio(
                "TCP throughput",
                &pairs,
                Unit::BitsPerSecond,
                Some(Goal::AtLeast(0.95)),
            ),
            Line::absolute(
                "agent, resident",
                12_000_000.0,
                Unit::Bytes,
                "100 endpoints",
                Some(Goal::AtMost(30e6)),
            ),
            Line::absolute("writes", 3.0, Unit::Count, "", None),
        ];
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
          TCP throughput                                      0.925   9.25 Gbit/s against 10.0 Gbit/s (pairs from 0.90 to 0.95); goal at least 0.95: NOT met
          agent, resident                                   12.0 MB   100 endpoints; goal at most 30.0 MB: met
          writes                                                  3
        ");
    }
}
