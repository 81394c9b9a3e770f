//! What differs between two maps most of whose values are the same objects.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries of a map.
pub(crate) type Entries<'m, K, V> = Vec<(&'m K, &'m Arc<V>)>;

/// Entries of the one that the other has not, and the other way round. A value that is another object differs, whatever it
/// says.
pub(crate) fn differing<'m, K: Ord, V>(
    before: &'m BTreeMap<K, Arc<V>>,
    after: &'m BTreeMap<K, Arc<V>>,
) -> (Entries<'m, K, V>, Entries<'m, K, V>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let (mut olds, mut news) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return (gone, new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((now, _))) => old.cmp(now),
        };
        let old = olds.next_if(|_| order.is_le());
        let now = news.next_if(|_| order.is_ge());
        if let (Some((_, old)), Some((_, now))) = (old, now)
            && Arc::ptr_eq(old, now)
        {
            continue;
        }
        gone.extend(old);
        new.extend(now);
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
        let (gone, new) = differing(&before, &after);
        let keys = |entries: Entries<'_, i32, &str>| -> Vec<i32> {
            entries.into_iter().map(|(key, _)| *key).collect()
        };
        assert_eq!((keys(gone), keys(new)), (vec![2, 4], vec![2, 3]));
    }
}
