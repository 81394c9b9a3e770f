//! What does not fit into a table is said in the log when that begins, and when there is room again.

use std::collections::BTreeSet;

use oxilium_model::condition::{Condition, Object, Reason};

/// An object that lacks room still, if by another number, is told of again as one that does.
pub(super) fn tell(before: &[Condition], after: &[Condition]) {
    let known: BTreeSet<&Condition> = of_room(before).collect();
    for condition in of_room(after).filter(|condition| !known.contains(condition)) {
        let Condition { object, reason } = condition;
        tracing::warn!(%object, %reason, "a table is full");
    }
    for object in fit_again(before, after) {
        tracing::info!(%object, "a table has room again");
    }
}

fn fit_again<'c>(
    before: &'c [Condition],
    after: &'c [Condition],
) -> impl Iterator<Item = &'c Object> {
    let still: BTreeSet<_> = of_room(after).map(|condition| &condition.object).collect();
    let objects: BTreeSet<_> = of_room(before).map(|condition| &condition.object).collect();
    objects
        .into_iter()
        .filter(move |object| !still.contains(object))
}

fn of_room(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    conditions.iter().filter(|condition| {
        matches!(
            condition.reason,
            Reason::WouldOverflow { .. }
                | Reason::ServicesExhausted
                | Reason::NumbersExhausted { .. }
        )
    })
}

#[cfg(test)]
mod tests {
    use oxilium_abi::Direction;
    use oxilium_model::world::{PodRef, ServiceRef};

    use super::*;

    #[test]
    fn only_what_lacks_no_room_any_more_has_room_again() {
        let of = |name: &str, reason| Condition {
            object: Object::Service(ServiceRef::new("default", name)),
            reason,
        };
        let lacks = |needed| Reason::WouldOverflow {
            pod: PodRef::new("default", "pod"),
            direction: Direction::Egress,
            needed,
            available: 1,
        };
        let before = [of("fits", lacks(2)), of("still", lacks(2))];
        let after = [of("fits", Reason::PodUnknown), of("still", lacks(3))];
        let told: Vec<_> = fit_again(&before, &after).collect();
        assert_eq!(told, [&before[0].object]);
        assert_eq!(fit_again(&before, &before).count(), 0);
    }
}
