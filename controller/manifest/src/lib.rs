//! Manifests with positions: YAML to admitted objects, with errors that name file, line and field.
//!
//! - [`reader`]: text to [`tree`]s that know their lines
//! - [`policy::lower_policy`]: a tree to the model's rules, or everything that is wrong with it
//! - [`object::admit`]: a tree of any kind to what it says to the model
//! - [`directory`]: a directory of manifests, with the manners of an API server
//! - [`inputs::fill`]: objects to the parts of a world that they are
//! - [`pruned::fields`]: what an API server took away of an object before anybody saw it
//! - [`check`]: the same for a pipeline, without an agent
//! - [`direct`]: objects of which there are very many, straight from an API server's JSON
//! - [`diagnostic`]: what is wrong, where, and how to put it right

pub mod check;
pub mod diagnostic;
pub mod direct;
pub mod directory;
mod forms;
mod go_regex;
pub mod inputs;
pub mod kind;
pub mod object;
pub mod policy;
pub mod pruned;
pub mod reader;
pub mod schema;
pub mod tree;
pub mod vectors;

pub use policy::{LowerConfig, LowerOptions, Lowered, lower_policy};
pub use schema::Admission;
