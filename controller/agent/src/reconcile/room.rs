//! Room in the table of interfaces. A pod for which there is none is kept out of the inputs: with it there would be no plan
//! at all, for nobody.

use std::collections::BTreeSet;
use std::time::Instant;

use oxilium_kernel::Node;
use oxilium_model::world::{AttachmentId, PodRef};

use super::Reconciler;
use super::failures::Object;

/// The attachments that there are, each of which may need an entry while its device lives.
pub(super) struct InterfaceRoom {
    taken: BTreeSet<AttachmentId>,
    capacity: usize,
}

impl InterfaceRoom {
    /// Takes a place for an attachment, unless it has one.
    ///
    /// # Errors
    /// There is none, for people.
    pub(super) fn take(&mut self, id: &AttachmentId, pod: &PodRef) -> Result<(), String> {
        if self.taken.contains(id) {
            return Ok(());
        }
        if self.taken.len() >= self.capacity {
            let (taken, capacity) = (self.taken.len(), self.capacity);
            return Err(format!(
                "the table of interfaces is full, {taken} of {capacity} are taken: pod {pod} must wait until another has gone"
            ));
        }
        self.taken.insert(id.clone());
        Ok(())
    }
}

impl<N: Node> Reconciler<N> {
    pub(super) fn interface_room(&self) -> InterfaceRoom {
        let records = self.attachments.iter();
        InterfaceRoom {
            taken: records.map(|record| record.id.clone()).collect(),
            capacity: self.index.config().capacities.interfaces,
        }
    }

    /// A pod was refused for want of room: told until there is some again.
    pub(super) fn note_full(&mut self, reason: String, now: Instant) {
        self.failures.failed(Object::Interfaces, reason, false, now);
    }

    /// Attachments have gone.
    pub(super) fn note_room(&mut self) {
        if self.attachments.iter().count() < self.index.config().capacities.interfaces {
            self.failures.works(&Object::Interfaces);
            self.adoption.due = true;
        }
    }
}
