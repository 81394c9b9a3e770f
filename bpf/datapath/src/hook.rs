//! The two hooks of a pod's host veth.

use oxilium_abi::Direction;

/// A hook; a type, so that each program is compiled for its own.
pub trait Hook {
    /// Which way its packets go, seen from the pod.
    const DIRECTION: Direction;
}

/// Ingress hook: what the pod sends.
pub struct FromContainer;

/// Egress hook: what the pod receives.
pub struct ToContainer;

impl Hook for FromContainer {
    const DIRECTION: Direction = Direction::Egress;
}

impl Hook for ToContainer {
    const DIRECTION: Direction = Direction::Ingress;
}
