//! Conntrack entries: whether one is good for a packet, and what a packet does to it.

use oxilium_abi::{
    CT_CLOSE_TIMEOUT, CT_NON_TCP_LIFETIME, CT_REPORT_INTERVAL, CT_SYN_TIMEOUT, CT_TCP_LIFETIME,
    CtEntry, CtFlags, CtWord, Direction, Epoch,
};

use crate::{
    facts::{ACK, Class, FIN, RST, SYN},
    maps::CtTable,
    volatile,
};

/// What an entry says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    /// There is no entry.
    None,
    /// There is one, but this SYN begins another connection.
    Fresh,
    /// There is one of the host, but this packet is not the host's.
    NotHost,
    /// The recorded verdict is older than policy or the ipcache.
    Stale,
    /// Recorded as denied.
    Denied,
    /// Recorded as allowed.
    Pass,
    /// Recorded as allowed, and this is the first answer.
    Answer,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) step: Step,
    pub(crate) table: CtTable,
    pub(crate) word: CtWord,
    /// The packet goes against the flow's direction.
    pub(crate) reply: bool,
    /// A trace event is due.
    pub(crate) due: bool,
    /// The entry's [`CtFlags`], this packet's with them.
    pub(crate) flags: u16,
    /// The entry's [`oxilium_abi::NatWord`], where it passes or must be asked about again.
    pub(crate) nat: u32,
}

impl Sight {
    #[inline(always)]
    pub(crate) const fn none() -> Self {
        Self {
            step: Step::None,
            table: CtTable::Unanswered,
            word: CtWord(0),
            reply: false,
            due: false,
            flags: 0,
            nat: 0,
        }
    }
}

/// What conntrack must know of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Glance {
    pub(crate) direction: Direction,
    pub(crate) class: Class,
    pub(crate) tcp_flags: u8,
    /// It comes from this host or from the pod, not through another interface.
    pub(crate) local: bool,
    pub(crate) tag: u32,
    /// Seconds of the monotonic clock.
    pub(crate) now: u32,
    pub(crate) length: u32,
    pub(crate) birth: Epoch,
    /// The later of the two words' epochs.
    pub(crate) epoch: Epoch,
    pub(crate) dry_run: bool,
    /// Entries count packets and bytes.
    pub(crate) accounted: bool,
}

impl Glance {
    #[inline(always)]
    pub(crate) const fn new(direction: Direction, local: bool, length: u32, dry_run: bool) -> Self {
        Self {
            direction,
            class: Class::Other,
            tcp_flags: 0,
            local,
            tag: 0,
            now: 0,
            length,
            birth: Epoch::ZERO,
            epoch: Epoch::ZERO,
            dry_run,
            accounted: false,
        }
    }

    /// Sets what is known before the packet is read; the rest is set before it is asked for.
    #[inline(always)]
    pub(crate) fn begin(
        &mut self,
        direction: Direction,
        local: bool,
        length: u32,
        (dry_run, accounted): (bool, bool),
    ) {
        self.direction = direction;
        self.accounted = accounted;
        self.local = local;
        self.length = length;
        self.dry_run = dry_run;
    }

    /// A SYN without ACK.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.class == Class::Tcp && self.tcp_flags & (SYN | ACK) == SYN
    }

    /// Refuses or ends a connection. It is no answer: else whoever floods closed ports would fill the table of answered
    /// flows.
    #[inline(always)]
    pub(crate) fn resets(&self) -> bool {
        self.class == Class::Tcp && self.tcp_flags & RST != 0
    }
}

/// Reads the entry's word if it is this flow's, alive and of this endpoint's life.
#[inline(always)]
pub(crate) fn word_of(entry: &CtEntry, glance: &Glance) -> Option<CtWord> {
    let word = CtWord(volatile::read(&entry.word));
    if word.tag() == glance.tag && entry.expires >= glance.now && word.stamp() >= glance.birth {
        Some(word)
    } else {
        None
    }
}

/// Judges by the entry, and counts the packet if it passes.
#[inline(always)]
pub(crate) fn examine(entry: &mut CtEntry, table: CtTable, glance: &Glance) -> Sight {
    let Some(word) = word_of(entry, glance) else {
        return Sight::none();
    };
    let reply = word.direction() as u8 != glance.direction as u8;
    let mut sight = Sight {
        step: Step::Pass,
        table,
        word,
        reply,
        due: false,
        flags: 0,
        nat: 0,
    };
    let denied = !word.allowed() && word.stamp() >= glance.epoch;
    if glance.opens() && !reply && is_closed(entry.flags) {
        sight.step = Step::Fresh;
    } else if glance.opens() && reply && !denied {
        // A connection of its own, but only over a flow that is allowed now: else whoever is denied would
        // make a flow of the other direction of it.
        sight.step = if word.stamp() < glance.epoch {
            Step::Stale
        } else {
            Step::Fresh
        };
    } else if word.host() && !reply && !glance.local {
        sight.step = Step::NotHost;
    } else if word.stamp() < glance.epoch {
        sight.step = Step::Stale;
    } else if word.allowed() {
        if reply && table as u8 == CtTable::Unanswered as u8 && !glance.resets() {
            sight.step = Step::Answer;
        }
        if !glance.dry_run {
            sight.due = touch(entry, reply, glance);
        }
        sight.flags = entry.flags;
    } else {
        sight.step = Step::Denied;
        if !glance.dry_run {
            renew(entry, glance);
        }
    }
    sight
}

/// Judges an ICMP error by the entry of the flow that it is about.
#[inline(always)]
pub(crate) fn examine_related(entry: &mut CtEntry, table: CtTable, glance: &Glance) -> Sight {
    let Some(word) = word_of(entry, glance) else {
        return Sight::none();
    };
    let step = if word.stamp() < glance.epoch {
        Step::Stale
    } else if word.allowed() {
        Step::Pass
    } else {
        if !glance.dry_run {
            renew(entry, glance);
        }
        Step::Denied
    };
    Sight {
        step,
        table,
        word,
        reply: false,
        due: false,
        flags: 0,
        nat: entry.nat,
    }
}

#[inline(always)]
pub(crate) const fn is_closed(flags: u16) -> bool {
    let both = CtFlags::TX_CLOSING | CtFlags::RX_CLOSING;
    flags & both == both
}

#[inline(always)]
pub(crate) const fn lifetime(class: Class, flags: u16) -> u32 {
    match class {
        Class::Tcp if flags & CtFlags::SEEN_NON_SYN == 0 => CT_SYN_TIMEOUT,
        Class::Tcp => CT_TCP_LIFETIME,
        _ => CT_NON_TCP_LIFETIME,
    }
}

/// Keeps a denied entry: the packet that it drops reached nobody, so nothing else is recorded.
#[inline(always)]
pub(crate) fn renew(entry: &mut CtEntry, glance: &Glance) {
    entry.expires = glance.now + lifetime(glance.class, entry.flags);
}

/// Records a packet that passes; true if a trace of it is due.
///
/// Two CPUs carry the two directions of a connection, and each write here takes the entry's line of memory away from the
/// other: what stays as it is is not written.
#[inline(always)]
pub(crate) fn touch(entry: &mut CtEntry, reply: bool, glance: &Glance) -> bool {
    let mut flags = entry.flags;
    let was_closed = is_closed(flags);
    let mut due = false;
    if reply && flags & CtFlags::ANSWERED == 0 && !glance.resets() {
        flags |= CtFlags::ANSWERED;
        due = true;
    }
    if glance.accounted {
        let (packets, bytes) = match glance.direction {
            Direction::Ingress => (&mut entry.rx_packets, &mut entry.rx_bytes),
            Direction::Egress => (&mut entry.tx_packets, &mut entry.tx_bytes),
        };
        *packets += 1;
        *bytes += glance.length as u64;
    }
    let (side, last_report) = match glance.direction {
        Direction::Ingress => (CtFlags::RX_CLOSING, &mut entry.last_rx_report),
        Direction::Egress => (CtFlags::TX_CLOSING, &mut entry.last_tx_report),
    };
    if glance.class == Class::Tcp {
        if glance.tcp_flags & SYN == 0 {
            flags |= CtFlags::SEEN_NON_SYN;
        }
        let before = flags;
        if glance.tcp_flags & RST != 0 {
            flags |= CtFlags::RX_CLOSING | CtFlags::TX_CLOSING;
        } else if glance.tcp_flags & FIN != 0 {
            flags |= side;
        }
        due |= before != flags;
    }
    if *last_report + CT_REPORT_INTERVAL <= glance.now {
        due = true;
    }
    if due {
        *last_report = glance.now;
    }
    if glance.class == Class::Tcp {
        let seen = match glance.direction {
            Direction::Ingress => &mut entry.rx_tcp_flags,
            Direction::Egress => &mut entry.tx_tcp_flags,
        };
        if *seen | glance.tcp_flags != *seen {
            *seen |= glance.tcp_flags;
        }
    }
    if flags != entry.flags {
        entry.flags = flags;
    }
    if !is_closed(flags) {
        let expires = glance.now + lifetime(glance.class, flags);
        if entry.expires != expires {
            entry.expires = expires;
        }
    } else if !was_closed {
        entry.expires = glance.now + CT_CLOSE_TIMEOUT;
    }
    due
}

/// Fills the entry of a flow's first packet.
#[inline(always)]
pub(crate) fn first(
    entry: &mut CtEntry,
    word: CtWord,
    identity: u32,
    adopted: bool,
    glance: &Glance,
) {
    *entry = CtEntry::default();
    entry.word = word.0;
    entry.remote_identity = identity;
    if adopted {
        entry.flags = CtFlags::ADOPTED | CtFlags::ANSWERED;
    }
    let reply = word.direction() as u8 != glance.direction as u8;
    touch(entry, reply, glance);
}
