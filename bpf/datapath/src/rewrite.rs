//! Rewriting of packets: addresses, ports and the checksums that cover them.
//!
//! Checksums are changed by the difference, as the kernel's own NAT does: right for packets whose
//! checksum is still to be filled in by the device, and for fragments, whose first carries the checksum of
//! the whole datagram. A UDP checksum of zero (none) stays zero. SCTP's covers neither addresses nor, as
//! its ports are never changed, anything else that is.

use oxilium_abi::{Be16, DropReason};

use crate::{
    address::Address,
    ethernet,
    facts::{Class, TCP, UDP},
    judge::{Judge, next},
    maps::FlowMaps,
    packet::Packet,
    services::Change,
};

/// Where the checksum is in a TCP header, a UDP header, an ICMP header.
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;
/// Type, code, checksum and four bytes more come before what an ICMP error quotes.
const ICMP_ERROR_HEADER: u32 = 8;

/// Which end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// The difference in a ones' complement sum when one port takes the place of another.
#[inline(always)]
fn port_difference(from: Be16, to: Be16) -> u32 {
    // In the byte order of the packet, as all of these sums are.
    let (from, to) = (from.get().to_be() as u32, to.get().to_be() as u32);
    (!from & 0xFFFF) + to
}

/// Folds a sum of 32-bit words.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    sum as u32
}

/// Changes one end of a packet that begins at `ip`, its L4 header at `l4`.
struct Place {
    ip: u32,
    l4: u32,
    protocol: u8,
    /// There is an L4 header at `l4`.
    has_l4: bool,
}

#[inline(always)]
fn done(ok: bool) -> Result<(), DropReason> {
    if ok {
        Ok(())
    } else {
        Err(DropReason::RewriteFailed)
    }
}

#[inline(always)]
fn replace<A: Address, P: Packet>(
    packet: P,
    place: &Place,
    end: End,
    from: (A, Be16),
    to: (A, Be16),
) -> Result<(), DropReason> {
    let addresses = from.0.difference(to.0);
    let checksum = match place.protocol {
        TCP => Some(place.l4 + TCP_CHECKSUM),
        UDP => Some(place.l4 + UDP_CHECKSUM),
        // IPv6's covers the addresses, as TCP's does.
        protocol if protocol == A::ICMP && A::HEADER_CHECKSUM.is_none() => {
            Some(place.l4 + ICMP_CHECKSUM)
        }
        _ => None,
    };
    if place.has_l4 {
        let udp = place.protocol == UDP;
        if let Some(checksum) = checksum {
            done(packet.fix_l4(checksum, addresses, true, udp))?;
        }
        if from.1 != to.1 {
            let ports = port_difference(from.1, to.1);
            if let Some(checksum) = checksum {
                done(packet.fix_l4(checksum, ports, false, udp))?;
            }
            let offset = if end == End::Source { 0 } else { 2 };
            done(packet.store(place.l4 + offset, to.1.get().to_be_bytes()))?;
        }
    }
    if let Some(checksum) = A::HEADER_CHECKSUM {
        done(packet.fix_l3(place.ip + checksum, addresses))?;
    }
    let offset = if end == End::Source {
        A::SOURCE_OFFSET
    } else {
        A::SOURCE_OFFSET + size_of::<A>() as u32
    };
    done(to.0.store(packet, place.ip + offset))
}

impl<A: Address, P: Packet, M: FlowMaps<A>> Judge<'_, A, P, M> {
    /// [`crate::Phase::Rewrite`]: does to the packet what was found out; `answer` is what it passes with.
    #[inline(always)]
    pub(crate) fn rewrite(&mut self, answer: u32) -> Result<u32, DropReason> {
        let facts = &self.scratch.facts;
        let place = Place {
            ip: ethernet::HEADER,
            l4: facts.l4,
            protocol: facts.protocol,
            has_l4: facts.has_l4(),
        };
        let source = (facts.source, facts.source_port);
        let destination = (facts.destination, facts.destination_port);
        let found = (self.scratch.translation.to, self.scratch.translation.port);
        let (new_source, new_destination) = match self.scratch.translation.change {
            Change::Forward => (source, found),
            Change::Reverse => (self.find_frontend()?, destination),
            Change::Itself => ((self.maps.loopback(), source.1), found),
            Change::Back => (found, (source.0, destination.1)),
            Change::Quoted => {
                let frontend = self.find_frontend()?;
                self.rewrite_quoted(self.scratch.quoted.source, frontend)?;
                (source, destination)
            }
            Change::QuotedBack => {
                self.rewrite_quoted(source.0, found)?;
                ((found.0, source.1), (source.0, destination.1))
            }
            Change::None | Change::Left => (source, destination),
        };
        if new_destination != destination {
            let (from, to) = (destination, new_destination);
            replace(self.packet, &place, End::Destination, from, to)?;
        }
        if new_source != source {
            replace(self.packet, &place, End::Source, source, new_source)?;
        }
        if matches!(answer, next::HAIRPIN | next::HAIRPIN_TRACED) {
            // Its link-layer destination may be a bridge's: for the pod, that is somebody else.
            done(self.packet.make_received())?;
        }
        Ok(match answer {
            next::PASS_REWRITTEN => next::PASS,
            next::PASS_REWRITTEN_TRACED => next::PASS_TRACED,
            _ => answer,
        })
    }

    #[inline(always)]
    fn find_frontend(&mut self) -> Result<(A, Be16), DropReason> {
        let to = self.frontend_address()?;
        self.scratch.translation.to = to.0;
        self.scratch.translation.port = to.1;
        Ok(to)
    }

    /// The pod sent what is quoted from its own address to the frontend, and would not know it otherwise. The sum over an
    /// IPv4 header stays what it was, as its own checksum changes with its addresses.
    #[inline(always)]
    fn rewrite_quoted(&self, source: A, (address, port): (A, Be16)) -> Result<(), DropReason> {
        let (outer, quoted) = (&self.scratch.facts, &self.scratch.quoted);
        let ip = outer.l4 + ICMP_ERROR_HEADER;
        let checksum = outer.l4 + ICMP_CHECKSUM;
        let ends = [(quoted.source, source), (quoted.destination, address)];
        for (offset, (from, to)) in [0, size_of::<A>() as u32].into_iter().zip(ends) {
            if from == to {
                continue;
            }
            let difference = from.difference(to);
            if let Some(header) = A::HEADER_CHECKSUM {
                done(self.packet.fix_l3(ip + header, difference))?;
            } else {
                done(self.packet.fix_l4(checksum, difference, false, false))?;
            }
            done(to.store(self.packet, ip + A::SOURCE_OFFSET + offset))?;
        }
        if quoted.destination_port != port && matches!(quoted.class, Class::Tcp | Class::Ports) {
            let ports = port_difference(quoted.destination_port, port);
            done(self.packet.fix_l4(checksum, ports, false, false))?;
            done(self.packet.store(quoted.l4 + 2, port.get().to_be_bytes()))?;
        }
        Ok(())
    }
}
