//! The `oxilium` command. Under the names `cilium` and `cilium-dbg` the same commands work.

mod args;
mod bpf;
mod endpoint;
mod explain;
mod files;
mod identity;
mod monitor;
mod output;
mod plan;
mod policy;
mod status;
mod uninstall;
mod vectors;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Bpf, Cli, Command, Ct, Endpoint, List, Policy};
use crate::output::{Out, Verdict};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Ok(Verdict::Contradiction) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is closed too.
            let told = writeln!(io::stderr(), "Error: {}", whole(&error));
            drop(told);
            ExitCode::from(2)
        }
    }
}

/// An error with its causes, except where it tells them itself.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The reader of our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let socket = cli.socket_path();
    let client = cli.client();
    let stdout = io::stdout();
    let mut out = Out::new(cli.output, stdout.lock());
    match cli.command {
        Command::Agent(options) => {
            drop(out);
            oxilium_agent::run(*options, &socket).map(|()| Verdict::Yes)
        }
        Command::Status(args) => status::run(&client, &args, &mut out),
        Command::Endpoint(Endpoint::Show(List::List { no_headers })) => {
            endpoint::list(&client, no_headers, &mut out)
        }
        Command::Endpoint(Endpoint::Show(List::Get { what })) => {
            endpoint::get(&client, &what, &mut out)
        }
        Command::Endpoint(Endpoint::Log { endpoint }) => {
            endpoint::log(&client, &endpoint, &mut out)
        }
        Command::Endpoint(Endpoint::Health { endpoint }) => {
            endpoint::health(&client, &endpoint, &mut out)
        }
        Command::Identity(List::List { no_headers }) => {
            identity::list(&client, no_headers, &mut out)
        }
        Command::Identity(List::Get { what }) => identity::get(&client, &what, &mut out),
        Command::Policy(Policy::Get) => policy::get(&client, &mut out),
        Command::Policy(Policy::Check { paths }) => policy::check(&paths, &mut out),
        Command::Policy(Policy::Resolve { vectors }) => vectors::resolve(&vectors, &mut out),
        Command::Bpf(Bpf::Policy(args)) => bpf::policy(&client, &args, &mut out),
        Command::Bpf(Bpf::Ipcache(_)) => bpf::ipcache(&client, &mut out),
        Command::Bpf(Bpf::Ct(Ct::List { scope })) => bpf::conntrack(&client, &scope, &mut out),
        Command::Bpf(Bpf::Endpoint(_)) => bpf::endpoints(&client, &mut out),
        Command::Monitor(args) => monitor::run(&client, &args, &mut out),
        Command::Plan(args) => plan::run(&client, &args, &mut out),
        Command::Explain(args) => explain::run(&client, &args, &mut out),
        Command::Uninstall(options) => uninstall::run(&options, &socket, &mut out),
    }
}
