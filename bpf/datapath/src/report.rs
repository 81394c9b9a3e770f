//! Counters and events of a packet.

use oxilium_abi::{
    Be16, COUNTER_FORWARDED, DropReason, Event, EventKind, EventTranslation, InterfaceConfig,
    TraceState, counter_index,
};

use crate::{
    TO_ITSELF,
    address::Address,
    conntrack::Sight,
    ethernet,
    hook::Hook,
    judge::{Judge, Phase, next},
    maps::{FlowMaps, Maps},
    packet::Packet,
    policy::Answer,
    services::Change,
    volatile::Zeroed,
};

/// What is told of a packet besides what it says itself.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Report {
    pub(crate) remote_identity: u32,
    pub(crate) precedence: u32,
    pub(crate) matched: u8,
    /// [`TraceState`].
    pub(crate) state: u8,
    /// A trace event is due.
    pub(crate) due: bool,
}

impl Default for Report {
    #[inline(always)]
    fn default() -> Self {
        Self {
            remote_identity: 0,
            precedence: 0,
            matched: 0,
            state: TraceState::None as u8,
            due: false,
        }
    }
}

#[expect(unsafe_code, reason = "zeros are a value")]
// SAFETY: integers and a bool; aligned by eight.
unsafe impl Zeroed for Report {}

impl Report {
    #[inline(always)]
    pub(crate) fn pass(&mut self, sight: &Sight) {
        self.state = if sight.reply {
            TraceState::Reply as u8
        } else {
            TraceState::Established as u8
        };
        self.due = sight.due;
    }

    #[inline(always)]
    pub(crate) fn open(&mut self) {
        self.state = TraceState::New as u8;
        self.due = true;
    }

    #[inline(always)]
    pub(crate) fn evaluated(&mut self, answer: Answer) {
        self.precedence = answer.precedence;
        self.matched = answer.matched;
    }
}

/// Counts a packet and tells of it where it was dropped before it had a family.
#[inline(always)]
pub(crate) fn finish_frame<H: Hook, P: Packet, M: Maps>(
    packet: P,
    maps: M,
    endpoint: u16,
    ether_type: Be16,
    verdict: Result<(), DropReason>,
) -> u32 {
    let length = packet.len();
    let Err(reason) = verdict else {
        maps.count(counter_index(COUNTER_FORWARDED, H::DIRECTION), length);
        return 0;
    };
    maps.count(counter_index(reason as u8, H::DIRECTION), length);
    if !maps.watched() {
        return reason as u32;
    }
    let time = maps.now();
    maps.event(time, |event| {
        *event = Event {
            time,
            ifindex: packet.ifindex(),
            length,
            endpoint,
            ether_type,
            kind: EventKind::Drop as u8,
            reason: reason as u8,
            direction: H::DIRECTION as u8,
            state: TraceState::None as u8,
            ..Event::default()
        };
    });
    reason as u32
}

/// Counts a packet that has an answer and has it told of; returns 0 to pass, [`TO_ITSELF`], else the reason's number.
#[inline(always)]
pub(crate) fn finish<A: Address, H: Hook, P: Packet, M: FlowMaps<A>>(
    packet: P,
    maps: M,
    answer: u32,
    asked: bool,
) -> u32 {
    let reason = if answer > next::LAST { answer } else { 0 };
    // As a number, a pass is COUNTER_FORWARDED.
    maps.count(counter_index(reason as u8, H::DIRECTION), packet.len());
    if asked && !maps.dry_run() {
        maps.phase::<H>(Phase::Count, 0);
    }
    if maps.watched() {
        if reason != 0 {
            maps.phase::<H>(Phase::TellDrop, reason);
        }
        if asked {
            maps.phase::<H>(Phase::TellVerdict, reason);
        }
        if matches!(answer, next::PASS_TRACED | next::HAIRPIN_TRACED) {
            maps.phase::<H>(Phase::TellTrace, 0);
        }
    }
    if matches!(answer, next::HAIRPIN | next::HAIRPIN_TRACED) {
        return TO_ITSELF;
    }
    reason
}

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// Counts the packet for the policy entry that decided. Of a flow these are the packets for which policy is asked, so
    /// that those of an established one cost nothing.
    #[inline(always)]
    pub(crate) fn count_decision(&self) {
        if self.scratch.report.matched == 0 {
            // Policy was not asked after all, or no entry matches.
            return;
        }
        let decided = self.scratch.search.decided(self.scratch.config.endpoint);
        if let Some(key) = decided {
            self.maps.count_decision(&key, self.packet.len());
        }
    }

    /// Makes an event.
    #[inline(always)]
    pub(crate) fn tell<H: Hook>(&self, phase: Phase, reason: u8) {
        let kind = match phase {
            Phase::TellDrop => EventKind::Drop,
            Phase::TellVerdict => EventKind::PolicyVerdict,
            _ => EventKind::Trace,
        };
        let scratch = &*self.scratch;
        let translation = self.told_translation(reason);
        let time = self.maps.now();
        self.maps.event(time, |event| {
            *event = Event {
                time,
                source: scratch.facts.source.wide(),
                destination: scratch.facts.destination.wide(),
                ifindex: self.packet.ifindex(),
                remote_identity: scratch.report.remote_identity,
                length: self.packet.len(),
                precedence: scratch.report.precedence,
                source_port: scratch.facts.source_port,
                destination_port: scratch.facts.destination_port,
                endpoint: scratch.config.endpoint,
                ether_type: Be16::new(A::ETHER_TYPE),
                kind: kind as u8,
                reason,
                direction: H::DIRECTION as u8,
                state: scratch.report.state,
                protocol: scratch.facts.protocol,
                tcp_flags: scratch.facts.tcp_flags,
                matched: scratch.report.matched,
                translation: translation as u8,
                translated: scratch.translation.to.wide(),
                translated_port: scratch.translation.port,
                reserved: [0; 6],
            };
        });
    }

    /// What is told of the packet's translation; the way back is found out by rewriting, so not for what is dropped.
    #[inline(always)]
    fn told_translation(&self, reason: u8) -> EventTranslation {
        match self.scratch.translation.change {
            Change::Forward | Change::Itself => EventTranslation::ToBackend,
            Change::Reverse | Change::Back if reason == 0 => EventTranslation::FromFrontend,
            _ => EventTranslation::None,
        }
    }
}

/// Judges a frame that is neither IPv4 nor IPv6. Never a part of its caller, whose stack its configuration would
/// take from every phase.
#[inline(never)]
pub(crate) fn judge_frame<H: Hook, P: Packet, M: Maps>(
    packet: P,
    maps: M,
    ether_type: Be16,
) -> u32 {
    let mut config = InterfaceConfig::default();
    let verdict = crate::judge::configuration(packet, maps, &mut config).and_then(|()| {
        let header = packet
            .load::<ethernet::Header>(0)
            .ok_or(DropReason::InvalidPacket)?;
        ethernet::check::<P, H>(packet, &header, &config)?;
        if header.ether_type.get() == ethernet::ETHER_TYPE_ARP {
            ethernet::judge_arp::<P, H>(packet, &config)
        } else {
            Err(DropReason::UnsupportedL2)
        }
    });
    finish_frame::<H, P, M>(packet, maps, config.endpoint, ether_type, verdict)
}
