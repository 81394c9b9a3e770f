//! Inputs, the desired node state computed from them, and the plan that leads there; pure.

pub mod condition;
mod desired;
pub mod identity;
pub mod label;
pub mod node_state;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod world;

pub use desired::{
    Change, Incremental, Plain, RemotePodsMemory, Resolver, ServicesMemory, Shadow, StagedFlow,
    desired, desired_with,
};
