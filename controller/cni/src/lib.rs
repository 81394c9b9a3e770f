//! `oxilium-cni`: the plugin that comes after the one that makes a pod's veth.
//!
//! It makes nothing itself: it finds the pod's interface and the node's end of it, tells the agent that
//! they belong to a pod, and returns when the agent says that the pod's policy is enforced. The previous
//! plugin's result goes on unchanged.
//!
//! A container runtime starts one process a call, a burst of pods a hundred at once; so this is a small
//! program of its own. It works the same under the name `cilium-cni`.

mod command;
mod config;
mod environment;
mod error;
pub mod install;
mod log;
mod netlink;
mod result;
mod tombstone;
mod veth;

use std::io;

pub use crate::environment::Environment;
use crate::error::CniError;

/// Runs a call: what belongs on stdout, as error where the exit status is not 0. `input` is stdin, or why it
/// could not be read.
///
/// # Errors
/// The failure as the specification writes it, in JSON.
pub fn call(environment: &Environment, input: io::Result<Vec<u8>>) -> Result<String, String> {
    let input = match input {
        Ok(input) => input,
        Err(error) => {
            let what = "cannot read the network configuration from stdin";
            return Err(CniError::io(what, &error).to_json(&config::version_of(&[])));
        }
    };
    command::run(environment, &input).map_err(|error| error.to_json(&config::version_of(&input)))
}

/// The result that ADD would give if the node is as the input says. Touches nothing.
///
/// # Errors
/// The failure as the specification writes it, in JSON.
pub fn understand(environment: &Environment, input: &[u8]) -> Result<String, String> {
    command::understand(environment, input)
        .map_err(|error| error.to_json(&config::version_of(input)))
}
