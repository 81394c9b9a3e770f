//! The service tables, in words.

use std::net::SocketAddr;

use oxilium_abi::{LbAddress, ServiceWord};
use oxilium_api::{ApiError, ErrorCode, LbBackend, LbFrontend, LbService, LoadBalancing};
use oxilium_kernel::Node;
use oxilium_model::identity::Protocol;
use oxilium_model::observed::Observed;
use oxilium_model::plan::{lb_address, service_frontend};

use crate::reconcile::View;

/// What the kernel holds; a damaged entry is left out here and put in order by the next plan.
pub(super) fn services<N: Node>(node: &mut N, view: &View) -> Result<LoadBalancing, ApiError> {
    let observed = node
        .observe()
        .map_err(|error| ApiError::new(ErrorCode::Kernel, error.to_string()))?;
    let mut backends: Vec<LbBackend> = Vec::new();
    for (id, value) in &observed.backends {
        if let Some(address) = text(*id, value) {
            backends.push(LbBackend {
                id: *id,
                address,
                frontend: value.frontend,
                state: state(value),
            });
        }
    }
    let reverse_nat = observed
        .reverse_nat
        .iter()
        .filter_map(|(id, value)| {
            Some(LbFrontend {
                id: u16::try_from(*id).ok()?,
                address: text(*id, value)?,
                state: state(value),
            })
        })
        .collect();
    Ok(LoadBalancing {
        services: of_frontends(&observed, view),
        backends,
        reverse_nat,
    })
}

fn of_frontends(observed: &Observed, view: &View) -> Vec<LbService> {
    let mut services: Vec<LbService> = observed
        .services
        .iter()
        .filter(|(key, _)| key.slot == 0)
        .filter_map(|(key, value)| {
            let word = ServiceWord(value.of(key)?);
            let frontend = service_frontend(key)?;
            let slots = (1..=word.slots()).filter_map(|slot| {
                let key = key.slot(slot);
                u32::try_from(observed.services.get(&key)?.of(&key)?).ok()
            });
            Some(LbService {
                frontend: frontend.to_string(),
                id: word.id(),
                service: view
                    .state
                    .services
                    .get(&frontend)
                    .map(|state| state.service.to_string()),
                affinity_seconds: word.affinity(),
                slots: slots.collect(),
            })
        })
        .collect();
    services.sort_by_key(|service| service.id);
    services
}

fn text(id: u32, value: &LbAddress) -> Option<String> {
    let address = lb_address(id, value)?;
    let socket = SocketAddr::new(address.address, address.port);
    Some(format!("{socket}/{}", Protocol(value.protocol)))
}

fn state(value: &LbAddress) -> String {
    if value.is_active() {
        "active"
    } else {
        "resting"
    }
    .to_owned()
}
