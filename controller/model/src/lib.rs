//! Inputs, the desired node state computed from them, and the plan that leads there; pure.

pub mod identity;
pub mod label;
pub mod policy;
