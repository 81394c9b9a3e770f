//! What differs between two maps most of whose values are the same objects.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An entry that one of them has and the other has not, or has as another object.
pub(crate) struct Difference<'m, K, V> {
    pub(crate) key: &'m K,
    pub(crate) was: Option<&'m Arc<V>>,
    pub(crate) is: Option<&'m Arc<V>>,
}

/// What differs, by key. A value that is another object differs, whatever it says.
pub(crate) fn differing<'m, K: Ord, V>(
    before: &'m BTreeMap<K, Arc<V>>,
    after: &'m BTreeMap<K, Arc<V>>,
) -> Vec<Difference<'m, K, V>> {
    let mut differences = Vec::new();
    let (mut olds, mut news) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let (key, order) = match (olds.peek(), news.peek()) {
            (None, None) => return differences,
            (Some((old, _)), None) => (*old, Ordering::Less),
            (None, Some((new, _))) => (*new, Ordering::Greater),
            (Some((old, _)), Some((new, _))) => (*old.min(new), old.cmp(new)),
        };
        let was = olds.next_if(|_| order.is_le()).map(|(_, was)| was);
        let is = news.next_if(|_| order.is_ge()).map(|(_, is)| is);
        let is_same = was.zip(is).is_some_and(|(was, is)| Arc::ptr_eq(was, is));
        if !is_same {
            differences.push(Difference { key, was, is });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_object_does_not_differ() {
        let [same, one, other] = ["same", "one", "one"].map(Arc::new);
        let before = BTreeMap::from([(1, same.clone()), (2, one), (4, same.clone())]);
        let after = BTreeMap::from([(1, same.clone()), (2, other), (3, same)]);
        let seen: Vec<_> = differing(&before, &after)
            .into_iter()
            .map(|entry| (*entry.key, entry.was.is_some(), entry.is.is_some()))
            .collect();
        assert_eq!(seen, [(2, true, true), (3, false, true), (4, true, false)]);
    }
}
