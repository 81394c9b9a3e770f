//! Runs a program so that it can be followed from its first call on: stops until it is traced, then has the kernel stop it
//! at each call that may write.

use std::{env, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, raise};
use oxilium_e2e::trace::stop_at_writes;

fn main() -> Result<()> {
    let mut words = env::args_os().skip(1);
    let program = words
        .next()
        .context("usage: oxilium-e2e-traced PROGRAM [ARGUMENT]...")?;
    raise(Signal::SIGSTOP)?;
    stop_at_writes()?;
    let mut command = Command::new(&program);
    // Only returns when it fails.
    Err(command.args(words).exec()).with_context(|| format!("cannot execute {}", program.display()))
}
