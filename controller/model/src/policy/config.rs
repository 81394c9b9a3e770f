//! What the agent's options say of policy.

use std::sync::Arc;

/// `policy-enforcement`: `enable-policy` of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnforcementMode {
    /// A direction of an endpoint is enforced once a rule selects it.
    #[default]
    Default,
    /// Always.
    Always,
    /// Never: everything is allowed.
    Never,
}

/// `allow-localhost`: may the local node reach its pods whatever policy says by default?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowLocalhost {
    /// Yes, unless a rule denies it. `auto` becomes this under Kubernetes.
    #[default]
    Always,
    /// Only where a policy allows it.
    Policy,
}

/// Address families in use; they decide which of the world identities a prefix of length 0 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4 is on.
    pub ipv4: bool,
    /// IPv6 is on.
    pub ipv6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
        }
    }
}

/// What the resolver needs to know of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// `policy-enforcement`.
    pub mode: EnforcementMode,
    /// `allow-localhost`.
    pub allow_localhost: AllowLocalhost,
    /// `enable-host-firewall`: without it the host is never a subject.
    pub host_firewall: bool,
    /// Address families.
    pub families: Families,
    /// `cluster-name`.
    pub cluster_name: Arc<str>,
    /// `cluster-id`, 0…255.
    pub cluster_id: u8,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            mode: EnforcementMode::default(),
            allow_localhost: AllowLocalhost::default(),
            host_firewall: false,
            families: Families::default(),
            cluster_name: "default".into(),
            cluster_id: 0,
        }
    }
}
