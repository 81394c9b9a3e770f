//! The flows that one staged policy would change, counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use oxilium_abi::Direction;
use oxilium_api::{StagedChange, StagedExample, StagedReport, rfc3339};
use oxilium_model::Change;
use oxilium_model::identity::NumericIdentity;

use super::sighting::Sighting;
use crate::publish::Names;
use crate::reconcile::View;

/// Examples that are kept.
const EXAMPLES: usize = 10;
/// Flows that are known at a time, so that none is counted twice.
const KNOWN: usize = 65_536;
/// A flow that was not seen for so long is another one when it is seen again. Longer than the longest pause
/// between two SYNs of one attempt to connect (64 s).
const FORGET: Duration = Duration::from_mins(2);

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowId {
    change: Change,
    endpoint: u16,
    direction: Direction,
    protocol: u8,
    port: u16,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

impl FlowId {
    fn of(sighting: &Sighting, change: Change) -> Self {
        let flow = &sighting.flow;
        Self {
            change,
            endpoint: flow.endpoint,
            direction: flow.direction,
            protocol: flow.protocol.0,
            port: flow.port,
            local: (sighting.local, sighting.local_port),
            remote: (flow.remote, sighting.remote_port),
        }
    }

    /// The same but for the port of whoever began it.
    fn is_like(&self, other: &Self) -> bool {
        let key = |id: &Self| {
            let (change, endpoint, direction) = (id.change, id.endpoint, id.direction);
            let (local, remote) = (id.local.0, id.remote.0);
            (
                change,
                endpoint,
                direction,
                id.protocol,
                id.port,
                local,
                remote,
            )
        };
        key(self) == key(other)
    }
}

/// Counts and examples.
#[derive(Debug)]
pub(super) struct Tally {
    since: SystemTime,
    newly_denied: u64,
    newly_allowed: u64,
    not_counted: u64,
    /// Events lost in total before it began.
    lost_before: u64,
    known: HashMap<FlowId, Instant>,
    /// The latest ones at the end.
    examples: VecDeque<(FlowId, StagedExample)>,
}

impl Tally {
    pub(super) fn new(since: SystemTime, lost_before: u64) -> Self {
        Self {
            since,
            newly_denied: 0,
            newly_allowed: 0,
            not_counted: 0,
            lost_before,
            known: HashMap::new(),
            examples: VecDeque::new(),
        }
    }

    /// Notes a flow that the policy would change: counts it unless it is known.
    pub(super) fn note(&mut self, sighting: &Sighting, change: Change, view: &View, now: Instant) {
        let id = FlowId::of(sighting, change);
        if let Some(seen) = self.known.get_mut(&id) {
            *seen = now;
            return;
        }
        if self.known.len() >= KNOWN {
            self.forget(now);
        }
        if self.known.len() >= KNOWN {
            self.not_counted += 1;
            return;
        }
        self.known.insert(id, now);
        match change {
            Change::NewlyDenied => self.newly_denied += 1,
            Change::NewlyAllowed => self.newly_allowed += 1,
        }
        self.examples.retain(|(other, _)| !other.is_like(&id));
        if self.examples.len() >= EXAMPLES {
            self.examples.pop_front();
        }
        self.examples
            .push_back((id, example(sighting, change, view)));
    }

    /// Forgets flows that ended.
    pub(super) fn forget(&mut self, now: Instant) {
        self.known
            .retain(|_, seen| now.saturating_duration_since(*seen) < FORGET);
    }

    /// What there is to tell, with `lost` events in total.
    pub(super) fn report(&self, lost: u64) -> StagedReport {
        StagedReport {
            since: rfc3339(self.since),
            newly_denied: self.newly_denied,
            newly_allowed: self.newly_allowed,
            not_counted: self.not_counted,
            events_lost: lost.saturating_sub(self.lost_before),
            examples: self
                .examples
                .iter()
                .rev()
                .map(|(_, example)| example.clone())
                .collect(),
            conditions: Vec::new(),
        }
    }
}

fn example(sighting: &Sighting, change: Change, view: &View) -> StagedExample {
    let flow = &sighting.flow;
    let ports = matches!(flow.protocol.0, 6 | 17 | 132);
    let text = |address: IpAddr, port: u16| match address {
        IpAddr::V6(address) if ports => format!("[{address}]:{port}"),
        address if ports => format!("{address}:{port}"),
        address => address.to_string(),
    };
    let local_identity = view
        .identity(flow.endpoint)
        .map_or(0, |identity| identity.0);
    let remote_name = view.address(flow.remote).or_else(|| {
        let name = NumericIdentity(flow.identity.0).name()?;
        (flow.identity != NumericIdentity::ANY).then(|| name.to_owned())
    });
    let local = (
        text(sighting.local, sighting.local_port),
        local_identity,
        view.pod(flow.endpoint),
    );
    let remote = (
        text(flow.remote, sighting.remote_port),
        flow.identity.0,
        remote_name,
    );
    let (direction, source, destination) = match flow.direction {
        Direction::Ingress => ("ingress", remote, local),
        Direction::Egress => ("egress", local, remote),
    };
    StagedExample {
        time: rfc3339(SystemTime::now()),
        change: match change {
            Change::NewlyDenied => StagedChange::NewlyDenied,
            Change::NewlyAllowed => StagedChange::NewlyAllowed,
        },
        direction: direction.to_owned(),
        endpoint: flow.endpoint,
        source: source.0,
        source_identity: source.1,
        source_name: source.2,
        destination: destination.0,
        destination_identity: destination.1,
        destination_name: destination.2,
        destination_port: flow.port,
        protocol: flow.protocol.0,
    }
}
