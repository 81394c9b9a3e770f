//! Port ranges as prefixes: what a policy table can look up.

use std::fmt;

/// The ports whose first `length` bits are those of `first`; for ICMP, types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    first: u16,
    length: u8,
}

impl PortPrefix {
    /// Every port.
    pub const ANY: Self = Self {
        first: 0,
        length: 0,
    };

    /// One port.
    pub const fn exact(port: u16) -> Self {
        Self {
            first: port,
            length: 16,
        }
    }

    /// The prefix of `length` bits (0…16, more counts as 16) that holds `port`.
    pub const fn of(port: u16, length: u8) -> Self {
        let length = if length > 16 { 16 } else { length };
        Self {
            first: port & Self::mask(length),
            length,
        }
    }

    const fn mask(length: u8) -> u16 {
        match 0xFFFF_u16.checked_shl(16 - length as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// The lowest port, in host order.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port, in host order.
    pub const fn last(self) -> u16 {
        self.first | !Self::mask(self.length)
    }

    /// Bits that count: 16 one port, 0 every port.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        port & Self::mask(self.length) == self.first
    }

    /// All of `other`'s are among them.
    pub const fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.first)
    }

    /// The fewest prefixes that together are `first` to `last`, both included, from the lowest up.
    /// A `last` below `first` counts as `first`.
    pub fn of_range(first: u16, last: u16) -> Vec<Self> {
        let last = u32::from(last.max(first));
        let mut next = u32::from(first);
        let mut prefixes = Vec::new();
        while next <= last {
            // The largest block that starts here is bounded by alignment and by what is left.
            let aligned = next.trailing_zeros().min(16);
            let fitting = (last - next + 1).ilog2();
            let bits = aligned.min(fitting);
            prefixes.push(Self::of(
                u16::try_from(next).unwrap_or(u16::MAX),
                16 - u8::try_from(bits).unwrap_or(16),
            ));
            next += 1 << bits;
        }
        prefixes
    }
}

impl fmt::Display for PortPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            0 => f.write_str("any"),
            16 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_the_fewest_aligned_blocks() {
        let cases = [
            ((80, 80), "80"),
            ((0, 65535), "any"),
            ((8080, 8095), "8080-8095"),
            (
                (1000, 1999),
                "1000-1007 1008-1023 1024-1535 1536-1791 1792-1919 1920-1983 1984-1999",
            ),
            ((32768, 65535), "32768-65535"),
            ((90, 80), "90"),
            ((65535, 65535), "65535"),
        ];
        for ((first, last), expected) in cases {
            let text: Vec<String> = PortPrefix::of_range(first, last)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(text.join(" "), expected, "{first}-{last}");
        }
        assert_eq!(PortPrefix::of_range(1, 65535).len(), 16);
    }

    proptest! {
        #[test]
        fn the_prefixes_of_a_range_hold_each_of_its_ports_once_and_no_other(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = PortPrefix::of_range(first, last);
            let mut next = u32::from(first);
            for prefix in prefixes {
                prop_assert_eq!(u32::from(prefix.first()), next);
                next = u32::from(prefix.last()) + 1;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
