//! From the frame to what conntrack is asked: configuration, headers, the rules that come before policy.

use oxilium_abi::{
    CtWord, Direction, DropReason, EndpointWord, Epoch, FRAGMENT_LIFETIME, FragmentEntry,
    InterfaceFlags, IpcacheWord, NodeWord, TraceState, endpoint_word_index,
};

use crate::{
    address::Address,
    ethernet,
    facts::{Class, Fragment, UDP},
    flow::{Aligned, tag_of},
    hook::Hook,
    judge::{Judge, configuration, next},
    l4,
    maps::FlowMaps,
    neighbour::Link,
    packet::Packet,
    services::Change,
    volatile,
};

const NANOSECONDS: u64 = 1_000_000_000;
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// [`crate::Phase::Parse`].
    #[inline(always)]
    pub(crate) fn parse<H: Hook>(&mut self) -> Result<u32, DropReason> {
        // Before every other map: what is evaluated now is stamped with it.
        let published = self.maps.node_word(NodeWord::Published);
        self.maps.read_barrier();
        self.scratch.published = Epoch::new(published);
        volatile::zero(&mut self.scratch.facts);
        volatile::zero(&mut self.scratch.report);
        self.scratch.report.state = TraceState::None as u8;
        self.scratch.translation.change = Change::None;
        self.scratch.config.endpoint = 0;
        let local =
            H::DIRECTION as u8 == Direction::Egress as u8 || self.packet.ingress_ifindex() == 0;
        let length = self.packet.len();
        let modes = (self.maps.dry_run(), self.maps.accounts());
        let glance = &mut self.scratch.glance;
        glance.begin(H::DIRECTION, local, length, modes);

        configuration(self.packet, self.maps, &mut self.scratch.config)?;
        let header = self
            .packet
            .load::<ethernet::Header>(0)
            .ok_or(DropReason::InvalidPacket)?;
        ethernet::check::<P, H>(self.packet, &header, &self.scratch.config)?;
        A::parse(
            self.packet,
            self.maps,
            &mut self.scratch.facts,
            ethernet::HEADER,
            length,
        )?;
        if H::DIRECTION == Direction::Egress {
            self.check_sender()?;
        }
        match A::link_rules::<P, H>(self.packet, &self.scratch.facts, &self.scratch.config)? {
            Link::Policy => {}
            Link::Pass => return Ok(next::PASS),
            Link::Claims => return Ok(next::CLAIMS),
        }
        self.read_words();
        if self.scratch.facts.fragment != Fragment::Whole {
            self.follow_first::<H>()?;
        }
        Ok(match self.scratch.facts.class {
            Class::Query => self.ask_alone::<H>(),
            Class::Error => next::QUOTE,
            _ => next::LOOK,
        })
    }

    /// A pod speaks only for itself.
    #[inline(always)]
    fn check_sender(&self) -> Result<(), DropReason> {
        if self.scratch.config.flags & InterfaceFlags::ALLOW_SPOOFING == 0 {
            A::check_source(&self.scratch.facts, &self.scratch.config)?;
        }
        if self.scratch.facts.protocol == UDP
            // Clients look at their own port alone.
            && matches!(
                self.scratch.facts.destination_port.get(),
                DHCP_CLIENT | DHCP6_CLIENT
            )
        {
            return Err(DropReason::DhcpServer);
        }
        Ok(())
    }

    /// The words, after G and before every lookup, each once.
    #[inline(always)]
    pub(crate) fn read_words(&mut self) {
        self.scratch.ipcache = IpcacheWord(self.maps.node_word(NodeWord::Ipcache));
        let index = endpoint_word_index(self.scratch.config.endpoint, self.scratch.ipcache.bank());
        self.scratch.endpoint = EndpointWord(self.maps.endpoint_word(index));
        self.maps.read_barrier();
        self.scratch.glance.now = (self.maps.now_coarse() / NANOSECONDS) as u32;
        self.scratch.glance.class = self.scratch.facts.class;
        self.scratch.glance.tcp_flags = self.scratch.facts.tcp_flags;
        self.scratch.glance.birth = Epoch::new(self.scratch.config.birth);
        self.scratch.glance.epoch = self
            .scratch
            .endpoint
            .epoch()
            .max(self.scratch.ipcache.epoch());
    }

    /// Gives a later fragment the ports of its first.
    #[inline(always)]
    fn follow_first<H: Hook>(&mut self) -> Result<(), DropReason> {
        let key = Aligned(A::fragment_key(
            &self.scratch.facts,
            self.scratch.config.endpoint,
            H::DIRECTION as u8,
        ));
        let tag = self.fragment_tag::<H>();
        let known = self.maps.fragment(&key.0).filter(|entry| {
            let word = CtWord(entry.word);
            word.tag() == tag
                && entry.expires >= self.scratch.glance.now
                && word.stamp() >= self.scratch.glance.birth
        });
        if self.scratch.facts.fragment == Fragment::First {
            return match known {
                Some(entry)
                    if entry.source_port != self.scratch.facts.source_port
                        || entry.destination_port != self.scratch.facts.destination_port =>
                {
                    Err(DropReason::FragmentOverlap)
                }
                _ => Ok(()),
            };
        }
        let entry = known.ok_or(DropReason::FragmentNotFound)?;
        self.scratch.facts.source_port = entry.source_port;
        self.scratch.facts.destination_port = entry.destination_port;
        if self.scratch.facts.class == Class::Query {
            self.scratch.facts.class = A::icmp_class(self.scratch.facts.icmp_type());
        }
        if self.scratch.facts.class == Class::Tcp {
            self.scratch.facts.tcp_flags = l4::LATER_FRAGMENT_FLAGS;
        }
        self.scratch.glance.class = self.scratch.facts.class;
        self.scratch.glance.tcp_flags = self.scratch.facts.tcp_flags;
        Ok(())
    }

    #[inline(always)]
    fn fragment_tag<H: Hook>(&self) -> u32 {
        let rest = u32::from_ne_bytes(self.scratch.facts.fragment_id) as u64
            | ((self.scratch.config.endpoint as u64) << 32)
            | ((self.scratch.facts.fragment_protocol as u64) << 48)
            | ((H::DIRECTION as u64) << 56);
        let facts = &self.scratch.facts;
        tag_of(self.maps.seed(), facts.source, facts.destination, rest)
    }

    /// Leaves an allowed first fragment's ports for the later ones.
    #[inline(always)]
    pub(crate) fn leave_for_later<H: Hook>(&self) -> Result<(), DropReason> {
        let key = Aligned(A::fragment_key(
            &self.scratch.facts,
            self.scratch.config.endpoint,
            H::DIRECTION as u8,
        ));
        let tag = self.fragment_tag::<H>();
        let entry = FragmentEntry {
            word: CtWord::new(self.scratch.published, tag, H::DIRECTION, true).0,
            expires: self.scratch.glance.now + FRAGMENT_LIFETIME,
            source_port: self.scratch.facts.source_port,
            destination_port: self.scratch.facts.destination_port,
        };
        if self.scratch.glance.dry_run || self.maps.fragment_insert(&key.0, &entry) {
            Ok(())
        } else {
            Err(DropReason::CtInsertFailed)
        }
    }
}
