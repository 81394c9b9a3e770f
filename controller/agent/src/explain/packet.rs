//! The same question put to the programs: a packet is made and judged by a second instance of them.

use std::net::IpAddr;

use oxilium_abi::{Direction, DropReason};
use oxilium_api::{ExplainQuery, ExplainReport, Explained, ProgramVerdict};
use oxilium_kernel::Node;
use oxilium_kernel::port::TryPacket;
use oxilium_model::identity::{NumericIdentity, Protocol};
use oxilium_model::node_state::{Endpoint, Frontend, FrontendState, Hook};
use oxilium_model::policy::table::Packet;

use super::frame::{Ends, can_be_made, first_of_flow};
use super::{ExplainError, Known, Party, judge_by_table, parse_port};

/// Kept for documentation: nobody's, so the world's unless the ipcache says otherwise.
const NOBODYS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// As [`super::explain`], and at each hook what the programs say, once for each family that both sides have.
///
/// # Errors
/// [`ExplainError`]; also when no packet can be made, or the kernel does not run the programs on it.
pub fn explain_packet<N: Node>(
    node: &mut N,
    known: Known<'_>,
    query: &ExplainQuery,
) -> Result<ExplainReport, ExplainError> {
    let mut report = super::explain(known, query)?;
    let (protocol, port) = parse_port(&query.port)?;
    let from = known.party(&query.from)?;
    let frontends = super::service::frontends(known.state, &query.to, protocol, port)?;
    if !frontends.is_empty() {
        return try_service(node, known, &from, &frontends);
    }
    let to = known.party(&query.to)?;
    let pairs = pairs(known, (&from, &to), protocol, port)?;
    let mut trial = Trial {
        node,
        known,
        protocol,
        port,
    };
    for (source, destination) in pairs {
        if let (Some(side), Some(endpoint)) = (&mut report.egress, &from.endpoint) {
            let asked = trial.ask(Direction::Egress, endpoint, &from, source, destination)?;
            side.programs.push(asked);
        }
        if let (Some(side), Some(endpoint)) = (&mut report.ingress, &to.endpoint) {
            let asked = trial.ask(Direction::Ingress, endpoint, &from, source, destination)?;
            side.programs.push(asked);
        }
    }
    Ok(report)
}

/// As [`super::explain`] of a service, and what the program says of a packet to each of its frontends. The program
/// chooses a backend, as it does for a flow's first packet: it must say what the tables say of one of them.
fn try_service<N: Node>(
    node: &mut N,
    known: Known<'_>,
    from: &Party,
    frontends: &[(Frontend, &FrontendState)],
) -> Result<ExplainReport, ExplainError> {
    let mut report = super::service::explain(known, from, frontends)?;
    let Some(endpoint) = from.endpoint.as_deref() else {
        return Ok(report);
    };
    let mut programs = Vec::new();
    for (frontend, service) in frontends {
        let to = frontend.address;
        let of_family = |address: &&IpAddr| address.is_ipv4() == to.is_ipv4();
        let Some(source) = from.addresses.iter().find(of_family) else {
            continue;
        };
        let mut trial = Trial {
            node: &mut *node,
            known,
            protocol: Protocol(frontend.protocol),
            port: frontend.port,
        };
        let answer = trial.answer(Direction::Egress, endpoint, from, *source, to)?;
        let said: Vec<Explained> = service
            .backends
            .iter()
            .filter(|backend| backend.address != *source)
            .map(|backend| {
                trial.port = backend.port;
                let remote = known.resolve_address(backend.address);
                trial.by_table(Direction::Egress, endpoint, remote)
            })
            .collect();
        let itself = service.backends.len() > said.len();
        let none = service.backends.is_empty() && answer == Some(DropReason::NoServiceBackend);
        let table = said.iter().copied().find(|said| reason_of(*said) == answer);
        programs.push(ProgramVerdict {
            program: Hook::FromContainer.program().to_owned(),
            packet: format!("{source} -> {frontend}"),
            remote_identity: 0,
            passes: answer.is_none(),
            reason: answer.map(|reason| reason.text().to_owned()),
            table: table.or(said.first().copied()).unwrap_or(Explained::Allow),
            agrees: table.is_some() || none || itself && answer.is_none(),
        });
    }
    if let Some(service) = &mut report.service {
        service.programs = programs;
    }
    Ok(report)
}

/// Source and destination, for each family that both sides have and the packet can be made in.
fn pairs(
    known: Known<'_>,
    (from, to): (&Party, &Party),
    protocol: Protocol,
    port: u16,
) -> Result<Vec<(IpAddr, IpAddr)>, ExplainError> {
    let made: Vec<bool> = [true, false]
        .into_iter()
        .filter(|ipv4| can_be_made(protocol, port, *ipv4))
        .collect();
    if made.is_empty() {
        return Err(ExplainError::NoPacket(format!(
            "of {protocol} only what begins a flow can be tried: TCP, UDP and SCTP on any port, 8/ICMP, 128/ICMPv6; not {port}/{protocol}"
        )));
    }
    let addresses = [from, to].map(|party| addresses(known, party));
    let pairs: Vec<(IpAddr, IpAddr)> = made
        .into_iter()
        .filter_map(|ipv4| {
            let of_family = |all: &[IpAddr]| all.iter().copied().find(|a| a.is_ipv4() == ipv4);
            Some((of_family(&addresses[0])?, of_family(&addresses[1])?))
        })
        .collect();
    if pairs.is_empty() {
        return Err(ExplainError::NoPacket(format!(
            "{} has {:?}, {} has {:?}: no address of one family on both sides that {port}/{protocol} can go between",
            from.name, addresses[0], to.name, addresses[1]
        )));
    }
    Ok(pairs)
}

/// Addresses that a packet of this side may have: its own, or any that its identity is found by.
fn addresses(known: Known<'_>, party: &Party) -> Vec<IpAddr> {
    if !party.addresses.is_empty() {
        return party.addresses.clone();
    }
    let nobodys = NOBODYS.iter().filter_map(|text| text.parse().ok());
    let of_identity = known
        .state
        .ipcache
        .iter()
        .filter(|(_, target)| target.identity == party.identity)
        .flat_map(|(prefix, _)| {
            [
                prefix.addr(),
                prefix.hosts().next().unwrap_or(prefix.addr()),
            ]
        });
    let is_it = |address: &IpAddr| {
        let found = known.resolve_address(*address);
        found == party.identity
            || party.identity == NumericIdentity::WORLD
                && [NumericIdentity::WORLD_IPV4, NumericIdentity::WORLD_IPV6].contains(&found)
    };
    of_identity.chain(nobodys).filter(is_it).collect()
}

/// What is needed to ask.
struct Trial<'a, N> {
    node: &'a mut N,
    known: Known<'a>,
    protocol: Protocol,
    port: u16,
}

impl<N: Node> Trial<'_, N> {
    fn ask(
        &mut self,
        direction: Direction,
        endpoint: &Endpoint,
        from: &Party,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<ProgramVerdict, ExplainError> {
        let answer = self.answer(direction, endpoint, from, source, destination)?;
        let (hook, remote) = match direction {
            Direction::Egress => (Hook::FromContainer, destination),
            Direction::Ingress => (Hook::ToContainer, source),
        };
        let remote = self.known.resolve_address(remote);
        let table = self.by_table(direction, endpoint, remote);
        Ok(ProgramVerdict {
            program: hook.program().to_owned(),
            packet: format!("{source} -> {destination} {}/{}", self.port, self.protocol),
            remote_identity: remote.0,
            passes: answer.is_none(),
            reason: answer.map(|reason| reason.text().to_owned()),
            table,
            agrees: answer == reason_of(table),
        })
    }

    /// What the program says of the first packet of such a flow: the reason to drop it.
    fn answer(
        &mut self,
        direction: Direction,
        endpoint: &Endpoint,
        from: &Party,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Option<DropReason>, ExplainError> {
        let Some(ifindex) = endpoint.ifindex else {
            return Err(ExplainError::NoPacket(format!(
                "{} has no interface any more",
                endpoint.pod
            )));
        };
        let (hook, source_mac, destination_mac, remote) = match direction {
            Direction::Egress => (
                Hook::FromContainer,
                endpoint.mac,
                endpoint.host_mac,
                destination,
            ),
            Direction::Ingress => (Hook::ToContainer, endpoint.host_mac, endpoint.mac, source),
        };
        let remote = self.known.resolve_address(remote);
        let ends = Ends {
            source_mac,
            destination_mac,
            source,
            destination,
        };
        let frame = first_of_flow(&ends, self.protocol, self.port)
            .ok_or_else(|| ExplainError::NoPacket(format!("{source} -> {destination}")))?;
        let came_in = match direction {
            Direction::Egress => ifindex,
            Direction::Ingress if remote == NumericIdentity::HOST => 0,
            // Programs ask only whether it came in at all; through what, is not known of a remote sender.
            Direction::Ingress => from.endpoint.as_ref().and_then(|e| e.ifindex).unwrap_or(1),
        };
        let packet = TryPacket {
            hook,
            ifindex,
            ingress_ifindex: came_in,
            frame,
        };
        Ok(self.node.try_packet(&packet)?)
    }

    /// What the table says of this very packet, whose remote may be one of several that the question means.
    fn by_table(
        &self,
        direction: Direction,
        endpoint: &Endpoint,
        identity: NumericIdentity,
    ) -> Explained {
        let packet = Packet {
            identity,
            protocol: self.protocol,
            port: self.port,
        };
        let table = endpoint.policy.resolved.policy.table.direction(direction);
        let cluster = self.known.world.config.policy.cluster_id;
        judge_by_table(table, packet, cluster).0
    }
}

/// The reason that programs drop for what a table says; none where it passes.
const fn reason_of(verdict: Explained) -> Option<DropReason> {
    match verdict {
        Explained::Allow => None,
        Explained::Deny => Some(DropReason::PolicyDeny),
        Explained::NotAllowed => Some(DropReason::PolicyDenied),
        Explained::Redirect => Some(DropReason::ProxyUnavailable),
        Explained::Auth => Some(DropReason::AuthRequired),
        Explained::NoRoom => Some(DropReason::NoRoomForIdentity),
    }
}
