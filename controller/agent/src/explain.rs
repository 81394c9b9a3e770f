//! Why a packet passes or not: the verdict of the tables, and what each rule said.

mod frame;
mod left_out;
mod packet;
mod service;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use oxilium_abi::Direction;
use oxilium_api::{Alternative, ExplainQuery, ExplainReport, ExplainSide, Explained};
use oxilium_kernel::ObserveError;
use oxilium_model::identity::{NumericIdentity, Protocol};
use oxilium_model::node_state::{Endpoint, EntryKey, NodeState};
use oxilium_model::policy::rule::{Action, Policy};
use oxilium_model::policy::table::{DirectionTable, Entry, EntryKey as TableKey, Origin, Packet};
use oxilium_model::policy::{Answer, Judgement, Step, SubjectView, judge};
use oxilium_model::world::{PodRef, World};

pub use left_out::LeftOut;
pub use packet::explain_packet;

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// One side is not known.
    #[error(
        "{0:?} is not known: name a pod as namespace/pod, a service as service:namespace/name, an IP address, an endpoint id, identity:N, or a reserved name such as world or host"
    )]
    Party(String),
    /// The service has no such port.
    #[error("service {service} has no {port}: its frontends are {frontends}")]
    NoFrontend {
        /// Which service.
        service: String,
        /// What was asked for.
        port: String,
        /// What it has.
        frontends: String,
    },
    /// The port is not one.
    #[error("{0:?} is no port: write PORT/PROTO, e.g. 80/TCP, 53/UDP, or TYPE/ICMP, e.g. 8/ICMP")]
    Port(String),
    /// No policy of this node's applies.
    #[error(
        "neither {from} nor {to} is a pod of this node: its policies do not concern this packet"
    )]
    Elsewhere {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
    },
    /// There is no packet to try.
    #[error("no packet can be tried: {0}")]
    NoPacket(String),
    /// The kernel did not try it.
    #[error(transparent)]
    Kernel(#[from] ObserveError),
}

/// Sender or receiver.
struct Party {
    name: String,
    identity: NumericIdentity,
    endpoint: Option<Arc<Endpoint>>,
    /// Its addresses, where it was not named by its identity.
    addresses: Vec<IpAddr>,
}

/// What the answers follow from.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The inputs.
    pub world: &'a World,
    /// What they come to.
    pub state: &'a NodeState,
    /// What of that the ipcache lacks.
    pub left_out: &'a LeftOut,
}

/// What becomes of a packet, and why.
///
/// # Errors
/// [`ExplainError`] when the question makes no sense on this node.
pub fn explain(known: Known<'_>, query: &ExplainQuery) -> Result<ExplainReport, ExplainError> {
    let (protocol, port) = parse_port(&query.port)?;
    let from = known.party(&query.from)?;
    let frontends = service::frontends(known.state, &query.to, protocol, port)?;
    if !frontends.is_empty() {
        return service::explain(known, &from, &frontends);
    }
    let to = known.party(&query.to)?;
    if from.endpoint.is_none() && to.endpoint.is_none() {
        return Err(ExplainError::Elsewhere {
            from: from.name,
            to: to.name,
        });
    }
    let side = |subject: &Party, remote: &Party, direction| {
        let endpoint = subject.endpoint.as_ref()?;
        let packet = Packet {
            identity: remote.identity,
            protocol,
            port,
        };
        Some(known.explain_side(endpoint, remote, direction, packet))
    };
    let egress = side(&from, &to, Direction::Egress);
    let ingress = side(&to, &from, Direction::Ingress);
    let passes = |side: &Option<ExplainSide>| {
        side.as_ref()
            .is_none_or(|side| side.verdict == Explained::Allow)
    };
    Ok(ExplainReport {
        allowed: passes(&egress) && passes(&ingress),
        packet: format!(
            "{} (identity {}) -> {} (identity {}) {port}/{protocol}",
            from.name, from.identity.0, to.name, to.identity.0
        ),
        service: None,
        egress,
        ingress,
    })
}

fn parse_port(text: &str) -> Result<(Protocol, u16), ExplainError> {
    let error = || ExplainError::Port(text.to_owned());
    let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol = Protocol::from_name(protocol).ok_or_else(error)?;
    if protocol == Protocol::ANY {
        return Err(error());
    }
    Ok((protocol, port.parse().map_err(|_| error())?))
}

impl Known<'_> {
    fn party(self, text: &str) -> Result<Party, ExplainError> {
        let Self { world, state, .. } = self;
        let of_endpoint = |endpoint: &Arc<Endpoint>| Party {
            name: endpoint.pod.to_string(),
            identity: endpoint.identity,
            endpoint: Some(Arc::clone(endpoint)),
            addresses: endpoint.addresses.iter().copied().collect(),
        };
        let named = |identity: NumericIdentity, addresses: &[IpAddr]| Party {
            name: text.to_owned(),
            identity,
            endpoint: None,
            addresses: addresses.to_vec(),
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            let local = state
                .endpoints
                .values()
                .find(|endpoint| endpoint.addresses.contains(&address));
            return Ok(match local {
                Some(endpoint) => of_endpoint(endpoint),
                None => named(self.resolve_address(address), &[address]),
            });
        }
        let by_id = text.parse::<u16>().ok();
        if let Some(endpoint) = by_id.and_then(|id| state.endpoints.get(&id)) {
            return Ok(of_endpoint(endpoint));
        }
        let number = text.strip_prefix("identity:").unwrap_or_default();
        if let Ok(number) = number.parse() {
            return Ok(named(NumericIdentity(number), &[]));
        }
        let reserved = text.strip_prefix("reserved:").unwrap_or(text);
        if let Some(identity) = NumericIdentity::from_name(reserved) {
            return Ok(named(identity, &[]));
        }
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let pod = PodRef::new(namespace, name);
        let local = state
            .endpoints
            .values()
            .find(|endpoint| endpoint.pod == pod);
        if let Some(endpoint) = local {
            return Ok(of_endpoint(endpoint));
        }
        let remote = world.remote_endpoints.get(&pod);
        let addresses: Vec<IpAddr> = remote
            .into_iter()
            .flat_map(|remote| remote.addresses.iter().copied())
            .collect();
        match addresses.first() {
            Some(address) => Ok(named(self.resolve_address(*address), &addresses)),
            None => Err(ExplainError::Party(text.to_owned())),
        }
    }

    /// The identity that the ipcache has for an address: of the longest prefix that it is in.
    fn resolve_address(self, address: IpAddr) -> NumericIdentity {
        let whole = IpNet::from(address).prefix_len();
        (0..=whole)
            .rev()
            .filter_map(|len| IpNet::new(address, len).ok())
            .find_map(|prefix| self.left_out.identity(self.state, &prefix.trunc()))
            .unwrap_or(match (self.world.config.policy.families.ipv4, address) {
                (true, IpAddr::V4(_)) => NumericIdentity::WORLD_IPV4,
                _ => NumericIdentity::WORLD_IPV6,
            })
    }

    fn explain_side(
        self,
        endpoint: &Endpoint,
        remote: &Party,
        direction: Direction,
        packet: Packet,
    ) -> ExplainSide {
        let Self { world, state, .. } = self;
        let table = endpoint.policy.resolved.policy.table.direction(direction);
        let (verdict, winner) = judge_by_table(table, packet, world.config.policy.cluster_id);
        let policies: Vec<Policy> = world.policies.values().map(|p| (**p).clone()).collect();
        let subject = SubjectView {
            labels: endpoint.labels.clone(),
            named_ports: endpoint.named_ports.clone(),
        };
        let config = &world.config.policy;
        let judgement = judge(
            &policies,
            &state.identities,
            &subject,
            config,
            direction,
            packet,
        );
        ExplainSide {
            subject: endpoint.pod.to_string(),
            subject_identity: endpoint.identity.0,
            remote: remote.name.clone(),
            remote_identity: remote.identity.0,
            enforced: table.enforced,
            verdict,
            reason: reason(verdict, table.enforced, direction, endpoint),
            entry: winner.map(|(key, entry)| describe_entry(key, entry)),
            rules: winner
                .map(|(_, entry)| entry.origins.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            otherwise: otherwise(&judgement),
            programs: Vec::new(),
        }
    }
}

/// What the programs come to by a table, and the entry that decides.
fn judge_by_table(
    table: &DirectionTable,
    packet: Packet,
    cluster: u8,
) -> (Explained, Option<(&TableKey, &Entry)>) {
    let is_unresolved = packet.identity == NumericIdentity::UNRESOLVED;
    if is_unresolved && table.shapes().restricts() {
        // It may be whoever is restricted.
        return (Explained::NoRoom, None);
    }
    let winner = table.lookup(packet, cluster);
    match winner.map_or(Explained::NotAllowed, |(_, entry)| verdict_of(entry)) {
        Explained::Allow => (Explained::Allow, winner),
        _ if is_unresolved => (Explained::NoRoom, winner),
        verdict => (verdict, winner),
    }
}

fn verdict_of(entry: &Entry) -> Explained {
    if entry.precedence.is_deny() {
        Explained::Deny
    } else if entry.precedence.is_redirect() {
        Explained::Redirect
    } else if entry.auth.kind() != 0 {
        Explained::Auth
    } else {
        Explained::Allow
    }
}

fn reason(verdict: Explained, enforced: bool, direction: Direction, endpoint: &Endpoint) -> String {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let pod = &endpoint.pod;
    if let Some(error) = &endpoint.policy.resolved.policy.error {
        return format!("policy of {pod} cannot be resolved, so nothing is allowed: {error}");
    }
    match verdict {
        Explained::Allow if !enforced => format!("no policy selects {pod} for {direction}"),
        Explained::Allow => "a rule allows it".to_owned(),
        Explained::Deny => "a rule denies it".to_owned(),
        Explained::NotAllowed => {
            format!("policy selects {pod} for {direction}, and no rule allows this")
        }
        Explained::Redirect => {
            "a rule hands it to a proxy, which does not run yet: it is dropped".to_owned()
        }
        Explained::Auth => {
            "a rule asks for authentication, which is not available yet: it is dropped".to_owned()
        }
        Explained::NoRoom => {
            "the ipcache has no room for who that is, and not everybody may this".to_owned()
        }
    }
}

fn describe_entry(key: &TableKey, entry: &Entry) -> String {
    let action = match verdict_of(entry) {
        Explained::Deny => "deny",
        Explained::Redirect => "redirect",
        Explained::Auth => "allow with authentication",
        Explained::Allow | Explained::NotAllowed | Explained::NoRoom => "allow",
    };
    format!("{key} {action} (precedence {:#010x})", entry.precedence.0)
}

/// Every rule that did not decide, those that matched first, with what it said.
fn otherwise(judgement: &Judgement) -> Vec<Alternative> {
    let mut others: Vec<&Step> = judgement
        .steps
        .iter()
        .filter(|step| step.answer != Answer::Decides)
        .collect();
    others.sort_by_key(|step| matches!(step.answer, Answer::OtherPeer | Answer::OtherPort));
    others
        .into_iter()
        .map(|step| Alternative {
            entry: match step.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Pass => "pass",
            }
            .to_owned(),
            rules: vec![step.origin.to_string()],
            why_not: why_not(step).to_owned(),
        })
        .collect()
}

fn why_not(step: &Step) -> &'static str {
    match step.answer {
        Answer::Decides => "it decided",
        Answer::Overruled => "it matches, but another rule of the same level counted more",
        Answer::Passes => "it passed the packet on to the next tier",
        Answer::TooLate if matches!(step.origin, Origin::BuiltIn(_)) => {
            "what holds without a rule: a rule decided before"
        }
        Answer::TooLate => "it matches, but a level before it had decided",
        Answer::PassedOver => "it matches, but its tier was left by a pass",
        Answer::OtherPeer => "the other side is not among its peers",
        Answer::OtherPort => "the port or protocol is not among its ports",
    }
}

/// The rules that an entry of the kernel's table is made from.
pub(crate) fn origins_of(endpoint: &Endpoint, key: &EntryKey) -> Vec<String> {
    endpoint
        .policy
        .resolved
        .policy
        .table
        .direction(key.direction)
        .entries()
        .iter()
        .find(|(entry, _)| {
            entry.identity == key.identity
                && entry.protocol.0 == key.protocol
                && entry.shape() == u32::from(key.shape)
                && entry.port.first() == key.port
        })
        .map(|(_, entry)| entry.origins.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}
