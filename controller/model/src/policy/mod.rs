//! Policy: from the rules of all policy objects to the policy table of each endpoint.
//!
//! [`rule`] is what every kind of policy object is lowered to, [`selector`] how rules speak of endpoints
//! and nodes. What follows is pure: rules, identities and a subject in, a table out.

pub mod config;
pub mod l7;
pub mod peer;
pub mod rule;
pub mod selector;
