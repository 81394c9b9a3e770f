//! What is known of reading one kind, and whether it is complete.

use std::time::SystemTime;

use oxilium_api::{ComponentState, ComponentStatus, SourceStatus};

use super::health::Health;
use super::requests::{Crd, GIVE_UP_FORMER};
use super::resource::{Definition, Resource};

/// The state of one kind.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    resource: Resource,
    health: Health,
    since: SystemTime,
    listed: bool,
    /// The UID of the definition whose objects are known.
    definition: Option<String>,
    /// The UID of the definition whose objects the last run had in force.
    recorded: Option<String>,
}

impl Kind {
    pub(super) fn new(resource: Resource, recorded: Option<&str>) -> Self {
        Self {
            resource,
            health: Health::Starting,
            since: SystemTime::now(),
            listed: false,
            definition: None,
            recorded: recorded.map(str::to_owned),
        }
    }

    pub(super) fn set_health(&mut self, health: Health) {
        if self.health == health {
            return;
        }
        let qualified = self.resource.qualified();
        let bad = health.is_bad(self.resource);
        // The same trouble in other words is the same trouble.
        if std::mem::discriminant(&self.health) != std::mem::discriminant(&health) {
            self.since = SystemTime::now();
            if bad {
                tracing::warn!(resource = qualified, ?health, "cannot be read");
            } else if self.health.is_bad(self.resource) {
                tracing::info!(resource = qualified, "is read again");
            }
        }
        self.health = health;
    }

    /// All objects were told. True: another definition than that of the objects known so far defines them.
    pub(super) fn listed(&mut self, definition: Option<&Crd>) -> bool {
        self.listed = true;
        let Some(found) = definition else {
            return false;
        };
        if found.gives_up_former {
            self.recorded = None;
        }
        let before = self.definition.replace(found.uid.clone());
        if self.recorded.as_deref() == Some(&found.uid) {
            self.recorded = None;
        }
        before.is_some_and(|before| before != found.uid) && !found.gives_up_former
    }

    /// What an earlier definition defined is wanted no more.
    pub(super) fn give_up_former(&mut self) {
        self.recorded = None;
    }

    /// Objects of an earlier definition were in force when this run began, and nobody knows them any more.
    pub(super) fn is_held(&self) -> bool {
        self.recorded.is_some()
    }

    /// All that there is of it is known.
    pub(super) fn is_synced(&self) -> bool {
        let absent = self.resource.definition() == Definition::Optional
            && self.health == Health::Missing
            && !self.listed;
        (self.listed || absent) && !self.is_held()
    }

    /// What a restart must know: the definition of the objects in force.
    pub(super) fn record(&self, objects: usize, former: usize) -> Record<'_> {
        match &self.definition {
            // Until the former ones are over, a restart must wait for that.
            _ if self.is_held() || former > 0 => Record::AsIs,
            Some(uid) if objects > 0 => Record::Uid(uid),
            Some(_) => Record::Nothing,
            None => Record::AsIs,
        }
    }

    /// Why something is not as it should be.
    pub(super) fn problem(&self, objects: usize, former: usize) -> Option<String> {
        let status = self.status(objects, former);
        let bad = self.health.is_bad(self.resource) || self.is_held() || former > 0;
        bad.then(|| format!("{}: {}", self.resource.kind(), status.msg))
    }

    fn status(&self, objects: usize, former: usize) -> ComponentStatus {
        let qualified = self.resource.qualified();
        let give_up = format!(
            "apply what is still wanted, then give up the rest: kubectl annotate crd {qualified} {GIVE_UP_FORMER}=true"
        );
        if self.health == Health::Connected && self.is_held() {
            return ComponentStatus {
                state: ComponentState::Failure,
                msg: format!(
                    "{qualified} was deleted and made anew while its objects were in force; what was enforced stays so, and nothing changes until you {give_up}"
                ),
            };
        }
        if self.health == Health::Connected && former > 0 {
            return ComponentStatus {
                state: ComponentState::Warning,
                msg: format!(
                    "{qualified} was deleted and made anew; {former} objects of before stay in force, {objects} in all: {give_up}"
                ),
            };
        }
        self.health.status(self.resource, self.since, objects)
    }

    /// A line of `status`.
    pub(super) fn component(&self, objects: usize, former: usize) -> SourceStatus {
        SourceStatus {
            name: self.resource.kind().to_owned(),
            synced: self.is_synced(),
            status: self.status(objects, former),
        }
    }
}

/// What is to be kept for a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'k> {
    /// What is there already.
    AsIs,
    /// Objects of this definition are in force.
    Uid(&'k str),
    /// No objects are in force.
    Nothing,
}
