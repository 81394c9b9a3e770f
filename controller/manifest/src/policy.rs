//! Policy objects: checked, and lowered to the model's rules.
//!
//! One way for all sources: a [`Node`] from a file (with positions) or from an API (without). Everything that is
//! wrong is collected; a policy with an error is refused whole. What Cilium's agent refuses and what its resource
//! definitions refuse is refused, see [`Admission`].

mod cilium;
mod closed;
mod cluster_network_policy;
mod groups;
mod l7;
mod network_policy;
mod ports;
mod selector;
pub mod service;

use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::policy::rule::{Location, Policy, PolicyKind, PolicyRef, Rule, RuleRef};
use oxilium_model::policy::selector::Scope;

use crate::diagnostic::{Diagnostic, Findings, Located, ObjectId, Problem};
use crate::forms;
use crate::kind::{Header, Kind};
use crate::object::LabelFilter;
use crate::schema::{self, Admission};
use crate::tree::Node;
use service::Services;

pub(crate) use closed::closed_policy;

/// `audit` in this annotation makes a policy a staged one: computed, never enforced.
pub const ENFORCEMENT: &str = "policy.oxilium.io/enforcement";

/// What of the agent's configuration decides how a policy is read.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the agent by itself"
)]
pub struct LowerConfig<'a> {
    /// Who checked the object before.
    pub admission: Admission,
    /// Name of the local cluster, to which peers are restricted unless they name a cluster. None with
    /// `policy-default-local-cluster=false`.
    pub cluster: Option<&'a str>,
    /// `enable-l7-proxy`.
    pub l7_proxy: bool,
    /// `enable-node-selector-labels`.
    pub node_selector_labels: bool,
    /// `enable-extended-ip-protocols`.
    pub extended_protocols: bool,
    /// `enable-non-default-deny-policies`: `enableDefaultDeny` is honoured.
    pub non_default_deny: bool,
    /// Which labels of pods make identities; the default ones unless given.
    pub labels: Option<&'a LabelFilter>,
    /// What `toServices` can name.
    pub services: &'a Services,
}

impl Default for LowerConfig<'_> {
    /// Cilium's defaults, in the cluster `default`.
    fn default() -> Self {
        static NONE: Services = Services::new();
        Self {
            admission: Admission::Schema,
            cluster: Some("default"),
            l7_proxy: true,
            node_selector_labels: false,
            extended_protocols: false,
            non_default_deny: true,
            labels: None,
            services: &NONE,
        }
    }
}

/// The same, as an owner keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the agent by itself"
)]
pub struct LowerOptions {
    /// See [`LowerConfig::admission`].
    pub admission: Admission,
    /// See [`LowerConfig::cluster`].
    pub cluster: Option<String>,
    /// See [`LowerConfig::l7_proxy`].
    pub l7_proxy: bool,
    /// See [`LowerConfig::node_selector_labels`].
    pub node_selector_labels: bool,
    /// See [`LowerConfig::extended_protocols`].
    pub extended_protocols: bool,
    /// See [`LowerConfig::non_default_deny`].
    pub non_default_deny: bool,
    /// See [`LowerConfig::labels`].
    pub labels: LabelFilter,
}

impl Default for LowerOptions {
    fn default() -> Self {
        let config = LowerConfig::default();
        Self {
            admission: config.admission,
            cluster: config.cluster.map(str::to_owned),
            l7_proxy: config.l7_proxy,
            node_selector_labels: config.node_selector_labels,
            extended_protocols: config.extended_protocols,
            non_default_deny: config.non_default_deny,
            labels: LabelFilter::default(),
        }
    }
}

impl LowerOptions {
    /// With the services that `toServices` can name.
    pub fn config<'a>(&'a self, services: &'a Services) -> LowerConfig<'a> {
        LowerConfig {
            admission: self.admission,
            cluster: self.cluster.as_deref(),
            l7_proxy: self.l7_proxy,
            node_selector_labels: self.node_selector_labels,
            extended_protocols: self.extended_protocols,
            non_default_deny: self.non_default_deny,
            labels: Some(&self.labels),
            services,
        }
    }
}

/// A policy that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// The policy.
    pub policy: Policy,
    /// It has `toServices`: lower it again when services change.
    pub names_services: bool,
    /// What is accepted, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// Checks a policy object and lowers it. `file`: where it comes from, if from a file.
///
/// # Errors
/// All that is wrong with it, in the order of the document.
pub fn lower_policy(
    root: &Node,
    file: Option<&Arc<str>>,
    config: &LowerConfig<'_>,
) -> Result<Lowered, Vec<Diagnostic>> {
    let header = Header::of(root);
    let Some(kind) = policy_kind(&header) else {
        let mut findings = Findings::default();
        findings.error_at(root, "kind", header.unknown());
        return Err(findings.locate(root, &header.object, file).errors);
    };
    let policy = reference(root, &header, kind);
    let mut lowering = Lowering::new(config, policy.clone(), file);
    let audit = lowering.metadata(root);
    let rules = read(&mut lowering, root, kind);
    let names_services = lowering.names_services;
    let Located { errors, warnings } = lowering.findings.locate(root, &header.object, file);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Lowered {
        policy: Policy {
            reference: policy,
            audit,
            rules,
        },
        names_services,
        warnings,
    })
}

fn reference(root: &Node, header: &Header, kind: PolicyKind) -> Arc<PolicyRef> {
    Arc::new(PolicyRef {
        kind,
        namespace: header.namespace().map(Arc::from),
        name: header.object.name.as_str().into(),
        uid: Header::uid(root).into(),
    })
}

/// Checks the object's form and reads its rules; what is wrong is among the findings.
fn read<'t>(lowering: &mut Lowering<'t, '_>, root: &'t Node, kind: PolicyKind) -> Vec<Rule> {
    let form = match kind {
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            &schema::cilium::NETWORK_POLICY
        }
        PolicyKind::NetworkPolicy => &schema::kubernetes::NETWORK_POLICY,
        PolicyKind::ClusterNetworkPolicy => &schema::kubernetes::CLUSTER_NETWORK_POLICY,
    };
    let admission = lowering.config.admission;
    schema::check(root, form, admission, &mut lowering.findings);
    match kind {
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            lowering.cilium_policy(root)
        }
        PolicyKind::NetworkPolicy => lowering.network_policy(root),
        PolicyKind::ClusterNetworkPolicy => lowering.cluster_network_policy(root),
    }
}

fn policy_kind(header: &Header) -> Option<PolicyKind> {
    match header.kind {
        Kind::Policy(kind) => Some(kind),
        _ => None,
    }
}

/// The work on one policy object.
struct Lowering<'t, 'c> {
    config: &'c LowerConfig<'c>,
    findings: Findings<'t>,
    policy: Arc<PolicyRef>,
    file: Option<Arc<str>>,
    names_services: bool,
}

impl<'c> Lowering<'_, 'c> {
    fn new(config: &'c LowerConfig<'c>, policy: Arc<PolicyRef>, file: Option<&Arc<str>>) -> Self {
        Self {
            config,
            findings: Findings::default(),
            policy,
            file: file.cloned(),
            names_services: false,
        }
    }
}

impl<'t> Lowering<'t, '_> {
    /// Name, namespace and annotations. True for a staged policy.
    fn metadata(&mut self, root: &'t Node) -> bool {
        check_metadata(root, &mut self.findings);
        let Some(metadata) = root.get("metadata") else {
            return false;
        };
        let clusterwide = self.policy.namespace.is_none();
        if let Some(namespace) = metadata.set("namespace").filter(|_| clusterwide) {
            self.findings.warning(
                namespace,
                Problem::Conflict(format!(
                    "a {} is in no namespace; this is ignored",
                    self.policy.kind.name()
                )),
            );
        }
        let Some(enforcement) = metadata
            .get("annotations")
            .and_then(|all| all.set(ENFORCEMENT))
        else {
            return false;
        };
        match enforcement.text() {
            Some("audit") => true,
            Some("enforce") => false,
            _ => {
                self.findings.invalid(enforcement, "write audit or enforce");
                false
            }
        }
    }

    fn scope(&self) -> Scope {
        match &self.policy.namespace {
            Some(namespace) => Scope::namespaced(namespace, self.config.cluster),
            None => Scope::clusterwide(self.config.cluster),
        }
    }

    fn origin(&self, path: &str, node: &Node, direction: Direction) -> Arc<RuleRef> {
        let location = self
            .file
            .as_ref()
            .filter(|_| node.position.line > 0)
            .map(|file| Location {
                file: file.clone(),
                line: node.position.line,
            });
        Arc::new(RuleRef {
            policy: self.policy.clone(),
            path: path.into(),
            direction,
            location,
        })
    }
}

/// Every object needs a name that can be a part of a path.
pub(crate) fn check_metadata<'t>(root: &'t Node, findings: &mut Findings<'t>) {
    let Some(metadata) = root.set("metadata") else {
        return;
    };
    match metadata.set("name").map(|name| (name, name.text())) {
        None | Some((_, Some(""))) => findings.error_at(
            metadata,
            "name",
            Problem::Missing {
                meaning: "the name of the object".into(),
            },
        ),
        Some((name, Some(text))) if !forms::is_object_name(text) => {
            findings.invalid(name, "write a name without '/' and '%'");
        }
        _ => {}
    }
}

/// For messages about an object as a whole.
impl From<&PolicyRef> for ObjectId {
    fn from(reference: &PolicyRef) -> Self {
        Self {
            kind: reference.kind.name().into(),
            namespace: reference.namespace.as_deref().unwrap_or_default().into(),
            name: reference.name.to_string(),
        }
    }
}
