//! Manifests with positions: YAML to admitted objects, with errors that name file, line and field.
//!
//! - [`reader`]: text to [`tree`]s that know their lines
//! - [`policy::lower_policy`]: a tree to the model's rules, or everything that is wrong with it
//! - [`diagnostic`]: what is wrong, where, and how to put it right

pub mod diagnostic;
mod forms;
mod go_regex;
pub mod kind;
pub mod policy;
pub mod reader;
pub mod schema;
pub mod tree;
pub mod vectors;

pub use policy::{LowerConfig, Lowered, lower_policy};
pub use schema::Admission;
