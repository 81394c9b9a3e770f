//! Services: which backend a flow to a frontend goes to.
//!
//! # The way of a flow
//!
//! The choice is made for a flow's **first** packet (SYN; UDP and SCTP without a remembered choice) and
//! kept under the frontend's tuple ([`oxilium_abi::ServiceFlow`]); every later packet to the frontend finds
//! it there (`choices`). Conntrack and policy see the flow with the **backend** as its peer: the conntrack key, the
//! identity, the port and so the epoch contract are those of any flow. What the conntrack entry keeps besides is
//! the frontend's id ([`oxilium_abi::NatWord`]): the answers' source becomes the frontend's again.
//!
//! Source checks come before, on the packet as it is; the packet itself is rewritten last, when its
//! verdict is known ([`crate::Phase::Rewrite`]).
//!
//! # What is not translated
//!
//! A packet in the **middle of a TCP connection** to a frontend, of which no choice is remembered, belongs
//! to a connection that kube-proxy translated before we were here. It stays kube-proxy's, and passes if
//! egress policy admits **every** backend; nothing is remembered, since backends change without
//! making verdicts stale. With more than [`MIDDLE_BACKENDS`] it is dropped.
//!
//! # Cost
//!
//! Conntrack is asked first, with the packet's own tuple. So an established flow to anything but a
//! frontend costs nothing more, and a first packet one node word where there are no services.

use oxilium_abi::{
    AffinityKey, Be16, ChoiceWord, Direction, DropReason, FlowKind, LbAddress, NatWord, NodeWord,
    ServiceKey, ServiceWord, bind, mix,
};

use crate::{
    address::{Address, pack_rest},
    facts::{Class, Facts, Fragment, SCTP, Tuple},
    flow::Aligned,
    hook::Hook,
    judge::{Judge, next},
    maps::{FlowMaps, Maps},
    packet::Packet,
};

/// As many backends are judged for a packet in the middle of a connection.
pub const MIDDLE_BACKENDS: u16 = 64;
/// A choice is made so often, while its tables change under it.
const TRIES: u32 = 4;

/// What is done to a packet's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Change {
    /// Nothing; and services were not asked.
    #[default]
    None,
    /// Nothing: it does not go to a frontend.
    Left,
    /// The destination becomes a backend's.
    Forward,
    /// The source becomes the frontend's.
    Reverse,
    /// The destination of what an ICMP error quotes becomes the frontend's.
    Quoted,
    /// The backend is the pod itself: the source becomes the loopback address ([`crate::hairpin`]).
    Itself,
    /// The pod answers itself: the source becomes the frontend's, the destination the pod's.
    Back,
    /// The same of the pod's ICMP error about what it got from itself: what is quoted becomes what it sent, too.
    QuotedBack,
}

/// The translation of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Translation<A> {
    pub(crate) change: Change,
    /// The choice was made just now and is to be kept.
    pub(crate) chosen: bool,
    /// It is remembered, but not as that of an answered flow.
    pub(crate) is_new: bool,
    /// The frontend has affinity: the client's choice is to be kept as well.
    pub(crate) sticky: bool,
    /// New port.
    pub(crate) port: Be16,
    /// [`NatWord`].
    pub(crate) nat: u32,
    /// New address.
    pub(crate) to: A,
    /// [`ChoiceWord`], bound to the flow.
    pub(crate) choice: u64,
    /// The client's [`ChoiceWord`].
    pub(crate) client: u64,
}

/// A choice among a frontend's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The frontend is none.
    NoFrontend,
    /// It has no backend.
    NoBackend,
    /// The tables changed in each of the tries.
    Race,
    /// The backend of this id.
    Backend(u32),
}

/// The master of a frontend; none where there is no such frontend.
///
/// # Errors
///
/// The tables changed in each of the tries.
#[inline(always)]
pub fn frontend<M: Maps>(maps: M, key: &ServiceKey) -> Result<Option<ServiceWord>, DropReason> {
    for _ in 0..TRIES {
        let Some(value) = maps.service(key) else {
            return Ok(None);
        };
        if let Some(word) = value.of(key) {
            return Ok(Some(ServiceWord(word)));
        }
    }
    Err(DropReason::MapRace)
}

/// Chooses a backend of the frontend for a new flow; `random` decides among them.
#[inline(always)]
pub fn choose<M: Maps>(maps: M, key: &ServiceKey, random: u32, backend: &mut LbAddress) -> Choice {
    let mut seed = random;
    for _ in 0..TRIES {
        let service = match frontend(maps, key) {
            Ok(Some(service)) => service,
            Ok(None) => return Choice::NoFrontend,
            Err(_) => return Choice::Race,
        };
        if service.slots() == 0 {
            return Choice::NoBackend;
        }
        let slot = (((seed & 0xFFFF) * service.slots() as u32) >> 16) as u16 + 1;
        if let Some(id) = in_slot(maps, key, slot, service.id(), backend) {
            return Choice::Backend(id);
        }
        // Other bits, should it be this very slot that was in the way.
        seed = seed.rotate_left(16) ^ 0x5A5A;
    }
    Choice::Race
}

/// The id of the active backend in a slot of the frontend with this id.
#[inline(always)]
fn in_slot<M: Maps>(
    maps: M,
    key: &ServiceKey,
    slot: u16,
    frontend: u16,
    backend: &mut LbAddress,
) -> Option<u32> {
    let key = Aligned(key.slot(slot));
    let id = maps.service(&key.0)?.of(&key.0)? as u32;
    let there = maps.backend(id, backend);
    (there && backend.is_of(id) && backend.is_active() && backend.frontend == frontend)
        .then_some(id)
}

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// The packet's flow, with the backend as the peer where it is translated.
    #[inline(always)]
    pub(crate) fn flow_of<H: Hook>(&self) -> Tuple<A> {
        let mut tuple = self.scratch.facts.tuple(H::DIRECTION);
        if H::DIRECTION as u8 == Direction::Egress as u8
            && self.scratch.translation.change as u8 == Change::Forward as u8
        {
            tuple.remote = self.scratch.translation.to;
            tuple.remote_port = self.scratch.translation.port;
        }
        tuple
    }

    /// Whether services are to be asked about this packet: not yet asked, and of a protocol that they have.
    #[inline(always)]
    pub(crate) fn may_be_service(&self) -> bool {
        self.scratch.translation.change as u8 == Change::None as u8
            && matches!(self.scratch.facts.class, Class::Tcp | Class::Ports)
            && self.maps.node_word(NodeWord::Services) != 0
    }

    /// [`crate::Phase::Proxied`]: whether the flow in the question, which the pod opened, goes to a frontend: then kube-proxy
    /// translated it.
    #[inline(always)]
    pub(crate) fn proxied<H: Hook>(&mut self) -> Result<u32, DropReason> {
        if H::DIRECTION as u8 == Direction::Egress as u8 {
            return Err(DropReason::MapRace);
        }
        self.scratch.frontend = service_key(&self.scratch.question.tuple);
        Ok(match frontend(self.maps, &self.scratch.frontend)? {
            Some(_) => next::EVERY,
            None => next::ASK,
        })
    }

    /// A hash of the flow and of the endpoint's life.
    #[inline(always)]
    pub(crate) fn life(&self, tuple: &Tuple<A>) -> u64 {
        let seed = self.maps.seed() ^ self.scratch.config.birth.rotate_left(32);
        let rest = pack_rest(
            tuple.local_port,
            tuple.remote_port,
            self.scratch.config.endpoint,
            tuple.protocol,
            tuple.kind as u8,
        );
        mix(tuple.local.mix(tuple.remote, seed), rest)
    }

    /// [`crate::Phase::Translate`]: finds the backend of a packet that may go to a frontend.
    #[inline(always)]
    pub(crate) fn translate<H: Hook>(&mut self) -> Result<u32, DropReason> {
        if H::DIRECTION as u8 == Direction::Ingress as u8 {
            return Err(DropReason::MapRace);
        }
        let tuple = self.service_tuple();
        if tuple.remote == self.maps.loopback() {
            return Ok(next::ANSWER);
        }
        Ok(if self.remembered(&tuple)? {
            self.after_choice()
        } else {
            next::CHOOSE
        })
    }

    /// The tuple of the pod's flow to a frontend, as choices are kept under.
    #[inline(always)]
    pub(crate) fn service_tuple(&self) -> Tuple<A> {
        let mut tuple = self.scratch.facts.tuple(Direction::Egress);
        tuple.kind = FlowKind::Service;
        tuple
    }

    /// [`crate::Phase::Choose`]: chooses for a packet of which nothing is remembered.
    #[inline(always)]
    pub(crate) fn first_packet<H: Hook>(&mut self) -> Result<u32, DropReason> {
        if H::DIRECTION as u8 == Direction::Ingress as u8 {
            return Err(DropReason::MapRace);
        }
        let tuple = &self.service_tuple();
        self.scratch.frontend = service_key(tuple);
        let Some(service) = frontend(self.maps, &self.scratch.frontend)? else {
            self.scratch.translation.change = Change::Left;
            return Ok(next::LOOK);
        };
        if self.scratch.facts.fragment as u8 == Fragment::Later as u8 {
            return Err(DropReason::FragmentNotFound);
        }
        if service.slots() == 0 {
            return Err(DropReason::NoServiceBackend);
        }
        if self.scratch.facts.class as u8 == Class::Tcp as u8 && !self.scratch.glance.opens() {
            return Ok(next::EVERY);
        }
        let client = AffinityKey {
            endpoint: self.scratch.config.endpoint,
            frontend: service.id(),
        };
        let seed = mix(
            self.maps.seed() ^ self.scratch.config.birth,
            tuple.remote.mix(tuple.remote, service.id() as u64),
        );
        let id = match self.clients_choice(client, service, seed) {
            Some(id) => id,
            None => match self.choose_any() {
                Choice::Backend(id) => id,
                Choice::NoFrontend | Choice::NoBackend => {
                    return Err(DropReason::NoServiceBackend);
                }
                Choice::Race => return Err(DropReason::MapRace),
            },
        };
        self.go_to(tuple)?;
        let backend = &self.scratch.backend;
        let bound = bind(self.life(tuple), &backend.address, backend.port);
        let clients = bind(seed, &backend.address, backend.port);
        let translation = &mut self.scratch.translation;
        translation.chosen = true;
        translation.sticky = service.affinity() != 0;
        translation.choice = ChoiceWord::new(id, bound).0;
        translation.client = ChoiceWord::new(id, clients).0;
        Ok(self.after_choice())
    }

    /// What follows once it is known which backend the packet goes to.
    #[inline(always)]
    fn after_choice(&self) -> u32 {
        if self.scratch.translation.change as u8 == Change::Itself as u8 {
            next::HAIRPIN
        } else {
            next::LOOK
        }
    }

    #[inline(always)]
    fn choose_any(&mut self) -> Choice {
        let (random, scratch) = (self.maps.random(), &mut *self.scratch);
        choose(self.maps, &scratch.frontend, random, &mut scratch.backend)
    }

    /// The backend that the client had last, if the frontend has affinity and it is still there.
    #[inline(always)]
    fn clients_choice(
        &mut self,
        client: AffinityKey,
        service: ServiceWord,
        seed: u64,
    ) -> Option<u32> {
        if service.affinity() == 0 {
            return None;
        }
        let known = self.maps.affinity(&client)?;
        if known.used.saturating_add(service.affinity()) < self.scratch.glance.now {
            return None;
        }
        let choice = ChoiceWord(known.word);
        let id = choice.backend();
        let backend = &mut self.scratch.backend;
        let holds = self.maps.backend(id, backend)
            && backend.is_of(id)
            && backend.is_active()
            && backend.frontend == service.id()
            && ChoiceWord::new(id, bind(seed, &backend.address, backend.port)) == choice;
        holds.then_some(id)
    }

    /// The packet goes to the backend that was found.
    #[inline(always)]
    pub(crate) fn go_to(&mut self, tuple: &Tuple<A>) -> Result<(), DropReason> {
        let backend = &self.scratch.backend;
        if tuple.protocol == SCTP && backend.port != tuple.remote_port {
            return Err(DropReason::SctpPortTranslation);
        }
        let bound = bind(0, &tuple.remote.wide(), tuple.remote_port);
        let nat = NatWord::new(backend.frontend, bound);
        let itself = self.is_itself();
        let backend = &self.scratch.backend;
        let translation = &mut self.scratch.translation;
        translation.change = if itself {
            Change::Itself
        } else {
            Change::Forward
        };
        translation.chosen = false;
        translation.is_new = false;
        translation.sticky = false;
        translation.to = A::from_wide(&backend.address);
        translation.port = backend.port;
        translation.nat = nat.0;
        Ok(())
    }

    /// [`crate::Phase::Every`]: makes the next backend of the frontend the question. [`next::PASS`] after the last,
    /// [`next::LOOK`] where there is nothing to ask: the pod itself.
    #[inline(always)]
    pub(crate) fn every<H: Hook>(&mut self, slot: u32) -> Result<u32, DropReason> {
        let mut tuple = self.scratch.facts.tuple(H::DIRECTION);
        self.scratch.frontend = service_key(&tuple);
        let Some(service) = frontend(self.maps, &self.scratch.frontend)? else {
            return Err(DropReason::MapRace);
        };
        if service.slots() == 0 {
            return Err(DropReason::NoServiceBackend);
        }
        if service.slots() > MIDDLE_BACKENDS {
            return Err(DropReason::TooManyBackends);
        }
        if slot > service.slots() as u32 {
            return Ok(next::PASS);
        }
        let scratch = &mut *self.scratch;
        let (key, backend) = (&scratch.frontend, &mut scratch.backend);
        in_slot(self.maps, key, slot as u16, service.id(), backend).ok_or(DropReason::MapRace)?;
        tuple.remote = A::from_wide(&backend.address);
        tuple.remote_port = backend.port;
        if tuple.remote.is_own(&self.scratch.config) {
            return Ok(next::LOOK);
        }
        self.scratch.question.tuple = tuple;
        Ok(self.ask_alone_about(tuple.remote_port.get(), Direction::Egress))
    }

    /// The address of the frontend that the packet's flow was sent to.
    #[inline(always)]
    pub(crate) fn frontend_address(&mut self) -> Result<(A, Be16), DropReason> {
        let nat = NatWord(self.scratch.translation.nat);
        let id = nat.frontend();
        let found = &mut self.scratch.backend;
        let known = self.maps.reverse_nat(id as u32, found)
            && found.is_of(id as u32)
            && NatWord::new(id, bind(0, &found.address, found.port)) == nat;
        if known {
            Ok((A::from_wide(&found.address), found.port))
        } else {
            Err(DropReason::NoServiceFrontend)
        }
    }
}

/// Key of the master of the frontend that is the flow's peer.
#[inline(always)]
fn service_key<A: Address>(tuple: &Tuple<A>) -> ServiceKey {
    ServiceKey::master(
        A::FAMILY,
        tuple.remote.wide(),
        tuple.remote_port,
        tuple.protocol,
    )
}

impl<A: Address> Facts<A> {
    /// The packet's L4 header is in it.
    #[inline(always)]
    pub(crate) fn has_l4(&self) -> bool {
        self.fragment as u8 != Fragment::Later as u8
    }
}
