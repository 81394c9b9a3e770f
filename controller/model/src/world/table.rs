//! Maps of which one that was made from another shares with it what they have in common: a snapshot with its index, a
//! node state with the one before.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use imbl::OrdMap;
use imbl::ordmap::{DiffItem, Iter};
use imbl::shared_ptr::DefaultSharedPtr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map whose clone is the same map. Of one that others hold as well a change copies what is on the way to the entry
/// that changes; all else stays shared, and is passed over where two of them are compared.
pub struct Table<K, V>(OrdMap<K, V>);

/// An entry that one of two tables has and the other has not, or has otherwise.
#[derive(Debug)]
pub struct Difference<'t, K, V> {
    /// Where.
    pub key: &'t K,
    /// In the first.
    pub was: Option<&'t V>,
    /// In the second.
    pub is: Option<&'t V>,
}

impl<K, V> Table<K, V> {
    /// The two are one: nothing that is in them can differ.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl<K: Ord, V: PartialEq> Table<K, V> {
    /// What is otherwise in `after`, by key. Costs what differs, and what is near it, where one was made from the other.
    pub fn differing<'t>(
        &'t self,
        after: &'t Self,
    ) -> impl Iterator<Item = Difference<'t, K, V>> + 't {
        self.0.diff(&after.0).map(|item| match item {
            DiffItem::Add(key, is) => Difference {
                key,
                was: None,
                is: Some(is),
            },
            DiffItem::Update {
                old: (_, was),
                new: (key, is),
            } => Difference {
                key,
                was: Some(was),
                is: Some(is),
            },
            DiffItem::Remove(key, was) => Difference {
                key,
                was: Some(was),
                is: None,
            },
        })
    }
}

impl<K: fmt::Debug + Ord, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord, V: Eq> Eq for Table<K, V> {}

impl<K, V> Deref for Table<K, V> {
    type Target = OrdMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V> DerefMut for Table<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<K: Clone + Ord, V: Clone> From<BTreeMap<K, V>> for Table<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        map.into_iter().collect()
    }
}

impl<K: Clone + Ord, V: Clone> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<'t, K: Ord, V> IntoIterator for &'t Table<K, V> {
    type Item = (&'t K, &'t V);
    type IntoIter = Iter<'t, K, V, DefaultSharedPtr>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Deserialize<'de> + Clone + Ord, V: Deserialize<'de> + Clone> Deserialize<'de>
    for Table<K, V>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clone_is_the_same_map_until_one_of_the_two_changes() {
        let mut here: Table<u32, &str> = [(1, "one")].into_iter().collect();
        let there = here.clone();
        assert!(here.is_same(&there));
        here.insert(2, "two");
        assert!(!here.is_same(&there));
        assert_eq!((here.len(), there.len()), (2, 1));
        here.remove(&2);
        assert_eq!(here, there);
    }

    proptest! {
        #[test]
        fn what_differs_between_a_table_and_what_was_made_of_it_is_found(
            first in prop::collection::btree_map(0..2000_u32, 0..3_u8, 0..1500),
            edits in prop::collection::vec((0..2000_u32, prop::option::of(0..3_u8)), 0..60),
        ) {
            let before = Table::from(first.clone());
            let (mut table, mut map) = (before.clone(), first.clone());
            for (key, value) in edits {
                if let Some(value) = value {
                    table.insert(key, value);
                    map.insert(key, value);
                } else {
                    table.remove(&key);
                    map.remove(&key);
                }
            }
            let keys: BTreeSet<u32> = first.keys().chain(map.keys()).copied().collect();
            let expected: Vec<_> = keys
                .into_iter()
                .map(|key| (key, first.get(&key), map.get(&key)))
                .filter(|(_, was, is)| was != is)
                .collect();
            let found: Vec<_> = before
                .differing(&table)
                .map(|entry| (*entry.key, entry.was, entry.is))
                .collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(before == table, expected.is_empty());
            prop_assert!(table.iter().eq(map.iter()));
        }
    }
}
