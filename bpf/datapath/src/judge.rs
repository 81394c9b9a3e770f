//! The order of one packet, from the interface that it is on to the verdict.
//!
//! It is cut into phases. In the kernel each is a function that the verifier proves by itself, so that
//! their paths add up instead of multiplying; what one knows it leaves to the next in [`Scratch`].

use oxilium_abi::{
    CtEntry, Direction, DropReason, EndpointWord, Epoch, InterfaceConfig, IpcacheWord, LbAddress,
    ServiceKey, ShapeMask,
};

use crate::{
    address::Address,
    conntrack::Glance,
    facts::Facts,
    flow::Question,
    hook::Hook,
    maps::{FlowMaps, Maps},
    packet::Packet,
    policy::{Search, take_shape},
    report::Report,
    services::{MIDDLE_BACKENDS, Translation},
};

/// A part of the judgement of one packet, run in this order; which are run, each answer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reads G, then the configuration and the headers; applies the rules that come before policy.
    Parse,
    /// Checks what the pod claims in neighbour discovery.
    Claims,
    /// Judges by conntrack.
    Look,
    /// Judges an ICMP error by conntrack.
    Quote,
    /// Decides the direction of a flow that conntrack does not know.
    Open,
    /// Asks policy.
    Ask,
    /// Finds the peer's identity and the shapes of entries that the policy table has for it.
    Begin,
    /// Looks up the policy entries of one shape, the argument.
    Shape,
    /// Draws policy's answer from the entries that were found.
    End,
    /// Does what follows from policy's answer, the argument.
    Settle,
    /// Finds the backend that was chosen for the flow of a packet that may go to a service.
    Translate,
    /// Chooses one.
    Choose,
    /// Makes a backend of the service the question; the argument is its slot.
    Every,
    /// Asks whether a flow that the pod opened goes to a frontend: kube-proxy then translated it.
    Proxied,
    /// Judges what the pod sends to the address that stands in for itself.
    Answer,
    /// Remembers what must be of a packet of the pod to itself.
    Hairpin,
    /// Rewrites the packet; the argument is what it passes with.
    Rewrite,
    /// Counts what the policy entry that was found has decided.
    Count,
    /// Makes the event of a drop; the argument is the reason.
    TellDrop,
    /// Makes the event of a policy verdict; the argument is the reason or 0.
    TellVerdict,
    /// Makes a trace event.
    TellTrace,
}

/// What a phase answers: the packet's verdict or what is to be done next. Above these are the numbers of
/// drop reasons, from 130 on.
pub(crate) mod next {
    pub(crate) const PASS: u32 = 0;
    pub(crate) const PASS_TRACED: u32 = 1;
    pub(crate) const ASK: u32 = 2;
    pub(crate) const LOOK: u32 = 3;
    pub(crate) const OPEN: u32 = 4;
    pub(crate) const QUOTE: u32 = 5;
    pub(crate) const CLAIMS: u32 = 6;
    pub(crate) const TRANSLATE: u32 = 7;
    pub(crate) const EVERY: u32 = 8;
    pub(crate) const PASS_REWRITTEN: u32 = 9;
    pub(crate) const PASS_REWRITTEN_TRACED: u32 = 10;
    pub(crate) const CHOOSE: u32 = 11;
    pub(crate) const HAIRPIN: u32 = 12;
    pub(crate) const HAIRPIN_TRACED: u32 = 13;
    pub(crate) const ANSWER: u32 = 14;
    pub(crate) const PROXIED: u32 = 15;
    pub(crate) const LAST: u32 = PROXIED;
}

/// All that was found out about a packet of one family. In the kernel it lies in memory of the CPU's
/// own: BPF's stack is small. All bytes zero is a valid value.
#[derive(Clone, Copy)]
pub struct Scratch<A> {
    pub(crate) config: InterfaceConfig,
    pub(crate) facts: Facts<A>,
    /// What an ICMP error quotes.
    pub(crate) quoted: Facts<A>,
    pub(crate) translation: Translation<A>,
    /// The frontend that is looked for.
    pub(crate) frontend: ServiceKey,
    /// A backend or a frontend that was found.
    pub(crate) backend: LbAddress,
    pub(crate) question: Question<A>,
    pub(crate) search: Search,
    /// An entry that is being made.
    pub(crate) entry: CtEntry,
    /// G, as it was read before all else.
    pub(crate) published: Epoch,
    pub(crate) ipcache: IpcacheWord,
    pub(crate) endpoint: EndpointWord,
    pub(crate) glance: Glance,
    pub(crate) report: Report,
}

impl<A: Address> Default for Scratch<A> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            config: InterfaceConfig::default(),
            facts: Facts::default(),
            quoted: Facts::default(),
            translation: Translation::default(),
            frontend: ServiceKey::default(),
            backend: LbAddress::default(),
            question: Question::default(),
            search: Search::none(),
            entry: CtEntry::default(),
            published: Epoch::ZERO,
            ipcache: IpcacheWord(0),
            endpoint: EndpointWord(0),
            glance: Glance::new(Direction::Ingress, false, 0, false),
            report: Report::default(),
        }
    }
}

/// A packet being judged.
pub(crate) struct Judge<'a, A, P, M> {
    pub(crate) packet: P,
    pub(crate) maps: M,
    pub(crate) scratch: &'a mut Scratch<A>,
}

/// Reads the configuration of the packet's interface. A map element may be given to another interface
/// under the reader: the copy tells whose it is.
#[inline(always)]
pub(crate) fn configuration<P: Packet, M: Maps>(
    packet: P,
    maps: M,
    config: &mut InterfaceConfig,
) -> Result<(), DropReason> {
    let ifindex = packet.ifindex();
    for _ in 0..2 {
        if !maps.interface(ifindex, config) {
            return Err(DropReason::NoConfiguration);
        }
        if config.ifindex == ifindex {
            return Ok(());
        }
    }
    Err(DropReason::MapRace)
}

/// Judges a packet of family `A`: 0 to pass, [`crate::TO_ITSELF`], else the number of the reason to drop it.
#[inline(always)]
pub(crate) fn judge_family<A: Address, H: Hook, P: Packet, M: FlowMaps<A>>(
    packet: P,
    maps: M,
) -> u32 {
    let mut asked = false;
    let mut answer = maps.phase::<H>(Phase::Parse, 0);
    if answer == next::LOOK {
        answer = look_and_open::<A, H, M>(maps);
        if answer == next::LOOK {
            answer = look_and_open::<A, H, M>(maps);
        }
    } else if answer == next::QUOTE {
        answer = maps.phase::<H>(Phase::Quote, 0);
        if answer == next::QUOTE {
            answer = maps.phase::<H>(Phase::Quote, 0);
        }
        if answer == next::ANSWER {
            answer = maps.phase::<H>(Phase::Answer, 0);
        }
    } else if answer == next::CLAIMS {
        answer = maps.phase::<H>(Phase::Claims, 0);
    }
    if answer == next::HAIRPIN {
        answer = maps.phase::<H>(Phase::Hairpin, 0);
    }
    if answer == next::PROXIED {
        answer = maps.phase::<H>(Phase::Proxied, 0);
    }
    if answer == next::ASK {
        asked = true;
        let reason = maps.phase::<H>(Phase::Ask, 0);
        answer = maps.phase::<H>(Phase::Settle, reason);
        if answer == next::OPEN {
            answer = maps.phase::<H>(Phase::Open, 0);
            if answer == next::ASK {
                let reason = maps.phase::<H>(Phase::Ask, 0);
                answer = maps.phase::<H>(Phase::Settle, reason);
            }
        }
    }
    if answer == next::EVERY {
        asked = true;
        answer = ask_every::<A, H, M>(maps);
    }
    if answer == next::LOOK || answer == next::QUOTE {
        // The flow changes its table as fast as it is looked for.
        answer = DropReason::MapRace as u32;
    }
    if matches!(
        answer,
        next::PASS_REWRITTEN | next::PASS_REWRITTEN_TRACED | next::HAIRPIN | next::HAIRPIN_TRACED
    ) {
        answer = maps.phase::<H>(Phase::Rewrite, answer);
    }
    crate::report::finish::<A, H, P, M>(packet, maps, answer, asked)
}

/// Conntrack's answer, with a backend in the frontend's place where the packet goes to a service.
#[inline(always)]
fn look_and_open<A: Address, H: Hook, M: FlowMaps<A>>(maps: M) -> u32 {
    let mut answer = maps.phase::<H>(Phase::Look, 0);
    if answer == next::TRANSLATE {
        answer = maps.phase::<H>(Phase::Translate, 0);
        if answer == next::CHOOSE {
            answer = maps.phase::<H>(Phase::Choose, 0);
        } else if answer == next::ANSWER {
            answer = maps.phase::<H>(Phase::Answer, 0);
        }
        if answer == next::LOOK {
            answer = maps.phase::<H>(Phase::Look, 0);
        }
    }
    if answer == next::OPEN {
        answer = maps.phase::<H>(Phase::Open, 0);
    }
    answer
}

/// Asks policy about each backend of a service: 0 if it allows all of them, else the number of the reason.
#[inline(always)]
fn ask_every<A: Address, H: Hook, M: FlowMaps<A>>(maps: M) -> u32 {
    for slot in 1..=MIDDLE_BACKENDS as u32 + 1 {
        let answer = maps.phase::<H>(Phase::Every, slot);
        if answer == next::LOOK {
            continue;
        }
        if answer != next::ASK {
            return answer;
        }
        let reason = maps.phase::<H>(Phase::Ask, 0);
        if reason != 0 {
            return reason;
        }
    }
    DropReason::TooManyBackends as u32
}

/// Runs one phase over the scratch memory of `maps`: a verdict or what is next, as a number.
#[inline(always)]
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is of one lifetime, the closure of all"
)]
pub fn run_phase<A: Address, H: Hook, P: Packet, M: FlowMaps<A>>(
    packet: P,
    maps: M,
    phase: Phase,
    argument: u32,
) -> u32 {
    // A closure for each: the compiler then sees each called once, and makes it part of its caller.
    match phase {
        Phase::Parse => with(packet, maps, |judge| number(judge.parse::<H>())),
        Phase::Claims => with(packet, maps, |judge| number(judge.claims::<H>())),
        Phase::Look => with(packet, maps, |judge| number(judge.look::<H>())),
        Phase::Quote => with(packet, maps, |judge| number(judge.quote::<H>())),
        Phase::Open => with(packet, maps, |judge| judge.open::<H>()),
        Phase::Ask => ask::<A, H, M>(maps),
        Phase::Begin => with(packet, maps, |judge| judge.begin_asking()),
        Phase::Shape => with(packet, maps, |judge| {
            judge.scratch.search.step(maps, argument & 31);
            next::PASS
        }),
        Phase::End => with(packet, maps, |judge| judge.end_asking()),
        Phase::Settle => with(packet, maps, |judge| number(judge.settle::<H>(argument))),
        Phase::Translate => with(packet, maps, |judge| number(judge.translate::<H>())),
        Phase::Choose => with(packet, maps, |judge| number(judge.first_packet::<H>())),
        Phase::Every => with(packet, maps, |judge| number(judge.every::<H>(argument))),
        Phase::Proxied => with(packet, maps, |judge| number(judge.proxied::<H>())),
        Phase::Answer => with(packet, maps, |judge| number(judge.answer::<H>())),
        Phase::Hairpin => with(packet, maps, |judge| number(judge.hairpin::<H>())),
        Phase::Rewrite => with(packet, maps, |judge| number(judge.rewrite(argument))),
        Phase::Count => with(packet, maps, |judge| {
            judge.count_decision();
            next::PASS
        }),
        Phase::TellDrop | Phase::TellVerdict | Phase::TellTrace => with(packet, maps, |judge| {
            judge.tell::<H>(phase, argument as u8);
            next::PASS
        }),
    }
}

/// Evaluations until two in a row agree, while a plan is being written.
const ASK_TRIES: u32 = 4;
/// In the answer of [`Phase::End`]: no plan was begun since G was read. Above the numbers of reasons.
pub(crate) const UNDISTURBED: u32 = 1 << 8;

/// [`Phase::Ask`]: 0 if policy allows, else the reason's number.
///
/// One evaluation is several lookups, and a plan's writes may fall in between: then what was found is
/// neither the old table nor the new one. `HighWater` is a plan's first write, so where it still is
/// the G that was read first there was none; else two evaluations must agree.
///
/// Nothing but calls: the verifier walks the tries times the shapes here.
#[inline(always)]
fn ask<A: Address, H: Hook, M: FlowMaps<A>>(maps: M) -> u32 {
    let mut previous = u32::MAX;
    for _ in 0..ASK_TRIES {
        let mut left = maps.phase::<H>(Phase::Begin, 0);
        for _ in 0..ShapeMask::SHAPES {
            if left == 0 {
                break;
            }
            let (shape, rest) = take_shape(left);
            maps.phase::<H>(Phase::Shape, shape);
            left = rest;
        }
        let found = maps.phase::<H>(Phase::End, 0);
        let reason = found & !UNDISTURBED;
        if found & UNDISTURBED != 0 || reason == previous {
            return reason;
        }
        previous = reason;
    }
    DropReason::MapRace as u32
}

#[inline(always)]
fn with<A: Address, P: Packet, M: FlowMaps<A>>(
    packet: P,
    maps: M,
    run: impl FnOnce(&mut Judge<'_, A, P, M>) -> u32,
) -> u32 {
    maps.with_scratch(|scratch: &mut Scratch<A>| {
        run(&mut Judge {
            packet,
            maps,
            scratch,
        })
    })
    .unwrap_or(DropReason::MapRace as u32)
}

#[inline(always)]
const fn number(answer: Result<u32, DropReason>) -> u32 {
    match answer {
        Ok(next) => next,
        Err(reason) => reason as u32,
    }
}
