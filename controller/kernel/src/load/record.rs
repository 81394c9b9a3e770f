//! The fields of a map's keys and values, by name: what this agent needs, what a map that is there has, and how to get from
//! one to the other.

use oxilium_abi::Layout;

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub name: String,
    pub offset: usize,
    pub size: usize,
}

/// A key or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub name: String,
    pub size: usize,
    pub parts: Vec<Part>,
}

impl Record {
    pub(super) fn of<T: Layout>() -> Self {
        let mut parts: Vec<Part> = T::FIELDS
            .iter()
            .map(|field| Part {
                name: field.name.to_owned(),
                offset: field.offset,
                size: field.size,
            })
            .collect();
        parts.sort_by_key(|part| part.offset);
        Self {
            name: T::NAME.to_owned(),
            size: size_of::<T>(),
            parts,
        }
    }

    /// It is a number, without a name of its own.
    pub(super) fn is_number(&self) -> bool {
        matches!(&self.parts[..], [part] if part.size == self.size) && self.size.is_power_of_two()
    }

    fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }
}

/// The key and the value of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Records {
    pub key: Record,
    pub value: Record,
}

impl Records {
    pub(super) fn of<K: Layout, V: Layout>() -> Self {
        Self {
            key: Record::of::<K>(),
            value: Record::of::<V>(),
        }
    }

    /// The same fields in the same places, whatever the types are called.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.key.parts == other.key.parts && self.value.parts == other.value.parts
    }
}

/// Bytes that stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    from: usize,
    to: usize,
    size: usize,
}

/// How to make a record of one layout into one of another: what has the same name stays, what is new is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conversion {
    moves: Vec<Move>,
    size: usize,
}

impl Conversion {
    /// Nothing to be changed.
    pub(super) fn none(size: usize) -> Self {
        Self {
            moves: vec![Move {
                from: 0,
                to: 0,
                size,
            }],
            size,
        }
    }

    /// From `found` to `wanted`; none where a field would be cut off, whatever it holds. A field may widen (numbers
    /// are little-endian, on both sides of the kernel's boundary).
    pub(super) fn between(found: &Record, wanted: &Record) -> Option<Self> {
        let mut moves = Vec::new();
        for part in &wanted.parts {
            let Some(former) = found.part(&part.name) else {
                continue;
            };
            if former.size > part.size {
                return None;
            }
            moves.push(Move {
                from: former.offset,
                to: part.offset,
                size: former.size,
            });
        }
        // Two records with nothing in common are not two versions of one.
        (!moves.is_empty()).then_some(Self {
            moves,
            size: wanted.size,
        })
    }

    /// As [`Conversion::between`], for keys: none of their fields may go, or two of them could become one.
    pub(super) fn between_keys(found: &Record, wanted: &Record) -> Option<Self> {
        let all = found
            .parts
            .iter()
            .all(|part| wanted.part(&part.name).is_some());
        if all {
            Self::between(found, wanted)
        } else {
            None
        }
    }

    /// Appends the record that `from` becomes.
    pub(super) fn append(&self, from: &[u8], into: &mut Vec<u8>) {
        let start = into.len();
        into.resize(start + self.size, 0);
        for part in &self.moves {
            let to = start + part.to;
            into[to..to + part.size].copy_from_slice(&from[part.from..part.from + part.size]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(parts: &[(&str, usize)]) -> Record {
        let mut size = 0;
        let parts = parts.iter().map(|(name, length)| {
            let part = Part {
                name: (*name).to_owned(),
                offset: size,
                size: *length,
            };
            size += length;
            part
        });
        let parts = parts.collect();
        Record {
            name: "record".to_owned(),
            size,
            parts,
        }
    }

    fn converted(found: &[(&str, usize)], wanted: &[(&str, usize)], bytes: &[u8]) -> Vec<u8> {
        let conversion = Conversion::between(&record(found), &record(wanted)).expect("no loss");
        let mut into = Vec::new();
        conversion.append(bytes, &mut into);
        into
    }

    #[test]
    fn fields_go_to_their_names_and_new_ones_are_zero() {
        let moved = converted(
            &[("word", 4), ("flags", 2)],
            &[("new", 1), ("flags", 2), ("word", 4)],
            &[1, 2, 3, 4, 5, 6],
        );
        assert_eq!(moved, [0, 5, 6, 1, 2, 3, 4]);
    }

    #[test]
    fn a_field_may_widen_and_may_go() {
        assert_eq!(
            converted(&[("word", 2), ("old", 1)], &[("word", 4)], &[1, 2, 9]),
            [1, 2, 0, 0]
        );
    }

    #[test]
    fn nothing_is_cut_off_and_no_two_keys_become_one() {
        let (wide, narrow) = (record(&[("word", 4)]), record(&[("word", 2)]));
        assert_eq!(Conversion::between(&wide, &narrow), None);
        let (two, one) = (record(&[("word", 2), ("port", 2)]), narrow);
        assert_eq!(Conversion::between_keys(&two, &one), None);
        assert!(Conversion::between(&two, &one).is_some());
        assert_eq!(Conversion::between(&record(&[("other", 2)]), &one), None);
    }
}
