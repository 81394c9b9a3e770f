//! Policy vectors: cases with policies, identities and probes, answered as Cilium's own engine answers them.
//!
//! A case is one JSON object; its fields are those of the vector files under `tests/data`. Used by
//! `oxilium policy resolve --vectors` and by the tests that hold the engine to Cilium's results.

use std::collections::BTreeMap;

use oxilium_abi::Direction;
use oxilium_model::identity::{Identities, Identity, NamedPorts, NumericIdentity, Protocol};
use oxilium_model::label::Label;
use oxilium_model::policy::config::{AllowLocalhost, EnforcementMode, Families, PolicyConfig};
use oxilium_model::policy::l7::Parser;
use oxilium_model::policy::rule::Policy;
use oxilium_model::policy::table::{DirectionTable, Entry, Packet};
use oxilium_model::policy::{SubjectPolicy, SubjectView, resolve};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use crate::policy::{LowerConfig, lower_policy};
use crate::schema::Admission;
use crate::tree::Node;

/// A file of cases.
#[derive(Clone, Debug, Deserialize)]
pub struct VectorFile {
    /// The cases.
    pub cases: Vec<Case>,
}

/// Identities by the name of their set.
pub type IdentitySets = BTreeMap<String, Vec<CaseIdentity>>;

/// One case: either policies to resolve, or a document to check.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// `family/name`.
    pub name: String,
    /// Options of the agent.
    #[serde(default)]
    pub config: CaseConfig,
    /// The document to check.
    pub doc: Option<Json>,
    /// Name of the set of identities.
    #[serde(default)]
    pub identity_set: String,
    /// Identities beside the set's.
    #[serde(default)]
    pub identities: Vec<CaseIdentity>,
    /// The policy objects, all present at once.
    #[serde(default)]
    pub policies: Vec<Json>,
    /// Identities whose policy is asked for.
    #[serde(default)]
    pub subjects: Vec<u32>,
    /// Columns: `PROTOCOL/NUMBER`.
    #[serde(default, rename = "probeL4")]
    pub probe_l4: Vec<String>,
    /// Rows: remote identities.
    #[serde(default)]
    pub probe_remotes: Vec<u32>,
}

/// An identity of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseIdentity {
    id: u32,
    labels: Vec<Label>,
    #[serde(default)]
    named_ports: BTreeMap<String, String>,
}

/// Options of the agent; what is absent has its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the agent's options are switches"
)]
pub struct CaseConfig {
    policy_mode: Option<String>,
    allow_localhost: Option<String>,
    host_firewall: bool,
    #[serde(rename = "disableIPv4")]
    disable_ipv4: bool,
    #[serde(rename = "disableIPv6")]
    disable_ipv6: bool,
    node_selector_labels: bool,
    #[serde(rename = "extendedIPProtocols")]
    extended_ip_protocols: bool,
    #[serde(rename = "disableL7Proxy")]
    disable_l7_proxy: bool,
    disable_non_default_deny: bool,
    cluster_name: Option<String>,
    #[serde(rename = "clusterID")]
    cluster_id: u8,
    policy_any_cluster: bool,
}

/// A case that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VectorError {
    /// The set is not in the file of identity sets.
    #[error("case {case}: no identity set {set:?}")]
    Set {
        /// The case.
        case: String,
        /// The set.
        set: String,
    },
    /// A subject is not among the identities.
    #[error("case {case}: subject {id} is no identity of its set")]
    Subject {
        /// The case.
        case: String,
        /// The number.
        id: u32,
    },
    /// A probe or a named port is not `PROTOCOL/NUMBER` or `NUMBER/PROTOCOL`.
    #[error("case {case}: {text:?} is no protocol and number")]
    Port {
        /// The case.
        case: String,
        /// The text.
        text: String,
    },
    /// An option has no such value.
    #[error("case {case}: option {option} has no value {value:?}")]
    Option {
        /// The case.
        case: String,
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
    },
}

/// What we say of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Answer {
    /// Of policies.
    Policies {
        /// The case.
        name: String,
        /// Each policy object, in order.
        policy_status: Vec<PolicyStatus>,
        /// Each subject, in order.
        subjects: Vec<SubjectAnswer>,
    },
    /// Of a document.
    Document {
        /// The case.
        name: String,
        /// Why it is refused.
        error: Option<String>,
    },
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    /// Its kind.
    pub kind: String,
    /// `namespace/name`, or the name.
    pub name: String,
    /// Why it is refused.
    pub error: Option<String>,
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum SubjectAnswer {
    /// Its rules contradict each other.
    Error {
        /// The subject.
        identity: u32,
        /// How.
        error: String,
    },
    /// Its table.
    Policy {
        /// The subject.
        identity: u32,
        /// Ingress is enforced.
        ingress_enforced: bool,
        /// Egress is enforced.
        egress_enforced: bool,
        /// Entries that the table takes in the kernel.
        entries: usize,
        /// A row a remote identity, a letter a probe.
        verdicts_ingress: Vec<String>,
        /// As for ingress.
        verdicts_egress: Vec<String>,
    },
}

impl Case {
    /// Answers the case.
    ///
    /// # Errors
    /// [`VectorError`] when the case itself makes no sense.
    pub fn answer(&self, sets: &IdentitySets) -> Result<Answer, VectorError> {
        if let Some(doc) = &self.doc {
            let refusal = lower(doc, &self.config, Admission::Schema).err();
            return Ok(Answer::Document {
                name: self.name.clone(),
                error: refusal,
            });
        }
        let mut policies = Vec::new();
        let mut policy_status = Vec::new();
        for object in &self.policies {
            let lowered = lower(object, &self.config, Admission::Agent);
            policy_status.push(status(object, lowered.as_ref().err()));
            policies.extend(lowered);
        }
        let identities = self.identities(sets)?;
        let config = self.config.policy_config(&self.name)?;
        let subjects = self
            .subjects
            .iter()
            .map(|id| self.subject(*id, &policies, &identities, &config))
            .collect::<Result<_, _>>()?;
        Ok(Answer::Policies {
            name: self.name.clone(),
            policy_status,
            subjects,
        })
    }

    /// The policy of one subject of the case.
    ///
    /// # Errors
    /// [`VectorError`] when the case itself makes no sense.
    pub fn resolve(&self, sets: &IdentitySets, id: u32) -> Result<SubjectPolicy, VectorError> {
        let policies: Vec<Policy> = self
            .policies
            .iter()
            .flat_map(|object| lower(object, &self.config, Admission::Agent))
            .collect();
        let identities = self.identities(sets)?;
        let config = self.config.policy_config(&self.name)?;
        Ok(resolve(
            &policies,
            &identities,
            &self.view(id, &identities)?,
            &config,
        ))
    }

    fn identities(&self, sets: &IdentitySets) -> Result<Identities, VectorError> {
        let set = sets
            .get(&self.identity_set)
            .ok_or_else(|| VectorError::Set {
                case: self.name.clone(),
                set: self.identity_set.clone(),
            })?;
        let mut identities = Identities::default();
        for identity in set.iter().chain(&self.identities) {
            let mut named_ports = NamedPorts::default();
            for (name, text) in &identity.named_ports {
                let (number, protocol) = text.split_once('/').unwrap_or((text, ""));
                let (protocol, port) = self.port(protocol, number, text)?;
                named_ports.insert(name, protocol, port);
            }
            let labels = identity.labels.clone().into();
            identities.insert(
                NumericIdentity(identity.id),
                Identity {
                    labels,
                    named_ports,
                },
            );
        }
        Ok(identities)
    }

    fn port(
        &self,
        protocol: &str,
        number: &str,
        text: &str,
    ) -> Result<(Protocol, u16), VectorError> {
        Protocol::from_name(protocol)
            .zip(number.parse().ok())
            .ok_or_else(|| VectorError::Port {
                case: self.name.clone(),
                text: text.into(),
            })
    }

    fn view(&self, id: u32, identities: &Identities) -> Result<SubjectView, VectorError> {
        let identity = identities
            .get(NumericIdentity(id))
            .ok_or_else(|| VectorError::Subject {
                case: self.name.clone(),
                id,
            })?;
        Ok(SubjectView {
            labels: identity.labels.clone(),
            named_ports: identity.named_ports.clone(),
        })
    }

    fn subject(
        &self,
        id: u32,
        policies: &[Policy],
        identities: &Identities,
        config: &PolicyConfig,
    ) -> Result<SubjectAnswer, VectorError> {
        let policy = resolve(policies, identities, &self.view(id, identities)?, config);
        if let Some(error) = policy.error {
            return Ok(SubjectAnswer::Error {
                identity: id,
                error: error.to_string(),
            });
        }
        let table = policy.table;
        let rows = |direction| self.rows(table.direction(direction), config.cluster_id);
        Ok(SubjectAnswer::Policy {
            identity: id,
            ingress_enforced: table.ingress.enforced,
            egress_enforced: table.egress.enforced,
            entries: table.len(),
            verdicts_ingress: rows(Direction::Ingress)?,
            verdicts_egress: rows(Direction::Egress)?,
        })
    }

    /// One row a remote identity, one letter a probe.
    fn rows(&self, table: &DirectionTable, local_cluster: u8) -> Result<Vec<String>, VectorError> {
        let probes = self
            .probe_l4
            .iter()
            .map(|text| {
                let (protocol, number) = text.split_once('/').unwrap_or((text, ""));
                self.port(protocol, number, text)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let row = |remote: &u32| {
            let letter = |(protocol, port): &(Protocol, u16)| {
                let packet = Packet {
                    identity: NumericIdentity(*remote),
                    protocol: *protocol,
                    port: *port,
                };
                letter(table.lookup(packet, local_cluster).map(|(_, entry)| entry))
            };
            probes.iter().map(letter).collect()
        };
        Ok(self.probe_remotes.iter().map(row).collect())
    }
}

/// The letter of a verdict.
fn letter(entry: Option<&Entry>) -> char {
    let Some(entry) = entry else { return '-' };
    if entry.precedence.is_deny() {
        return 'D';
    }
    match entry.redirect.as_ref().map(|redirect| redirect.parser) {
        Some(Parser::Http) => 'H',
        Some(Parser::Dns) => 'N',
        Some(Parser::Tls) => 'T',
        Some(Parser::Listener) => 'C',
        None => match entry.auth.kind() {
            0 => 'A',
            1 => 'a',
            _ => 'f',
        },
    }
}

fn lower(object: &Json, config: &CaseConfig, admission: Admission) -> Result<Policy, String> {
    let lowered = lower_policy(&Node::from_json(object), None, &config.lower(admission));
    lowered.map(|lowered| lowered.policy).map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        texts.join("; ")
    })
}

fn status(object: &Json, error: Option<&String>) -> PolicyStatus {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let name = text(&metadata["name"]);
    PolicyStatus {
        kind: text(&object["kind"]),
        name: match metadata["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        },
        error: error.cloned(),
    }
}

impl CaseConfig {
    fn lower(&self, admission: Admission) -> LowerConfig<'_> {
        let cluster = self.cluster_name.as_deref().unwrap_or("default");
        LowerConfig {
            admission,
            cluster: (!self.policy_any_cluster).then_some(cluster),
            l7_proxy: !self.disable_l7_proxy,
            node_selector_labels: self.node_selector_labels,
            extended_protocols: self.extended_ip_protocols,
            non_default_deny: !self.disable_non_default_deny,
            ..LowerConfig::default()
        }
    }

    fn policy_config(&self, case: &str) -> Result<PolicyConfig, VectorError> {
        let unknown = |option, value: &str| VectorError::Option {
            case: case.into(),
            option,
            value: value.into(),
        };
        let mode = match self.policy_mode.as_deref() {
            None | Some("default") => EnforcementMode::Default,
            Some("always") => EnforcementMode::Always,
            Some("never") => EnforcementMode::Never,
            Some(other) => return Err(unknown("policyMode", other)),
        };
        let allow_localhost = match self.allow_localhost.as_deref() {
            None | Some("always") => AllowLocalhost::Always,
            Some("policy") => AllowLocalhost::Policy,
            Some(other) => return Err(unknown("allowLocalhost", other)),
        };
        Ok(PolicyConfig {
            mode,
            allow_localhost,
            host_firewall: self.host_firewall,
            families: Families {
                ipv4: !self.disable_ipv4,
                ipv6: !self.disable_ipv6,
            },
            cluster_name: self.cluster_name.as_deref().unwrap_or("default").into(),
            cluster_id: self.cluster_id,
        })
    }
}
