//! What an agent does not know of yet is not gone: it takes nothing away before every source has delivered.

use std::sync::Arc;

use oxilium_agent::reconcile::{Input, OBJECT_SOURCES};
use oxilium_agent::source::Delivery;

use crate::lab::Lab;
use crate::{DENY_ALL, two_pods};

#[test]
fn a_restart_writes_nothing_as_long_as_any_source_has_not_delivered() {
    let manifests = two_pods() + DENY_ALL;
    for missing in OBJECT_SOURCES {
        let mut lab = Lab::with(&manifests);
        lab.pod("web", 7);
        lab.restart_blind("boot-1");
        let delivered = OBJECT_SOURCES
            .into_iter()
            .filter(|source| *source != missing);
        // Of what was delivered there is nothing, either.
        let partly = Delivery::of(Arc::default(), delivered.collect(), Arc::default());
        lab.take(Input::Objects(partly));
        lab.turn();
        assert_eq!(lab.writes(), [], "without {missing:?}");
        let waiting = lab.view().ready().unwrap_err();
        assert!(waiting.contains(missing.name()), "{waiting}");
        lab.manifests(&manifests);
        lab.settle();
        assert_eq!(lab.writes(), [], "after {missing:?}");
    }
}
