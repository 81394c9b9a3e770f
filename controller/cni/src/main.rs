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
mod log;
mod netlink;
mod result;
mod tombstone;
mod veth;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::environment::Environment;
use crate::error::CniError;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let outcome = match io::stdin().read_to_end(&mut input) {
        Ok(_) => command::run(&Environment::from_process(), &input),
        Err(error) => Err(CniError::io(
            "cannot read the network configuration from stdin",
            &error,
        )),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (
            error.to_json(&config::version_of(&input)),
            ExitCode::FAILURE,
        ),
    };
    if text.is_empty() || writeln!(io::stdout(), "{text}").is_ok() {
        return code;
    }
    ExitCode::FAILURE
}
