//! Choices of backends, as they are kept and found again.
//!
//! # Where they are kept
//!
//! A first packet's choice goes into the small table of the latest flows ([`ChoiceTable::New`]). With the first
//! packet from the pod on a flow that conntrack has as answered it comes into the large one as well. So whoever
//! opens flows by the thousand pushes out the choices of flows that are opened at the same time, and no other's; and
//! queries of one datagram each never leave the small table, since their answers need no choice: the conntrack entry
//! has the frontend.
//!
//! When the pod's packets close a connection, its choice goes back to the small table: else short connections would
//! in time push out those of idle ones.
//!
//! What is in the large table stays in the small one, too, until others push it out. So there is no moment at which
//! another CPU's packet finds it in neither; and where both have one, the small table's is not the older: a new
//! choice goes there, and then the large table's goes.
//!
//! # What they are worth
//!
//! A choice names an id and is bound to flow, life of the endpoint, and the backend's address
//! ([`oxilium_abi::bind`]): an element given to another flow, an id given to another backend, a recycled pod
//! address are each as if nothing were remembered. A backend that rests goes on to serve TCP
//! connections; for UDP and SCTP, and for a SYN that is sent again, another one is chosen.

use oxilium_abi::{
    Affinity, AffinityKey, ChoiceWord, CtFlags, DropReason, NatWord, ServiceFlow, bind,
};

use crate::{
    address::Address,
    conntrack::lifetime,
    facts::{Class, Tuple},
    flow::Aligned,
    judge::Judge,
    maps::{ChoiceTable, FlowMaps},
    packet::Packet,
};

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// Takes the choice that was made for the flow, if it still holds.
    #[inline(always)]
    pub(crate) fn remembered(&mut self, tuple: &Tuple<A>) -> Result<bool, DropReason> {
        let answered = self.holds(ChoiceTable::Answered, tuple);
        if !answered && !self.holds(ChoiceTable::New, tuple) {
            return Ok(false);
        }
        self.go_to(tuple)?;
        self.scratch.translation.is_new = !answered;
        Ok(true)
    }

    /// Whether the table has a choice for the flow that still holds; its backend is then the one that was found.
    #[inline(always)]
    fn holds(&mut self, table: ChoiceTable, tuple: &Tuple<A>) -> bool {
        let key = Aligned(A::ct_key(tuple, self.scratch.config.endpoint));
        let now = self.scratch.glance.now;
        let Some(mut flow) = self.maps.service_flow(table, &key.0) else {
            return false;
        };
        let choice = ChoiceWord(crate::volatile::read(&flow.word));
        if flow.expires < now {
            return false;
        }
        let id = choice.backend();
        if !self.maps.backend(id, &mut self.scratch.backend) {
            return false;
        }
        let backend = &self.scratch.backend;
        let bound = bind(self.life(tuple), &backend.address, backend.port);
        let goes_on = backend.is_active()
            || self.scratch.facts.class as u8 == Class::Tcp as u8 && !self.scratch.glance.opens();
        if !backend.is_of(id) || ChoiceWord::new(id, bound) != choice || !goes_on {
            return false;
        }
        // As long as its conntrack entry may live. Written once a second: CPUs take the line from each other.
        let expires = now + lifetime(self.scratch.facts.class, CtFlags::SEEN_NON_SYN);
        if !self.scratch.glance.dry_run && flow.expires != expires {
            flow.expires = expires;
        }
        self.scratch.translation.choice = choice.0;
        true
    }

    /// Keeps the choice that was made, now that the packet passes.
    #[inline(always)]
    pub(crate) fn keep_choice(&self) -> Result<(), DropReason> {
        let translation = &self.scratch.translation;
        if self.scratch.glance.dry_run {
            return Ok(());
        }
        let tuple = self.service_tuple();
        if !self.keep(ChoiceTable::New, &tuple, translation.choice, 0) {
            return Err(DropReason::CtInsertFailed);
        }
        let key = Aligned(A::ct_key(&tuple, self.scratch.config.endpoint));
        if self
            .maps
            .service_flow(ChoiceTable::Answered, &key.0)
            .is_some()
        {
            self.maps.service_flow_forget_answered(&key.0);
        }
        if translation.sticky {
            let client = AffinityKey {
                endpoint: self.scratch.config.endpoint,
                frontend: NatWord(translation.nat).frontend(),
            };
            let affinity = Affinity {
                word: translation.client,
                used: self.scratch.glance.now,
                reserved: 0,
            };
            // Without room the client is not sticky: no reason to drop its packet.
            self.maps.affinity_insert(&client, &affinity);
        }
        Ok(())
    }

    /// Keeps the choice that was remembered as that of an answered flow.
    #[inline(always)]
    pub(crate) fn keep_as_answered(&self) {
        if self.scratch.glance.dry_run {
            return;
        }
        let (tuple, choice) = (self.service_tuple(), self.scratch.translation.choice);
        // Without room it stays where it is, and the next packet tries again.
        self.keep(ChoiceTable::Answered, &tuple, choice, CtFlags::SEEN_NON_SYN);
    }

    /// Keeps the choice that was remembered for what may still come of a closed connection.
    #[inline(always)]
    pub(crate) fn keep_as_closed(&self) {
        if self.scratch.glance.dry_run {
            return;
        }
        let (tuple, choice) = (self.service_tuple(), self.scratch.translation.choice);
        if self.keep(ChoiceTable::New, &tuple, choice, 0) {
            let key = Aligned(A::ct_key(&tuple, self.scratch.config.endpoint));
            self.maps.service_flow_forget_answered(&key.0);
        }
    }

    /// Keeps a [`ChoiceWord`] for as long as conntrack keeps such a flow with these flags; false if there is no room.
    #[inline(always)]
    pub(crate) fn keep(&self, table: ChoiceTable, tuple: &Tuple<A>, word: u64, flags: u16) -> bool {
        let key = Aligned(A::ct_key(tuple, self.scratch.config.endpoint));
        let flow = ServiceFlow {
            word,
            expires: self.scratch.glance.now + lifetime(self.scratch.facts.class, flags),
            reserved: 0,
        };
        self.maps.service_flow_insert(table, &key.0, &flow)
    }
}
