//! A pod that reaches itself through a service: its packets are turned round at its own hook.
//!
//! The pod's kernel refuses a packet that comes from outside with its own address as the source. So an
//! address of nobody stands in for it, the *loopback* address ([`FlowMaps::loopback`]): what goes to the pod
//! as the backend comes from there, what the backend answers goes there, and comes back to the pod from the
//! frontend.
//!
//! A pod may always reach itself: neither conntrack nor policy is asked. What is asked is memory: the client's
//! side is a flow to a frontend as any other; the backend's side is remembered beside it, under the tuple of the
//! answers, with the **frontend's** id in place of a backend's ([`oxilium_abi::ServiceFlow`]). A packet to the loopback
//! address of which nothing is remembered is judged as any other packet to an address outside.
//!
//! Both are kept as new at first (`choices`): the backend's side is one of an answered flow with its
//! first answer, and the client's with the client's next packet.
//!
//! The packet is handed to the pod's end of the veth, past the hooks of the host's end: the one redirect
//! of chaining mode.

use oxilium_abi::{ChoiceWord, CtFlags, Direction, DropReason, FlowKind, bind};

use crate::{
    address::Address,
    conntrack::lifetime,
    facts::{Class, Fragment, Tuple},
    flow::Aligned,
    hook::Hook,
    judge::{Judge, next},
    maps::{ChoiceTable, FlowMaps},
    packet::Packet,
    services::Change,
};

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// The backend that was found is the sender of the packet.
    #[inline(always)]
    pub(crate) fn is_itself(&self) -> bool {
        A::from_wide(&self.scratch.backend.address) == self.scratch.facts.source
    }

    /// [`crate::Phase::Answer`]: judges a packet to the loopback address, or an ICMP error to it.
    #[inline(always)]
    pub(crate) fn answer<H: Hook>(&mut self) -> Result<u32, DropReason> {
        if H::DIRECTION as u8 == Direction::Ingress as u8 {
            return Err(DropReason::MapRace);
        }
        let is_error = self.scratch.facts.class as u8 == Class::Error as u8;
        if !is_error {
            self.scratch.question.tuple = self.scratch.facts.tuple(Direction::Egress);
        }
        self.scratch.question.tuple.kind = FlowKind::Service;
        if self.answers_itself() {
            self.scratch.translation.change = if is_error {
                Change::QuotedBack
            } else {
                Change::Back
            };
            return Ok(next::HAIRPIN);
        }
        if is_error {
            return Ok(self.ask_alone::<H>());
        }
        self.scratch.translation.change = Change::Left;
        Ok(next::LOOK)
    }

    /// Whether the flow in the question, to the loopback address, is the pod's to itself: what is of it goes back, and
    /// comes from the frontend.
    #[inline(always)]
    fn answers_itself(&mut self) -> bool {
        let answered = self.leads_back(ChoiceTable::Answered);
        if !answered && !self.leads_back(ChoiceTable::New) {
            return false;
        }
        let is_answer =
            self.scratch.facts.class as u8 != Class::Error as u8 && !self.scratch.glance.resets();
        if !answered && is_answer && !self.scratch.glance.dry_run {
            let (tuple, word) = (self.scratch.question.tuple, self.scratch.translation.choice);
            // Without room it stays where it is, and the next answer tries again.
            self.keep(ChoiceTable::Answered, &tuple, word, CtFlags::SEEN_NON_SYN);
        }
        true
    }

    /// Whether the table has the way back for the flow in the question.
    #[inline(always)]
    fn leads_back(&mut self, table: ChoiceTable) -> bool {
        let tuple = &self.scratch.question.tuple;
        let key = Aligned(A::ct_key(tuple, self.scratch.config.endpoint));
        let Some(flow) = self.maps.service_flow(table, &key.0) else {
            return false;
        };
        let choice = ChoiceWord(crate::volatile::read(&flow.word));
        let alive = flow.expires >= self.scratch.glance.now;
        drop(flow);
        let id = choice.backend();
        if !alive || !self.maps.reverse_nat(id, &mut self.scratch.backend) {
            return false;
        }
        let frontend = &self.scratch.backend;
        let life = self.life(&self.scratch.question.tuple);
        let bound = bind(life, &frontend.address, frontend.port);
        if !frontend.is_of(id) || ChoiceWord::new(id, bound) != choice {
            return false;
        }
        let translation = &mut self.scratch.translation;
        translation.chosen = false;
        translation.choice = choice.0;
        translation.to = A::from_wide(&frontend.address);
        translation.port = frontend.port;
        true
    }

    /// [`crate::Phase::Hairpin`]: remembers what is to be remembered of a packet of the pod to itself.
    #[inline(always)]
    pub(crate) fn hairpin<H: Hook>(&mut self) -> Result<u32, DropReason> {
        if H::DIRECTION as u8 == Direction::Ingress as u8 {
            return Err(DropReason::MapRace);
        }
        if self.scratch.facts.fragment as u8 == Fragment::First as u8 {
            self.leave_for_later::<H>()?;
        }
        let chosen = self.scratch.translation.chosen;
        if chosen {
            self.keep_choice()?;
            self.scratch.report.open();
        }
        if self.scratch.translation.change as u8 == Change::Itself as u8 {
            self.keep_way_back()?;
        }
        Ok(if chosen && self.maps.traces() {
            next::HAIRPIN_TRACED
        } else {
            next::HAIRPIN
        })
    }

    /// Remembers which frontend the backend's answers come from, or that they are still awaited.
    #[inline(always)]
    fn keep_way_back(&self) -> Result<(), DropReason> {
        if self.scratch.glance.dry_run {
            return Ok(());
        }
        let (facts, translation) = (&self.scratch.facts, &self.scratch.translation);
        let tuple = Tuple {
            local: translation.to,
            remote: self.maps.loopback(),
            local_port: translation.port,
            remote_port: facts.source_port,
            protocol: facts.protocol,
            kind: FlowKind::Service,
        };
        let frontend = oxilium_abi::NatWord(translation.nat).frontend();
        let bound = bind(
            self.life(&tuple),
            &facts.destination.wide(),
            facts.destination_port,
        );
        let word = ChoiceWord::new(frontend as u32, bound).0;
        if self.is_kept(ChoiceTable::Answered, &tuple, word) {
            if translation.is_new {
                self.keep_as_answered();
            }
            return Ok(());
        }
        if self.is_kept(ChoiceTable::New, &tuple, word)
            || self.keep(ChoiceTable::New, &tuple, word, CtFlags::SEEN_NON_SYN)
        {
            Ok(())
        } else {
            Err(DropReason::CtInsertFailed)
        }
    }

    /// Whether the table has this word for the flow; it then lives on.
    #[inline(always)]
    fn is_kept(&self, table: ChoiceTable, tuple: &Tuple<A>, word: u64) -> bool {
        let key = Aligned(A::ct_key(tuple, self.scratch.config.endpoint));
        let Some(mut known) = self.maps.service_flow(table, &key.0) else {
            return false;
        };
        if crate::volatile::read(&known.word) != word {
            return false;
        }
        known.expires =
            self.scratch.glance.now + lifetime(self.scratch.facts.class, CtFlags::SEEN_NON_SYN);
        true
    }
}
