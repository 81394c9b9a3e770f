//! An object of the API, as the model has it.

use std::sync::Arc;

use oxilium_manifest::LowerOptions;
use oxilium_manifest::diagnostic::{Diagnostic, ObjectId};
use oxilium_manifest::object::{Input, admit};
use oxilium_manifest::policy::service::Services;
use oxilium_manifest::tree::{Member, Node, Position, Value};

use super::resource::Resource;

/// How objects are read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Name of this node.
    pub(super) node: String,
    /// How policies are lowered.
    pub(super) options: LowerOptions,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// What it says to the model.
    Admitted(Input),
    /// A policy that names services: what it says depends on them.
    NamesServices(Input, Arc<Node>),
    /// It says nothing, yet or any more.
    Nothing,
    /// What is wrong with it.
    Refused(String),
}

/// An object as it is now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) id: ObjectId,
    pub(super) content: Content,
}

/// The version of an object, from which changes are asked for.
pub(super) fn version(root: &Node) -> Option<&str> {
    root.get("metadata")?.text_of("resourceVersion")
}

/// How an object is called.
pub(super) fn id(resource: Resource, root: &Node) -> ObjectId {
    let of = |name: &str| {
        let metadata = root.get("metadata");
        metadata.and_then(|metadata| metadata.text_of(name))
    };
    resource.object(
        of("namespace").unwrap_or_default(),
        of("name").unwrap_or_default(),
    )
}

impl Reading {
    /// Reads an object of that kind.
    pub(super) fn change(&self, resource: Resource, mut root: Node) -> Change {
        let id = id(resource, &root);
        identify(&mut root, resource);
        let content = if is_blank(resource, &root) {
            Content::Nothing
        } else {
            let read = self.read(&root, &Services::new());
            match read {
                Ok(Input::Policy(lowered)) if lowered.names_services => {
                    Content::NamesServices(Input::Policy(lowered), Arc::new(root))
                }
                Ok(input) => Content::Admitted(input),
                Err(reason) => Content::Refused(reason),
            }
        };
        Change { id, content }
    }

    /// Reads an object again.
    pub(super) fn read(&self, root: &Node, services: &Services) -> Result<Input, String> {
        admit(root, None, &self.node, &self.options.config(services))
            .map(|object| object.input)
            .map_err(|errors| reason(&errors))
    }
}

fn reason(errors: &[Diagnostic]) -> String {
    let told: Vec<String> = errors
        .iter()
        .map(|error| match error.path.as_str() {
            "" => error.problem.to_string(),
            path => format!("{path}: {}", error.problem),
        })
        .collect();
    told.join("; ")
}

/// The agent of another node makes the object first and says who the pod is when it knows; a pod that has ended is none
/// any more, and its addresses are others'.
fn is_blank(resource: Resource, root: &Node) -> bool {
    let status = root.set("status");
    match resource {
        Resource::CiliumEndpoints => status
            .and_then(|status| status.set("identity"))
            .and_then(|identity| identity.set("id"))
            .is_none(),
        Resource::Pods => {
            let phase = status.and_then(|status| status.text_of("phase"));
            matches!(phase, Some("Succeeded" | "Failed"))
        }
        _ => false,
    }
}

/// Items of a list need not repeat version and kind. What is never read is left out.
fn identify(root: &mut Node, resource: Resource) {
    let Value::Object(members) = &mut root.value else {
        return;
    };
    for (name, text) in [
        ("apiVersion", resource.api_version()),
        ("kind", resource.kind().to_owned()),
    ] {
        if !members.iter().any(|member| &*member.name == name) {
            members.push(Member {
                name: name.into(),
                position: Position::NONE,
                node: Node {
                    value: Value::Text(text.into()),
                    position: Position::NONE,
                },
            });
        }
    }
    let metadata = members
        .iter_mut()
        .find(|member| &*member.name == "metadata");
    if let Some(Value::Object(fields)) = metadata.map(|member| &mut member.node.value) {
        fields.retain(|field| &*field.name != "managedFields");
    }
}
