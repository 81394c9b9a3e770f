//! Objects of every kind that the agent reads, lowered to the model's inputs.

mod join;
mod label;
mod lower;

use std::sync::Arc;

use oxilium_crds::{EndpointSlice, Service};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::world;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::diagnostic::{Diagnostic, Findings, Located, ObjectId, Problem};
use crate::kind::{Header, Kind};
use crate::policy::{self, LowerConfig, Lowered, check_metadata};
use crate::schema;
use crate::tree::{Node, Position};

pub use join::{cluster_services, join_service, service_of};
pub use label::{LabelFilter, LabelFilterError};
pub use lower::services;

/// What an object says to the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A policy.
    Policy(Box<Lowered>),
    /// A pod, of whatever node.
    Pod(Box<world::Pod>),
    /// A node, from a Node or CiliumNode ([`world::Node::origin`]).
    Node(Box<world::Node>),
    /// A namespace.
    Namespace(Box<world::Namespace>),
    /// A service; see [`services`] and [`cluster_services`].
    Service(Box<Service>),
    /// Backends of a service; see [`services`] and [`cluster_services`].
    EndpointSlice(Box<EndpointSlice>),
    /// A pod as its node's agent publishes it.
    RemoteEndpoint(Box<world::RemoteEndpoint>),
    /// A number that the cluster agreed on.
    ClusterIdentity(NumericIdentity, world::ClusterIdentity),
    /// A CiliumCIDRGroup.
    CidrGroup(Box<world::CidrGroup>),
    /// An object of a kind that the agent does not read.
    Unread,
}

/// An object that passed its checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is called.
    pub id: ObjectId,
    /// Its kind.
    pub kind: Kind,
    /// Where it starts; none for objects from an API.
    pub position: Position,
    /// What it says.
    pub input: Input,
    /// What is accepted, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// Checks an object of any kind and lowers it. `node`: the name of the local node, whose labels become those of the host.
///
/// # Errors
/// All that is wrong with it, in the order of the document.
pub fn admit(
    root: &Node,
    file: Option<&Arc<str>>,
    node: &str,
    config: &LowerConfig<'_>,
) -> Result<Object, Vec<Diagnostic>> {
    let header = Header::of(root);
    let object = |input, warnings| Object {
        id: header.object.clone(),
        kind: header.kind,
        position: root.position,
        input,
        warnings,
    };
    if let Kind::Policy(_) | Kind::Unknown = header.kind {
        let mut lowered = policy::lower_policy(root, file, config)?;
        let warnings = std::mem::take(&mut lowered.warnings);
        return Ok(object(Input::Policy(Box::new(lowered)), warnings));
    }
    if header.kind == Kind::Unread {
        return Ok(object(Input::Unread, unread(root, &header, file)));
    }
    let mut findings = Findings::default();
    if root.set("metadata").is_none() {
        let (_, meaning) = schema::kubernetes::METADATA;
        findings.error_at(
            root,
            "metadata",
            Problem::Missing {
                meaning: meaning.into(),
            },
        );
    }
    check_metadata(root, &mut findings);
    if header.kind == Kind::CiliumCIDRGroup {
        schema::check(
            root,
            &schema::cilium::CIDR_GROUP,
            config.admission,
            &mut findings,
        );
    }
    let mut lowering = lower::ObjectLowering {
        root,
        header: &header,
        node,
        admission: config.admission,
        labels: config.labels,
        findings,
    };
    let input = if lowering.findings.has_errors() {
        None
    } else {
        lowering.lower()
    };
    let Located { errors, warnings } = lowering.findings.locate(root, &header.object, file);
    match input {
        Some(input) if errors.is_empty() => Ok(object(input, warnings)),
        _ => Err(errors),
    }
}

/// What stands for an object that was admitted once and no longer is: see [`policy::closed_policy`].
pub(crate) fn closed(
    root: &Node,
    file: Option<&Arc<str>>,
    config: &LowerConfig<'_>,
) -> Option<Object> {
    let header = Header::of(root);
    Some(Object {
        input: Input::Policy(Box::new(policy::closed_policy(root, file, config)?)),
        id: header.object,
        kind: header.kind,
        position: root.position,
        warnings: Vec::new(),
    })
}

/// A policy of a kind that is not read is not enforced, which nobody should find out by themselves.
fn unread(root: &Node, header: &Header, file: Option<&Arc<str>>) -> Vec<Diagnostic> {
    let mut findings = Findings::default();
    if header.is_policy() {
        findings.warning(
            root,
            Problem::Conflict(format!(
                "the agent does not read {} of {:?}: this policy is not enforced",
                header.object.kind, header.api_version
            )),
        );
    }
    findings.locate(root, &header.object, file).warnings
}

/// Decodes a tree into a typed object, or finds the field that has the wrong type.
fn decode<'t, T: DeserializeOwned>(root: &'t Node, findings: &mut Findings<'t>) -> Option<T> {
    match root.decode() {
        Ok(typed) => Some(typed),
        Err(error) => {
            let at = error
                .path()
                .iter()
                .fold(root, |node, segment| match segment {
                    Segment::Seq { index } => node.items().get(*index).unwrap_or(node),
                    Segment::Map { key } => node.get(key).unwrap_or(node),
                    _ => node,
                });
            findings.error(at, Problem::Conflict(error.inner().to_string()));
            None
        }
    }
}
