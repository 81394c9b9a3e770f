//! Objects in force, as the parts of a [`World`] that they are.

use std::sync::Arc;

use oxilium_model::label::Label;
use oxilium_model::world::{Namespace, Node, NodeOrigin, Table, World};

use crate::object::{Input, Object, cluster_services};

/// Replaces everything in `world` that comes from objects. Of pods only those of the node `node` count, and those that name no node.
///
/// A node's CiliumNode comes before its Node. A namespace that pods are in and nobody describes gets the label with
/// its name, which an API server would have given it.
pub fn fill<'o>(world: &mut World, node: &str, objects: impl IntoIterator<Item = &'o Object>) {
    let mut next = World::default();
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for object in objects {
        match &object.input {
            Input::Policy(lowered) => {
                let policy = &lowered.policy;
                next.policies
                    .insert(policy.reference.clone(), Arc::new(policy.clone()));
            }
            Input::Pod(pod) => {
                if pod.node.as_deref().is_none_or(|name| name == node) {
                    next.pods
                        .insert(pod.reference.clone(), Arc::new((**pod).clone()));
                }
            }
            Input::Node(found) => node_of(&mut next.nodes, found),
            Input::Namespace(namespace) => {
                next.namespaces
                    .insert(namespace.name.clone(), Arc::new((**namespace).clone()));
            }
            Input::RemoteEndpoint(endpoint) => {
                next.remote_endpoints
                    .insert(endpoint.reference.clone(), Arc::new((**endpoint).clone()));
            }
            Input::ClusterIdentity(number, identity) => {
                next.cluster_identities.insert(*number, identity.clone());
            }
            Input::CidrGroup(group) => {
                next.cidr_groups
                    .insert(group.name.clone(), Arc::new((**group).clone()));
            }
            Input::Service(service) => services.push(&**service),
            Input::EndpointSlice(slice) => slices.push(&**slice),
            Input::Unread => {}
        }
    }
    for pod in next.pods.keys() {
        next.namespaces
            .entry(pod.namespace.clone())
            .or_insert_with(|| {
                let label = Label::of_namespace("kubernetes.io/metadata.name", &pod.namespace);
                Arc::new(Namespace {
                    name: pod.namespace.clone(),
                    uid: "".into(),
                    labels: vec![label].into(),
                })
            });
    }
    world.services = cluster_services(services, slices, node, &world.services);
    world.policies = next.policies;
    world.pods = next.pods;
    world.nodes = next.nodes;
    world.namespaces = next.namespaces;
    world.remote_endpoints = next.remote_endpoints;
    world.cluster_identities = next.cluster_identities;
    world.cidr_groups = next.cidr_groups;
}

/// The CiliumNode counts, with the labels of both.
fn node_of(nodes: &mut Table<Arc<str>, Arc<Node>>, found: &Node) {
    let merged = match nodes.get(&found.name) {
        None => found.clone(),
        Some(other) => {
            let labels = other.labels.iter().chain(&found.labels).cloned().collect();
            let of_agent = if found.origin == NodeOrigin::CiliumNode {
                found
            } else {
                other
            };
            Node {
                labels,
                ..of_agent.clone()
            }
        }
    };
    nodes.insert(found.name.clone(), Arc::new(merged));
}
