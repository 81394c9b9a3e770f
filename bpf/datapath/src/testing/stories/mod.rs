//! Lives of packets: what is written to the maps, what is sent, and what must become of it. Told to
//! memory by this crate's tests and to the kernel by the program tests.

mod flows;
mod fragments;
mod lies;
mod malformed;
mod neighbours;
mod services;
mod unresolved;
mod verdicts;

use oxilium_abi::{DropReason, SERVICE_LOOPBACK4, SERVICE_LOOPBACK6};

pub use services::service;

use super::{Frame, Ipv4, Ipv6, PolicyEntry, World, Write};
use crate::Direction;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// The pod sends a packet.
    From(Frame, Result<(), DropReason>),
    /// A packet comes to the pod.
    To(Frame, Result<(), DropReason>),
    /// The pod sends a packet, and this is what goes on in its place.
    Sent(Frame, Frame),
    /// A packet comes to the pod, and this is what the pod gets in its place.
    Received(Frame, Frame),
    /// The agent writes.
    Plan(Vec<Write>),
    /// Forget all flows.
    Purge,
}

/// A life: what happens on a node, in order.
#[derive(Clone, Debug)]
pub struct Story {
    /// What it shows.
    pub name: String,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Every story.
#[must_use]
pub fn all() -> Vec<Story> {
    let mut stories = Vec::new();
    for family in [Family::V4, Family::V6] {
        stories.extend(verdicts::stories(family));
        stories.extend(flows::stories(family));
        for way in Way::BOTH {
            stories.extend(fragments::stories(family, way));
        }
        stories.extend(services::stories(family));
        stories.extend(unresolved::stories(family));
    }
    stories.extend(lies::stories());
    stories.extend(malformed::stories());
    stories.extend(neighbours::stories());
    stories
}

/// Passed.
pub(crate) const PASS: Result<(), DropReason> = Ok(());

/// An address family, so that a story is told for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which way a packet goes, so that a story is told for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    From,
    To,
}

impl Way {
    const BOTH: [Self; 2] = [Self::From, Self::To];

    const fn direction(self) -> Direction {
        match self {
            Self::From => Direction::Egress,
            Self::To => Direction::Ingress,
        }
    }

    /// Source and destination of a packet between the pod and a peer.
    fn ends<T>(self, pod: T, peer: T) -> (T, T) {
        match self {
            Self::From => (pod, peer),
            Self::To => (peer, pod),
        }
    }

    fn frame(self, ether_type: u16, payload: &[u8]) -> Frame {
        match self {
            Self::From => World::from_pod(ether_type, payload),
            Self::To => World::to_pod(ether_type, payload),
        }
    }

    /// A packet between the pod and the neighbour pod.
    fn packet(self, family: Family, protocol: u8, payload: &[u8]) -> Frame {
        match self {
            Self::From => family.from(Who::Peer, protocol, payload),
            Self::To => family.to(Who::Peer, protocol, payload),
        }
    }

    fn step(self, frame: Frame, expect: Result<(), DropReason>) -> Step {
        match self {
            Self::From => Step::From(frame, expect),
            Self::To => Step::To(frame, expect),
        }
    }

    fn name(self, what: &str) -> String {
        match self {
            Self::From => format!("from the pod: {what}"),
            Self::To => format!("to the pod: {what}"),
        }
    }
}

/// Somebody whom the pod talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The neighbour pod.
    Peer,
    /// This host.
    Host,
    /// Somebody outside.
    World,
    /// A second neighbour pod.
    Second,
    /// A service's frontend.
    Service,
    /// The pod itself.
    Myself,
    /// The address that stands in for the pod itself.
    Loopback,
}

impl Family {
    /// Number of its ICMP.
    #[must_use]
    pub const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }

    /// ICMP types of an echo request and reply.
    #[must_use]
    pub const fn echo(self) -> (u8, u8) {
        match self {
            Self::V4 => (8, 0),
            Self::V6 => (128, 129),
        }
    }

    /// ICMP type of "destination unreachable".
    #[must_use]
    pub const fn unreachable(self) -> u8 {
        match self {
            Self::V4 => 3,
            Self::V6 => 1,
        }
    }

    /// A packet that the pod sends.
    #[must_use]
    pub fn from(self, who: Who, protocol: u8, payload: &[u8]) -> Frame {
        match self {
            Self::V4 => World::from4(who.v4(), protocol, payload),
            Self::V6 => World::from6(who.v6(), protocol, payload),
        }
    }

    /// A packet to the pod; only the host's comes in through no interface.
    #[must_use]
    pub fn to(self, who: Who, protocol: u8, payload: &[u8]) -> Frame {
        let mut frame = match self {
            Self::V4 => World::to4(who.v4(), protocol, payload),
            Self::V6 => World::to6(who.v6(), protocol, payload),
        };
        if who == Who::Host {
            frame.ingress_ifindex = 0;
        }
        frame
    }

    /// The IP packet that the pod sent, as an ICMP error quotes it.
    #[must_use]
    pub fn quote_from(self, who: Who, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V4 => Ipv4::new(World::POD4, who.v4(), protocol).with(payload),
            Self::V6 => Ipv6::new(World::POD6, who.v6(), protocol).with(payload),
        }
    }

    /// The IP packet that the pod got, as an ICMP error quotes it.
    #[must_use]
    pub fn quote_to(self, who: Who, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V4 => Ipv4::new(who.v4(), World::POD4, protocol).with(payload),
            Self::V6 => Ipv6::new(who.v6(), World::POD6, protocol).with(payload),
        }
    }

    fn name(self, what: &str) -> String {
        match self {
            Self::V4 => format!("IPv4: {what}"),
            Self::V6 => format!("IPv6: {what}"),
        }
    }

    fn story(self, what: &str, policy: &[PolicyEntry], steps: Vec<Step>) -> Story {
        tell(&self.name(what), policy, steps)
    }
}

impl Who {
    const fn v4(self) -> [u8; 4] {
        match self {
            Self::Peer => World::PEER4,
            Self::Host => World::HOST4,
            Self::World => World::WORLD4,
            Self::Second => World::SECOND4,
            Self::Service => World::SERVICE4,
            Self::Myself => World::POD4,
            Self::Loopback => SERVICE_LOOPBACK4,
        }
    }

    const fn v6(self) -> [u8; 16] {
        match self {
            Self::Peer => World::PEER6,
            Self::Host => World::HOST6,
            Self::World => World::WORLD6,
            Self::Second => World::SECOND6,
            Self::Service => World::SERVICE6,
            Self::Myself => World::POD6,
            Self::Loopback => SERVICE_LOOPBACK6,
        }
    }
}

fn tell(name: &str, policy: &[PolicyEntry], steps: Vec<Step>) -> Story {
    let mut all = vec![Step::Plan(World::writes(policy))];
    all.extend(steps);
    Story {
        name: name.to_owned(),
        steps: all,
    }
}

/// A plan that replaces the pod's policy by another table, at `epoch`.
fn policy_change(table: u32, epoch: u64, policy: &[PolicyEntry]) -> Step {
    let mut writes = World::policy(table, policy);
    writes.extend(World::switch(table, epoch));
    Step::Plan(writes)
}
