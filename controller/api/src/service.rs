//! Services as the kernel holds them.

use serde::{Deserialize, Serialize};

/// The service tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancing {
    /// Frontends with their slots.
    pub services: Vec<LbService>,
    /// Backends, those at rest too.
    pub backends: Vec<LbBackend>,
    /// Frontends by id, for the way back; those at rest too.
    #[serde(rename = "reverse-nat")]
    pub reverse_nat: Vec<LbFrontend>,
}

/// A frontend with its slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbService {
    /// Address, port and protocol.
    pub frontend: String,
    /// Its id, the key in the reverse NAT table.
    pub id: u16,
    /// `namespace/name` of the Service, where the agent knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Seconds that a client stays with its backend; 0 for no affinity.
    pub affinity_seconds: u32,
    /// Ids of the backends that new flows go to, in the order of their slots.
    pub slots: Vec<u32>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbBackend {
    /// Its id.
    pub id: u32,
    /// Address, port and protocol.
    pub address: String,
    /// Id of its frontend.
    pub frontend: u16,
    /// `active`; `resting` where only flows that go there already go on.
    pub state: String,
}

/// A frontend by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbFrontend {
    /// Its id.
    pub id: u16,
    /// Address, port and protocol.
    pub address: String,
    /// `active`, or `resting` when its service is gone.
    pub state: String,
}
