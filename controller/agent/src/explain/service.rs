//! A packet to a service: what becomes of it at each backend that it may go to.

use std::net::{IpAddr, SocketAddr};

use oxilium_abi::Direction;
use oxilium_api::{ExplainBackend, ExplainReport, ExplainService, ExplainSide, Explained};
use oxilium_model::identity::Protocol;
use oxilium_model::node_state::{Frontend, FrontendState, NodeState};
use oxilium_model::policy::table::Packet;

use super::{ExplainError, Known, Party};

/// What names a service in a question.
const PREFIX: &str = "service:";

/// The frontends that a question means: that of an address, or those of `service:NAMESPACE/NAME`; none where it is about
/// something else.
///
/// # Errors
/// It names a service that has no such port.
pub(super) fn frontends<'s>(
    state: &'s NodeState,
    to: &str,
    protocol: Protocol,
    port: u16,
) -> Result<Vec<(Frontend, &'s FrontendState)>, ExplainError> {
    if let Ok(address) = to.parse::<IpAddr>() {
        let frontend = Frontend {
            address,
            port,
            protocol: protocol.0,
        };
        let known = state.services.get(&frontend);
        return Ok(known
            .map(|state| (frontend, &**state))
            .into_iter()
            .collect());
    }
    let Some(name) = to.strip_prefix(PREFIX) else {
        return Ok(Vec::new());
    };
    let mut of_service = state
        .services
        .iter()
        .filter(|(_, known)| known.service.to_string() == name)
        .peekable();
    if of_service.peek().is_none() {
        return Err(ExplainError::Party(to.to_owned()));
    }
    let ports: Vec<String> = of_service
        .clone()
        .map(|(frontend, _)| frontend.to_string())
        .collect();
    let found: Vec<_> = of_service
        .filter(|(frontend, _)| frontend.port == port && frontend.protocol == protocol.0)
        .map(|(frontend, state)| (*frontend, &**state))
        .collect();
    if found.is_empty() {
        return Err(ExplainError::NoFrontend {
            service: name.to_owned(),
            port: format!("{port}/{protocol}"),
            frontends: ports.join(", "),
        });
    }
    Ok(found)
}

/// One backend, judged.
struct Judged {
    told: ExplainBackend,
    egress: Option<ExplainSide>,
    ingress: Option<ExplainSide>,
}

/// What becomes of a packet from a pod of this node to a service. What is told of the two hooks is of the first backend
/// that the packet does not reach, or of the first one at all.
///
/// # Errors
/// The sender is no pod of this node: nothing is translated for it here.
pub(super) fn explain(
    known: Known<'_>,
    from: &Party,
    frontends: &[(Frontend, &FrontendState)],
) -> Result<ExplainReport, ExplainError> {
    let name = frontends
        .first()
        .map(|(_, known)| known.service.to_string())
        .unwrap_or_default();
    if from.endpoint.is_none() {
        return Err(ExplainError::Elsewhere {
            from: from.name.clone(),
            to: name,
        });
    }
    let mut judged = Vec::new();
    for (frontend, service) in frontends {
        for backend in &service.backends {
            let socket = SocketAddr::new(backend.address, backend.port);
            judged.push(judge(known, from, frontend.protocol, socket)?);
        }
    }
    let deciding = judged
        .iter()
        .position(|backend| !backend.told.allowed)
        .unwrap_or_default();
    let (mut egress, mut ingress) = (None, None);
    if let Some(backend) = judged.get_mut(deciding) {
        (egress, ingress) = (backend.egress.take(), backend.ingress.take());
    }
    let frontends: Vec<String> = frontends
        .iter()
        .map(|(frontend, _)| frontend.to_string())
        .collect();
    Ok(ExplainReport {
        allowed: !judged.is_empty() && judged.iter().all(|backend| backend.told.allowed),
        packet: format!(
            "{} (identity {}) -> service {name} at {}",
            from.name,
            from.identity.0,
            frontends.join(" and ")
        ),
        service: Some(ExplainService {
            name,
            frontends,
            backends: judged.into_iter().map(|backend| backend.told).collect(),
            programs: Vec::new(),
        }),
        egress,
        ingress,
    })
}

fn judge(
    known: Known<'_>,
    from: &Party,
    protocol: u8,
    socket: SocketAddr,
) -> Result<Judged, ExplainError> {
    let backend = known.party(&socket.ip().to_string())?;
    let itself = from.addresses.contains(&socket.ip());
    let side = |subject: &Party, remote: &Party, direction| {
        let endpoint = subject.endpoint.as_ref().filter(|_| !itself)?;
        let packet = Packet {
            identity: remote.identity,
            protocol: Protocol(protocol),
            port: socket.port(),
        };
        Some(known.explain_side(endpoint, remote, direction, packet))
    };
    let egress = side(from, &backend, Direction::Egress);
    let ingress = side(&backend, from, Direction::Ingress);
    let passes = |side: &Option<ExplainSide>| {
        side.as_ref()
            .is_none_or(|side| side.verdict == Explained::Allow)
    };
    Ok(Judged {
        told: ExplainBackend {
            backend: format!("{socket}/{}", Protocol(protocol)),
            name: backend.name,
            identity: backend.identity.0,
            allowed: passes(&egress) && passes(&ingress),
            itself,
        },
        egress,
        ingress,
    })
}
