//! What does not fit into a table is said in the log when that begins, and when there is room again.

use oxilium_model::condition::{Condition, Reason};

/// Both sorted, as the desired state has them.
pub(super) fn tell(before: &[Condition], after: &[Condition]) {
    for Condition { object, reason } in only_in(after, before) {
        tracing::warn!(%object, %reason, "a table is full");
    }
    for Condition { object, .. } in only_in(before, after) {
        tracing::info!(%object, "a table has room again");
    }
}

fn only_in<'c>(
    these: &'c [Condition],
    others: &'c [Condition],
) -> impl Iterator<Item = &'c Condition> {
    let is_of_room = |condition: &&Condition| {
        matches!(
            condition.reason,
            Reason::WouldOverflow { .. }
                | Reason::ServicesExhausted
                | Reason::NumbersExhausted { .. }
        )
    };
    these
        .iter()
        .filter(is_of_room)
        .filter(|condition| others.binary_search(condition).is_err())
}
