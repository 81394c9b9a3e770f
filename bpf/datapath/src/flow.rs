//! Flows: conntrack first, policy where it must be asked.

use oxilium_abi::{
    Be16, COUNTER_LOCAL_SOURCE_NOT_HOST, CtFlags, CtWord, Direction, DropReason, FlowKind,
    InterfaceFlags, NETNS_UNKNOWN, NodeWord, TraceState, counter_index, mix,
};

use crate::{
    address::{Address, pack_rest},
    conntrack::{self, Sight, Step},
    facts::{ACK, Class, Fragment, RST, SYN, Tuple},
    hook::Hook,
    judge::{Judge, UNDISTURBED, next},
    maps::{CtTable, FlowMaps, Namespace, Socket},
    packet::Packet,
    policy::Query,
    services::Change,
    volatile,
};

/// Type, code, checksum and four bytes more come before what an ICMP error quotes.
const ICMP_ERROR_HEADER: u32 = 8;
/// Identity of this host.
const HOST: u32 = 1;

/// So that the compiler may fill a key by words.
#[repr(align(8))]
pub(crate) struct Aligned<T>(pub(crate) T);

/// How it is known that an address of this host is this host.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Proof {
    /// It is not the host.
    #[default]
    Refuted,
    /// It is.
    Given,
    /// A socket of the host would show it.
    Socket,
}

/// Why policy is asked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// The answer is this packet's verdict and nothing more.
    #[default]
    Alone,
    /// It opens a flow.
    Open,
    /// The flow's verdict is older than policy.
    Again,
    /// As before, for an ICMP error about the flow.
    Related,
}

/// What policy is asked, and for what.
#[derive(Clone, Copy)]
pub(crate) struct Question<A> {
    pub(crate) tuple: Tuple<A>,
    /// Destination port or ICMP type, in host order.
    port: u16,
    /// Direction of the flow.
    direction: Direction,
    proof: Proof,
    purpose: Purpose,
    /// The direction came from sockets.
    adopted: bool,
    sight: Sight,
}

impl<A: Address> Default for Question<A> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            tuple: Tuple {
                local: A::default(),
                remote: A::default(),
                local_port: Be16::default(),
                remote_port: Be16::default(),
                protocol: 0,
                kind: FlowKind::Plain,
            },
            port: 0,
            direction: Direction::Ingress,
            proof: Proof::Refuted,
            purpose: Purpose::Alone,
            adopted: false,
            sight: Sight::none(),
        }
    }
}

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// [`crate::Phase::Look`].
    #[inline(always)]
    pub(crate) fn look<H: Hook>(&mut self) -> Result<u32, DropReason> {
        let tuple = self.flow_of::<H>();
        let key = Aligned(A::ct_key(&tuple, self.scratch.config.endpoint));
        self.scratch.glance.tag = self.tag(&tuple);
        let mut sight = self.look_in(CtTable::Answered, &key.0);
        if H::DIRECTION as u8 == Direction::Egress as u8
            && matches!(sight.step, Step::None | Step::Fresh | Step::Stale)
            && self.may_be_service()
        {
            return Ok(next::TRANSLATE);
        }
        if sight.step == Step::None {
            sight = self.look_in(CtTable::Denied, &key.0);
            if sight.step == Step::None {
                sight = self.look_in(CtTable::Unanswered, &key.0);
            }
        }
        if H::DIRECTION as u8 == Direction::Ingress as u8 && sight.nat != 0 && sight.reply {
            self.scratch.translation.change = Change::Reverse;
            self.scratch.translation.nat = sight.nat;
        }
        match sight.step {
            Step::Pass | Step::Answer => {
                if sight.step == Step::Answer && !self.scratch.glance.dry_run {
                    self.maps
                        .ct_move(CtTable::Unanswered, CtTable::Answered, &key.0);
                }
                if H::DIRECTION as u8 == Direction::Egress as u8
                    && self.scratch.translation.change as u8 == Change::Forward as u8
                {
                    let is_new = self.scratch.translation.is_new;
                    let closed = conntrack::is_closed(sight.flags);
                    if closed && !is_new {
                        self.keep_as_closed();
                    } else if !closed && is_new && sight.table as u8 == CtTable::Answered as u8 {
                        self.keep_as_answered();
                    }
                }
                self.scratch.report.pass(&sight);
                if self.maps.always_asks() {
                    return Ok(self.ask_again(tuple, sight, Purpose::Alone));
                }
                self.pass::<H>(sight.due)
            }
            Step::Denied => Err(DropReason::FlowDenied),
            Step::Stale => {
                self.scratch.report.pass(&sight);
                self.ask_again(tuple, sight, Purpose::Again);
                Ok(self.unless_proxied::<H>(sight.word.direction()))
            }
            // The host's entry is not for this packet, nor this packet for the entry.
            Step::NotHost => {
                self.scratch.question.tuple = tuple;
                let port = tuple.policy_port(H::DIRECTION);
                let (proof, purpose) = (Proof::Refuted, Purpose::Alone);
                Ok(self.ask_about(port, H::DIRECTION, proof, purpose, sight))
            }
            Step::None | Step::Fresh => {
                self.scratch.question.tuple = tuple;
                self.scratch.question.sight = sight;
                Ok(next::OPEN)
            }
        }
    }

    /// Asks policy about a flow's original direction.
    #[inline(always)]
    fn ask_again(&mut self, tuple: Tuple<A>, sight: Sight, purpose: Purpose) -> u32 {
        let direction = sight.word.direction();
        // A reply proves nothing: what the flow's own packets proved is in the word.
        let proof = if sight.reply {
            proven(sight.word.host())
        } else {
            proven(self.scratch.glance.local)
        };
        self.scratch.question.tuple = tuple;
        let port = tuple.policy_port(direction);
        self.ask_about(port, direction, proof, purpose, sight)
    }

    /// Whether a flow that was found nowhere is in a table that was looked in before it was brought there:
    /// another CPU moves it by making it in the new table and then deleting it in the old one.
    #[inline(always)]
    fn was_moved(&self) -> bool {
        self.maps.read_barrier();
        let question = &self.scratch.question;
        let key = Aligned(A::ct_key(&question.tuple, self.scratch.config.endpoint));
        self.is_in(CtTable::Answered, &key.0) || self.is_in(CtTable::Denied, &key.0)
    }

    #[inline(always)]
    fn is_in(&self, table: CtTable, key: &A::CtKey) -> bool {
        let entry = self.maps.ct(table, key);
        entry.is_some_and(|entry| conntrack::word_of(&entry, &self.scratch.glance).is_some())
    }

    #[inline(always)]
    fn look_in(&self, table: CtTable, key: &A::CtKey) -> Sight {
        let Some(mut entry) = self.maps.ct(table, key) else {
            return Sight::none();
        };
        let mut sight = conntrack::examine(&mut entry, table, &self.scratch.glance);
        if matches!(sight.step, Step::Pass | Step::Answer | Step::Stale) {
            let translation = &self.scratch.translation;
            // Of two flows that became one by their translation, the answers go to the later.
            if translation.change as u8 == Change::Forward as u8
                && entry.nat != translation.nat
                && !self.scratch.glance.dry_run
            {
                entry.nat = translation.nat;
            }
            sight.nat = entry.nat;
        }
        sight
    }

    /// What follows when the question about a flow is complete. A packet to the pod on a connection that the pod opened, and
    /// that was not translated here, may be one to a frontend that kube-proxy translated.
    #[inline(always)]
    fn unless_proxied<H: Hook>(&self, direction: Direction) -> u32 {
        if H::DIRECTION as u8 == Direction::Ingress as u8
            && direction as u8 == Direction::Egress as u8
            && self.may_be_service()
        {
            next::PROXIED
        } else {
            next::ASK
        }
    }

    /// [`crate::Phase::Claims`].
    #[inline(always)]
    pub(crate) fn claims<H: Hook>(&mut self) -> Result<u32, DropReason> {
        let checked = A::check_claims(self.packet, &self.scratch.facts, &self.scratch.config)?;
        let Some(about) = checked else {
            return Ok(next::PASS);
        };
        self.read_words();
        // Where pods have a /128 their gateway is on the link by a route alone.
        if self.identity_of(about) == HOST {
            return Ok(next::PASS);
        }
        let answer = self.ask_alone::<H>();
        self.scratch.question.tuple.remote = about;
        Ok(answer)
    }

    /// [`crate::Phase::Open`].
    #[inline(always)]
    pub(crate) fn open<H: Hook>(&mut self) -> u32 {
        if self.scratch.question.sight.step == Step::None {
            if self.was_moved() {
                return next::LOOK;
            }
            if self.scratch.facts.class == Class::EchoReply {
                return self.ask_alone::<H>();
            }
        }
        let fresh = self.scratch.question.sight.step == Step::Fresh;
        let flags = self.scratch.facts.tcp_flags;
        let middle = self.scratch.facts.class == Class::Tcp
            && flags & RST == 0
            && flags & (SYN | ACK) != SYN;
        let mut direction = H::DIRECTION;
        let mut proof = proven(self.scratch.glance.local);
        self.scratch.question.adopted = false;
        if middle && !fresh {
            match self.direction_from_sockets(&self.scratch.question.tuple) {
                Some(found) if found as u8 != H::DIRECTION as u8 => {
                    self.scratch.question.adopted = true;
                    direction = found;
                    proof = Proof::Socket;
                }
                Some(_) => self.scratch.question.adopted = true,
                None => {}
            }
        }
        self.scratch.report.open();
        self.scratch.question.port = self.scratch.question.tuple.policy_port(direction);
        self.scratch.question.direction = direction;
        self.scratch.question.proof = proof;
        self.scratch.question.purpose = Purpose::Open;
        self.unless_proxied::<H>(direction)
    }

    /// The direction of a connection in the middle of which we come in; none where the pod has no socket of it.
    #[inline(always)]
    fn direction_from_sockets(&self, tuple: &Tuple<A>) -> Option<Direction> {
        if self.scratch.config.netns_id == NETNS_UNKNOWN {
            return None;
        }
        let pod = Namespace::Id(self.scratch.config.netns_id.cast_unsigned());
        let local = (tuple.local, tuple.local_port);
        let connection = self
            .maps
            .socket(pod, local, (tuple.remote, tuple.remote_port));
        if connection != Socket::Connected {
            return None;
        }
        let listener = self
            .maps
            .socket(pod, local, (tuple.remote, Be16::default()));
        Some(if listener == Socket::Listener {
            Direction::Ingress
        } else {
            Direction::Egress
        })
    }

    /// Asks policy about this packet in its own direction, and remembers nothing.
    #[inline(always)]
    pub(crate) fn ask_alone<H: Hook>(&mut self) -> u32 {
        self.scratch.question.tuple = self.scratch.facts.tuple(H::DIRECTION);
        let port = self.scratch.facts.icmp_type() as u16;
        self.ask_alone_about(port, H::DIRECTION)
    }

    /// Asks policy about the flow in the question, and remembers nothing.
    #[inline(always)]
    pub(crate) fn ask_alone_about(&mut self, port: u16, direction: Direction) -> u32 {
        let proof = proven(self.scratch.glance.local);
        self.ask_about(port, direction, proof, Purpose::Alone, Sight::none())
    }

    /// Fills the question about the flow that is in it already.
    #[inline(always)]
    fn ask_about(
        &mut self,
        port: u16,
        direction: Direction,
        proof: Proof,
        purpose: Purpose,
        sight: Sight,
    ) -> u32 {
        let question = &mut self.scratch.question;
        question.port = port;
        question.direction = direction;
        question.proof = proof;
        question.purpose = purpose;
        question.adopted = false;
        question.sight = sight;
        next::ASK
    }

    /// Begins to ask policy; returns the shapes to go through.
    #[inline(always)]
    pub(crate) fn begin_asking(&mut self) -> u32 {
        let question = &self.scratch.question;
        let identity = self.identify(&question.tuple, question.direction, question.proof);
        let query = Query {
            table: self.scratch.endpoint.table(),
            direction: question.direction,
            identity,
            protocol: question.tuple.protocol,
            port: question.port,
        };
        self.scratch.report.remote_identity = identity;
        self.scratch.search.begin(self.maps, query);
        self.scratch.search.shapes()
    }

    /// 0 if policy allows, else the reason's number; with [`UNDISTURBED`] if no plan was begun since G was
    /// read. What is found stays in the report.
    #[inline(always)]
    pub(crate) fn end_asking(&mut self) -> u32 {
        let answer = self.scratch.search.end();
        self.scratch.report.evaluated(answer);
        let reason = answer.denied.map_or(0, |reason| reason as u32);
        self.maps.read_barrier();
        let begun = self.maps.node_word(NodeWord::HighWater);
        if begun == self.scratch.published.get() {
            reason | UNDISTURBED
        } else {
            reason
        }
    }

    /// What the ipcache has of an address in the bank in use; 0 for nothing.
    #[inline(always)]
    fn identity_of(&self, address: A) -> u32 {
        self.maps
            .ipcache(&address.ipcache_key())
            .map_or(0, |identities| {
                (identities >> (self.scratch.ipcache.bank() * 32)) as u32
            })
    }

    /// Identity of the peer.
    #[inline(always)]
    fn identify(&self, tuple: &Tuple<A>, direction: Direction, proof: Proof) -> u32 {
        let ingress = direction as u8 == Direction::Ingress as u8;
        let identity = if ingress && proof == Proof::Given && tuple.remote.is_link_local() {
            // Valid on this link only, and nothing brought it here.
            HOST
        } else {
            self.identity_of(tuple.remote)
        };
        if identity == 0 {
            return A::WORLD;
        }
        if identity != HOST || !ingress {
            return identity;
        }
        let proven = match proof {
            Proof::Given => true,
            Proof::Refuted => false,
            Proof::Socket => {
                let host = (tuple.remote, tuple.remote_port);
                let pod = (tuple.local, tuple.local_port);
                self.maps.socket(Namespace::Host, host, pod) == Socket::Connected
            }
        };
        if proven {
            HOST
        } else {
            let index = counter_index(COUNTER_LOCAL_SOURCE_NOT_HOST, direction);
            self.maps.count(index, self.scratch.glance.length);
            A::WORLD
        }
    }

    /// [`crate::Phase::Settle`].
    #[inline(always)]
    pub(crate) fn settle<H: Hook>(&mut self, answer: u32) -> Result<u32, DropReason> {
        let allowed = answer == 0;
        match self.scratch.question.purpose {
            Purpose::Alone => {}
            Purpose::Open => {
                if allowed {
                    self.make_entry()?;
                }
            }
            Purpose::Again | Purpose::Related => {
                if answer == DropReason::MapRace as u32 {
                    // Nothing was found out: the entry stays as old as it is.
                    return Ok(answer);
                }
                self.record(allowed);
                if !allowed {
                    return Err(DropReason::FlowDenied);
                }
                if self.opens_anew() {
                    // The flow lives on; this SYN is no reply of it.
                    self.scratch.translation.change = Change::None;
                    self.scratch.question.sight.step = Step::Fresh;
                    return Ok(next::OPEN);
                }
            }
        }
        if !allowed {
            return Ok(answer);
        }
        self.pass::<H>(self.scratch.report.due)
    }

    #[inline(always)]
    fn pass<H: Hook>(&mut self, due: bool) -> Result<u32, DropReason> {
        if self.scratch.facts.fragment == Fragment::First
            && self.scratch.facts.class != Class::Error
        {
            self.leave_for_later::<H>()?;
        }
        let traced = due && self.maps.traces();
        if matches!(self.scratch.translation.change, Change::None | Change::Left) {
            return Ok(if traced {
                next::PASS_TRACED
            } else {
                next::PASS
            });
        }
        if self.scratch.translation.change as u8 == Change::Forward as u8
            && self.scratch.translation.chosen
        {
            self.keep_choice()?;
        }
        Ok(if traced {
            next::PASS_REWRITTEN_TRACED
        } else {
            next::PASS_REWRITTEN
        })
    }

    /// The packet that a flow was judged again for is a SYN against the flow's direction.
    #[inline(always)]
    fn opens_anew(&self) -> bool {
        let question = &self.scratch.question;
        question.purpose as u8 == Purpose::Again as u8
            && question.sight.reply
            && self.scratch.glance.opens()
    }

    /// Makes the entry of a flow that policy allows.
    #[inline(always)]
    fn make_entry(&mut self) -> Result<(), DropReason> {
        let question = &self.scratch.question;
        let reset =
            self.scratch.facts.class == Class::Tcp && self.scratch.facts.tcp_flags & RST != 0;
        // A reset opens nothing; what is sent to all is answered from an address of its own.
        let own = question.tuple.local.is_own(&self.scratch.config)
            || self.scratch.config.flags & InterfaceFlags::ALLOW_SPOOFING != 0;
        if reset || !own || self.scratch.glance.dry_run {
            return Ok(());
        }
        let word = self.verdict_word(true);
        let identity = self.scratch.report.remote_identity;
        let glance = &self.scratch.glance;
        let entry = &mut self.scratch.entry;
        conntrack::first(entry, word, identity, question.adopted, glance);
        if self.scratch.translation.change as u8 == Change::Forward as u8 {
            entry.nat = self.scratch.translation.nat;
        }
        let key = Aligned(A::ct_key(&question.tuple, self.scratch.config.endpoint));
        let table = if question.adopted {
            CtTable::Answered
        } else {
            CtTable::Unanswered
        };
        if !self.maps.ct_insert(table, &key.0, &self.scratch.entry) {
            return Err(DropReason::CtInsertFailed);
        }
        if question.sight.step == Step::Fresh && question.sight.table as u8 != table as u8 {
            self.maps.ct_delete(question.sight.table, &key.0);
        }
        Ok(())
    }

    /// What is recorded of the flow that was asked about: the stamp is G as it was read first.
    #[inline(always)]
    fn verdict_word(&self, allowed: bool) -> CtWord {
        let direction = self.scratch.question.direction;
        let host = self.scratch.report.remote_identity == HOST
            && direction as u8 == Direction::Ingress as u8;
        CtWord::new(
            self.scratch.published,
            self.scratch.glance.tag,
            direction,
            allowed,
        )
        .with_host(host)
    }

    /// Records a verdict that was found again, by one store, and brings the entry to the table it belongs in.
    #[inline(always)]
    fn record(&mut self, allowed: bool) {
        if self.scratch.glance.dry_run {
            return;
        }
        let question = &self.scratch.question;
        let (table, reply) = (question.sight.table, question.sight.reply);
        let counted = question.purpose == Purpose::Again && !self.opens_anew();
        let key = Aligned(A::ct_key(&question.tuple, self.scratch.config.endpoint));
        let word = self.verdict_word(allowed);
        let identity = self.scratch.report.remote_identity;
        let glance = &self.scratch.glance;
        let Some(mut entry) = self.maps.ct(table, &key.0) else {
            return;
        };
        // It may have become another flow's meanwhile.
        if conntrack::word_of(&entry, glance).is_none() {
            return;
        }
        volatile::write(&mut entry.word, word.0);
        entry.remote_identity = identity;
        if !allowed {
            conntrack::renew(&mut entry, glance);
        } else if counted {
            conntrack::touch(&mut entry, reply, glance);
        }
        let answered = entry.flags & CtFlags::ANSWERED != 0;
        drop(entry);
        let home = match (allowed, answered) {
            (false, _) => CtTable::Denied,
            (true, true) => CtTable::Answered,
            (true, false) => CtTable::Unanswered,
        };
        // Where there is no room the entry stays, with the right verdict.
        if home as u8 != table as u8 && self.maps.ct_move(table, home, &key.0) {
            self.scratch.question.sight.table = home;
        }
    }

    /// [`crate::Phase::Quote`].
    #[inline(always)]
    pub(crate) fn quote<H: Hook>(&mut self) -> Result<u32, DropReason> {
        let offset = self.scratch.facts.l4 + ICMP_ERROR_HEADER;
        let end = self.scratch.facts.end;
        volatile::zero(&mut self.scratch.quoted);
        let known = A::parse_quoted(self.packet, &mut self.scratch.quoted, offset, end)?;
        // What an error to the pod quotes, the pod sent; what the pod's own quotes was sent to it.
        self.scratch.question.tuple = self.scratch.quoted.tuple(H::DIRECTION.reverse());
        let tuple = &self.scratch.question.tuple;
        // An error goes to whoever sent what it quotes, and to nobody else.
        let addressed = self.scratch.quoted.source == self.scratch.facts.destination;
        if H::DIRECTION == Direction::Egress
            && (!addressed
                || !tuple.local.is_own(&self.scratch.config)
                    && self.scratch.config.flags & InterfaceFlags::ALLOW_SPOOFING == 0)
        {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        if !known || !addressed || matches!(self.scratch.quoted.class, Class::Query | Class::Error)
        {
            return Ok(self.ask_alone::<H>());
        }
        if H::DIRECTION as u8 == Direction::Egress as u8 && tuple.remote == self.maps.loopback() {
            return Ok(next::ANSWER);
        }
        let key = Aligned(A::ct_key(tuple, self.scratch.config.endpoint));
        self.scratch.glance.tag = self.tag(tuple);
        self.scratch.glance.class = self.scratch.quoted.class;
        let mut sight = self.look_related_in(CtTable::Answered, &key.0);
        if sight.step == Step::None {
            sight = self.look_related_in(CtTable::Denied, &key.0);
            if sight.step == Step::None {
                sight = self.look_related_in(CtTable::Unanswered, &key.0);
            }
        }
        if H::DIRECTION as u8 == Direction::Ingress as u8
            && sight.nat != 0
            && sight.word.direction() as u8 == Direction::Egress as u8
        {
            if self.scratch.facts.icmp_type() == A::REDIRECT {
                // It would have the pod send all that goes to the frontend straight to this backend.
                return Err(DropReason::IcmpRedirect);
            }
            self.scratch.translation.change = Change::Quoted;
            self.scratch.translation.nat = sight.nat;
        }
        match sight.step {
            Step::None if self.was_moved() => Ok(next::QUOTE),
            Step::None => Ok(self.ask_alone::<H>()),
            Step::Denied => Err(DropReason::FlowDenied),
            Step::Stale => {
                self.scratch.report.state = TraceState::Related as u8;
                let direction = sight.word.direction();
                // Who sends an error is not the flow's peer, and proves nothing about it.
                let proof = proven(sight.word.host());
                let port = self.scratch.question.tuple.policy_port(direction);
                Ok(self.ask_about(port, direction, proof, Purpose::Related, sight))
            }
            _ => {
                self.scratch.report.state = TraceState::Related as u8;
                Ok(
                    if self.scratch.translation.change as u8 == Change::Quoted as u8 {
                        next::PASS_REWRITTEN
                    } else {
                        next::PASS
                    },
                )
            }
        }
    }

    #[inline(always)]
    fn look_related_in(&self, table: CtTable, key: &A::CtKey) -> Sight {
        match self.maps.ct(table, key) {
            Some(mut entry) => conntrack::examine_related(&mut entry, table, &self.scratch.glance),
            None => Sight::none(),
        }
    }

    /// Tag of a flow's key.
    #[inline(always)]
    pub(crate) fn tag(&self, tuple: &Tuple<A>) -> u32 {
        tag_of(
            self.maps.seed(),
            tuple.local,
            tuple.remote,
            pack_rest(
                tuple.local_port,
                tuple.remote_port,
                self.scratch.config.endpoint,
                tuple.protocol,
                tuple.kind as u8,
            ),
        )
    }
}

#[inline(always)]
const fn proven(given: bool) -> Proof {
    if given { Proof::Given } else { Proof::Refuted }
}

#[inline(always)]
pub(crate) fn tag_of<A: Address>(seed: u64, one: A, other: A, rest: u64) -> u32 {
    mix(one.mix(other, seed), rest) as u32 & 0xF_FFFF
}
