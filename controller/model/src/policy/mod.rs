//! Policy: from the rules of all policy objects to the policy table of each endpoint.
//!
//! [`rule`] is what every kind of policy object is lowered to, [`selector`] how rules speak of endpoints
//! and nodes. What follows is pure: rules, identities and a subject in, a table out.

mod auth;
mod compose;
pub mod config;
mod enforce;
pub mod engine;
pub mod filter;
mod judge;
pub mod l7;
mod level;
mod not_enforced;
pub mod peer;
pub mod port;
mod prune;
mod quota;
mod resolve;
pub mod rule;
mod select;
pub mod selector;
pub mod table;

pub use enforce::SubjectView;
pub use judge::{Answer, Judge, Judgement, Outcome, Step, judge};
pub use level::TooManyLevels;
pub use not_enforced::NotEnforced;
pub use quota::{Fitted, WouldOverflow, resolve_within};
pub use resolve::{L7Filter, ResolveError, SubjectPolicy, resolve};
pub use select::selection;
