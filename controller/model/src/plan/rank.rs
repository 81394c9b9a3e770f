//! Order among policy entries, and what they need of a table's shape words.

use oxilium_abi::{Direction, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord};

use crate::identity::NumericIdentity;

/// Which of the entries that match a packet decides: the one of the highest rank. Two entries that
/// match one packet never have the same rank, since their keys would be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    precedence: Precedence,
    shape: u32,
    specificity: Specificity,
}

impl Rank {
    pub(super) const fn of(key: &PolicyKey, value: &PolicyValue) -> Self {
        Self {
            precedence: value.precedence(),
            shape: key.shape(),
            specificity: Specificity::of(key),
        }
    }
}

/// How closely an entry names the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Specificity {
    Any,
    Aggregate,
    Specific,
}

impl Specificity {
    pub(super) const fn of(key: &PolicyKey) -> Self {
        let identity = NumericIdentity(key.identity);
        if identity.0 == NumericIdentity::ANY.0 {
            Self::Any
        } else if identity.is_aggregate() {
            Self::Aggregate
        } else {
            Self::Specific
        }
    }
}

/// A key that a program may look for: a direction and shape that exist.
pub(super) const fn is_well_formed(key: &PolicyKey) -> bool {
    key.direction_shape & 0x60 == 0 && key.shape() < ShapeMask::SHAPES
}

/// The shape words of a table, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shapes([ShapeWord; 2]);

impl Shapes {
    /// What these entries need.
    pub(super) fn needed<'a>(
        entries: impl IntoIterator<Item = (&'a PolicyKey, &'a PolicyValue)>,
    ) -> Self {
        let mut words = [ShapeWord::default(); 2];
        for (key, value) in entries {
            let shape = ShapeMask(1 << key.shape());
            let none = ShapeMask::default();
            let mut needed = match Specificity::of(key) {
                Specificity::Any => ShapeWord::new(none, none, shape),
                Specificity::Aggregate => ShapeWord::new(none, shape, none),
                Specificity::Specific => ShapeWord::new(shape, none, none),
            };
            if value.restricts(key) {
                needed = needed.restricting();
            }
            words[key.direction() as usize].0 |= needed.0;
        }
        Self(words)
    }

    pub(super) fn new(ingress: ShapeWord, egress: ShapeWord) -> Self {
        Self([ingress, egress])
    }

    /// All shapes of both.
    pub(super) fn union(self, other: Self) -> Self {
        Self([
            ShapeWord(self.0[0].0 | other.0[0].0),
            ShapeWord(self.0[1].0 | other.0[1].0),
        ])
    }

    /// Has all shapes of `other`.
    pub(super) fn covers(self, other: Self) -> bool {
        self.union(other) == self
    }

    pub(super) fn of(self, direction: Direction) -> ShapeWord {
        self.0[direction as usize]
    }
}
