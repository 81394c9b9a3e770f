//! An object of the API, as the model has it.

use std::sync::Arc;

use oxilium_manifest::LowerOptions;
use oxilium_manifest::diagnostic::{Diagnostic, ObjectId};
use oxilium_manifest::direct::{self, Shared};
use oxilium_manifest::object::{Input, admit};
use oxilium_manifest::policy::service::Services;
use oxilium_manifest::pruned::{self, Pruned};
use oxilium_manifest::tree::{FromJson, Member, Node, Position, Value};
use serde::Deserialize;

use super::node_config::NodeConfig;
use super::requests::Page;
use super::resource::Resource;

/// How objects are read.
#[derive(Debug)]
pub(super) struct Reading {
    /// Name of this node.
    pub(super) node: String,
    /// How policies are lowered.
    options: LowerOptions,
    /// What many objects have.
    shared: Shared,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// What it says to the model.
    Admitted(Input),
    /// A policy that names services: what it says depends on them.
    NamesServices(Input, Arc<Node>),
    /// Options of some nodes.
    NodeConfig(NodeConfig),
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
    /// Of a policy.
    pub(super) policy: Option<PolicyVersion>,
}

/// Which policy object this is, in which version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyVersion {
    /// Which of all that ever had this name.
    pub(super) uid: String,
    /// `metadata.resourceVersion`.
    pub(super) version: String,
    /// The object, without what no reader of it needs.
    pub(super) json: String,
    /// Fields that were written and that the API server took away.
    pub(super) pruned: Vec<Pruned>,
}

impl PolicyVersion {
    /// With the object as the server gave it.
    fn of(root: &Node) -> Self {
        let metadata = root.get("metadata");
        let text = |name| metadata.and_then(|metadata| metadata.text_of(name));
        Self {
            uid: text("uid").unwrap_or_default().to_owned(),
            version: text("resourceVersion").unwrap_or_default().to_owned(),
            json: String::new(),
            pruned: pruned::fields(root),
        }
    }
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    metadata: Names,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Names {
    namespace: String,
    name: String,
    resource_version: String,
}

/// How an object is called, and its version, from which changes are asked for: empty where it has none.
pub(super) fn named(resource: Resource, json: &str) -> (ObjectId, String) {
    // One that has no name is told of as one.
    let Named { metadata } = serde_json::from_str(json).unwrap_or_default();
    let id = resource.object(&metadata.namespace, &metadata.name);
    (id, metadata.resource_version)
}

/// How an object is called.
fn id(resource: Resource, root: &Node) -> ObjectId {
    let of = |name: &str| {
        let metadata = root.get("metadata");
        metadata.and_then(|metadata| metadata.text_of(name))
    };
    resource.object(
        of("namespace").unwrap_or_default(),
        of("name").unwrap_or_default(),
    )
}

fn admitted(id: ObjectId, input: Input) -> Change {
    Change {
        id,
        content: Content::Admitted(input),
        policy: None,
    }
}

impl Reading {
    /// For the node of that name.
    pub(super) fn new(node: &str, options: LowerOptions) -> Self {
        Self {
            node: node.to_owned(),
            options,
            shared: Shared::default(),
        }
    }

    /// Reads the objects of a page.
    pub(super) fn page(&self, resource: Resource, page: &Page) -> Vec<Change> {
        let objects = page.objects();
        objects.map(|json| self.object(resource, json).0).collect()
    }

    /// Reads an object from its JSON; with its version.
    pub(super) fn object(&self, resource: Resource, json: &str) -> (Change, String) {
        let direct = match resource {
            Resource::CiliumEndpoints => direct::endpoint(json, &self.shared).map(|read| {
                let endpoint = read.object;
                let of = &endpoint.reference;
                let id = resource.object(&of.namespace, &of.name);
                let input = Input::RemoteEndpoint(Box::new(endpoint));
                (admitted(id, input), read.version)
            }),
            Resource::CiliumIdentities => direct::identity(json, &self.shared).map(|read| {
                let (number, identity) = read.object;
                let id = resource.object("", &number.0.to_string());
                let input = Input::ClusterIdentity(number, identity);
                (admitted(id, input), read.version)
            }),
            Resource::CiliumNodeConfigs => {
                let (id, version) = named(resource, json);
                let read = NodeConfig::read(json);
                let change = Change {
                    id,
                    content: read.map_or_else(Content::Refused, Content::NodeConfig),
                    policy: None,
                };
                Some((change, version))
            }
            _ => None,
        };
        direct.unwrap_or_else(|| self.tree(resource, json))
    }

    fn tree(&self, resource: Resource, json: &str) -> (Change, String) {
        let (id, version) = named(resource, json);
        let change = match serde_json::from_str(json) {
            Ok(FromJson(root)) => self.change(resource, root),
            Err(error) => Change {
                id,
                content: Content::Refused(error.to_string()),
                policy: None,
            },
        };
        (change, version)
    }

    /// Reads an object of that kind.
    pub(super) fn change(&self, resource: Resource, mut root: Node) -> Change {
        let id = id(resource, &root);
        let mut policy = resource.is_policy().then(|| PolicyVersion::of(&root));
        identify(&mut root, resource);
        if let Some(policy) = &mut policy {
            policy.json = root.to_json().to_string();
        }
        let content = if is_blank(resource, &root) {
            Content::Nothing
        } else {
            self.content(root)
        };
        Change {
            id,
            content,
            policy,
        }
    }

    /// What an object says.
    pub(super) fn content(&self, root: Node) -> Content {
        match self.read(&root, &Services::new()) {
            Ok(Input::Policy(lowered)) if lowered.names_services => {
                Content::NamesServices(Input::Policy(lowered), Arc::new(root))
            }
            Ok(input) => Content::Admitted(input),
            Err(reason) => Content::Refused(reason),
        }
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

/// Items of a list need not repeat version and kind. What is never read, or not any more, is left out.
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
    if resource.is_policy() {
        members.retain(|member| &*member.name != "status");
    }
}
